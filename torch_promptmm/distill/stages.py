r"""The two stages of a distillation: what each freezes and trains."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from torch_promptmm.data import InteractionData
from torch_promptmm.data.contract import known_interactions, supervision
from torch_promptmm.distill.frozen_rows import ConstantTables, PromptTables
from torch_promptmm.distill.projections import Projections
from torch_promptmm.distill.settings import Settings
from torch_promptmm.distill.task import DistillationTask
from torch_promptmm.models import (
    LightGCN,
    ModelOutput,
    MultimodalTeacher,
    RankingModel,
    as_output,
    check_output,
)
from torch_promptmm.nn import SoftPrompt, UserItemGraph
from torch_promptmm.train import RankingObjective, RankingTask, Task


class Parts(NamedTuple):
    r"""What is trained, and how."""
    teacher: RankingModel | None
    student: LightGCN
    prompt: SoftPrompt | None
    projections: Projections
    settings: Settings
    objective: RankingObjective


class TrainingData(NamedTuple):
    r"""What is trained on, on the device.

    Attributes:
        graph (UserItemGraph): What is propagated over.
        positives (torch.Tensor): The supervision :math:`(2, P)`.
        known (torch.Tensor): What is no negative :math:`(2, E)`.
        masks (dict): Where items have a modality.
    """
    graph: UserItemGraph
    positives: Tensor
    known: Tensor
    masks: dict[str, Tensor]

    @classmethod
    def from_view(cls, view: InteractionData,
                  device: torch.device) -> TrainingData:
        graph = UserItemGraph(view.edge_index, view.num_users, view.num_items)
        return cls(graph.to(device), supervision(view).to(device),
                   known_interactions(view).to(device),
                   {name: mask.to(device)
                    for name, mask in view.masks.items()})


class Stage:
    r"""A stage: it freezes what it does not train and makes a task of the
    rest.

    Args:
        parts (Parts): Teacher, student, prompt and their settings.
    """
    name: ClassVar[str]

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    def freeze(self) -> None:
        r"""Freezes what the stage does not train, and frees the rest."""
        raise NotImplementedError

    def tasks(self, data: TrainingData) -> list[Task]:
        r"""Returns the tasks, with all tables that stay as they are."""
        raise NotImplementedError

    def prepare(self, data: TrainingData) -> list[Task]:
        r"""Freezes and returns the tasks, which are trained one after
        another."""
        self.freeze()
        return self.tasks(data)

    def options(self, number: int = 0) -> dict[str, Any]:
        r"""Returns what the training loop takes for a task, by its number,
        where nothing is given."""
        settings = self.parts.settings
        return {
            'batch_size': settings.batch_size,
            'lr': settings.learning_rate,
            'weight_decay': settings.weight_decay,
        }


class TeacherStage(Stage):
    r"""Stage 1: teacher and prompt learn to rank."""
    name = 'teacher'

    def freeze(self) -> None:
        teacher, student, prompt, projections, *_ = self.parts
        assert teacher is not None
        teacher.requires_grad_(True)
        student.requires_grad_(False)
        projections.requires_grad_(False)
        if prompt is not None:
            prompt.requires_grad_(True)

    def tasks(self, data: TrainingData) -> list[Task]:
        teacher, settings = self.parts.teacher, self.parts.settings
        assert teacher is not None
        teacher.cache_features(data.graph if settings.propagate_features
                               else None)
        return [
            RankingTask(teacher, data.graph, data.positives, data.known,
                        self.parts.objective, settings.ego_l2,
                        settings.modality_weight, self.parts.prompt)
        ]


class StudentStage(Stage):
    r"""Stage 2: the student learns to rank as the frozen teacher does; the
    prompt is tuned along.

    Args:
        parts (Parts): Teacher, student, prompt and their settings.
        expected (tuple, optional): The teacher's user and item embeddings
            when it was saved, which it must still yield.
            (default: :obj:`None`)
    """
    name = 'student'

    def __init__(self, parts: Parts,
                 expected: tuple[Tensor, Tensor] | None = None) -> None:
        super().__init__(parts)
        self.expected = expected

    def freeze(self) -> None:
        teacher, student, prompt, projections, settings, _ = self.parts
        assert teacher is not None
        teacher.requires_grad_(False)
        student.requires_grad_(True)
        projections.requires_grad_(False)  # Those in use are freed below.
        if prompt is not None:
            prompt.requires_grad_(settings.tune_prompt)

    def tasks(self, data: TrainingData) -> list[Task]:
        teacher, student, prompt, projections, settings, objective = self.parts
        assert teacher is not None
        teacher.eval()
        teacher.cache_features(None)
        check_score(teacher, teacher.score, objective)
        rows: ConstantTables | PromptTables
        if prompt is not None and settings.tune_prompt:
            # A prompt is that of a MultimodalTeacher, see the distiller.
            assert isinstance(teacher, MultimodalTeacher)
            rows, names = PromptTables(teacher, data.graph), teacher.modalities
        else:
            prompt = None
            with torch.no_grad():
                output = as_output(teacher(data.graph))
            check_output(output, (student.num_users, student.num_items),
                         'teacher')
            self._check_expected(output)
            rows, names = ConstantTables(output), list(output.modalities)
            keys = projections.keys_of(names)
            projections.add({keys['']: output.user.size(1)} | {
                keys[name]: x.size(1)
                for name, (x, _) in output.modalities.items()
            }, data.graph.device)
        # Only what a term needs is trained, as DDP wants it.
        keys = projections.keys_of(names if settings.emb_weight > 0.0 else [])
        if settings.fused_emb_weight == 0.0:
            del keys['']
        used = {
            name: projections[key].requires_grad_(True)
            for name, key in keys.items() if key in projections
        }
        task = DistillationTask(student, data.graph, data.positives,
                                data.known, rows, objective, prompt, used,
                                data.masks, **settings.distillation())
        if prompt is not None and not task.needs_teacher:
            prompt.requires_grad_(False)
        return [task]

    def _check_expected(self, output: ModelOutput) -> None:
        if self.expected is None:
            return
        for name, x, want in zip(('user', 'item'), output[:2], self.expected,
                                 strict=True):
            x = torch.nn.functional.normalize(x.float().cpu(), dim=1)
            want = torch.nn.functional.normalize(want.float().cpu(), dim=1)
            if x.shape != want.shape or not torch.allclose(x, want, atol=1e-3):
                raise ValueError(
                    f"'teacher' yields other {name} embeddings than when it "
                    f"was saved, on the same graph: give it what is not in "
                    f"its state, such as item features, or train it again "
                    f"with 'fit_teacher'")


def check_score(teacher: RankingModel, score: str | None,
                objective: RankingObjective) -> None:
    r"""Raises a :obj:`ValueError` if a teacher's scores are not those that
    the terms of Eq. 12 compare with the student's."""
    if score not in (None, objective.score):
        raise ValueError(f"The scores of '{type(teacher).__name__}' are "
                         f"{score!r}: set score={score!r}, or "
                         f"knowledge='lists'")
