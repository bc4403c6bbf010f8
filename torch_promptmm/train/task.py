r"""Tasks: what the training loop trains."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from torch_promptmm.checks import check_float
from torch_promptmm.loader import Batch, BatchSpec
from torch_promptmm.loss import as_scored
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.nn.tables import as_output
from torch_promptmm.train.objective import RankingObjective
from torch_promptmm.train.rows import (
    ScoredRows,
    batch_items,
    num_ego_items,
    split_rows,
)

Terms = dict[str, Tensor]


class Task(torch.nn.Module):
    r"""The base class of everything that :func:`~torch_promptmm.train.train`
    trains: a module that holds the model, its loss, the graph and the
    interactions.

    A subclass implements :meth:`forward`, :meth:`embeddings` and
    :attr:`batch_spec`.

    Args:
        graph (UserItemGraph): What is propagated over.
        positives (torch.Tensor): The interactions to train on
            :math:`(2, P)`.
        known (torch.Tensor): The interactions that are no negatives
            :math:`(2, E)`.
        score (str): The score function, :obj:`"dot"` or :obj:`"cosine"`.
    """
    def __init__(self, graph: UserItemGraph, positives: Tensor, known: Tensor,
                 score: str) -> None:
        super().__init__()
        self.graph, self.positives, self.known = graph, positives, known
        self.score = score

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.parameters()), self.graph.device)

    @property
    def batch_spec(self) -> BatchSpec:
        r"""What a batch holds."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        r"""Returns the total loss and each term of it, unweighted."""
        raise NotImplementedError

    def embeddings(
        self,
        graph: UserItemGraph | None = None,
    ) -> tuple[Tensor, Tensor]:
        r"""Returns user and item embeddings whose dot product is the score,
        on the training graph or another one."""
        raise NotImplementedError

    def on_epoch_start(self, epoch: int) -> None:
        r"""Is called before each epoch."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        r"""The parameter groups of the optimiser."""
        return [{'params': [p for p in self.parameters() if p.requires_grad]}]


class RankingTask(Task):
    r"""Trains a model (a LightGCN, a teacher, a baseline) by a ranking loss.

    .. math::
        \mathcal{L} = \mathcal{L}_{\textrm{rank}} + \mu \sum_{m}
        \mathcal{L}_{\textrm{rank}}^m + \frac{\kappa}{2B} \| \Theta
        \|^2_{\textrm{batch}}

    Args:
        model (torch.nn.Module): :obj:`model(graph)` yields user and item
            embeddings, and, if it is a teacher, those of the modalities. If
            its :meth:`forward` takes :obj:`user_id` and :obj:`item_id`, only
            the batch's rows are asked for; if it takes :obj:`return_ego`,
            the L2 term is on the rows before propagation, else on the
            output rows.
        graph (UserItemGraph): What is propagated over.
        positives (torch.Tensor): The interactions to train on
            :math:`(2, P)`.
        known (torch.Tensor, optional): The interactions that are no
            negatives :math:`(2, E)`. (default: :obj:`positives`)
        objective (RankingObjective, optional): The ranking loss.
            (default: :obj:`RankingObjective()`)
        l2 (float, optional): :math:`\kappa`, the L2 on the batch's users,
            positives and own negatives. (default: :obj:`0.0`)
        modality_weight (float, optional): :math:`\mu`, the weight of each
            modality's own ranking loss. (default: :obj:`0.0`)
        extra (torch.nn.Module, optional): A module that is trained along,
            as the prompt is with the teacher. (default: :obj:`None`)
    """
    def __init__(
        self,
        model: torch.nn.Module,
        graph: UserItemGraph,
        positives: Tensor,
        known: Tensor | None = None,
        objective: RankingObjective | None = None,
        l2: float = 0.0,
        modality_weight: float = 0.0,
        extra: torch.nn.Module | None = None,
    ) -> None:
        objective = objective or RankingObjective()
        super().__init__(graph, positives,
                         positives if known is None else known,
                         objective.score)
        self.model, self.objective, self.extra = model, objective, extra
        self.l2 = check_float('l2', l2)
        self.modality_weight = check_float('modality_weight', modality_weight)
        names = set(inspect.signature(model.forward).parameters)
        self._takes_rows = {'user_id', 'item_id'} <= names
        self._returns_ego = self._takes_rows and 'return_ego' in names

    @property
    def batch_spec(self) -> BatchSpec:
        return self.objective.batch_spec

    def _run(self, user_id: Tensor, item_id: Tensor) -> tuple[Any, Any]:
        if self._returns_ego:
            *out, ego_user, ego_item = self.model(self.graph, user_id,
                                                  item_id, return_ego=True)
            out = out[0] if len(out) == 1 else out
            return as_output(out), (ego_user, ego_item)
        if self._takes_rows:
            user, item, modalities = as_output(
                self.model(self.graph, user_id, item_id))
        else:
            user, item, modalities = as_output(self.model(self.graph))
            user, item = user[user_id], item[item_id]
            modalities = {
                name: (x[user_id], y[item_id])
                for name, (x, y) in modalities.items()
            }
        return (user, item, modalities), (user, item)

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        item_id = batch_items(batch)
        (user, item, modalities), (ego_user, ego_item) = self._run(
            batch.user, item_id)
        rows = ScoredRows(split_rows(user, item, batch), batch, self.score)
        terms = {'rank': self.objective(rows)}
        total = terms['rank']
        if self.l2 > 0.0:
            terms['l2'] = batch_l2(ego_user, ego_item, batch)
            total = total + self.l2 * terms['l2']
        if self.modality_weight > 0.0 and modalities:
            terms['modality'] = torch.stack([
                self.objective(
                    ScoredRows(split_rows(x_user, x_item, batch), batch,
                               self.score, rows.mask))
                for x_user, x_item in modalities.values()
            ]).sum()
            total = total + self.modality_weight * terms['modality']
        return total, terms

    @torch.no_grad()
    def embeddings(
        self,
        graph: UserItemGraph | None = None,
    ) -> tuple[Tensor, Tensor]:
        was_training = self.training
        self.eval()
        user, item, _ = as_output(
            self.model(self.graph if graph is None else graph))
        self.train(was_training)
        return as_scored(user, self.score), as_scored(item, self.score)


def batch_l2(ego_user: Tensor, ego_item: Tensor, batch: Batch) -> Tensor:
    r"""Half the squared norm of the users', the positives' and, with BPR,
    each row's first negative's rows, over the batch size."""
    ego_item = ego_item[:num_ego_items(batch)]
    total = ego_user.square().sum() + ego_item.square().sum()
    return total / (2 * max(batch.user.numel(), 1))
