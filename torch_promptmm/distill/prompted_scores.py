r"""The scores of a list's items as a function of the teacher's prompt."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from torch_promptmm.distill.frozen_rows import PromptTables
from torch_promptmm.distill.top_lists import TopLists
from torch_promptmm.models import Ensemble
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.nn.functional import unit_rows

_USERS = 256  # Whose lists are scored at a time.


class PromptedScores:
    r"""What the prompted member of a frozen
    :class:`~torch_promptmm.models.Ensemble` adds to the scores of some
    items,

    .. math::
        w_{\mathbf{P}} \, \kappa_i \cos \big( \mathbf{f}_u(\mathbf{P}),
        \mathbf{f}_i(\mathbf{P}) \big) .

    All else in the ensemble's score does not depend on the prompt. So a list
    of the teacher's top items has scores of which this part alone is
    computed anew at each step, and through it the distillation tunes the
    prompt. Which items are in a list stays as it was.

    Args:
        ensemble (Ensemble): The teacher, with a prompt and its features.
        graph (UserItemGraph): What is propagated over.
    """
    def __init__(self, ensemble: Ensemble, graph: UserItemGraph) -> None:
        if ensemble.prompted is None:
            raise ValueError("'ensemble' must have a member that learns "
                             "content, which a prompt opens")
        self.tables = PromptTables(ensemble.prompted, graph)
        fusion = ensemble.fusion
        cold = graph.item_user.crow.diff() == 0
        self.weight = torch.where(
            cold, fusion.prompted * fusion.cold_weight,
            fusion.prompted).to(graph.user_item.value)

    def __call__(self, user_id: Tensor, item_id: Tensor) -> Tensor:
        r"""Returns the part of the prompted member for users :math:`(B)` and
        the items of each :math:`(B, n)`."""
        flat = item_id.reshape(-1)
        # Long lists hold most of the catalogue, and its head often.
        all_items = flat.numel() > self.weight.numel()
        out = self.tables(user_id, None if all_items else flat)
        user, item = unit_rows(out.user), unit_rows(out.item)
        if all_items:
            item = item.index_select(0, flat)
        item = item.view(*item_id.shape, -1)
        cosine = torch.bmm(item, user.unsqueeze(2)).squeeze(2)
        return self.weight[item_id] * cosine

    @torch.no_grad()
    def taken_from(self, lists: TopLists) -> TopLists:
        r"""Returns the lists of all users without this part of the
        scores."""
        scores = lists.scores.clone()
        for user in torch.arange(len(scores),
                                 device=scores.device).split(_USERS):
            items = lists.items[user].long().clamp(min=0)
            scores[user] -= self(user, items).to(scores)
        return TopLists(lists.items, scores)

    def apply(self, fn: Callable[[Tensor], Tensor]) -> PromptedScores:
        r"""Returns it with :obj:`fn` applied to each table."""
        out = copy.copy(self)
        out.tables = self.tables.apply(fn)
        out.weight = fn(self.weight)
        return out
