r"""The task of stage 2: Eq. 12."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from torch_promptmm.checks import check_float, check_int
from torch_promptmm.loader import Batch, BatchSpec
from torch_promptmm.loss import (
    DisentangledListKD,
    ListwiseKD,
    PairwiseKD,
    ScaledCosineError,
    default_temperature,
)
from torch_promptmm.models import ModelOutput, RankingModel, embed
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.train.objective import RankingObjective
from torch_promptmm.train.rows import (
    ScoredRows,
    batch_items,
    num_ego_items,
    split_rows,
)
from torch_promptmm.train.task import (
    Task,
    Terms,
    add_extra_loss,
    batch_l2,
)

TeacherRows = Callable[[Tensor, Tensor], ModelOutput]


class DistillationTask(Task):
    r"""Trains the student with the knowledge of a frozen teacher (Eq. 12),

    .. math::
        \mathcal{L} = \mathcal{L}_{\textrm{rank}} + \lambda_2
        \mathcal{L}_{\textrm{PairKD}} + \lambda_3
        \mathcal{L}_{\textrm{ListKD}} + \lambda_4
        \mathcal{L}_{\textrm{EmbKD}} + \lambda_3'
        \mathcal{L}_{\textrm{ListKD}}^{\textrm{fused}} + \lambda_4'
        \mathcal{L}_{\textrm{EmbKD}}^{\textrm{fused}} + \lambda_5
        \mathcal{L}_{\textrm{rank}}^{\mathcal{T}} + \frac{\kappa}{2B} \|
        \Theta \|^2_{\textrm{batch}}.

    Args:
        student (RankingModel): The student.
        graph (UserItemGraph): What is propagated over.
        positives (torch.Tensor): The interactions to train on
            :math:`(2, P)`.
        known (torch.Tensor): The interactions that are no negatives
            :math:`(2, E)`.
        teacher_rows (callable): The frozen teacher's output at given users
            and items, such as :class:`~torch_promptmm.distill.PromptTables`.
        objective (RankingObjective): The ranking loss.
        prompt (torch.nn.Module, optional): The prompt, if it is tuned.
            (default: :obj:`None`)
        projections (dict, optional): From a modality's name (and
            :obj:`""` for the fused vectors) to a module that maps the
            student's embeddings to the teacher's width.
            (default: :obj:`None`)
        masks (dict, optional): Where items have a modality.
            (default: :obj:`None`)
        l2 (float, optional): :math:`\kappa`. (default: :obj:`0.0`)
        pair_weight (float, optional): :math:`\lambda_2`.
            (default: :obj:`0.0`)
        list_weight (float, optional): :math:`\lambda_3`.
            (default: :obj:`0.0`)
        emb_weight (float, optional): :math:`\lambda_4`.
            (default: :obj:`0.0`)
        fused_list_weight (float, optional): :math:`\lambda_3'`.
            (default: :obj:`0.0`)
        fused_emb_weight (float, optional): :math:`\lambda_4'`.
            (default: :obj:`0.0`)
        teacher_weight (float, optional): :math:`\lambda_5`, the teacher's
            own ranking loss with respect to the prompt.
            (default: :obj:`0.0`)
        list_size (int, optional): The length :math:`K` of a ranking list
            with BPR; the softmax has its shared negatives in it.
            (default: :obj:`10`)
        temperature (float, optional): :math:`\tau` of pair- and list-wise
            distillation. (default: 0.2 for cosine, 1.0 for dot scores)
        alpha (float, optional): See
            :class:`~torch_promptmm.loss.DisentangledListKD`.
            (default: :obj:`1.0`)
        beta (float, optional): See
            :class:`~torch_promptmm.loss.DisentangledListKD`.
            (default: :obj:`None`)
        disentangle (bool, optional): If :obj:`False`, the plain KL
            divergence is taken, :obj:`alpha` and :obj:`beta` are unused.
            (default: :obj:`True`)
        gamma (float, optional): :math:`\gamma` of Eq. 11.
            (default: :obj:`2.0`)
        item_samples (int, optional): How many items of the whole catalogue
            (cold ones included) a step places by Eq. 11.
            (default: :obj:`1024`)
    """
    def __init__(
        self,
        student: RankingModel,
        graph: UserItemGraph,
        positives: Tensor,
        known: Tensor,
        teacher_rows: TeacherRows,
        objective: RankingObjective,
        prompt: torch.nn.Module | None = None,
        projections: Mapping[str, torch.nn.Module] | None = None,
        masks: Mapping[str, Tensor] | None = None,
        l2: float = 0.0,
        pair_weight: float = 0.0,
        list_weight: float = 0.0,
        emb_weight: float = 0.0,
        fused_list_weight: float = 0.0,
        fused_emb_weight: float = 0.0,
        teacher_weight: float = 0.0,
        list_size: int = 10,
        temperature: float | None = None,
        alpha: float = 1.0,
        beta: float | None = None,
        disentangle: bool = True,
        gamma: float = 2.0,
        item_samples: int = 1024,
    ) -> None:
        super().__init__(graph, positives, known, objective.score)
        self.student, self.objective, self.prompt = student, objective, prompt
        self.teacher_rows = teacher_rows
        self.projections = dict(projections or {})
        self.projection_modules = torch.nn.ModuleList(
            self.projections.values())
        self.masks = dict(masks or {})
        self.l2 = check_float('l2', l2)
        self.pair_weight = check_float('pair_weight', pair_weight)
        self.list_weight = check_float('list_weight', list_weight)
        self.emb_weight = check_float('emb_weight', emb_weight)
        self.fused_list_weight = check_float('fused_list_weight',
                                             fused_list_weight)
        self.fused_emb_weight = check_float('fused_emb_weight',
                                            fused_emb_weight)
        self.teacher_weight = check_float('teacher_weight', teacher_weight)
        self.list_size = check_int('list_size', list_size, 2)
        self.item_samples = check_int('item_samples', item_samples, 1)
        if temperature is None:
            temperature = default_temperature(objective.score)
        self.pair_loss = PairwiseKD(temperature)
        self.list_loss: DisentangledListKD | ListwiseKD = (
            DisentangledListKD(temperature, alpha, beta)
            if disentangle else ListwiseKD(temperature))
        self.emb_loss = ScaledCosineError(gamma)

    def _apply(self, fn: Callable[[Tensor], Tensor],
               recurse: bool = True) -> DistillationTask:
        super()._apply(fn, recurse)
        self.masks = {name: fn(mask) for name, mask in self.masks.items()}
        if hasattr(self.teacher_rows, 'apply'):
            self.teacher_rows = self.teacher_rows.apply(fn)
        return self

    @property
    def _needs_lists(self) -> bool:
        return self.list_weight > 0.0 or self.fused_list_weight > 0.0

    @property
    def batch_spec(self) -> BatchSpec:
        spec = self.objective.batch_spec
        own = 0
        if spec.shared_negatives == 0:
            own = self.list_size - 1 if self._needs_lists else 1
        samples = 0
        if self.emb_weight > 0.0 or self.fused_emb_weight > 0.0:
            samples = self.item_samples
        return self.student.batch_spec(
            spec.merge(
                BatchSpec(own, item_samples=samples,
                          warm_negatives=spec.warm_negatives)))

    def on_epoch_start(self, epoch: int) -> None:
        self.student.on_epoch_start(epoch, self.graph)

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        item_id = batch_items(batch)
        num_ego = num_ego_items(batch) if self.l2 > 0.0 else 0
        out = self.student.rows(self.graph, batch.user, item_id, num_ego)
        rows = ScoredRows(split_rows(out.user, out.item, batch), batch,
                          self.score)
        terms = {'rank': self.objective(rows)}
        total = terms['rank']
        weights: dict[str, float] = {}
        if self.l2 > 0.0:
            terms['l2'] = batch_l2(out, batch)
            weights['l2'] = self.l2
        if self.needs_teacher:
            teacher = self.teacher_rows(batch.user, item_id)
            self._distil(rows, teacher, batch, terms, weights)
        for name, weight in weights.items():
            total = total + weight * terms[name]
        return add_extra_loss(total, terms, self.student, batch, out), terms

    @property
    def needs_teacher(self) -> bool:
        r"""Whether any term depends on the teacher."""
        return any(weight > 0.0 for weight in (
            self.pair_weight, self.list_weight, self.emb_weight,
            self.fused_list_weight, self.fused_emb_weight,
            self.teacher_weight))

    def _distil(self, rows: ScoredRows, teacher: ModelOutput, batch: Batch,
                terms: Terms, weights: dict[str, float]) -> None:
        fused, *modal = (
            ScoredRows(split_rows(x_user, x_item, batch), batch, self.score,
                       rows.mask)
            for x_user, x_item in ((teacher.user, teacher.item),
                                   *teacher.modalities.values()))

        if self.pair_weight > 0.0:
            weights['pair'] = self.pair_weight
            terms['pair'] = self.pair_loss(rows.margin(), fused.margin(),
                                           rows.margin_mask)
        if self.list_weight > 0.0 and modal:
            weights['list'] = self.list_weight
            terms['list'] = torch.stack(
                [self._list(rows, each) for each in modal]).sum()
        if self.emb_weight > 0.0 and modal:
            weights['emb'] = self.emb_weight
            terms['emb'] = torch.stack([
                self._emb(name, rows.rows.item, each.rows.item, batch)
                for name, each in zip(teacher.modalities, modal, strict=True)
            ]).sum()
        if self.fused_list_weight > 0.0:
            weights['fused_list'] = self.fused_list_weight
            terms['fused_list'] = self._list(rows, fused)
        if self.fused_emb_weight > 0.0:
            weights['fused_emb'] = self.fused_emb_weight
            terms['fused_emb'] = (
                self._emb('', rows.rows.user, fused.rows.user, None) +
                self._emb('', rows.rows.item, fused.rows.item, None))
        if self.teacher_weight > 0.0:
            weights['teacher'] = self.teacher_weight
            terms['teacher'] = self.objective(fused)

    def _list(self, rows: ScoredRows, teacher: ScoredRows) -> Tensor:
        temperature = self.list_loss.temperature
        return self.list_loss.of_lists(rows.lists(temperature),
                                       teacher.lists(temperature))

    def _emb(self, name: str, student: Tensor, teacher: Tensor,
             batch: Batch | None) -> Tensor:
        if name in self.projections:
            student = self.projections[name](student)
        mask = None
        if batch is not None and name in self.masks:
            mask = self.masks[name][batch.item]
        return self.emb_loss(student, teacher, mask)

    def embeddings(
        self,
        graph: UserItemGraph | None = None,
    ) -> tuple[Tensor, Tensor]:
        return embed(self.student, self.graph if graph is None else graph,
                     self.score)
