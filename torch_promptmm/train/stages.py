r"""The two stages of a distillation: what each prepares and trains."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from torch_promptmm.checks import (
    check_bool,
    check_choice,
    check_device,
    check_path,
)
from torch_promptmm.data import (
    IdMap,
    InteractionData,
    check_same_entities,
    held_out,
    id_maps,
    known_interactions,
    read_graph,
    supervision,
)
from torch_promptmm.evaluate import evaluate_embeddings
from torch_promptmm.loader import Batch
from torch_promptmm.nn import (
    ConstantTables,
    LightGCNStudent,
    MultimodalTeacher,
    PromptTables,
    PropagatedFeatures,
    SoftPrompt,
    TeacherOutput,
    UserItemGraph,
)
from torch_promptmm.nn.functional import modality_key
from torch_promptmm.nn.tables import as_output
from torch_promptmm.train.checkpoint import load_checkpoint, load_weights
from torch_promptmm.train.distillation import DistillationTask
from torch_promptmm.train.history import History
from torch_promptmm.train.loop import seeded, train
from torch_promptmm.train.objective import RankingObjective
from torch_promptmm.train.settings import Settings
from torch_promptmm.train.task import RankingTask, Task

STAGES = ('teacher', 'student')
FUSED = 'fused'
NO_TEACHER = ('The teacher is of a class that is not ours and was not given: '
              'PromptMMDistiller.load(path, teacher=module)')
_METRIC = 'recall@20'
_NOT_OURS = ('task', 'validate', 'name', 'module')


class TwoStages(torch.nn.Module):
    r"""What :class:`~torch_promptmm.PromptMMDistiller` trains and how; its
    constructor sets the parts."""
    teacher: torch.nn.Module | None
    student: LightGCNStudent
    prompt: SoftPrompt | None
    projections: torch.nn.ModuleDict
    settings: Settings
    objective: RankingObjective
    edge_type: tuple[str, str, str] | None
    modalities: Sequence[str] | None

    def __init__(self) -> None:
        super().__init__()
        self._graph: UserItemGraph | None = None
        self._known: Tensor | None = None
        # In a tuple, for a task is no part of the module: its parameters are
        # those of teacher, student and prompt once more.
        self._prepared: tuple[str, Task] | None = None
        # Final embeddings with the versions of the weights that they are of;
        # none are kept while weights may change, for a fused optimiser does
        # so without a new version.
        self._final: dict[str, tuple[Any, tuple[Tensor, Tensor]]] = {}
        self._in_training = False
        self._ids: dict[str, IdMap] = {}  # Raw ids of 'user' and 'item'.

    @property
    def device(self) -> torch.device:
        r"""Where the student is."""
        return self.student.user_embedding.weight.device

    @property
    def score(self) -> str:
        r"""The score function of all models, :obj:`"dot"` or
        :obj:`"cosine"`."""
        return self.objective.score

    def train(self, mode: bool = True) -> TwoStages:
        r"""Sets the mode; in stage 2 the teacher stays in evaluation mode."""
        super().train(mode)
        if self._stage == 'student' and self.teacher is not None:
            self.teacher.eval()
        return self

    @property
    def _stage(self) -> str | None:
        return None if self._prepared is None else self._prepared[0]

    # Reading data ###########################################################

    def _read(self, data: HeteroData, need_features: bool = False,
              check_finite: bool = False, name: str = 'data'
              ) -> InteractionData:
        ours = isinstance(self.teacher, MultimodalTeacher)
        view = read_graph(data, self.edge_type,
                          self.modalities if need_features and ours else None,
                          need_features=need_features and ours,
                          check_finite=check_finite)
        for what in ('users', 'items'):
            have = getattr(self.student, f'num_{what}')
            if getattr(view, f'num_{what}') != have:
                raise ValueError(f"'{name}' has "
                                 f"{getattr(view, f'num_{what}')} {what}, "
                                 f"but the student was built for {have}")
        return view

    def _is_training_graph(self, view: InteractionData) -> bool:
        if self._graph is None:
            return False
        edge_index = self._graph.edge_index.cpu()
        return (edge_index.shape == view.edge_index.shape
                and torch.equal(edge_index, view.edge_index.cpu()))

    def _give_features(self, view: InteractionData) -> None:
        teacher = self.teacher
        if not isinstance(teacher, MultimodalTeacher):
            return
        for name in teacher.modalities:
            if name not in view.features:
                raise ValueError(f"'data' lacks the modality {name!r} of the "
                                 f"teacher (it has {list(view.features)})")
        teacher.set_features(
            {name: view.features[name]
             for name in teacher.modalities}, view.masks,
            fit=not _has_statistics(teacher))

    def prepare(
        self,
        data: HeteroData,
        stage: str = 'student',
        device: Any = None,
    ) -> Task:
        r"""Builds the graph and the constant tables of a stage and freezes
        what the stage freezes. :meth:`fit` calls it; call it yourself before
        a training loop of your own.

        Args:
            data (HeteroData): The training graph.
            stage (str, optional): :obj:`"teacher"` or :obj:`"student"`.
                (default: :obj:`"student"`)
            device (torch.device, optional): Where to train. (default: where
                the student is)

        Returns:
            The :class:`~torch_promptmm.train.Task` of the stage, which also
            makes batches: :obj:`task.batch_spec`.
        """
        check_choice('stage', stage, STAGES)
        if self.teacher is None:
            raise ValueError(NO_TEACHER)
        view = self._read(data, need_features=True, check_finite=True)
        positives = supervision(view)
        device = self.device if device is None else check_device(device)
        if device.type == 'meta':
            raise ValueError("'device' 'meta' holds no values to train on")
        self.to(device)
        self._give_features(view)
        positives = positives.to(device)
        known = known_interactions(view).to(device)
        graph = UserItemGraph(view.edge_index, view.num_users,
                              view.num_items).to(device)
        self._graph, self._known = graph, known
        self._ids = id_maps(data, view.edge_type) or self._ids
        self._prepared, self._final = None, {}
        self._in_training = True
        settings, in_student = self.settings, stage == 'student'
        self.teacher.requires_grad_(not in_student)
        self.student.requires_grad_(in_student)
        self.projections.requires_grad_(False)
        if self.prompt is not None:
            self.prompt.requires_grad_(not in_student or settings.tune_prompt)
        task: Task
        if isinstance(self.teacher, MultimodalTeacher):
            self.teacher.propagated = None
        if in_student:
            task = self._distillation_task(self.teacher, view, graph,
                                           positives, known)
        else:
            if settings.propagate_features and isinstance(
                    self.teacher, MultimodalTeacher):
                self.teacher.propagated = PropagatedFeatures(
                    self.teacher, graph)
            task = RankingTask(self.teacher, graph, positives, known,
                               self.objective, settings.ego_l2,
                               settings.modality_weight, self.prompt)
        self._prepared = (stage, task)
        self.train(self.training)
        return task

    def _distillation_task(self, teacher: torch.nn.Module,
                           view: InteractionData, graph: UserItemGraph,
                           positives: Tensor,
                           known: Tensor) -> DistillationTask:
        teacher.eval()
        prompt = self.prompt if self.settings.tune_prompt else None
        rows: ConstantTables | PromptTables
        if prompt is not None and isinstance(teacher, MultimodalTeacher):
            rows, names = PromptTables(teacher, graph), teacher.modalities
        else:
            with torch.no_grad():
                output = as_output(teacher(graph))
            self._check_output(output)
            rows, names = ConstantTables(output), list(output.modalities)
            self._add_projections({
                FUSED: output.user.size(1),
                **{
                    modality_key(name): x.size(1)
                    for name, (x, _) in output.modalities.items()
                }
            })
        # Only what a term needs is trained, as DDP wants it.
        keys = {}
        if self.settings.emb_weight > 0.0:
            keys.update({name: modality_key(name) for name in names})
        if self.settings.fused_emb_weight > 0.0:
            keys[''] = FUSED
        projections = {
            name: self.projections[key].requires_grad_(True)
            for name, key in keys.items() if key in self.projections
        }
        masks = {k: v.to(self.device) for k, v in view.masks.items()}
        task = DistillationTask(self.student, graph, positives, known, rows,
                                self.objective, prompt, projections, masks,
                                **self.settings.distillation())
        if prompt is not None and not task.needs_teacher:
            prompt.requires_grad_(False)
        return task

    def _check_output(self, output: TeacherOutput) -> None:
        pairs = {'': (output.user, output.item), **output.modalities}
        for name, (user, item) in pairs.items():
            of = f' for modality {name!r}' if name else ''
            for what, x, rows in (('user', user, self.student.num_users),
                                  ('item', item, self.student.num_items)):
                if x.dim() != 2 or x.size(0) != rows:
                    raise ValueError(
                        f"'teacher' must yield {what} embeddings of shape "
                        f"[{rows}, channels]{of} (got {list(x.shape)})")

    # Training ###############################################################

    def fit(
        self,
        train_data: HeteroData,
        val_data: HeteroData | None = None,
        *,
        checkpoint: str | os.PathLike | None = None,
        resume: bool = False,
        **kwargs: Any,
    ) -> dict[str, History]:
        r"""Runs both stages: teacher and prompt, then student and prompt
        with the teacher frozen.

        Args:
            train_data (HeteroData): The training graph.
            val_data (HeteroData, optional): The graph that holds the
                validation interactions; the epoch of each stage is chosen on
                it. Without it, all epochs are run and the last weights kept.
                (default: :obj:`None`)
            checkpoint (str, optional): Where the state is saved as training
                goes. (default: :obj:`None`)
            resume (bool, optional): Goes on from :obj:`checkpoint`, and
                starts anew where there is nothing yet.
                (default: :obj:`False`)
            **kwargs (optional): Arguments of :meth:`fit_teacher` and
                :meth:`fit_student`, for each of them.

        Returns:
            A :class:`~torch_promptmm.train.History` of each stage.
        """
        state = _checkpoint(checkpoint, resume)
        teacher = None
        if state is not None and state['name'] == 'student':
            if 'teacher' not in state['notes']:
                raise ValueError(f"'checkpoint' {str(checkpoint)!r} is of "
                                 f"'fit_student' alone: resume that")
            teacher = History.from_state(state['notes']['teacher'])
        if teacher is None:
            teacher = self.fit_teacher(train_data, val_data,
                                       checkpoint=checkpoint, resume=resume,
                                       **kwargs)
            resume = False
        student = self._fit('student', train_data, val_data,
                            checkpoint=checkpoint, resume=resume,
                            notes={'teacher': teacher.state()}, **kwargs)
        return {'teacher': teacher, 'student': student}

    def fit_teacher(self, train_data: HeteroData,
                    val_data: HeteroData | None = None,
                    **kwargs: Any) -> History:
        r"""Runs stage 1, which trains teacher and prompt.

        Args:
            train_data (HeteroData): The training graph.
            val_data (HeteroData, optional): The validation graph.
                (default: :obj:`None`)
            **kwargs (optional): :obj:`device`, and arguments of
                :func:`~torch_promptmm.train.train` (:obj:`epochs`,
                :obj:`batch_size`, :obj:`lr`, :obj:`weight_decay`,
                :obj:`patience`, :obj:`min_epochs`, :obj:`seed`,
                :obj:`progress`, :obj:`callback`, :obj:`optimizer`,
                :obj:`scheduler`, :obj:`checkpoint`, :obj:`resume`, ...).
        """
        return self._fit('teacher', train_data, val_data, **kwargs)

    def fit_student(self, train_data: HeteroData,
                    val_data: HeteroData | None = None,
                    **kwargs: Any) -> History:
        r"""Runs stage 2, which trains student and prompt with the teacher
        frozen. The arguments are those of :meth:`fit_teacher`."""
        return self._fit('student', train_data, val_data, **kwargs)

    def _fit(self, stage: str, train_data: HeteroData,
             val_data: HeteroData | None, device: Any = None,
             metric: str = _METRIC, seed: int | None = None,
             checkpoint: str | os.PathLike | None = None,
             resume: bool = False, **kwargs: Any) -> History:
        known_arguments = inspect.signature(train).parameters
        for name in kwargs:
            if name not in known_arguments or name in _NOT_OURS:
                raise TypeError(f"{name!r} is no argument of 'fit'")
        train_view = self._read(train_data, name='train_data')
        val_view = positives = None
        cut = _cut_off(metric, train_view.num_items)
        if val_data is not None:
            val_view = self._read(val_data, name='val_data')
            check_same_entities(train_view, val_view)
            positives = held_out(val_view)
        state = _checkpoint(checkpoint, resume)
        if state is not None and state['name'] == stage:
            # Before 'prepare', which computes tables of the weights.
            self._load_weights(state['module'], str(checkpoint))
        with seeded(seed, self.device):
            task = self.prepare(train_data, stage, device)
        if not any(p.requires_grad for p in task.parameters()):
            raise ValueError(f"'{stage}' has no parameter to train (a fixed "
                             f"teacher needs 'fit_student' alone)")
        validate = None
        if val_view is not None and positives is not None:
            validate = self._validator(task, val_view, positives, metric, cut)
        options = {
            'batch_size': self.settings.batch_size,
            'lr': self.settings.learning_rate,
            'weight_decay': self.settings.weight_decay,
            **kwargs
        }
        training = self.training
        try:
            return train(task, validate=validate, metric=metric, seed=seed,
                         checkpoint=checkpoint, resume=resume, name=stage,
                         module=self, **options)
        finally:
            self._in_training = False
            self.train(training)

    def _load_weights(self, state: dict[str, Tensor], path: str) -> None:
        prefix, suffix = 'projections.', '.weight'
        self._add_projections({
            key[len(prefix):-len(suffix)]: value.size(0)
            for key, value in state.items()
            if key.startswith(prefix) and value.dim() == 2
        })
        load_weights(self, state, f"'checkpoint' {path!r}")

    def _validator(self, task: Task, view: InteractionData, positives: Tensor,
                   metric: str, cut: int) -> Callable[[], dict[str, float]]:
        positives = positives.to(self.device)
        known = view.edge_index.to(self.device)
        same = self._is_training_graph(view)
        graph = None if same else UserItemGraph(
            view.edge_index, view.num_users, view.num_items).to(self.device)
        label = metric.partition('@')[2]

        def validate() -> dict[str, float]:
            user, item = task.embeddings(graph)
            out = evaluate_embeddings(user, item, positives, known, (cut, ))
            return {
                f'{key.partition("@")[0]}@{label}': float(value)
                for key, value in out.items()
            }

        return validate

    def teacher_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        r"""Returns the total loss of stage 1 and each term, after
        :meth:`prepare` for that stage."""
        return self(batch, stage='teacher')

    def student_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        r"""Returns the total loss of stage 2 and each term, after
        :meth:`prepare` for that stage."""
        return self(batch, stage='student')

    def forward(self, batch: Batch,
                stage: str = 'student') -> tuple[Tensor, dict[str, Tensor]]:
        r"""Returns the total loss of a stage and each term, so that DDP and
        :func:`torch.compile` can wrap the distiller."""
        check_choice('stage', stage, STAGES)
        if self._prepared is None or self._prepared[0] != stage:
            raise ValueError(f"Call 'prepare(data, stage={stage!r})' first "
                             f"(prepared: {self._stage!r})")
        if not isinstance(batch, Batch):
            raise TypeError(f"'batch' must be a Batch of an InteractionLoader "
                            f"(got '{type(batch).__name__}')")
        if not self._in_training:
            self._in_training, self._final = True, {}
        return self._prepared[1](batch)

    def _add_projections(self, widths: Mapping[str, int]) -> None:
        # Under the fused vectors' own key, and those of the modalities.
        channels = self.student.hidden_channels
        for key, width in widths.items():
            if width != channels and key not in self.projections:
                layer = torch.nn.Linear(channels, width, bias=False)
                self.projections[key] = layer.to(self.device)


def _has_statistics(teacher: MultimodalTeacher) -> bool:
    return all(
        bool(teacher.reduction(name).num_items > 0)
        for name in teacher.modalities)


def _checkpoint(path: Any, resume: bool) -> dict[str, Any] | None:
    check_bool('resume', resume)
    if path is not None:
        check_path('checkpoint', path)
    elif resume:
        raise ValueError("'resume=True' needs 'checkpoint=path'")
    return load_checkpoint(path) if resume else None


def _cut_off(metric: str, num_items: int) -> int:
    name, _, cut = str(metric).partition('@')
    if name not in ('recall', 'ndcg') or not cut.isdecimal():
        raise ValueError(f"'metric' must be 'recall@K' or 'ndcg@K' (got "
                         f"{metric!r})")
    if metric == _METRIC:  # The default works for small catalogues too.
        return min(int(cut), num_items)
    if not 1 <= int(cut) <= num_items:
        raise ValueError(f"'metric' must have a cut-off from 1 to the "
                         f"{num_items} items (got {metric!r})")
    return int(cut)
