r"""The two stages where the teacher is an ensemble and the student learns
its lists."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from torch_promptmm.distill.list_task import (
    ListDistillationTask,
    compress_into,
)
from torch_promptmm.distill.plan import teacher_plan, trained_models
from torch_promptmm.distill.prompted_scores import PromptedScores
from torch_promptmm.distill.stages import (
    Parts,
    Stage,
    TrainingData,
    ranking_task,
)
from torch_promptmm.distill.top_lists import top_lists
from torch_promptmm.models import Ensemble, embed
from torch_promptmm.train import Task


class EnsembleStage(Stage):
    r"""Stage 1 of an ensemble: each member learns to rank on its own, by its
    own :obj:`defaults` where the settings are not changed; the one that
    learns content, together with its prompt, is the last."""
    name = 'teacher'

    def freeze(self) -> None:
        assert self.parts.teacher is not None
        self.parts.teacher.requires_grad_(True)
        self.parts.student.requires_grad_(False)
        self.parts.projections.requires_grad_(False)
        if self.parts.prompt is not None:
            self.parts.prompt.requires_grad_(True)

    def tasks(self, data: TrainingData) -> list[Task]:
        teacher, settings = self.parts.teacher, self.parts.settings
        assert isinstance(teacher, Ensemble)
        teacher.cache_features(data.graph, settings.propagate_features)
        alphas = settings.user_weights
        return [
            # One that says itself how it is trained draws as it does alone.
            ranking_task(member, data, settings, member.prompt,
                         None if member.defaults or member is teacher.prompted
                         else alphas[number % len(alphas)])
            for number, member in enumerate(trained_models(teacher))
        ]

    def options(self, number: int = 0) -> dict[str, Any]:
        assert self.parts.teacher is not None
        return teacher_plan(trained_models(self.parts.teacher)[number],
                            self.parts.settings).options


class ListStage(Stage):
    r"""Stage 2 by lists: the student learns to rank what the frozen teacher
    ranks at the top, from the teacher's leading directions or from where it
    is.

    Args:
        parts (Parts): Teacher, student and their settings.
        saved (tuple, optional): The teacher's user and item embeddings, if
            they are known. (default: :obj:`None`)
        start (bool, optional): If :obj:`False`, the student is not started
            anew. (default: :obj:`True`)
    """
    name = 'student'

    def __init__(self, parts: Parts,
                 saved: tuple[Tensor, Tensor] | None = None,
                 start: bool = True) -> None:
        super().__init__(parts)
        self.saved, self.start = saved, start

    def freeze(self) -> None:
        assert self.parts.teacher is not None
        self.parts.teacher.requires_grad_(False)
        self.parts.student.requires_grad_(True)
        self.parts.projections.requires_grad_(False)
        if self.parts.prompt is not None:
            self.parts.prompt.requires_grad_(self._tunes_prompt)

    @property
    def _tunes_prompt(self) -> bool:
        teacher, prompt = self.parts.teacher, self.parts.prompt
        return (self.parts.settings.tune_prompt and prompt is not None
                and isinstance(teacher, Ensemble)
                and teacher.fusion.prompted > 0.0)

    def tasks(self, data: TrainingData) -> list[Task]:
        teacher, student, prompt, _, settings, objective = self.parts
        assert teacher is not None
        teacher.cache_features(None)
        if self.saved is None:
            pair = embed(teacher, data.graph,
                         teacher.score or objective.score, 'teacher')
        else:
            pair = (self.saved[0].to(data.graph.device),
                    self.saved[1].to(data.graph.device))
        lists = top_lists(*pair, data.known, settings.top_items)
        # What a teacher says of users without interactions is arbitrary.
        silent = data.graph.user_item.crow.diff() == 0
        lists.scores.masked_fill_(silent.view(-1, 1), float('-inf'))
        temperature = settings.top_temperature * spread(lists.scores)
        if settings.init == 'compress' and self.start:
            compress_into(student, data.graph, pair, temperature)
        prompted = None
        if self._tunes_prompt:
            assert isinstance(teacher, Ensemble)
            teacher.eval()
            prompted = PromptedScores(teacher, data.graph)
            lists = prompted.taken_from(lists)
        return [
            ListDistillationTask(student, data.graph, data.known, lists,
                                 temperature, settings.uniform_items, prompted,
                                 None if prompted is None else prompt,
                                 # As in stage 1: its start is no random one.
                                 settings.learning_rate)
        ]

    def options(self, number: int = 0) -> dict[str, Any]:
        settings = self.parts.settings
        width = self.parts.student.width
        return {
            'batch_size': settings.user_batch_size,
            'lr': settings.list_lr * (64 / width)**0.5,
            'epochs': settings.list_epochs,
        }


def spread(scores: Tensor) -> float:
    r"""The mean standard deviation of the scores in a list of at least two
    items."""
    valid = ~scores.isneginf()
    count = valid.sum(dim=1)
    several = count > 1
    if not bool(several.any()):
        return 1.0  # Nothing to compare.
    count, valid, scores = count[several], valid[several], scores[several]
    x = torch.where(valid, scores, 0.0)
    mean = x.sum(dim=1) / count
    square = torch.where(valid, (x - mean.view(-1, 1)).square(), 0.0)
    spread = (square.sum(dim=1) / (count - 1)).sqrt()
    return max(float(spread.mean()), 1e-6)


def cosine_adam(lr: float, epochs: int) -> dict[str, Callable[..., Any]]:
    r"""Returns the optimiser and the scheduler of lists: Adam with a short
    memory, whose learning rate falls to zero along half a cosine."""
    def optimizer(groups: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, lr=lr, betas=(0.9, 0.99), fused=True)

    def scheduler(made: torch.optim.Optimizer) -> Any:
        return LambdaLR(made, lambda epoch: 0.5 * (
            1.0 + math.cos(math.pi * min(epoch / max(epochs, 1), 1.0))))

    return {'optimizer': optimizer, 'scheduler': scheduler}
