r"""The task of an update: rank what is known now, and do not forget what the
teacher said."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from torch_promptmm.distill.top_lists import ListBatch, TopLists, UserLoader
from torch_promptmm.loader import Batch, BatchSpec, InteractionLoader
from torch_promptmm.loss import TopListKD
from torch_promptmm.loss.score import as_scored
from torch_promptmm.models.base import Pair
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.nn.dense import matmul
from torch_promptmm.train import RankingTask, Task
from torch_promptmm.train.task import Terms


class UpdateBatch(NamedTuple):
    r"""Interactions, and users with their lists."""
    ranking: Batch
    lists: ListBatch

    @property
    def user(self) -> Tensor:
        return self.ranking.user


class AnchoredTask(Task):
    r"""Trains a student by its ranking loss and, on users with a teacher's
    list, by that,

    .. math::
        \mathcal{L} = \mathcal{L}_{\textrm{rank}} + \lambda
        \mathcal{L}_{\textrm{list}},

    see :class:`~torch_promptmm.loss.TopListKD`. Users and items that the
    teacher does not know are in no list.

    Args:
        ranking (RankingTask): The ranking task of the student.
        lists (TopLists): The teacher's top items of the first users, as many
            as the teacher knows.
        temperature (float): The temperature of the teacher's lists.
        weight (float): :math:`\lambda`.
        num_uniform (int, optional): Items that stand for all others.
            (default: :obj:`1024`)
        user_batch_size (int, optional): Users in a batch.
            (default: :obj:`256`)
    """
    def __init__(
        self,
        ranking: RankingTask,
        lists: TopLists,
        temperature: float,
        weight: float,
        num_uniform: int = 1024,
        user_batch_size: int = 256,
    ) -> None:
        super().__init__(ranking.graph, ranking.positives, ranking.known,
                         ranking.score)
        self.ranking, self.lists, self.weight = ranking, lists, weight
        self.loss = TopListKD(temperature)
        self.num_uniform = num_uniform
        self.user_batch_size = user_batch_size

    def _apply(self, fn: Callable[[Tensor], Tensor],
               recurse: bool = True) -> AnchoredTask:
        super()._apply(fn, recurse)
        self.lists = TopLists(*map(fn, self.lists))
        return self

    @property
    def batch_spec(self) -> BatchSpec:
        return self.ranking.batch_spec

    def loader(self, batch_size: int) -> _Loader:
        num_users = self.lists.items.size(0)
        known = self.known[:, self.known[0] < num_users]
        return _Loader(self.ranking.loader(batch_size), UserLoader(
            self.lists, known, self.graph.num_items, self.user_batch_size,
            self.num_uniform, self.device))

    def forward(  # type: ignore[override]
        self,
        batch: UpdateBatch,
    ) -> tuple[Tensor, Terms]:
        total, terms = self.ranking(batch.ranking)
        lists = batch.lists
        num_users, num_top = lists.top.shape
        out = self.ranking.model.rows(
            self.graph, lists.user,
            torch.cat([lists.top.reshape(-1), lists.uniform]))
        # Those of unit rows are over a temperature.
        user = as_scored(out.user, self.score)
        user = user / self.ranking.objective.temperature
        item = as_scored(out.item, self.score)
        top = item[:num_users * num_top].view(num_users, num_top, -1)
        terms['list'] = self.loss(
            torch.bmm(top, user.unsqueeze(2)).squeeze(2),
            matmul(user, item[num_users * num_top:].t()),
            lists.top_score, lists.uniform_mask,
            math.log(self.graph.num_items / lists.uniform.numel()))
        return total + self.weight * terms['list'], terms

    def on_epoch_start(self, epoch: int) -> None:
        self.ranking.on_epoch_start(epoch)

    def embeddings(self, graph: UserItemGraph | None = None) -> Pair:
        return self.ranking.embeddings(graph)


class _Loader:
    r"""Yields batches of interactions, each with one of users, which begin
    anew where they end."""
    def __init__(self, ranking: InteractionLoader,
                 lists: UserLoader) -> None:
        self.ranking, self.lists = ranking, lists
        self._left: Iterator[ListBatch] = iter(())

    def __len__(self) -> int:
        return len(self.ranking)

    def __iter__(self) -> Iterator[UpdateBatch]:
        for batch in self.ranking:
            users = next(self._left, None)
            if users is None:
                self._left = iter(self.lists)
                users = next(self._left)
            yield UpdateBatch(batch, users)
