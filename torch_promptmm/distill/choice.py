r"""The weights of an ensemble, chosen on validation without training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch_geometric.metrics import LinkPredRecall

from torch_promptmm.models import Ensemble
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.ranking import KnownItems

#: Those that are tried, one after another while the others stay.
POPULARITY = (0.0, 0.1, 0.2, 0.3)
WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
COLD_WEIGHTS = (0.5, 1.0, 1.25, 1.5, 2.0)


@torch.no_grad()
def choose_weights(
    ensemble: Ensemble,
    graph: UserItemGraph,
    positives: Tensor,
    known: Tensor,
    k: int = 20,
    num_users: int = 2000,
) -> dict[str, Any]:
    r"""Chooses :math:`\rho`, the :math:`w_m` and :math:`\kappa` of an
    ensemble by Recall@k on validation, and sets them.

    The scores of each part are computed once, for a sample of the users, and
    added up with each weight that is tried: first :math:`\rho` and one weight
    for all modalities together, then the weight of each modality, then
    :math:`\kappa` where there are items without interactions. Of equally
    good ones the first is taken.

    Args:
        ensemble (Ensemble): The ensemble, with trained members.
        graph (UserItemGraph): What was trained on.
        positives (torch.Tensor): The validation interactions
            :math:`(2, P)`.
        known (torch.Tensor): The interactions that are not ranked
            :math:`(2, E)`.
        k (int, optional): The cut-off. (default: :obj:`20`)
        num_users (int, optional): The users that are looked at, evenly
            spaced. (default: :obj:`2000`)

    Returns:
        What was chosen and its Recall.
    """
    parts = _Parts(ensemble, graph, positives, known, k, num_users)
    names = ensemble.modalities
    best = parts.best(
        (rho, dict.fromkeys(names, weight), 1.0)
        for rho in POPULARITY for weight in (WEIGHTS if names else (1.0, )))
    if len(names) > 1:
        for name in names:
            rho, weights, _ = best[1]
            best = parts.best([best[1], *(
                (rho, {**weights, name: weight}, 1.0) for weight in WEIGHTS)])
    if parts.has_cold and any(best[1][1].values()):
        rho, weights, _ = best[1]
        best = parts.best((rho, weights, kappa) for kappa in COLD_WEIGHTS)
    recall, (rho, weights, kappa) = best
    ensemble.set_weights(weights, rho, kappa)
    return {'popularity': rho, 'weights': weights, 'cold_weight': kappa,
            f'recall@{k}': recall}


class _Parts:
    r"""The scores of each part for some users, and what they rank."""
    def __init__(self, ensemble: Ensemble, graph: UserItemGraph,
                 positives: Tensor, known: Tensor, k: int,
                 num_users: int) -> None:
        users = positives[0].unique()
        self.user = users[::max(1, -(-users.numel() // num_users))]
        self.k = min(k, graph.num_items)
        inside = torch.isin(positives[0], self.user)
        self.positives = positives[:, inside]
        self.row = torch.searchsorted(self.user, self.positives[0])
        self.known = KnownItems(known, graph.num_users)
        self.graph, self.ensemble = graph, ensemble
        ids, content = ensemble.parts(graph)
        self.scores = {'': ids[0][self.user] @ ids[1].t()}
        for name, (user, item) in content.items():
            rows = user[self.user].to(ids[0])
            self.scores[name] = rows @ item.to(rows).t()
        degree = graph.item_user.crow.diff()
        self.cold = degree == 0
        self.degree = degree.to(ids[0])
        self.has_cold = bool(self.cold.any())

    def best(self, candidates: Iterable[tuple[float, dict[str, float], float]]
             ) -> tuple[float, tuple[float, dict[str, float], float]]:
        found = [(self.recall(*each), each) for each in candidates]
        return max(found, key=lambda pair: pair[0])

    def recall(self, rho: float, weights: dict[str, float],
               kappa: float) -> float:
        factor = torch.where(self.cold, 1.0, (self.degree + 1)**rho)
        total = self.scores[''] * factor
        for name, weight in weights.items():
            if weight > 0.0:
                total.add_(self.scores[name], alpha=weight)
        if kappa != 1.0:
            total *= torch.where(self.cold, kappa, 1.0)
        value, item = self.known.mask_(total, self.user).topk(self.k, dim=1)
        item = torch.where(value.isneginf(), total.size(1), item)
        metric = LinkPredRecall(self.k)
        metric.update(item, (self.row, self.positives[1]))
        return float(metric.compute())
