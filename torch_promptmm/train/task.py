r"""Tasks: what the training loop trains."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from torch_promptmm.checks import check_float
from torch_promptmm.loader import Batch, BatchSpec, InteractionLoader
from torch_promptmm.models import (
    ForeignModel,
    ModelOutput,
    RankingModel,
    as_model,
    embed,
)
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.train.objective import RankingObjective
from torch_promptmm.train.rows import (
    ScoredRows,
    batch_items,
    num_ego_items,
    split_rows,
)

Terms = dict[str, Tensor]
# Entries of a history that are not a model's to name.
_NAMES = ('epoch', 'loss', 'time', 'rank', 'l2', 'modality')


class Task(torch.nn.Module):
    r"""The base class of everything that :func:`~torch_promptmm.train.train`
    trains: a module that holds the model, its loss, the graph and the
    interactions. :obj:`task.to(device)` moves all of them.

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
        self.score, self.user_weight = score, 0.0

    def _apply(self, fn: Callable[[Tensor], Tensor],
               recurse: bool = True) -> Task:
        # What `to` and its like do to parameters is done to all tensors.
        super()._apply(fn, recurse)
        self.graph = tree_map_only(Tensor, fn, self.graph)
        self.positives, self.known = fn(self.positives), fn(self.known)
        return self

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.parameters()), self.graph.device)

    @property
    def batch_spec(self) -> BatchSpec:
        r"""What a batch holds."""
        raise NotImplementedError

    def loader(self, batch_size: int) -> Any:
        r"""Returns the loader of the task's batches. A task that draws its
        batches another way overrides it."""
        return InteractionLoader(self.positives, self.known,
                                 self.graph.num_users, self.graph.num_items,
                                 batch_size, self.batch_spec, self.device,
                                 self.user_weight)

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
        \mathcal{L}_{\textrm{rank}}^m + \mathcal{L}_{\textrm{model}} +
        \frac{\kappa}{2B} \| \Theta \|^2_{\textrm{batch}}

    :math:`\mathcal{L}_{\textrm{rank}}` is the objective's loss, or that of
    the model (:meth:`RankingModel.own_loss()
    <torch_promptmm.models.RankingModel.own_loss>`) where the objective is
    :obj:`"own"`; :math:`\mathcal{L}_{\textrm{model}}` are its other terms.

    Args:
        model (torch.nn.Module): A
            :class:`~torch_promptmm.models.RankingModel`, or any module for
            which :obj:`model(graph)` yields user and item embeddings and,
            optionally, those of modalities. The L2 term of the former falls
            on its :obj:`ego` rows, of the latter on its output.
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
        user_weight (float, optional): See
            :class:`~torch_promptmm.loader.InteractionLoader`.
            (default: :obj:`0.0`)
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
        user_weight: float = 0.0,
    ) -> None:
        objective = objective or RankingObjective()
        super().__init__(graph, positives,
                         positives if known is None else known,
                         objective.score)
        self.model, self.objective, self.extra = (as_model(model), objective,
                                                  extra)
        self.l2 = check_float('l2', l2)
        self.user_weight = check_float('user_weight', user_weight)
        self.modality_weight = check_float('modality_weight', modality_weight)
        if objective.is_own and self.modality_weight > 0.0:
            raise ValueError(f"'modality_weight' must be 0 with ranking_loss="
                             f"'own', which is no loss of a modality (got "
                             f"{self.modality_weight})")
        if self.l2 > 0.0 and _hides_tables(self.model):
            warnings.warn(
                f"'model' ({type(model).__name__}) wraps a model whose L2 "
                f"term falls on its tables, but does not name these rows: "
                f"the term falls on its output. Make it a RankingModel with "
                f"'rows', or set l2=0", stacklevel=2)

    @property
    def batch_spec(self) -> BatchSpec:
        return self.model.batch_spec(self.objective.batch_spec)

    def on_epoch_start(self, epoch: int) -> None:
        self.model.on_epoch_start(epoch, self.graph)

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        num_ego = num_ego_items(batch) if self.l2 > 0.0 else 0
        out = self.model.rows(self.graph, batch.user, batch_items(batch),
                              num_ego)
        rows = ScoredRows(split_rows(out.user, out.item, batch), batch,
                          self.score)
        terms = {'rank': self.model.own_loss(batch, out)
                 if self.objective.is_own else self.objective(rows)}
        total = terms['rank']
        if self.l2 > 0.0:
            terms['l2'] = batch_l2(out, batch)
            total = total + self.l2 * terms['l2']
        if self.modality_weight > 0.0 and out.modalities:
            terms['modality'] = torch.stack([
                self.objective(
                    ScoredRows(split_rows(x_user, x_item, batch), batch,
                               self.score, rows.mask))
                for x_user, x_item in out.modalities.values()
            ]).sum()
            total = total + self.modality_weight * terms['modality']
        return add_extra_loss(total, terms, self.model, batch, out), terms

    def embeddings(
        self,
        graph: UserItemGraph | None = None,
    ) -> tuple[Tensor, Tensor]:
        return embed(self.model, self.graph if graph is None else graph,
                     self.score)


def batch_l2(output: ModelOutput, batch: Batch) -> Tensor:
    r"""Half the squared norm of the users', the positives' and, with BPR,
    each row's first negative's rows, over the batch size."""
    user, item = output.ego or (output.user, output.item)
    item = item[:num_ego_items(batch)]
    total = user.square().sum() + item.square().sum()
    return total / (2 * max(batch.user.numel(), 1))


def add_extra_loss(total: Tensor, terms: Terms, model: RankingModel,
                   batch: Any, output: ModelOutput) -> Tensor:
    r"""Adds a model's own loss terms to the others, and returns the new
    total.

    Raises:
        ValueError: If one has the name of another entry of the history.
    """
    for name, value in model.extra_loss(batch, output).items():
        if name in terms or name in _NAMES:
            raise ValueError(f"'extra_loss' of '{type(model).__name__}' must "
                             f"give its term another name than {name!r}, "
                             f"which the history has already")
        terms[name] = value
        total = total + value
    return total


def _hides_tables(model: RankingModel) -> bool:
    return isinstance(model, ForeignModel) and any(
        isinstance(module, RankingModel)
        for module in model.module.modules())
