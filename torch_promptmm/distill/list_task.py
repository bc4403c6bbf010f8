r"""The task of stage 2 where the student learns whole lists of a wide
teacher."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torch_promptmm.distill.prompted_scores import PromptedScores
from torch_promptmm.distill.top_lists import ListBatch, TopLists, UserLoader
from torch_promptmm.loss import TopListKD
from torch_promptmm.models import RankingModel, embed
from torch_promptmm.models.base import Pair
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.nn.compression import compress
from torch_promptmm.nn.dense import matmul
from torch_promptmm.train import Task
from torch_promptmm.train.task import add_extra_loss


class ListDistillationTask(Task):
    r"""Trains a student to rank what a teacher ranks at the top,

    .. math::
        \mathcal{L} = - \frac{1}{B} \sum_u \sum_{i \in \mathcal{T}_u}
        \frac{e^{t_{ui} / \tau}}{\sum_{j \in \mathcal{T}_u} e^{t_{uj} /
        \tau}} \log \frac{e^{s_{ui}}}{\sum_{j \in \mathcal{T}_u \cup
        \mathcal{N}} c_j \, e^{s_{uj}}},

    where :math:`\mathcal{T}_u` are the teacher's top items of a user,
    :math:`\mathcal{N}` items drawn uniformly from the catalogue, which stand
    for all others (:math:`c_j`), and :math:`t`, :math:`s` the scores. A
    batch is one of users, not of interactions: what a teacher knows of a
    user is a list, and there is no other loss. Lists of uniform items alone
    miss what a ranking metric sees (`"Rejuvenating Cross-Entropy Loss in
    Knowledge Distillation for Recommender Systems"
    <https://arxiv.org/abs/2509.20989>`_).

    Args:
        student (RankingModel): The student; its scores are dot products.
        graph (UserItemGraph): What is propagated over.
        known (torch.Tensor): The interactions that are not ranked
            :math:`(2, E)`.
        lists (TopLists): The teacher's top items.
        temperature (float): :math:`\tau`, in the teacher's scores.
        num_uniform (int, optional): The size of :math:`\mathcal{N}`.
            (default: :obj:`1024`)
        prompted (PromptedScores, optional): What is added to the scores of
            :obj:`lists` as a function of the teacher's prompt. The loss is
            then the whole divergence. (default: :obj:`None`)
        prompt (torch.nn.Module, optional): The prompt, which is tuned along.
            (default: :obj:`None`)
        prompt_lr (float, optional): Its learning rate. (default: that of
            the student)
    """
    def __init__(
        self,
        student: RankingModel,
        graph: UserItemGraph,
        known: Tensor,
        lists: TopLists,
        temperature: float,
        num_uniform: int = 1024,
        prompted: PromptedScores | None = None,
        prompt: torch.nn.Module | None = None,
        prompt_lr: float | None = None,
    ) -> None:
        super().__init__(graph, known, known, 'dot')
        self.student, self.lists = student, lists
        self.prompted, self.prompt = prompted, prompt
        self.prompt_lr = prompt_lr
        self.loss = TopListKD(temperature, divergence=prompted is not None)
        self.num_uniform = num_uniform

    def _apply(self, fn: Callable[[Tensor], Tensor],
               recurse: bool = True) -> ListDistillationTask:
        super()._apply(fn, recurse)
        self.lists = TopLists(*map(fn, self.lists))
        if self.prompted is not None:
            self.prompted = self.prompted.apply(fn)
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups = super().parameter_groups()
        if self.prompt is None or self.prompt_lr is None:
            return groups
        own = [p for p in self.prompt.parameters() if p.requires_grad]
        mine = {id(p) for p in own}
        groups[0]['params'] = [p for p in groups[0]['params']
                               if id(p) not in mine]
        return [*groups, {'params': own, 'lr': self.prompt_lr}]

    def loader(self, batch_size: int) -> UserLoader:
        return UserLoader(self.lists, self.known, self.graph.num_items,
                          batch_size, self.num_uniform, self.device)

    def forward(  # type: ignore[override]
        self,
        batch: ListBatch,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        num_users, num_top = batch.top.shape
        items = torch.cat([batch.top.reshape(-1), batch.uniform])
        out = self.student.rows(self.graph, batch.user, items)
        top = out.item[:num_users * num_top].view(num_users, num_top, -1)
        teacher = batch.top_score
        if self.prompted is not None:
            teacher = teacher + self.prompted(batch.user, batch.top)
        loss = self.loss(
            torch.bmm(top, out.user.unsqueeze(2)).squeeze(2),
            matmul(out.user, out.item[num_users * num_top:].t()),
            teacher, batch.uniform_mask,
            # How many items a uniform one stands for.
            math.log(self.graph.num_items / batch.uniform.numel()))
        terms = {'list': loss}
        return add_extra_loss(loss, terms, self.student, batch, out), terms

    def on_epoch_start(self, epoch: int) -> None:
        self.student.on_epoch_start(epoch, self.graph)

    def embeddings(self, graph: UserItemGraph | None = None) -> Pair:
        return embed(self.student, self.graph if graph is None else graph,
                     self.score)


@torch.no_grad()
def compress_into(student: RankingModel, graph: UserItemGraph, teacher: Pair,
                  temperature: float) -> None:
    r"""Starts a student from the leading directions of a teacher's tables
    (:func:`~torch_promptmm.nn.compress`), so that its scores are about
    the teacher's over a temperature.

    A :class:`~torch_promptmm.models.LightGCN` with an even number of layers
    yields them exactly. Where no ego rows have this output, and in students
    with layers of their own, the directions are the ego rows themselves: a
    start, no more.

    Args:
        student (RankingModel): The student.
        graph (UserItemGraph): What it propagates over.
        teacher (tuple): The teacher's user and item embeddings, whose dot
            products are its scores.
        temperature (float): The temperature.
    """
    user, item = compress(*teacher, student.width)
    # Rows of users and of items are made equally long, on average.
    ratio = (item.square().sum(dim=1).mean() /
             user.square().sum(dim=1).mean())**0.25
    scale = temperature**-0.5
    student.start_from(graph, user * (ratio * scale), item * (scale / ratio))
