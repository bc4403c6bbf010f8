r"""How an ensemble is fused, chosen on validation without training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor
from torch_geometric.metrics import LinkPredRecall

from torch_promptmm.checks import check_int
from torch_promptmm.models import Ensemble, Fusion
from torch_promptmm.nn import UserItemGraph, compress
from torch_promptmm.ranking import KnownItems

# What is tried.
POPULARITY = (0.0, 0.1, 0.2, 0.3)
WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
RANKS = (24, 32, 48)
WHOLE = (0.25, 0.5, 1.0)
PROMPTED = (0.25, 0.5, 1.0, 2.0)
SHARES = (1.0, 0.5)  # Of what is there before it.
COLD_WEIGHTS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
# Cold items meanwhile: a little above what their short rows give them.
_COLD_WEIGHT = 1.25


@torch.no_grad()
def choose_fusion(
    ensemble: Ensemble,
    graph: UserItemGraph,
    positives: Tensor,
    known: Tensor,
    k: int = 20,
    num_users: int = 2000,
) -> tuple[Fusion, float]:
    r"""Chooses the :class:`~torch_promptmm.models.Fusion` of an ensemble by
    Recall@k on validation, and sets it.

    The scores of each part are computed once, for a sample of the users, and
    added up with each weight that is tried: the exponent of the popularity
    together with one weight for all modalities, then, if there are several,
    the weight of each; a low rank, if there are several members; the weight
    of the member that learns content, together with shares of what the
    others have; and the weight of items without interactions. Of equally
    good ones the first is taken, which is the simplest.

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
    start = Fusion(dict.fromkeys(names, 0.0), cold_weight=_COLD_WEIGHT
                   if names and parts.has_cold else 1.0)
    best = parts.best(
        replace(start, popularity=rho, weights=dict.fromkeys(names, weight))
        for weight in (WEIGHTS if names else (0.0, )) for rho in POPULARITY)
    if len(names) > 1:
        for name in names:
            weights = best[1].weights
            best = parts.best([best[1], *(
                replace(best[1], weights={**weights, name: weight})
                for weight in WEIGHTS)])
    if len(ensemble.members) > 1:
        best = parts.best([best[1], *(
            replace(best[1], rank=rank, whole=whole, popularity=rho)
            for rank in RANKS for whole in WHOLE
            for rho in POPULARITY[:3])])
    if ensemble.prompted is not None:
        best = parts.best([best[1], *_with_prompted(best[1])])
    if parts.has_cold and names:
        best = parts.best([best[1], *(
            replace(best[1], cold_weight=kappa) for kappa in COLD_WEIGHTS)])
    recall, fusion = best
    ensemble.fusion = fusion
    return fusion, recall


def _with_prompted(fusion: Fusion) -> Iterable[Fusion]:
    for share in SHARES:
        weights = {k: share * v for k, v in fusion.weights.items()}
        for whole in SHARES:
            for prompted in PROMPTED:
                yield replace(fusion, weights=weights, prompted=prompted,
                              whole=whole * fusion.whole)


class _Parts:
    r"""The scores of each part for some users, and what they rank."""
    def __init__(self, ensemble: Ensemble, graph: UserItemGraph,
                 positives: Tensor, known: Tensor, k: int,
                 num_users: int) -> None:
        check_int('k', k, 1)
        check_int('num_users', num_users, 1)
        users = positives[0].unique()
        step = max(1, -(-users.numel() // num_users))
        self.user = users[::step].contiguous()
        self.positives = positives[:, torch.isin(positives[0], self.user)]
        self.row = torch.searchsorted(self.user, self.positives[0])
        self.known = KnownItems(known, graph.num_users)
        self.k = min(k, graph.num_items)
        was_training = ensemble.training
        ensemble.eval()  # Members may have dropout.
        try:
            self.ids, content = ensemble.parts(graph)
            prompted = ensemble.prompted_rows(graph)
        finally:
            ensemble.train(was_training)
        self.whole = self._scores(*self.ids)
        self.content = {name: self._scores(*pair)
                        for name, pair in content.items()}
        self.prompted = (None if prompted is None else
                         self._scores(*prompted))
        degree = graph.item_user.crow.diff()
        self.cold, self.degree = degree == 0, degree.to(self.whole)
        self.has_cold = bool(self.cold.any())
        # Of one rank at a time, which follow one another.
        self.low = lru_cache(maxsize=1)(
            lambda rank: self._scores(*compress(*self.ids, rank)))

    def _scores(self, user: Tensor, item: Tensor) -> Tensor:
        rows = user[self.user].to(self.ids[0])
        return rows @ item.to(rows).t()

    def best(self, candidates: Iterable[Fusion]) -> tuple[float, Fusion]:
        return max(((self.recall(each), each) for each in candidates),
                   key=lambda pair: pair[0])

    def recall(self, fusion: Fusion) -> float:
        total = fusion.whole * self.whole
        if fusion.rank > 0:
            total += self.low(fusion.rank)
        total *= torch.where(self.cold, 1.0,
                             (self.degree + 1)**fusion.popularity)
        for name, weight in fusion.weights.items():
            if weight > 0.0:
                total.add_(self.content[name], alpha=weight)
        if self.prompted is not None and fusion.prompted > 0.0:
            total.add_(self.prompted, alpha=fusion.prompted)
        if fusion.cold_weight != 1.0:
            total *= torch.where(self.cold, fusion.cold_weight, 1.0)
        self.known.mask_(total, self.user)
        value, item = total.topk(self.k, dim=1)
        item = torch.where(value.isneginf(), total.size(1), item)
        metric = LinkPredRecall(self.k)
        metric.update(item, (self.row, self.positives[1]))
        return float(metric.compute())
