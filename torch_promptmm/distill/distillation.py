r"""A distillation: its parts, what they were trained on, and the stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from torch_promptmm.checks import check_choice, check_device
from torch_promptmm.data import (
    IdMap,
    InteractionData,
    held_out,
    id_maps,
    read_graph,
)
from torch_promptmm.data.contract import check_edge_type, known_interactions
from torch_promptmm.distill.content_stages import EnsembleStage, ListStage
from torch_promptmm.distill.growth import Growth
from torch_promptmm.distill.plan import trained_models
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
from torch_promptmm.train import Task
from torch_promptmm.train.validation import same_edges

STAGES = ('teacher', 'student')
NO_TEACHER = ('The teacher is of a class that is not ours and was not given: '
              'PromptMMDistiller.load(path, teacher=module)')
OUTGROWN = ('The distiller has users or items that its teacher does not know: '
            'to distil again, build a new one by from_data')


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
        # What is kept to go on learning.
        self.growth = Growth()

    @property
    def device(self) -> torch.device:
        r"""Where the student is."""
        return next(self.parts.student.parameters()).device

    @property
    def teacher(self) -> RankingModel:
        r"""The teacher, which a loaded file may lack."""
        if self.growth.grown:
            raise ValueError(OUTGROWN)
        if self.parts.teacher is None:
            raise ValueError(NO_TEACHER)
        return self.parts.teacher

    def restore(self, seen: Seen, saved: Pair | None,
                teacher_state: dict[str, Tensor], started: bool,
                growth: Growth) -> None:
        r"""Takes what a file holds."""
        self.seen, self.saved, self.growth = seen, saved, growth
        self.teacher_state, self.started = teacher_state, started

    def tables_to_save(self) -> list[str]:
        r"""Returns the models whose embeddings a file may hold. Those of a
        teacher of an older graph are kept apart, as the anchor."""
        teacher = self.parts.teacher
        gone = self.growth.grown or (
            self.growth.anchor is not None and teacher is not None
            and not teacher.has_features)
        if self.saved is None and (teacher is None or gone):
            return ['student']
        return ['student', 'teacher']

    def forget(self) -> None:
        r"""Forgets what was computed of weights that are no more."""
        self.prepared = self.saved = None
        self.started, self.growth = False, Growth(grown=self.growth.grown)
        if self.parts.teacher is not None:
            for model in trained_models(self.parts.teacher):
                model.keep_trained(False)

    def keep_old_teacher(self) -> None:
        r"""Keeps what a saved teacher said of the graph before this one."""
        self.prepared = None
        if self.saved is not None:
            self.growth.anchor, self.saved = self.saved, None

    def outgrow(self) -> None:
        r"""Lets go of the teacher, which does not know all users and items
        any more."""
        self.keep_old_teacher()
        self.growth.grown = True

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

    def run_names(self, stage: str) -> list[str]:
        r"""Returns the names of the runs of a stage, one for each task."""
        if stage != 'teacher':
            return [stage]
        teacher = self.parts.teacher
        last = ([f'{stage} of content'] if isinstance(teacher, Ensemble)
                and teacher.prompted is not None else [])
        num = len(self.trained(stage)) - len(last)
        names = ([stage] if num == 1 else
                 [f'{stage} {i + 1} of {num}' for i in range(num)])
        return names + last

    def trained(self, stage: str) -> list[bool]:
        r"""Returns, for each task of a stage, whether its model came trained,
        or is one of several and has nothing to train."""
        if stage != 'teacher':
            return [False]
        models = trained_models(self.teacher)
        return [
            model.trained or (len(models) > 1
                              and not any(True for _ in model.parameters()))
            for model in models
        ]

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
        self.growth.anchor = None  # Of another teacher, or another graph.
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
        if model == 'teacher':
            return embed(self.teacher, graph, self.score(model), model)
        user, item = embed(self.parts.student, graph, self.score(model),
                           model)
        return user, self.growth.placed(item)

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
        if self.teacher.has_features:
            return
        if self.saved is not None:
            raise ValueError(
                "The loaded teacher has no item features and can be "
                "evaluated on its training graph alone: call "
                "'prepare(train_data)' first")
        self.teacher.give_features(self.read(data, need_features=True))
