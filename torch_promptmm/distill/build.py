r"""The parts of a distillation, built from data or checked."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch_geometric.data import HeteroData

from torch_promptmm.checks import check_int
from torch_promptmm.data import InteractionData
from torch_promptmm.distill.projections import Projections
from torch_promptmm.distill.settings import Settings
from torch_promptmm.models import (
    Ensemble,
    LightGCN,
    MultimodalTeacher,
    RankingModel,
    as_model,
)
from torch_promptmm.nn import SoftPrompt

# The arguments of a teacher, beside those of its settings.
_OF_TEACHER: dict[type[RankingModel], tuple[str, ...]] = {
    MultimodalTeacher: ('fusion_weight', 'self_weight', 'prompt',
                        'prompt_weight', 'prompt_layers', 'normalize',
                        'standardize', 'dropout'),
    Ensemble: ('num_members', 'hop', 'standardize', 'use_content', 'fusion',
               'train_content', 'prompt', 'prompt_layers', 'prompt_weight',
               'normalize'),
}
#: The teacher that a setting builds, where it is another one.
TEACHERS: dict[str, type[RankingModel]] = {'content': Ensemble}
_SIZES = {'teacher_channels': ('hidden_channels', 1),
          'teacher_layers': ('num_layers', 0)}


def build_models(
    data: HeteroData,
    view: InteractionData,
    teacher: torch.nn.Module | None,
    hidden_channels: int,
    num_layers: int,
    setting: str,
    options: dict[str, Any],
    **which: Any,
) -> tuple[torch.nn.Module, LightGCN, dict[str, Any]]:
    r"""Builds student and teacher.

    Args:
        data (HeteroData): The training graph.
        view (InteractionData): The same, read.
        teacher (torch.nn.Module, optional): The teacher, if it is there.
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
    student = LightGCN(view.num_users, view.num_items, hidden_channels,
                       num_layers)
    if teacher is None:
        teacher = cls.from_data(data, **{**of_teacher, **sizes, **which})
    return teacher, student, rest


def checked_parts(
    teacher: torch.nn.Module | None,
    student: LightGCN,
    prompt: SoftPrompt | None,
) -> tuple[RankingModel | None, SoftPrompt | None]:
    r"""Returns the teacher as a model, and its prompt. Another prompt is put
    into the teacher.

    Raises:
        TypeError: If a part is of another class.
        ValueError: If sizes do not match, or a prompt has no teacher that it
            could open.
    """
    model = None if teacher is None else as_model(teacher, 'teacher')
    if not isinstance(student, LightGCN):
        raise TypeError(f"'student' must be a LightGCN (got "
                        f"'{type(student).__name__}')")
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


def build_projections(model: RankingModel | None, student: LightGCN,
                      settings: Settings) -> Projections:
    r"""Returns the maps to the widths that are known beforehand; those of
    other teachers are known when they are called."""
    out = Projections(student.hidden_channels)
    if isinstance(model, MultimodalTeacher) and settings.knowledge == 'terms':
        keys = out.keys_of(model.modalities).values()
        out.add({key: model.width for key in keys})
    return out


def reset_parameters(*modules: torch.nn.Module | None) -> None:
    r"""Resets all learnable parameters of modules, and warns of those that
    cannot be reset."""
    for module in modules:
        if module is None:
            continue
        reset = getattr(module, 'reset_parameters', None)
        if reset is not None:
            reset()
            continue
        own = [name for name, _ in module.named_parameters(recurse=False)]
        if own:
            warnings.warn(
                f"'{type(module).__name__}' has no 'reset_parameters': its "
                f"parameters {own} stay as they are", stacklevel=3)
        reset_parameters(*module.children())
