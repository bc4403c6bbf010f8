r"""Models in files: tensors as safetensors, all else as JSON in the header.
Reading a file runs no code of it."""

from __future__ import annotations

import json
import os
import zlib
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import check_choice, check_path
from torch_promptmm.files import atomic_path
from torch_promptmm.loss.score import SCORES
from torch_promptmm.models import RankingModel
from torch_promptmm.models.door import model_from_config, saved_config
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.nn.graph import as_graph
from torch_promptmm.train import load_weights
from torch_promptmm.train.checkpoint import first_line

_KEY, _SUM = 'torch_promptmm', 'crc32'


def save_tensors(path: str | os.PathLike, kind: str,
                 tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    r"""Writes tensors and their configuration, all or nothing.

    Args:
        path (str): The file.
        kind (str): What it holds, which :func:`load_tensors` checks.
        tensors (dict): The tensors.
        config (dict): Anything that JSON can hold.
    """
    check_path('path', path)
    text = json.dumps({'kind': kind, **config})
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in tensors.items()
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={
            _KEY: text,
            _SUM: _checksum(text, tensors)
        })


def _checksum(text: str, tensors: dict[str, Tensor]) -> str:
    # safetensors itself does not notice a byte that changed.
    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        crc = zlib.crc32(name.encode(), crc)
        data = tensors[name].reshape(-1).view(torch.uint8)
        crc = zlib.crc32(data.numpy().data, crc)
    return f'{crc:08x}'


def load_tensors(path: str | os.PathLike,
                 kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    r"""Reads what :func:`save_tensors` wrote.

    Raises:
        ValueError: If there is no such file, or it is damaged, or holds
            something else.
    """
    path = check_path('path', path)
    if not path.is_file():
        raise ValueError(f"'path' {str(path)!r} is not a file")
    try:
        with safe_open(path, framework='pt') as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        config = json.loads(metadata[_KEY]) if _KEY in metadata else None
    except Exception as error:  # A damaged file fails in many ways.
        raise ValueError(f"'path' {str(path)!r} is damaged or no safetensors "
                         f"file ({first_line(error)})") from error
    if not isinstance(config, dict) or config.get('kind') != kind:
        found = config.get('kind') if isinstance(config, dict) else None
        raise ValueError(f"'path' {str(path)!r} does not hold a {kind} of "
                         f"torch_promptmm (it holds {found or 'none'})")
    if metadata.get(_SUM) != _checksum(metadata[_KEY], tensors):
        raise ValueError(f"'path' {str(path)!r} is damaged: its contents do "
                         f"not match its checksum")
    return tensors, config


def save_student(path: str | os.PathLike, student: RankingModel,
                 edge_index: Adj | UserItemGraph | None = None,
                 score: str = 'dot') -> None:
    r"""Saves a student alone, with the interactions that it propagates
    over.

    Args:
        path (str): The file.
        student (RankingModel): The student, of a class that is ours.
        edge_index (torch.Tensor or SparseTensor or UserItemGraph, optional):
            The training interactions. (default: :obj:`None`)
        score (str, optional): The score function that it was trained with.
            (default: :obj:`"dot"`)
    """
    check_path('path', path)
    config = saved_config(student)
    if config is None:
        raise TypeError(f"'student' must be a model of torch_promptmm (got "
                        f"'{type(student).__name__}')")
    check_choice('score', score, SCORES)
    tensors = dict(student.state_dict())
    if edge_index is not None:
        graph = as_graph(edge_index, student.num_users, student.num_items)
        tensors['edge_index'] = graph.edge_index
    save_tensors(path, 'student', tensors, {
        'student': config,
        'score': score
    })


def load_student(
    path: str | os.PathLike,
) -> tuple[RankingModel, Tensor | None, str]:
    r"""Returns the student, its interactions and its score function, as
    :func:`save_student` wrote them."""
    tensors, config = load_tensors(path, 'student')
    edge_index = tensors.pop('edge_index', None)
    try:
        student = build_student(config['student'], tensors)
        score = check_choice('score', config['score'], SCORES)
        if edge_index is not None:  # Says what is wrong with it.
            UserItemGraph(edge_index, student.num_users, student.num_items)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"'path' {str(path)!r} is damaged "
                         f"({first_line(error)})") from error
    return student, edge_index, score


def build_student(config: dict[str, Any],
                  tensors: dict[str, Tensor]) -> RankingModel:
    r"""Builds a student from its configuration and weights."""
    # Files of before name no class.
    config = {'class': 'LightGCN', **config}
    with torch.device('meta'):  # Before memory is taken for them.
        wanted = model_from_config(config).state_dict()
    for name, tensor in wanted.items():
        have = list(tensors[name].shape)
        if have != list(tensor.shape):
            raise ValueError(f"the student's {name!r} is of shape {have} "
                             f"instead of {list(tensor.shape)}")
    student = model_from_config(config)
    load_weights(student, tensors, 'The saved student')
    return student


def subset(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    r"""The tensors under a prefix, without it."""
    prefix += '.'
    return {
        name[len(prefix):]: tensor
        for name, tensor in tensors.items() if name.startswith(prefix)
    }
