from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torch_promptmm.checks import check_float
from torch_promptmm.loader import Batch
from torch_promptmm.nn import SoftPrompt, UserItemGraph
from torch_promptmm.train import RankingTask
from torch_promptmm.train.rows import ScoredRows, batch_items, split_rows
from torch_promptmm.train.task import Terms


class PromptedRankingTask(RankingTask):
    r"""Trains a teacher and its prompt, which has to rank by itself as well,

    .. math::
        \mathcal{L} = \mathcal{L}_{\textrm{teacher}} + \nu \,
        \mathcal{L}_{\textrm{rank}} (\mathbf{P}^u, \mathbf{P}), \qquad
        \mathbf{P} = \mathcal{P}(\mathbf{Z}), \quad
        \mathbf{P}^u = \mathcal{P}(\mathbf{D}_u^{-1} \mathbf{A}
        \mathbf{Z}) :

    a user's prompt is that of the mean of the user's items. It is the one
    term that gives the prompt a ranking gradient that does not pass through
    the reduction. The authors' code has it in stage 1 and the paper does
    not.

    Differs from the `published code <https://github.com/HKUDS/PromptMM>`_
    in:

    - one network makes both prompts; there, users have a linear layer of
      their own;
    - the prompt is not added to the ID embeddings.

    Args:
        prompt_ranking_weight (float): :math:`\nu`.
        model (RankingModel): The teacher.
        graph (UserItemGraph): What is propagated over.
        *args (optional): The other arguments of
            :class:`~torch_promptmm.train.RankingTask`, of which
            :obj:`extra` is the prompt.
        **kwargs (optional): The same.
    """
    extra: SoftPrompt

    def __init__(self, prompt_ranking_weight: float, model: torch.nn.Module,
                 graph: UserItemGraph, *args: Any, **kwargs: Any) -> None:
        super().__init__(model, graph, *args, **kwargs)
        if not isinstance(self.extra, SoftPrompt):
            raise TypeError(f"'extra' must be a SoftPrompt (got "
                            f"'{type(self.extra).__name__}')")
        self.prompt_ranking_weight = check_float('prompt_ranking_weight',
                                                 prompt_ranking_weight)
        self.user_basis = mean_of_items(graph, self.extra.basis)

    def _apply(self, fn: Callable[[Tensor], Tensor],
               recurse: bool = True) -> PromptedRankingTask:
        super()._apply(fn, recurse)
        self.user_basis = fn(self.user_basis)
        return self

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        total, terms = super().forward(batch)
        user = self.extra.network(self.user_basis.index_select(0, batch.user))
        rows = split_rows(user, self.extra(batch_items(batch)), batch)
        terms['prompt'] = self.objective(ScoredRows(rows, batch, self.score))
        return total + self.prompt_ranking_weight * terms['prompt'], terms


@torch.no_grad()
def mean_of_items(graph: UserItemGraph, x: Tensor) -> Tensor:
    r"""Returns, for each user, the mean of the rows of the user's items; a
    user without any has zeros."""
    matrix = graph.user_item
    degree = matrix.crow.diff()
    row = torch.arange(graph.num_users, device=x.device)
    out = x.new_zeros(graph.num_users, x.size(1))
    out.index_add_(0, row.repeat_interleave(degree),
                   x.index_select(0, matrix.col.long()))
    return out / degree.clamp(min=1).view(-1, 1)
