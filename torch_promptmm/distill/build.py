r"""The parts of a distillation, built from data or checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch_geometric.data import HeteroData

from torch_promptmm.checks import check_choice, check_int
from torch_promptmm.data import InteractionData
from torch_promptmm.distill.plan import keep_scores
from torch_promptmm.distill.projections import Projections
from torch_promptmm.distill.settings import Settings
from torch_promptmm.distill.stages import check_score
from torch_promptmm.models import (
    GCN,
    MLP,
    Ensemble,
    ForeignModel,
    LightGCN,
    MultimodalTeacher,
    RankingModel,
    as_model,
)
from torch_promptmm.models.tables import TableModel
from torch_promptmm.nn import SoftPrompt

Teachers = torch.nn.Module | Sequence[torch.nn.Module]

# The arguments of a teacher, beside those of its settings.
_OF_TEACHER: dict[type[RankingModel], tuple[str, ...]] = {
    MultimodalTeacher: ('fusion_weight', 'self_weight', 'prompt',
                        'prompt_weight', 'prompt_layers', 'normalize',
                        'standardize', 'dropout'),
    Ensemble: ('num_members', 'hop', 'scaling', 'use_content', 'neighbors',
               'fusion', 'train_content', 'prompt', 'prompt_layers',
               'prompt_weight', 'normalize'),
}
#: The teacher that a setting builds, where it is another one.
TEACHERS: dict[str, type[RankingModel]] = {'content': Ensemble}
#: The students by name.
STUDENTS: dict[str, type[TableModel]] = {
    'light_gcn': LightGCN,
    'gcn': GCN,
    'mlp': MLP,
}
_SIZES = {'teacher_channels': ('hidden_channels', 1),
          'teacher_layers': ('num_layers', 0)}


def build_models(
    data: HeteroData,
    view: InteractionData,
    teacher: Teachers | None,
    student: str | RankingModel,
    hidden_channels: int,
    num_layers: int,
    setting: str,
    options: dict[str, Any],
    **which: Any,
) -> tuple[torch.nn.Module | None, RankingModel, dict[str, Any]]:
    r"""Builds student and teacher.

    Args:
        data (HeteroData): The training graph.
        view (InteractionData): The same, read.
        teacher (torch.nn.Module or list, optional): The teacher, or several
            of them, if they are there.
        student (str or RankingModel): The student, or its name.
        hidden_channels (int): The width of the student.
        num_layers (int): The propagation steps of the student.
        setting (str): The name of the settings.
        options (dict): Arguments of teacher and settings, mixed.
        **which (optional): :obj:`edge_type` and :obj:`modalities`.

    Returns:
        Teacher, student and the arguments of the settings.
    """
    rest = dict(options)
    cls = TEACHERS[setting] if setting in TEACHERS else MultimodalTeacher
    of_teacher = {name: rest.pop(name) for name in _OF_TEACHER[cls]
                  if name in rest}
    sizes = {'hidden_channels': hidden_channels, 'num_layers': num_layers}
    for name, (argument, minimum) in _SIZES.items():
        if (value := rest.pop(name, None)) is not None:
            sizes[argument] = of_teacher[argument] = check_int(name, value,
                                                               minimum)
    Settings.preset(setting, **rest)  # Says what is wrong at once.
    if teacher is not None and of_teacher:
        raise ValueError(f"{sorted(of_teacher)[0]!r} is for a teacher that is "
                         f"built here, but 'teacher' is given")
    if isinstance(student, str):
        check_choice('student', student, tuple(STUDENTS))
        student = STUDENTS[student](view.num_users, view.num_items,
                                    hidden_channels, num_layers)
    if teacher is None:
        teacher = cls.from_data(data, **{**of_teacher, **sizes, **which})
    return as_teacher(teacher, view), student, rest


def as_teacher(teacher: Teachers | None, like: Any) -> torch.nn.Module | None:
    r"""Returns a teacher as it is; several of them, in a list, as an
    :class:`~torch_promptmm.models.Ensemble` with a weight for each.

    Args:
        teacher (torch.nn.Module or list): The teacher, or several.
        like (RankingModel or InteractionData): Has the numbers of users and
            items, which modules of other classes do not say.
    """
    if not isinstance(teacher, (list, tuple, torch.nn.ModuleList)):
        return teacher  # type: ignore[return-value]
    members = [as_model(x, f'teacher[{i}]') for i, x in enumerate(teacher)]
    for number, member in enumerate(members):
        if isinstance(member, Ensemble):
            raise ValueError(f"'teacher[{number}]' is an Ensemble, which is "
                             f"several teachers already: list its members")
        if isinstance(member, ForeignModel):
            member.num_users = like.num_users
            member.num_items = like.num_items
    if len(set(map(id, teacher))) < len(members):
        raise ValueError("'teacher' has one module twice: give it a weight "
                         "instead, Ensemble([...], member_weights=[...])")
    return Ensemble(members, member_weights=[1.0] * len(members))


def checked_parts(
    teacher: torch.nn.Module | None,
    student: RankingModel,
    prompt: SoftPrompt | None,
) -> tuple[RankingModel | None, SoftPrompt | None]:
    r"""Returns the teacher as a model, and its prompt. Another prompt is put
    into the teacher.

    Raises:
        TypeError: If a part is of another class.
        ValueError: If sizes do not match, the student reads content, or a
            prompt has no teacher that it could open.
    """
    model = None if teacher is None else as_model(teacher, 'teacher')
    if not isinstance(student, RankingModel):
        raise TypeError(f"'student' must be a RankingModel, such as LightGCN "
                        f"(got '{type(student).__name__}')")
    if student.modalities:
        raise ValueError(f"'student' must serve without content (got "
                         f"'{type(student).__name__}', which reads "
                         f"{student.modalities})")
    if prompt is not None and not isinstance(prompt, SoftPrompt):
        raise TypeError(f"'prompt' must be a SoftPrompt (got "
                        f"'{type(prompt).__name__}')")
    for name in ('num_users', 'num_items'):
        have = getattr(model, name, 0)  # 0 where it does not say.
        if have and have != getattr(student, name):
            raise ValueError(f"'teacher' and 'student' must have the same "
                             f"'{name}' (got {have} and "
                             f"{getattr(student, name)})")
    if prompt is None:
        return model, None if model is None else model.prompt
    if not isinstance(model, (MultimodalTeacher, Ensemble)):
        raise ValueError("'prompt' needs a MultimodalTeacher, which it is "
                         "injected into, or an Ensemble that has one")
    if prompt is not model.prompt:
        model.inject(prompt)
    return model, prompt


def fitting_settings(model: RankingModel | None, student: RankingModel,
                     setting: str, options: dict[str, Any]) -> Settings:
    r"""Returns the settings. Where it is not said what is distilled, it is
    lists of several teachers, and of one whose scores are of another kind
    than the student's: these can be ranked, not compared. The student then
    starts from the teacher, if it can.

    Raises:
        ValueError: If the teacher's scores are not what is distilled, or the
            student needs another score function.
    """
    settings = Settings.preset(setting, **options)
    if model is not None:
        keep_scores(model, settings)
        usual = settings.objective().score
        if 'knowledge' not in options and settings.knowledge == 'terms' and (
                isinstance(model, Ensemble)
                or model.score not in (None, usual)):
            settings = replace(settings, knowledge='lists')
            starts = type(student).start_from is not RankingModel.start_from
            if 'init' not in options and starts:
                settings = replace(settings, init='compress')
        if settings.knowledge == 'terms':
            # What a class says; that of a trained model may be trained anew.
            check_score(model, model.needed_score, settings.objective())
    score = ('dot' if settings.knowledge == 'lists' else
             settings.objective().score)
    if student.needed_score not in (None, score):
        raise ValueError(f"The scores of the student "
                         f"'{type(student).__name__}' are "
                         f"{student.needed_score!r}: set "
                         f"score={student.needed_score!r}, or "
                         f"knowledge='lists'")
    return settings


def build_projections(model: RankingModel | None, student: RankingModel,
                      settings: Settings) -> Projections:
    r"""Returns the maps to the widths that are known beforehand; those of
    other teachers are known when they are called."""
    out = Projections(student.width)
    if isinstance(model, MultimodalTeacher) and settings.knowledge == 'terms':
        keys = out.keys_of(model.modalities).values()
        out.add({key: model.width for key in keys})
    return out
