r"""The file of a distiller: what it holds, and how it is put together."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_promptmm.checks import (
    check_bool,
    check_choice,
    check_ids,
    check_matrix,
    check_path,
)
from torch_promptmm.data import IdMap
from torch_promptmm.data.contract import check_edge_type
from torch_promptmm.distill import Projections, Settings
from torch_promptmm.distill.build import Teachers, as_teacher, checked_parts
from torch_promptmm.distill.distillation import Distillation, Seen
from torch_promptmm.distill.growth import Growth
from torch_promptmm.distill.plan import trained_models
from torch_promptmm.models import RankingModel
from torch_promptmm.models.door import (
    as_model,
    as_trained,
    keep_as_trained,
    model_from_config,
    saved_config,
)
from torch_promptmm.nn import SoftPrompt, UserItemGraph
from torch_promptmm.nn.feature_projections import FeatureProjection
from torch_promptmm.nn.functional import modality_key
from torch_promptmm.serve.store import (
    build_student,
    load_tensors,
    save_tensors,
    subset,
)
from torch_promptmm.train import load_weights
from torch_promptmm.train.checkpoint import first_line

_KIND = 'distiller'
#: What of a teacher's final embeddings may be written.
TABLES = ('full', 'half', 'none')


class DistillerParts(NamedTuple):
    r"""What a file holds.

    Attributes:
        teacher (torch.nn.Module, optional): The teacher, if its class is
            ours or it was given.
        student (RankingModel): The student.
        prompt (SoftPrompt, optional): The prompt.
        projections (Projections): The distiller's projections.
        settings (dict): The values of its settings.
        edge_type (tuple, optional): The edge type of the interactions.
        modalities (list, optional): The names of the modalities.
        seen (Seen): What was trained on.
        finals (dict): Final user and item embeddings of each model.
        teacher_state (dict): Weights of a teacher that is not here.
        started (bool): Whether the student has been trained.
        growth (Growth): What is kept to go on learning.
    """
    teacher: torch.nn.Module | None
    student: RankingModel
    prompt: SoftPrompt | None
    projections: Projections
    settings: dict[str, Any]
    edge_type: tuple[str, str, str] | None
    modalities: list[str] | None
    seen: Seen
    finals: dict[str, tuple[Tensor, Tensor]]
    teacher_state: dict[str, Tensor]
    started: bool
    growth: Growth


def save_parts(path: str | os.PathLike, training: Distillation,
               teacher: torch.nn.Module | None,
               teacher_tables: str = 'full') -> None:
    r"""Writes what a distiller is made of.

    Args:
        path (str): The file.
        training (Distillation): Its state.
        teacher (torch.nn.Module, optional): The teacher as it was given.
        teacher_tables (str, optional): See
            :meth:`PromptMMDistiller.save()
            <torch_promptmm.PromptMMDistiller.save>`.
            (default: :obj:`"full"`)
    """
    check_path('path', path)
    check_choice('teacher_tables', teacher_tables, TABLES)
    seen, models = training.require_seen('save'), training.tables_to_save()
    if teacher_tables == 'none':
        models = ['student']
    parts, growth = training.parts, training.growth
    prompt = parts.prompt
    if growth.grown:  # They do not know all users and items.
        teacher = prompt = None
    write_distiller(path, DistillerParts(
        teacher, parts.student, prompt, parts.projections,
        parts.settings.to_dict(), training.edge_type, training.modalities,
        seen, {model: training.embeddings(model) for model in models},
        training.teacher_state, training.started, growth), teacher_tables)


def write_distiller(path: str | os.PathLike, parts: DistillerParts,
                    teacher_tables: str = 'full') -> None:
    r"""Writes a distiller, its interactions and its final embeddings; those
    of the teacher in half precision, if they are to be."""
    tensors: dict[str, Tensor] = {}
    for name in ('student', 'teacher', 'prompt', 'projections'):
        module = getattr(parts, name)
        if module is not None:
            for key, value in module.state_dict().items():
                tensors[f'{name}.{key}'] = value
    for key, value in parts.teacher_state.items():
        tensors[f'teacher.{key}'] = value
    tensors['graph.edge_index'] = parts.seen.graph.edge_index
    tensors['graph.known'] = parts.seen.known
    for model, (user, item) in parts.finals.items():
        if model == 'teacher' and teacher_tables == 'half':
            user, item = user.half(), item.half()
        tensors[f'final.{model}.user'] = user
        tensors[f'final.{model}.item'] = item
    for key, value in parts.growth.tensors().items():
        if key.startswith('anchor') and teacher_tables != 'full':
            if teacher_tables == 'none':
                continue
            value = value.half()
        tensors[f'growth.{key}'] = value
    for kind, ids in parts.seen.ids.items():
        tensors[f'ids.{kind}'] = torch.frombuffer(
            bytearray(ids.to_bytes()), dtype=torch.uint8)
    prompt = parts.prompt
    save_tensors(path, _KIND, tensors, {
        'settings': parts.settings,
        'edge_type': parts.edge_type,
        'modalities': parts.modalities,
        'student': saved_config(parts.student),
        'teacher': saved_config(parts.teacher),
        # Of teachers whose classes are not ours.
        'as_trained': [] if parts.teacher is None else [
            as_trained(x) for x in trained_models(as_model(parts.teacher))],
        'prompt': None if prompt is None else {
            'num_layers': prompt.num_layers,
            'modalities': prompt.modalities,
        },
        'finals': list(parts.finals),
        'started': parts.started,
        'growth': parts.growth.config(),
    })


def read_distiller(path: str | os.PathLike,
                   teacher: Teachers | None = None,
                   student: RankingModel | None = None) -> DistillerParts:
    r"""Reads what :func:`write_distiller` wrote."""
    if not isinstance(teacher, (type(None), torch.nn.Module, list, tuple)):
        raise TypeError(f"'teacher' must be a torch.nn.Module, or a list of "
                        f"them (got '{type(teacher).__name__}')")
    tensors, config = load_tensors(path, _KIND)
    student = _given_student(student, config, subset(tensors, 'student'),
                             str(path))
    module: torch.nn.Module | None = None
    if teacher is not None:
        none = torch.empty(0)
        module = as_teacher(teacher, SimpleNamespace(**{
            f'num_{x}s': len(tensors.get(f'final.student.{x}', none))
            for x in ('user', 'item')
        }))
        assert module is not None
        if config.get('teacher') is not None:
            name = config['teacher'].get('class', 'MultimodalTeacher')
            raise ValueError(f"'teacher' is for classes that are not ours; "
                             f"this file holds a {name}")
        load_weights(module, subset(tensors, 'teacher'),
                     f'The teacher in {str(path)!r}')
        for model, kept in zip(trained_models(as_model(module)),
                               config.get('as_trained', ()), strict=False):
            keep_as_trained(model, kept)
    try:
        return _build(tensors, config, module, student)
    except Exception as error:  # A damaged file fails in many ways.
        raise ValueError(f"'path' {str(path)!r} is damaged: "
                         f"{type(error).__name__} "
                         f"{first_line(error)}") from error


def _given_student(student: RankingModel | None, config: dict[str, Any],
                   tensors: dict[str, Tensor],
                   path: str) -> RankingModel | None:
    r"""Returns the student that is given, with the weights of the file."""
    ours = (config.get('student') or {}).get('class', 'LightGCN')
    foreign = 'student' in config and config['student'] is None
    if student is None:
        if foreign:
            raise ValueError(f"'path' {path!r} holds a student of a class that "
                             f"is not ours: PromptMMDistiller.load(path, "
                             f"student=module)")
        return None
    if not foreign:
        raise ValueError(f"'student' is for classes that are not ours; this "
                         f"file holds a {ours}")
    if not isinstance(student, RankingModel):
        raise TypeError(f"'student' must be a RankingModel (got "
                        f"'{type(student).__name__}')")
    load_weights(student, tensors, f'The student in {path!r}')
    return student


def _build(tensors: dict[str, Tensor], config: dict[str, Any],
           teacher: torch.nn.Module | None,
           student: RankingModel | None) -> DistillerParts:
    if student is None:
        student = build_student(config['student'],
                                subset(tensors, 'student'))

    prompt = None
    if config['prompt'] is not None:
        prompt = _build_prompt(subset(tensors, 'prompt'), **config['prompt'])

    weights = subset(tensors, 'teacher')
    if config['teacher'] is not None:
        # Files of version 0.1.0 name neither class nor sizes.
        teacher = model_from_config({
            'class': 'MultimodalTeacher',
            'num_users': student.num_users,
            'num_items': student.num_items,
            **({} if prompt is None else {'prompt': prompt}),
            **config['teacher'],
        })
        load_weights(teacher, weights, 'The saved teacher')

    projections = Projections(student.width)
    state = subset(tensors, 'projections')
    projections.add_from(state)
    load_weights(projections, state, 'The saved projections')

    finals = {}
    for model in config['finals']:
        user, item = [_wide(tensors[f'final.{model}.{x}'])
                      for x in ('user', 'item')]
        if (len(user), len(item)) != (student.num_users, student.num_items):
            raise ValueError(f"the {model}'s final embeddings are of "
                             f"{len(user)} users and {len(item)} items")
        finals[model] = (user, item)
    graph, known = [
        UserItemGraph(tensors[f'graph.{name}'], student.num_users,
                      student.num_items) for name in ('edge_index', 'known')
    ]
    edge_type = config['edge_type']
    if edge_type is not None:
        edge_type = check_edge_type(edge_type)
    Settings.preset(**config['settings'])
    checked_parts(teacher, student, prompt)
    ids = {
        kind: IdMap.from_bytes(value.numpy().tobytes())
        for kind, value in subset(tensors, 'ids').items()
    }
    return DistillerParts(teacher, student, prompt, projections,
                          config['settings'], edge_type, config['modalities'],
                          Seen(graph, known.edge_index, ids), finals,
                          weights if teacher is None else {},
                          check_bool('started', config.get('started', True)),
                          _build_growth(config.get('growth', {}),
                                        subset(tensors, 'growth'), student))


def _build_growth(config: dict[str, Any], tensors: dict[str, Tensor],
                  student: RankingModel) -> Growth:
    r"""Returns what is kept to go on learning; files of before have
    nothing."""
    out = Growth.restored(config, tensors)
    if out.content_map is not None and out.content_map.width != student.width:
        raise ValueError(f"the content's map is to rows of "
                         f"{out.content_map.width} columns")
    if (out.items is None) != (out.rows is None):
        raise ValueError('new items lack their numbers or rows')
    if out.items is not None and out.rows is not None:
        check_ids('items', out.items, student.num_items, 'item')
        if list(out.rows.shape) != [out.items.numel(), student.width]:
            raise ValueError(f'rows of new items are of shape '
                             f'{list(out.rows.shape)}')
    if out.anchor is not None:
        user, item = map(_wide, out.anchor)
        check_matrix('anchor.item', item, user.size(1))
        if len(user) > student.num_users or len(item) > student.num_items:
            raise ValueError("the teacher's old embeddings are of more users "
                             "or items than there are")
        out.anchor = user, item
    return out


def _wide(x: Tensor) -> Tensor:
    r"""A table in the type that it is ranked in."""
    return x.float() if x.dtype == torch.half else x


def _build_prompt(tensors: dict[str, Tensor], num_layers: int,
                  modalities: list[str]) -> SoftPrompt:
    # A prompt keeps what it is given, and products round by where it lies:
    # copies are aligned, as its own tables were, and free the file's bytes.
    tensors = {name: x.clone() for name, x in tensors.items()}
    projections, channels = {}, tensors['basis'].size(1)
    for name in modalities:
        weight, offset = [
            tensors[f'projections.{modality_key(name)}.{what}']
            for what in ('weight', 'offset')
        ]
        if weight.size(1) != channels or list(offset.shape) != [channels]:
            raise ValueError(f"the prompt's projection of {name!r} is not of "
                             f"{channels} channels")
        projections[name] = FeatureProjection(weight, offset)
    for what in ('shift', 'scale'):
        if list(tensors[what].shape) != [channels]:
            raise ValueError(f"the prompt's {what!r} is not of {channels} "
                             f"channels")
    prompt = SoftPrompt(tensors['basis'], num_layers, projections,
                        tensors['shift'], tensors['scale'])
    load_weights(prompt, tensors, 'The saved prompt')
    return prompt
