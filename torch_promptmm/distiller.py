r"""The front door: teacher, prompt and student, and the two stages."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from torch_promptmm.checks import (
    check_bool,
    check_choice,
    check_device,
    check_ids,
    check_int,
    check_path,
)
from torch_promptmm.data import (
    InteractionData,
    check_same_entities,
    held_out,
    known_interactions,
    read_graph,
    supervision,
)
from torch_promptmm.data.contract import check_edge_type
from torch_promptmm.evaluate import check_k, evaluate_embeddings
from torch_promptmm.loader import Batch
from torch_promptmm.loss import as_scored
from torch_promptmm.nn import (
    ConstantTables,
    LightGCNStudent,
    MultimodalTeacher,
    PromptTables,
    SoftPrompt,
    TeacherOutput,
    UserItemGraph,
)
from torch_promptmm.nn.components import modality_key
from torch_promptmm.nn.tables import as_output
from torch_promptmm.serve import recommend
from torch_promptmm.serve.distiller_file import read_distiller, write_distiller
from torch_promptmm.train import (
    DistillationTask,
    History,
    RankingTask,
    Settings,
    Task,
    load_checkpoint,
    load_weights,
    seeded,
    train,
)

MODELS, STAGES = ('student', 'teacher'), ('teacher', 'student')
_FUSED, _METRIC = 'fused', 'recall@20'
_NOT_OURS = ('task', 'validate', 'name', 'module')
_NO_TEACHER = ('The teacher is of a class that is not ours and was not given: '
               'PromptMMDistiller.load(path, teacher=module)')


class PromptMMDistiller(torch.nn.Module):
    r"""Distils a multimodal graph teacher, opened by a soft prompt, into a
    LightGCN that serves from ID embeddings alone, after `"PromptMM:
    Multi-Modal Knowledge Distillation for Recommendation with
    Prompt-Tuning" <https://arxiv.org/abs/2402.17188>`_.

    .. code-block:: python

        distiller = PromptMMDistiller.from_data(train_data)
        distiller.fit(train_data, val_data)
        distiller.evaluate(test_data, k=(20, 50))
        items, scores = distiller.recommend([0, 1, 2], k=20)

    Most users want :meth:`from_data`. This constructor takes parts of your
    own.

    Args:
        teacher (torch.nn.Module): :obj:`teacher(graph)` yields user and item
            embeddings and, optionally, those of modalities, as
            :class:`~torch_promptmm.nn.TeacherOutput` does.
        student (LightGCNStudent): The student.
        prompt (SoftPrompt, optional): The prompt of a
            :class:`~torch_promptmm.nn.MultimodalTeacher`.
            (default: that of the teacher)
        setting (str, optional): :obj:`"default"` or :obj:`"faithful"`, see
            :meth:`~torch_promptmm.train.Settings.preset`.
            (default: :obj:`"default"`)
        edge_type (tuple, optional): The edge type of the interactions.
            (default: :obj:`("user", "interacts", "item")`, or the only one)
        modalities (list of str, optional): The item attributes that are
            modalities. (default: all)
        **kwargs (optional): Arguments of
            :class:`~torch_promptmm.train.Settings`.
    """
    def __init__(
        self,
        teacher: torch.nn.Module | None,
        student: LightGCNStudent,
        prompt: SoftPrompt | None = None,
        setting: str = 'default',
        edge_type: tuple[str, str, str] | None = None,
        modalities: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        if teacher is not None and not isinstance(teacher, torch.nn.Module):
            raise TypeError(f"'teacher' must be a torch.nn.Module (got "
                            f"'{type(teacher).__name__}')")
        if not isinstance(student, LightGCNStudent):
            raise TypeError(f"'student' must be a LightGCNStudent (got "
                            f"'{type(student).__name__}')")
        if prompt is not None and not isinstance(prompt, SoftPrompt):
            raise TypeError(f"'prompt' must be a SoftPrompt (got "
                            f"'{type(prompt).__name__}')")
        self.settings = Settings.preset(setting, **kwargs)
        self.objective = self.settings.objective()
        self.teacher, self.student = teacher, student
        if isinstance(teacher, MultimodalTeacher):
            for name in ('num_users', 'num_items'):
                if getattr(teacher, name) != getattr(student, name):
                    raise ValueError(
                        f"'teacher' and 'student' must have the same "
                        f"'{name}' (got {getattr(teacher, name)} and "
                        f"{getattr(student, name)})")
            if prompt is None:
                prompt = teacher.prompt
            elif prompt is not teacher.prompt:
                _inject(prompt, teacher)
        elif prompt is not None:
            raise ValueError("'prompt' needs a MultimodalTeacher, which it "
                             "is injected into")
        self.prompt = prompt
        self.projections = torch.nn.ModuleDict()
        if isinstance(teacher, MultimodalTeacher):
            self._add_projections({
                key: teacher.hidden_channels
                for key in (_FUSED, *map(modality_key, teacher.modalities))
            })
        if isinstance(modalities, str):
            raise TypeError(f"'modalities' must be a list of names (got the "
                            f"string {modalities!r})")
        self.edge_type = (None if edge_type is None else
                          check_edge_type(edge_type))
        self.modalities = None if modalities is None else list(modalities)
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
        # What a file had of a teacher that is not ours and was not given:
        self._teacher_state: dict[str, Tensor] = {}

    # Building ###############################################################

    @classmethod
    def from_data(
        cls,
        data: HeteroData,
        hidden_channels: int = 64,
        num_layers: int = 2,
        teacher_channels: int | None = None,
        teacher_layers: int | None = None,
        fusion_weight: float = 0.1,
        self_weight: float = 1.0,
        prompt: str | None = 'pca',
        prompt_weight: float = 1.0,
        prompt_layers: int = 1,
        normalize: bool | str = 'size',
        standardize: bool = True,
        dropout: float = 0.0,
        seed: int | None = None,
        edge_type: tuple[str, str, str] | None = None,
        modalities: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> PromptMMDistiller:
        r"""Builds teacher, prompt and student from the sizes, features and
        interactions of a training graph.

        Args:
            data (HeteroData): The training graph.
            hidden_channels (int, optional): The width :math:`d` of the
                embeddings. (default: :obj:`64`)
            num_layers (int, optional): Propagation steps of the student.
                (default: :obj:`2`)
            teacher_channels (int, optional): The width of the teacher.
                (default: :obj:`hidden_channels`)
            teacher_layers (int, optional): Propagation steps of the teacher.
                (default: :obj:`num_layers`)
            fusion_weight (float, optional): See
                :class:`~torch_promptmm.nn.MultimodalTeacher`.
                (default: :obj:`0.1`)
            self_weight (float, optional): See
                :class:`~torch_promptmm.nn.MultimodalTeacher`.
                (default: :obj:`1.0`)
            prompt (str, optional): :obj:`"pca"` or :obj:`"graph"`, see
                :meth:`~torch_promptmm.nn.SoftPrompt.from_features`, or
                :obj:`None` for a teacher without prompt.
                (default: :obj:`"pca"`)
            prompt_weight (float, optional): :math:`\lambda_1`.
                (default: :obj:`1.0`)
            prompt_layers (int, optional): Layers of the prompt network.
                (default: :obj:`1`)
            normalize (bool or str, optional): See
                :class:`~torch_promptmm.nn.PromptedReduction`.
                (default: :obj:`"size"`)
            standardize (bool, optional): Standardise the features.
                (default: :obj:`True`)
            dropout (float, optional): Dropout of the reductions in stage 1.
                (default: :obj:`0.0`)
            seed (int, optional): The seed of the initial weights.
                (default: torch's global generator)
            edge_type (tuple, optional): The edge type of the interactions.
                (default: :obj:`("user", "interacts", "item")`, or the only
                one)
            modalities (list of str, optional): The item attributes that are
                modalities. (default: all)
            **kwargs (optional): :obj:`setting` and arguments of
                :class:`~torch_promptmm.train.Settings`.
        """
        check_choice('prompt', prompt, ('pca', 'graph', None))
        setting = kwargs.pop('setting', 'default')
        Settings.preset(setting, **kwargs)  # Says what is wrong at once.
        check_int('hidden_channels', hidden_channels, 1)
        check_int('num_layers', num_layers, 0)
        check_int('prompt_layers', prompt_layers, 1)
        check_bool('standardize', standardize)
        view = read_graph(data, edge_type, modalities, need_features=True)
        graph = UserItemGraph(view.edge_index, view.num_users, view.num_items)
        if teacher_channels is None:
            teacher_channels = hidden_channels
        if teacher_layers is None:
            teacher_layers = num_layers
        check_int('teacher_channels', teacher_channels, 1)
        check_int('teacher_layers', teacher_layers, 0)
        with seeded(seed, torch.device('cpu')):
            student = LightGCNStudent(view.num_users, view.num_items,
                                      hidden_channels, num_layers)
            soft = None
            if prompt is not None:
                soft = SoftPrompt.from_features(view.features,
                                                teacher_channels, prompt,
                                                view.masks, graph,
                                                prompt_layers)
            teacher = MultimodalTeacher(
                view.num_users, view.num_items,
                {name: x.size(1)
                 for name, x in view.features.items()}, teacher_channels,
                teacher_layers, fusion_weight, self_weight, soft,
                prompt_weight=prompt_weight, dropout=dropout,
                normalize=normalize)
            out = cls(teacher, student, soft, setting, edge_type,
                      list(view.features), **kwargs)
        teacher.set_features(view.features, view.masks,
                             standardize=standardize)
        out._graph, out._known = graph, known_interactions(view)
        return out

    def _add_projections(self, widths: Mapping[str, int]) -> None:
        # Under the fused vectors' own key, and those of the modalities.
        channels = self.student.hidden_channels
        for key, width in widths.items():
            if width != channels and key not in self.projections:
                layer = torch.nn.Linear(channels, width, bias=False)
                self.projections[key] = layer.to(self.device)

    def reset_parameters(self) -> None:
        r"""Starts over: resets all learnable parameters of student, teacher,
        prompt and projections."""
        for module in (self.student, self.teacher, self.prompt,
                       self.projections):
            if module is not None:
                _reset(module)
        self._prepared = None
        self._final = {}

    @property
    def device(self) -> torch.device:
        r"""Where the student is."""
        return self.student.user_embedding.weight.device

    @property
    def score(self) -> str:
        r"""The score function of all models, :obj:`"dot"` or
        :obj:`"cosine"`."""
        return self.objective.score

    def train(self, mode: bool = True) -> PromptMMDistiller:
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
            raise ValueError(_NO_TEACHER)
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
        self._prepared, self._final = None, {}
        self._in_training = True
        settings, in_student = self.settings, stage == 'student'
        self.teacher.requires_grad_(not in_student)
        self.student.requires_grad_(in_student)
        self.projections.requires_grad_(False)
        if self.prompt is not None:
            self.prompt.requires_grad_(not in_student or settings.tune_prompt)
        task: Task
        if in_student:
            task = self._distillation_task(self.teacher, view, graph,
                                           positives, known)
        else:
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
                _FUSED: output.user.size(1),
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
            keys[''] = _FUSED
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

    # Using ##################################################################

    def _is_training_graph(self, view: InteractionData) -> bool:
        if self._graph is None:
            return False
        edge_index = self._graph.edge_index.cpu()
        return (edge_index.shape == view.edge_index.shape
                and torch.equal(edge_index, view.edge_index.cpu()))

    def _versions(self, model: str) -> tuple[tuple[int, int], ...]:
        modules = [self.student] if model == 'student' else [
            self.teacher, self.prompt
        ]
        return tuple((id(p), p._version) for module in modules
                     if module is not None for p in module.parameters())

    @torch.no_grad()
    def _embed(self, model: str,
               graph: UserItemGraph) -> tuple[Tensor, Tensor]:
        if model == 'student':
            user, item = self.student(graph)
        elif self.teacher is None:
            raise ValueError(_NO_TEACHER)
        else:
            was_training = self.teacher.training
            self.teacher.eval()
            try:
                output = as_output(self.teacher(graph))
            finally:
                self.teacher.train(was_training)
            self._check_output(output)
            user, item, _ = output
        return as_scored(user, self.score), as_scored(item, self.score)

    def embeddings(self, model: str = 'student') -> tuple[Tensor, Tensor]:
        r"""Returns user and item embeddings on the training graph, as the
        score function sees them: their dot product is the score.

        They are computed once for the weights as they stand.

        Args:
            model (str, optional): :obj:`"student"` or :obj:`"teacher"`.
                (default: :obj:`"student"`)
        """
        user, item = self._embeddings(model)
        return user.clone(), item.clone()

    def _embeddings(self, model: str) -> tuple[Tensor, Tensor]:
        check_choice('model', model, MODELS)
        versions = self._versions(model)
        if model in self._final and self._final[model][0] == versions:
            user, item = self._final[model][1]
            if user.device != self.device:
                user, item = user.to(self.device), item.to(self.device)
        else:
            if self._graph is None:
                raise ValueError("The distiller has seen no training graph "
                                 "yet: call 'fit' or 'prepare', or build it "
                                 "by 'from_data'")
            user, item = self._embed(model, self._graph.to(self.device))
        if not self._in_training:
            self._final[model] = (versions, (user, item))
        return user, item

    def evaluate(
        self,
        data: HeteroData,
        k: int | Sequence[int] = (20, 50),
        model: str = 'student',
        batch_size: int | None = None,
        per_user: bool = False,
    ) -> dict[str, Any]:
        r"""Ranks every item for every user with held-out positives, over the
        graph of :obj:`data`, whose interactions are left out.

        Args:
            data (HeteroData): A graph with :obj:`edge_label_index`.
            k (int or list of int, optional): Cut-offs.
                (default: :obj:`(20, 50)`)
            model (str, optional): :obj:`"student"` or :obj:`"teacher"` as it
                stands. (default: :obj:`"student"`)
            batch_size (int, optional): Users ranked at a time.
                (default: as many as 64 MiB of scores hold)
            per_user (bool, optional): If :obj:`True`, returns the values of
                each user. (default: :obj:`False`)

        Returns:
            :obj:`{'recall@20': ..., 'ndcg@20': ..., ...}`
        """
        check_choice('model', model, MODELS)
        view = self._read(data)
        check_k(k, view.num_items)
        positives = held_out(view)
        if self._is_training_graph(view):
            user, item = self._embeddings(model)
        else:
            if (model == 'teacher'
                    and isinstance(self.teacher, MultimodalTeacher)
                    and not self.teacher.features):
                if model in self._final:
                    raise ValueError(
                        "The loaded teacher has no item features and can be "
                        "evaluated on its training graph alone: call "
                        "'prepare(train_data)' first")
                self._give_features(self._read(data, need_features=True,
                                               check_finite=True))
            graph = UserItemGraph(view.edge_index, view.num_users,
                                  view.num_items)
            user, item = self._embed(model, graph.to(self.device))
        return evaluate_embeddings(user, item, positives, view.edge_index, k,
                                   batch_size, per_user)

    def recommend(
        self,
        user_ids: Any,
        k: int = 20,
        data: HeteroData | None = None,
        model: str = 'student',
        batch_size: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        r"""Returns the best items of users, without those they know.

        Args:
            user_ids (torch.Tensor or list): Users :math:`(B)`.
            k (int, optional): How many items, at most the catalogue.
                (default: :obj:`20`)
            data (HeteroData, optional): A graph whose interactions are left
                out, instead of the training graph's. (default: :obj:`None`)
            model (str, optional): :obj:`"student"` or :obj:`"teacher"`.
                (default: :obj:`"student"`)
            batch_size (int, optional): Users ranked at a time.
                (default: as many as 64 MiB of scores hold)

        Returns:
            Items :math:`(B, k)` and scores :math:`(B, k)`, best first. For a
            user with fewer items left, the rest are item -1 with score
            :math:`-\infty`.
        """
        user, item = self._embeddings(model)
        known = self._known if data is None else self._read(data).edge_index
        return recommend(user, item, user_ids, k, known, batch_size)

    def predict(self, user_ids: Any, item_ids: Any,
                model: str = 'student') -> Tensor:
        r"""Returns the scores of pairs.

        Args:
            user_ids (torch.Tensor or list): Users :math:`(B)`.
            item_ids (torch.Tensor or list): Items :math:`(B)`.
            model (str, optional): :obj:`"student"` or :obj:`"teacher"`.
                (default: :obj:`"student"`)
        """
        user, item = self._embeddings(model)
        user_ids = check_ids('user_ids', user_ids, user.size(0), 'user')
        item_ids = check_ids('item_ids', item_ids, item.size(0), 'item')
        if user_ids.shape != item_ids.shape:
            raise ValueError(f"'user_ids' and 'item_ids' must be of one "
                             f"length (got {user_ids.numel()} and "
                             f"{item_ids.numel()})")
        user_ids, item_ids = user_ids.to(user.device), item_ids.to(user.device)
        return (user[user_ids] * item[item_ids]).sum(dim=-1)

    # Files ##################################################################

    def save(self, path: str | os.PathLike) -> None:
        r"""Saves the distiller in one file (safetensors, with JSON in its
        header), all of it or nothing: student, teacher, prompt, known
        interactions and the final embeddings of both models, without any
        raw feature.

        Args:
            path (str): The file.
        """
        check_path('path', path)
        if self._graph is None or self._known is None:
            raise ValueError("There is nothing to recommend from yet: call "
                             "'fit' before 'save'")
        finals = {}
        for model in MODELS:
            if model == 'student' or self.teacher is not None:
                finals[model] = self._embeddings(model)
            elif model in self._final:
                finals[model] = self._final[model][1]
        write_distiller(path, self, self._graph.edge_index, self._known,
                        finals)

    @classmethod
    def load(cls, path: str | os.PathLike,
             teacher: torch.nn.Module | None = None) -> PromptMMDistiller:
        r"""Loads what :meth:`save` wrote. It recommends and evaluates as
        before, without the features; to train the teacher further, call
        :meth:`fit` with the data.

        Args:
            path (str): The file.
            teacher (torch.nn.Module, optional): A teacher of a class that is
                not ours, which gets its weights back.
                (default: :obj:`None`)
        """
        parts = read_distiller(path, teacher)
        try:
            out = cls(parts.teacher, parts.student, parts.prompt,
                      edge_type=parts.edge_type, modalities=parts.modalities,
                      **parts.settings)
        except (TypeError, ValueError) as error:
            raise ValueError(f"'path' {str(path)!r} is damaged: "
                             f"{error}") from error
        for key, layer in parts.projections.items():
            out.projections[key] = layer
        out._graph, out._known = parts.graph, parts.known
        out._teacher_state = parts.teacher_state
        for model, embeddings in parts.finals.items():
            out._final[model] = (out._versions(model), embeddings)
        return out

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}(\n'
                f'  teacher={self.teacher},\n'
                f'  student={self.student},\n'
                f'  prompt={self.prompt},\n'
                f'  objective={self.objective},\n)')


def _reset(module: torch.nn.Module) -> None:
    reset = getattr(module, 'reset_parameters', None)
    if reset is not None:
        reset()
        return
    own = [name for name, _ in module.named_parameters(recurse=False)]
    if own:
        warnings.warn(
            f"'{type(module).__name__}' has no 'reset_parameters': its "
            f"parameters {own} stay as they are", stacklevel=3)
    for child in module.children():
        _reset(child)


def _has_statistics(teacher: MultimodalTeacher) -> bool:
    return all(
        bool(teacher.reduction(name).num_items > 0)
        for name in teacher.modalities)


def _inject(prompt: SoftPrompt, teacher: MultimodalTeacher) -> None:
    r"""Puts another prompt into a teacher, whose statistics depend on it."""
    width = teacher.reduction(teacher.modalities[0]).prompt_channels
    have = (prompt.num_items, prompt.channels)
    if have != (teacher.num_items, width):
        raise ValueError(f"'prompt' must be of {teacher.num_items} items and "
                         f"{width} channels, as the teacher (got {have[0]} "
                         f"and {have[1]})")
    teacher.prompt = prompt
    if teacher.features and prompt.is_affine:
        standardize = any(
            bool((teacher.reduction(name).scale != 1.0).any())
            for name in teacher.modalities)
        teacher.set_features(teacher.features, teacher.masks,
                             standardize=standardize)


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
