r"""A distillation: its parts, what they were trained on, and the stages."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from tqdm.auto import tqdm

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
)
from torch_promptmm.data.contract import check_edge_type
from torch_promptmm.distill.choice import choose_fusion
from torch_promptmm.distill.content_stages import (
    EnsembleStage,
    ListStage,
    cosine_adam,
)
from torch_promptmm.distill.stages import (
    Parts,
    Stage,
    StudentStage,
    TeacherStage,
    TrainingData,
)
from torch_promptmm.distill.top_lists import ListBatch
from torch_promptmm.evaluate import check_k, evaluate_embeddings
from torch_promptmm.loader import Batch
from torch_promptmm.models import Ensemble, RankingModel, embed
from torch_promptmm.models.base import Pair
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.seeding import seeded
from torch_promptmm.train import (
    History,
    Task,
    Validation,
    load_checkpoint,
    load_weights,
    train,
)
from torch_promptmm.train.validation import METRIC, cut_off, same_edges

STAGES = ('teacher', 'student')
NO_TEACHER = ('The teacher is of a class that is not ours and was not given: '
              'PromptMMDistiller.load(path, teacher=module)')
_NOT_OURS = ('task', 'validate', 'name', 'module')
_OF_LOSS = ('lr', 'batch_size', 'weight_decay', 'optimizer', 'scheduler')


class Seen(NamedTuple):
    r"""What was trained on.

    Attributes:
        graph (UserItemGraph): What was propagated over.
        known (torch.Tensor): What the users know :math:`(2, E)`.
        ids (dict): Raw ids of users and items, where the data has them.
    """
    graph: UserItemGraph
    known: Tensor
    ids: dict[str, IdMap]

    @classmethod
    def of(cls, data: HeteroData, view: InteractionData) -> Seen:
        return cls(
            UserItemGraph(view.edge_index, view.num_users, view.num_items),
            known_interactions(view), id_maps(data, view.edge_type))


class Distillation:
    r"""Trains and evaluates the parts of a module, and knows what they were
    trained on.

    Args:
        module (torch.nn.Module): What holds the parts; its state is that of
            the checkpoints.
        parts (Parts): Teacher, student, prompt and their settings.
        edge_type (tuple, optional): The edge type of the interactions.
            (default: :obj:`None`)
        modalities (list, optional): The item attributes that are modalities.
            (default: :obj:`None`)
    """
    def __init__(
        self,
        module: torch.nn.Module,
        parts: Parts,
        edge_type: tuple[str, str, str] | None = None,
        modalities: Sequence[str] | None = None,
    ) -> None:
        if isinstance(modalities, str):
            raise TypeError(f"'modalities' must be a list of names (got the "
                            f"string {modalities!r})")
        self.module, self.parts = module, parts
        self.edge_type = (None if edge_type is None else
                          check_edge_type(edge_type))
        self.modalities = None if modalities is None else list(modalities)
        self.seen: Seen | None = None
        self.prepared: tuple[str, list[Task]] | None = None
        # Whether the student has been trained, and goes on from there.
        self.started = False
        # The final embeddings of a teacher that was saved, until it changes.
        self.saved: tuple[Tensor, Tensor] | None = None
        # What a file had of a teacher that is not ours and was not given.
        self.teacher_state: dict[str, Tensor] = {}

    @property
    def device(self) -> torch.device:
        r"""Where the student is."""
        return self.parts.student.user_embedding.weight.device

    @property
    def teacher(self) -> RankingModel:
        r"""The teacher, which a loaded file may lack."""
        if self.parts.teacher is None:
            raise ValueError(NO_TEACHER)
        return self.parts.teacher

    def forget(self) -> None:
        r"""Forgets what was computed of weights that are no more."""
        self.prepared = self.saved = None
        self.started = False

    def require_seen(self, before: str = 'recommend') -> Seen:
        r"""Returns what was trained on."""
        if self.seen is None:
            raise ValueError(f"The distiller has seen no training graph yet: "
                             f"build it by 'from_data', or call 'fit' before "
                             f"'{before}'")
        return self.seen

    def loss(self, batch: Batch | ListBatch,
             stage: str) -> tuple[Tensor, dict[str, Tensor]]:
        r"""Returns the loss of the stage that was prepared, and its
        terms."""
        check_choice('stage', stage, STAGES)
        have = None if self.prepared is None else self.prepared[0]
        if self.prepared is None or have != stage:
            raise ValueError(f"Call 'prepare(data, stage={stage!r})' first "
                             f"(prepared: {have!r})")
        if not isinstance(batch, (Batch, ListBatch)):
            raise TypeError(f"'batch' must be a Batch of an InteractionLoader "
                            f"(got '{type(batch).__name__}')")
        return self.prepared[1][0](batch)

    def read(self, data: HeteroData, need_features: bool = False,
             name: str = 'data') -> InteractionData:
        r"""Reads and checks a graph, with the features that the teacher
        needs."""
        teacher, student = self.parts.teacher, self.parts.student
        need_features &= teacher is not None and bool(teacher.modalities)
        view = read_graph(data, self.edge_type,
                          self.modalities if need_features else None,
                          need_features=need_features,
                          check_finite=need_features)
        for what in ('users', 'items'):
            have, want = (getattr(x, f'num_{what}') for x in (view, student))
            if have != want:
                raise ValueError(f"'{name}' has {have} {what}, but the "
                                 f"student was built for {want}")
        return view

    def is_training_graph(self, view: InteractionData) -> bool:
        r"""Whether a graph is the one that was trained on."""
        return self.seen is not None and same_edges(self.seen.graph, view)

    def score(self, model: str) -> str:
        r"""Returns the score function of a model."""
        settings, objective = self.parts.settings, self.parts.objective
        if model == 'student':
            return ('dot' if settings.knowledge == 'lists' else
                    objective.score)
        return self.teacher.score or objective.score

    def stage(self, name: str, saved: Pair | None = None) -> Stage:
        r"""Returns a stage of these parts."""
        if name == 'teacher':
            several = isinstance(self.parts.teacher, Ensemble)
            return (EnsembleStage if several else TeacherStage)(self.parts)
        if self.parts.settings.knowledge == 'lists':
            return ListStage(self.parts, saved, not self.started)
        return StudentStage(self.parts, saved)

    def prepare(self, data: HeteroData, stage: str, device: Any) -> Task:
        r"""Moves everything to a device, gives the teacher its features,
        freezes what the stage freezes, and returns its task: the first one,
        where there is one for each member of an ensemble."""
        check_choice('stage', stage, STAGES)
        teacher = self.teacher
        view = self.read(data, need_features=True)
        device = self.device if device is None else check_device(device)
        if device.type == 'meta':
            raise ValueError("'device' 'meta' holds no values to train on")
        self.module.to(device)
        teacher.give_features(view)
        source = TrainingData.from_view(view, device)
        saved = self.saved if self.is_training_graph(view) else None
        self.prepared = None
        ids = id_maps(data, view.edge_type)
        if not ids and self.seen is not None:
            ids = self.seen.ids
        self.seen = Seen(source.graph, source.known, ids)
        tasks = self.stage(stage, saved).prepare(source)
        self.prepared, self.saved = (stage, tasks), None
        self.started |= stage == 'student'
        self.module.train(self.module.training)
        return tasks[0]

    def embeddings(self, model: str) -> tuple[Tensor, Tensor]:
        r"""Returns the user and item embeddings of a model on the training
        graph, as it stands; of a loaded teacher those that were saved."""
        check_choice('model', model, STAGES)
        if model == 'teacher' and self.saved is not None:
            user, item = self.saved
            return user.to(self.device), item.to(self.device)
        return self._embed(model, self.require_seen().graph.to(self.device))

    def _embed(self, model: str,
               graph: UserItemGraph) -> tuple[Tensor, Tensor]:
        module = self.parts.student if model == 'student' else self.teacher
        return embed(module, graph, self.score(model), model)

    def evaluate(self, data: HeteroData, k: int | Sequence[int], model: str,
                 **kwargs: Any) -> dict[str, Any]:
        r"""Ranks all items with a model as it stands, over the graph of
        :obj:`data`; see
        :func:`~torch_promptmm.evaluate.evaluate_embeddings`."""
        check_choice('model', model, STAGES)
        view = self.read(data)
        check_k(k, view.num_items)
        positives = held_out(view)
        if self.is_training_graph(view):
            user, item = self.embeddings(model)
        else:
            if model == 'teacher':
                self._give_missing_features(data)
            graph = UserItemGraph(view.edge_index, view.num_users,
                                  view.num_items)
            user, item = self._embed(model, graph.to(self.device))
        return evaluate_embeddings(user, item, positives, view.edge_index, k,
                                   **kwargs)

    def _give_missing_features(self, data: HeteroData) -> None:
        r"""Gives the teacher the features that it lacks, to be evaluated on
        another graph."""
        features = self.teacher.item_features
        if features is None or features.available:
            return
        if self.saved is not None:
            raise ValueError(
                "The loaded teacher has no item features and can be "
                "evaluated on its training graph alone: call "
                "'prepare(train_data)' first")
        self.teacher.give_features(self.read(data, need_features=True))

    def fit(self, train_data: HeteroData, val_data: HeteroData | None,
            checkpoint: str | os.PathLike | None, resume: bool,
            **kwargs: Any) -> dict[str, History]:
        r"""Runs both stages; a resumed run goes on in the one that its
        checkpoint is of."""
        state = _checkpoint(checkpoint, resume)
        teacher = None
        if state is not None and state['name'] == 'student':
            if 'teacher' not in state['notes']:
                raise ValueError(f"'checkpoint' {str(checkpoint)!r} is of "
                                 f"'fit_student' alone: resume that")
            teacher = History.from_state(state['notes']['teacher'])
        if teacher is None:
            teacher = self.fit_stage('teacher', train_data, val_data,
                                     checkpoint=checkpoint, resume=resume,
                                     **kwargs)
            resume = False
        if self.parts.settings.knowledge == 'lists':
            # What suits interactions does not suit lists: see the settings.
            kwargs = {k: v for k, v in kwargs.items() if k not in _OF_LOSS}
            most = self.parts.settings.list_epochs
            kwargs['epochs'] = min(kwargs.get('epochs', most), most)
        student = self.fit_stage('student', train_data, val_data,
                                 checkpoint=checkpoint, resume=resume,
                                 notes={'teacher': teacher.state()}, **kwargs)
        return {'teacher': teacher, 'student': student}

    def fit_stage(
        self,
        stage: str,
        train_data: HeteroData,
        val_data: HeteroData | None = None,
        device: Any = None,
        metric: str = METRIC,
        seed: int | None = None,
        checkpoint: str | os.PathLike | None = None,
        resume: bool = False,
        **kwargs: Any,
    ) -> History:
        r"""Runs a stage."""
        known_arguments = inspect.signature(train).parameters
        for name in kwargs:
            if name not in known_arguments or name in _NOT_OURS:
                raise TypeError(f"{name!r} is no argument of 'fit'")
        train_view = self.read(train_data, name='train_data')
        val_view = positives = None
        cut_off(metric, train_view.num_items)
        if val_data is not None:
            val_view = self.read(val_data, name='val_data')
            check_same_entities(train_view, val_view)
            positives = held_out(val_view)
        names = self._run_names(stage)
        state = _checkpoint(checkpoint, resume)
        if state is not None:
            if state['name'] not in names:
                raise ValueError(f"'checkpoint' {str(checkpoint)!r} is of a "
                                 f"run named {state['name']!r} (this one is "
                                 f"{names[0]!r})")
            # Before 'prepare', which computes tables of the weights.
            self._load_weights(state['module'], str(checkpoint))
        with seeded(seed, self.device):
            self.prepare(train_data, stage, device)
        assert self.prepared is not None
        tasks, training = self.prepared[1], self.module.training
        notes, histories = dict(kwargs.pop('notes', {})), []
        try:
            for number, (name, task) in enumerate(zip(names, tasks,
                                                      strict=True)):
                if not any(p.requires_grad for p in task.parameters()):
                    raise ValueError(f"'{stage}' has no parameter to train (a "
                                     f"fixed teacher needs 'fit_student' "
                                     f"alone)")
                if state is not None and name in state['notes']:
                    notes[name] = state['notes'][name]
                    histories.append(History.from_state(notes[name]))
                    continue  # Trained before the run was killed.
                validate = None
                if val_view is not None and positives is not None:
                    validate = Validation(task, val_view, positives, metric)
                histories.append(train(
                    task, validate=validate, metric=metric,
                    seed=None if seed is None else seed + number,
                    checkpoint=checkpoint, name=name, module=self.module,
                    # Others of the stage begin anew.
                    resume=state is not None and state['name'] == name,
                    notes=dict(notes), **self._options(stage, kwargs)))
                notes[name] = histories[-1].state()
        finally:
            self.module.train(training)
        if stage != 'teacher' or not isinstance(self.teacher, Ensemble):
            return histories[0]
        return self._of_ensemble(histories, val_view, positives,
                                 kwargs.get('progress', True))

    def _run_names(self, stage: str) -> list[str]:
        teacher = self.parts.teacher
        num = len(teacher.members) if isinstance(teacher, Ensemble) else 1
        if stage != 'teacher' or num == 1:
            return [stage]
        return [f'{stage} {i + 1} of {num}' for i in range(num)]

    def _options(self, stage: str, given: dict[str, Any]) -> dict[str, Any]:
        out = {**self.stage(stage).options(), **given}
        if stage == 'student' and self.parts.settings.knowledge == 'lists':
            made = cosine_adam(out['lr'], out['epochs'])
            out = {**made, **out}
        return out

    def _of_ensemble(self, histories: list[History],
                     view: InteractionData | None, positives: Tensor | None,
                     progress: bool) -> History:
        r"""Chooses the weights of an ensemble whose members are trained, and
        puts their histories in a row."""
        out = History([{'member': number, **record}
                       for number, each in enumerate(histories)
                       for record in each])
        if view is not None and positives is not None:
            assert isinstance(self.teacher, Ensemble)
            fusion, recall = choose_fusion(
                self.teacher, self.require_seen().graph,
                positives.to(self.device), view.edge_index.to(self.device))
            out.chosen = {**asdict(fusion), 'recall@20': recall}
            if progress:
                tqdm.write(f'teacher: {fusion}, validation Recall@20 '
                           f'{recall:.4f}')
        return out

    def _load_weights(self, state: dict[str, Tensor], path: str) -> None:
        prefix = 'projections.'
        self.parts.projections.add_from({
            key.removeprefix(prefix): value
            for key, value in state.items() if key.startswith(prefix)
        }, self.device)
        load_weights(self.module, state, f"'checkpoint' {path!r}")


def _checkpoint(path: Any, resume: bool) -> dict[str, Any] | None:
    check_bool('resume', resume)
    if path is not None:
        check_path('checkpoint', path)
    elif resume:
        raise ValueError("'resume=True' needs 'checkpoint=path'")
    return load_checkpoint(path) if resume else None
