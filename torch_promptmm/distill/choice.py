r"""How an ensemble is fused, chosen on validation without training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from torch_promptmm.checks import check_int
from torch_promptmm.evaluate import HITS
from torch_promptmm.models import Ensemble, Fusion
from torch_promptmm.nn import UserItemGraph, compress
from torch_promptmm.nn.standard_rows import SCALINGS
from torch_promptmm.ranking import KnownItems
from torch_promptmm.train.validation import METRIC, cut_off

# What is tried.
POPULARITY = (0.0, 0.1, 0.2, 0.3)
WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
RANKS = (24, 32, 48)
WHOLE = (0.25, 0.5, 1.0)
PROMPTED = (0.25, 0.5, 1.0, 2.0)
SHARES = (1.0, 0.5)  # Of what is there before it.
CO_OCCURRENCE = (0.02, 0.05, 0.1, 0.2, 0.4)
COLD_WEIGHTS = (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
# Cold items meanwhile: a little above what their short rows give them.
_COLD_WEIGHT = 1.25


@torch.no_grad()
def choose_fusion(
    ensemble: Ensemble,
    graph: UserItemGraph,
    positives: Tensor,
    known: Tensor,
    metric: str = METRIC,
    num_users: int = 2000,
    scalings: Sequence[str] = SCALINGS,
) -> tuple[Fusion, float]:
    r"""Chooses the :class:`~torch_promptmm.models.Fusion` of an ensemble by
    a metric on validation, and sets it.

    The scores of each part are computed once, for a sample of the users, and
    added up with each weight that is tried: the exponent of the popularity
    together with one weight for all modalities; then, if there are several,
    the weight of each; other scalings of the features of each, with each
    weight; a low rank, if there are several members; the weight of the member
    that learns content, together with shares of what the others have; what
    items that share users weigh; and, if validation has some, the weight of
    items without interactions. Of equally good ones the first is taken, which
    is the simplest. Nothing is trained.

    Args:
        ensemble (Ensemble): The ensemble, with trained members.
        graph (UserItemGraph): What was trained on.
        positives (torch.Tensor): The validation interactions
            :math:`(2, P)`.
        known (torch.Tensor): The interactions that are not ranked
            :math:`(2, E)`.
        metric (str, optional): :obj:`"recall@K"`, :obj:`"ndcg@K"` or another
            metric of hits. (default: :obj:`"recall@20"`)
        num_users (int, optional): The users that are looked at, evenly
            spaced. (default: :obj:`2000`)
        scalings (list of str, optional): The scalings of features that are
            tried beside those that the content expert has. (default: all)

    Returns:
        What was chosen and its metric.
    """
    parts = _Parts(ensemble, graph, positives, known, metric, num_users)
    names = ensemble.content_modalities
    start = Fusion(
        dict.fromkeys(names, 0.0),
        cold_weight=_COLD_WEIGHT if names and bool(parts.cold.any()) else 1.0,
        scaling={} if ensemble.content is None else ensemble.content.scaling)
    best = parts.best(
        replace(start, popularity=rho, weights=dict.fromkeys(names, weight))
        for weight in (WEIGHTS if names else (0.0, )) for rho in POPULARITY)
    if len(names) > 1:
        for name in names:
            weights = best[1].weights
            best = parts.best([best[1], *(
                replace(best[1], weights={**weights, name: weight})
                for weight in WEIGHTS)])
    for name in names:
        for scaling in scalings:
            if scaling != start.scaling[name]:
                best = parts.best([best[1], *(
                    replace(best[1], weights={**best[1].weights, name: weight},
                            scaling={**best[1].scaling, name: scaling})
                    for weight in WEIGHTS if weight > 0.0)])
    if len(ensemble.members) > 1:
        best = parts.best([best[1], *(
            replace(best[1], rank=rank, whole=whole, popularity=rho)
            for rank in RANKS for whole in WHOLE
            for rho in POPULARITY[:3])])
    if ensemble.prompted is not None:
        best = parts.best([best[1], *_with_prompted(best[1])])
    if ensemble.co_occurrence is not None:
        best = parts.best([best[1], *(
            replace(best[1], co_occurrence=weight)
            for weight in CO_OCCURRENCE)])
    if names and parts.holds_out_cold:
        best = parts.best([best[1], *(
            replace(best[1], cold_weight=kappa) for kappa in COLD_WEIGHTS)])
    value, fusion = best
    ensemble.fusion = fusion
    return fusion, value


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
                 positives: Tensor, known: Tensor, metric: str,
                 num_users: int) -> None:
        self.k = cut_off(metric, graph.num_items)
        self.metric = HITS[metric.partition('@')[0]]
        check_int('num_users', num_users, 1)
        users = positives[0].unique()
        step = max(1, -(-users.numel() // num_users))
        self.user = users[::step].contiguous()
        self.positives = positives[:, torch.isin(positives[0], self.user)]
        self.row = torch.searchsorted(self.user, self.positives[0])
        self.known = KnownItems(known, graph.num_users)
        was_training = ensemble.training
        ensemble.eval()  # Members may have dropout.
        try:
            self.ids = ensemble.member_rows(graph)
            prompted = ensemble.prompted_rows(graph, self.user)
        finally:
            ensemble.train(was_training)
        self.whole = self.scores(*(self.ids[0][self.user], self.ids[1]))
        self.prompted = None if prompted is None else self.scores(*prompted)
        # Of each modality as it is and in one other way.
        self.content = lru_cache(maxsize=len(ensemble.content_modalities) + 1)(
            lambda name, scaling: self.scores(*_content(
                ensemble, name, graph, self.user, scaling)))
        self.shared = lru_cache(maxsize=1)(
            lambda: self.scores(*ensemble.shared_rows(graph, self.user)))
        degree = graph.item_user.crow.diff()
        self.cold, self.degree = degree == 0, degree.to(self.whole)
        self.holds_out_cold = bool(self.cold[self.positives[1]].any())
        # Of one rank at a time, which follow one another.
        self.low = lru_cache(maxsize=1)(
            lambda rank: self._low(*compress(*self.ids, rank)))

    def _low(self, user: Tensor, item: Tensor) -> Tensor:
        return self.scores(user[self.user], item)

    def scores(self, user: Tensor, item: Tensor) -> Tensor:
        rows = user.to(self.ids[0])
        return rows @ item.to(rows).t()

    def best(self, candidates: Iterable[Fusion]) -> tuple[float, Fusion]:
        return max(((self.value(each), each) for each in candidates),
                   key=lambda pair: pair[0])

    def value(self, fusion: Fusion) -> float:
        total = fusion.whole * self.whole
        if fusion.rank > 0:
            total += self.low(fusion.rank)
        total *= torch.where(self.cold, 1.0,
                             (self.degree + 1)**fusion.popularity)
        if fusion.co_occurrence > 0.0:
            total.add_(self.shared(), alpha=fusion.co_occurrence)
        for name, weight in fusion.weights.items():
            if weight > 0.0:
                total.add_(self.content(name, fusion.scaling[name]),
                           alpha=weight)
        if self.prompted is not None and fusion.prompted > 0.0:
            total.add_(self.prompted, alpha=fusion.prompted)
        if fusion.cold_weight != 1.0:
            total *= torch.where(self.cold, fusion.cold_weight, 1.0)
        self.known.mask_(total, self.user)
        value, item = total.topk(self.k, dim=1)
        item = torch.where(value.isneginf(), total.size(1), item)
        metric = self.metric(self.k)
        metric.update(item, (self.row, self.positives[1]))
        return float(metric.compute())


def _content(ensemble: Ensemble, name: str, graph: UserItemGraph,
             user: Tensor, scaling: str) -> tuple[Tensor, Tensor]:
    assert ensemble.content is not None
    return ensemble.content.modality(name, graph, user, scaling)
