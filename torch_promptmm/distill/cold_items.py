r"""The map that places items which no one has had yet, learned of those that
someone has."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from torch_promptmm.models.base import Pair
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.nn.content_map import ContentMap, RidgeFit
from torch_promptmm.ranking import KnownItems, top_items

# How high new items may rise: multiples of where the map puts them.
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3, 1.5,
          1.75, 2.0, 2.5, 3.0)
# What the items that were there keep of their Recall, at least.
KEPT = 0.995
# Items that play the new ones, and users who are asked.
_SHARE, _NUM_USERS = 0.1, 2000


@torch.no_grad()
def learn_content_map(
    pair: Pair,
    graph: UserItemGraph,
    features: Mapping[str, Tensor],
    masks: Mapping[str, Tensor] | None = None,
    positives: Tensor | None = None,
    known: Tensor | None = None,
    k: int = 20,
) -> ContentMap:
    r"""Fits a :class:`~torch_promptmm.nn.content_map.ContentMap` from content
    to item embeddings, on the items with interactions, weighted by the root
    of their number.

    With validation data, a tenth of these items plays the new ones: a second
    map, which has not seen them, places them, and its level is the one at
    which they are found most often (:math:`\textrm{Recall@}k`) while all
    others keep 99.5 % of the Recall that they have without them.

    Args:
        pair (tuple): User and item embeddings, whose dot product is the
            score.
        graph (UserItemGraph): What was trained on.
        features (dict): Features :math:`(|\mathcal{I}|, d_m)` of each
            modality.
        masks (dict, optional): Where items have a modality.
            (default: :obj:`None`)
        positives (torch.Tensor, optional): Validation interactions
            :math:`(2, P)`. (default: :obj:`None`)
        known (torch.Tensor, optional): The interactions that are not ranked
            :math:`(2, E)`. (default: :obj:`None`)
        k (int, optional): The length of a list. (default: :obj:`20`)
    """
    user, item = pair
    degree = graph.item_user.crow.diff().to(item.device)
    held = torch.zeros(item.size(0), dtype=torch.bool)
    if positives is not None:
        warm = (degree.cpu() > 0).nonzero().view(-1)
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(warm.numel(), generator=generator)
        held[warm[order[:int(_SHARE * warm.numel())]]] = True
    some = bool(held.any())
    fit = RidgeFit(features, masks, item, degree.to(item).sqrt(),
                   held=held if some else None)
    out = fit.solve().to(item.dtype)
    if some and positives is not None:
        others = fit.solve(leave_out=True).to(item.dtype)
        placed = item.clone()
        placed[held.to(item.device)] = others(
            {name: x[held.to(x.device)] for name, x in features.items()},
            {name: x[held.to(x.device)]
             for name, x in (masks or {}).items()})
        out.level.fill_(choose_level((user, placed), held, positives, known,
                                     k))
    return out


@torch.no_grad()
def choose_level(pair: Pair, new: Tensor, positives: Tensor,
                 known: Tensor | None = None, k: int = 20) -> float:
    r"""Returns the factor of the embeddings of new items at which they are
    found most often while the others keep their Recall.

    Args:
        pair (tuple): User and item embeddings.
        new (torch.Tensor): True for new items :math:`(|\mathcal{I}|)`.
        positives (torch.Tensor): Validation interactions :math:`(2, P)`.
        known (torch.Tensor, optional): The interactions that are not ranked
            :math:`(2, E)`. (default: :obj:`None`)
        k (int, optional): The length of a list. (default: :obj:`20`)
    """
    user, item = pair
    positives, new = positives.to(item.device), new.to(item.device)
    asked = positives[0].unique()
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(asked.numel(), generator=generator)[:_NUM_USERS]
    asked = asked[order.sort().values.to(asked.device)]
    # A positive factor changes no order among the new ones.
    value, hit = (torch.stack(x) for x in zip(*(
        _best(user, item, part, asked, positives, known, k)
        for part in (~new, new)), strict=True))
    total = torch.bincount(positives[0],
                           minlength=user.size(0))[asked].to(value)
    alone = float((hit[0].sum(dim=1) / total).mean())
    found = {}
    for level in LEVELS:
        scores = torch.cat([value[0], torch.where(
            value[1].isneginf(), value[1], level * value[1])], dim=1)
        chosen = torch.zeros_like(scores).scatter_(
            1, scores.topk(k, dim=1).indices, 1.0)
        old, fresh = (float(((x * y).sum(dim=1) / total).mean())
                      for x, y in zip(chosen.split(k, dim=1), hit,
                                      strict=True))
        if old >= KEPT * alone:
            found[level] = fresh
    # Of equally good ones that nearest to the map's own.
    return max(found, key=lambda x: (found[x], -abs(x - 1.0)),
               default=LEVELS[0])


def _best(user: Tensor, item: Tensor, part: Tensor, asked: Tensor,
          positives: Tensor, known: Tensor | None,
          k: int) -> tuple[Tensor, Tensor]:
    r"""The scores of the best items of a part of the catalogue
    :math:`(n, k)`, and whether they are positives; lists that are too short
    are padded."""
    number = part.cumsum(0) - 1
    mask = None
    if known is not None:
        known = known.to(item.device)
        known = known[:, part[known[1]]]
        mask = KnownItems(torch.stack([known[0], number[known[1]]]),
                          user.size(0))
    num = int(part.sum())
    _, index, value = (torch.cat(x) for x in zip(*top_items(
        user, item[part], asked, min(k, num), mask), strict=True))
    inside = positives[:, part[positives[1]]]
    wanted = (inside[0] * num + number[inside[1]]).sort().values
    hit = torch.isin(asked.view(-1, 1) * num + index, wanted)
    hit &= ~value.isneginf()
    pad = (0, k - value.size(1))
    return (torch.nn.functional.pad(value, pad, value=float('-inf')),
            torch.nn.functional.pad(hit.to(value), pad))
