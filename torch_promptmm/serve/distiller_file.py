r"""The file of a distiller: what it holds, and how it is put together."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_promptmm.data import IdMap
from torch_promptmm.nn import (
    LightGCNStudent,
    MultimodalTeacher,
    SoftPrompt,
    UserItemGraph,
)
from torch_promptmm.nn.feature_projections import FeatureProjection
from torch_promptmm.nn.functional import modality_key
from torch_promptmm.serve.store import (
    build_student,
    load_tensors,
    save_tensors,
    student_config,
    subset,
)
from torch_promptmm.train import load_weights
from torch_promptmm.train.checkpoint import first_line

_KIND = 'distiller'


class DistillerParts(NamedTuple):
    r"""What a file holds, rebuilt."""
    teacher: torch.nn.Module | None
    student: LightGCNStudent
    prompt: SoftPrompt | None
    projections: dict[str, torch.nn.Module]
    settings: dict[str, Any]
    edge_type: tuple[str, str, str] | None
    modalities: list[str] | None
    graph: UserItemGraph
    known: Tensor
    finals: dict[str, tuple[Tensor, Tensor]]
    teacher_state: dict[str, Tensor]
    ids: dict[str, IdMap]


def write_distiller(
    path: str | os.PathLike,
    distiller: Any,
    edge_index: Tensor,
    known: Tensor,
    finals: dict[str, tuple[Tensor, Tensor]],
) -> None:
    r"""Writes a distiller, its interactions and its final embeddings."""
    tensors: dict[str, Tensor] = {}
    for name in ('student', 'teacher', 'prompt', 'projections'):
        module = getattr(distiller, name)
        if module is not None:
            for key, value in module.state_dict().items():
                tensors[f'{name}.{key}'] = value
    for key, value in distiller._teacher_state.items():
        tensors[f'teacher.{key}'] = value
    tensors['graph.edge_index'] = edge_index
    tensors['graph.known'] = known
    for model, (user, item) in finals.items():
        tensors[f'final.{model}.user'] = user
        tensors[f'final.{model}.item'] = item

    for kind, ids in distiller._ids.items():
        tensors[f'ids.{kind}'] = torch.frombuffer(
            bytearray(ids.to_bytes()), dtype=torch.uint8)

    teacher, prompt = distiller.teacher, distiller.prompt
    config: dict[str, Any] = {
        'settings': distiller.settings.to_dict(),
        'edge_type': distiller.edge_type,
        'modalities': distiller.modalities,
        'student': student_config(distiller.student),
        'teacher': None,
        'prompt': None,
        'finals': list(finals),
    }
    if isinstance(teacher, MultimodalTeacher):
        reduction = teacher.reduction(teacher.modalities[0])
        config['teacher'] = {
            'in_channels': teacher.in_channels,
            'hidden_channels': teacher.hidden_channels,
            'num_layers': teacher.num_layers,
            'fusion_weight': teacher.fusion_weight,
            'self_weight': teacher.self_weight,
            'prompt_channels': reduction.prompt_channels,
            'prompt_weight': reduction.prompt_weight,
            'dropout': reduction.dropout,
            'normalize': reduction.normalize,
        }
    if prompt is not None:
        config['prompt'] = {
            'num_layers': prompt.num_layers,
            'modalities': prompt.modalities,
        }
    save_tensors(path, _KIND, tensors, config)


def read_distiller(path: str | os.PathLike,
                   teacher: torch.nn.Module | None = None) -> DistillerParts:
    r"""Reads what :func:`write_distiller` wrote."""
    if teacher is not None and not isinstance(teacher, torch.nn.Module):
        raise TypeError(f"'teacher' must be a torch.nn.Module (got "
                        f"'{type(teacher).__name__}')")
    tensors, config = load_tensors(path, _KIND)
    if teacher is not None:
        if config.get('teacher') is not None:
            raise ValueError("'teacher' is for classes that are not ours; "
                             "this file holds a MultimodalTeacher")
        load_weights(teacher, subset(tensors, 'teacher'),
                     f'The teacher in {str(path)!r}')
    try:
        return _build(tensors, config, teacher)
    except Exception as error:  # A damaged file fails in many ways.
        raise ValueError(f"'path' {str(path)!r} is damaged: "
                         f"{type(error).__name__} "
                         f"{first_line(error)}") from error


def _build(tensors: dict[str, Tensor], config: dict[str, Any],
           teacher: torch.nn.Module | None) -> DistillerParts:
    student = build_student(config['student'], subset(tensors, 'student'))

    prompt = None
    if config['prompt'] is not None:
        prompt = _build_prompt(subset(tensors, 'prompt'), **config['prompt'])

    weights = subset(tensors, 'teacher')
    if config['teacher'] is not None:
        teacher = MultimodalTeacher(student.num_users, student.num_items,
                                    prompt=prompt, **config['teacher'])
        load_weights(teacher, weights, 'The saved teacher')

    projections: dict[str, torch.nn.Module] = {}
    for key, weight in subset(tensors, 'projections').items():
        layer = torch.nn.Linear(weight.size(1), weight.size(0), bias=False)
        layer.weight.data.copy_(weight)
        projections[key.rpartition('.')[0]] = layer

    finals = {}
    for model in config['finals']:
        user, item = [tensors[f'final.{model}.{x}'] for x in ('user', 'item')]
        if (len(user), len(item)) != (student.num_users, student.num_items):
            raise ValueError(f"the {model}'s final embeddings are of "
                             f"{len(user)} users and {len(item)} items")
        finals[model] = (user, item)
    graph, known = [
        UserItemGraph(tensors[f'graph.{name}'], student.num_users,
                      student.num_items) for name in ('edge_index', 'known')
    ]
    edge_type = config['edge_type']
    return DistillerParts(
        teacher, student, prompt, projections, config['settings'],
        None if edge_type is None else tuple(edge_type),  # type: ignore
        config['modalities'], graph, known.edge_index, finals,
        weights if teacher is None else {}, {
            kind: IdMap.from_bytes(value.numpy().tobytes())
            for kind, value in subset(tensors, 'ids').items()
        })


def _build_prompt(tensors: dict[str, Tensor], num_layers: int,
                  modalities: list[str]) -> SoftPrompt:
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
