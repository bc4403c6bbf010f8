r"""How much each of several teachers counts, chosen on validation without
training."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_promptmm.distill.choice import _Parts
from torch_promptmm.models import Ensemble, Fusion
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.train.validation import METRIC

# A weight is multiplied by each of these, and 0 leaves the member out.
FACTORS = (0.0, 0.5, 2.0)
ROUNDS = 2


@torch.no_grad()
def choose_member_weights(
    ensemble: Ensemble,
    graph: UserItemGraph,
    positives: Tensor,
    known: Tensor,
    metric: str = METRIC,
    num_users: int = 2000,
) -> float:
    r"""Chooses the weights of the members of an ensemble by a metric on
    validation, and sets them.

    The scores of each member are computed once, for a sample of the users.
    From the weights that are there, one member after another is halved,
    doubled or left out where that ranks better, in two rounds; one that is
    left out already stays out. Of equally good ones the first is taken, so
    that weights that do not matter stay.

    Args:
        ensemble (Ensemble): The ensemble, with trained members.
        graph (UserItemGraph): What was trained on.
        positives (torch.Tensor): The validation interactions
            :math:`(2, P)`.
        known (torch.Tensor): The interactions that are not ranked
            :math:`(2, E)`.
        metric (str, optional): See
            :func:`~torch_promptmm.distill.choose_fusion`.
            (default: :obj:`"recall@20"`)
        num_users (int, optional): The users that are looked at, evenly
            spaced. (default: :obj:`2000`)

    Returns:
        The metric of what was chosen.
    """
    weights = ensemble.member_weights
    if weights is None:
        raise ValueError("The members' weights are all the same: build the "
                         "Ensemble with 'member_weights'")
    parts = _Parts(ensemble, graph, positives, known, metric, num_users)
    bare = Fusion(dict.fromkeys(ensemble.content_modalities, 0.0))
    was_training = ensemble.training
    ensemble.eval()  # Members may have dropout.
    try:
        widths = [item.size(1) for _, item in ensemble.member_pairs(graph)]
    finally:
        ensemble.train(was_training)
    # Their rows as the ensemble has them, of cold items too.
    scores = [
        parts.scores(user[parts.user], item) *
        (0.0 if weight == 0.0 else 1.0 / weight)
        for weight, user, item in zip(weights, *(x.split(widths, dim=1)
                                                 for x in parts.ids),
                                      strict=True)
    ]

    def value_of(weights: list[float]) -> float:
        total = torch.zeros_like(parts.whole)
        for weight, score in zip(weights, scores, strict=True):
            if weight > 0.0:
                total.add_(score, alpha=weight)
        parts.whole = total
        return parts.value(bare)

    best = value_of(weights)
    for _ in range(ROUNDS):
        before = list(weights)
        for number in range(len(weights)):
            for factor in FACTORS:
                tried = list(weights)
                tried[number] = before[number] * factor
                if sum(tried) == 0.0:
                    continue
                value = value_of(tried)
                if value > best:
                    best, weights = value, tried
        if weights == before:
            break
    ensemble.member_weights = weights
    return best
