r"""Models in files: tensors as safetensors, all else as JSON in the header.
Reading a file runs no code of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from torch_promptmm.files import atomic_path
from torch_promptmm.nn import LightGCNStudent

_KEY = 'torch_promptmm'


def save_tensors(path: str | os.PathLike, kind: str,
                 tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    r"""Writes tensors and their configuration, all or nothing.

    Args:
        path (str): The file.
        kind (str): What it holds, which :func:`load_tensors` checks.
        tensors (dict): The tensors.
        config (dict): Anything that JSON can hold.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"'path' must be a path (got "
                        f"'{type(path).__name__}')")
    text = json.dumps({'kind': kind, **config})
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in tensors.items()
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={_KEY: text})


def load_tensors(path: str | os.PathLike,
                 kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    r"""Reads what :func:`save_tensors` wrote.

    Raises:
        ValueError: If there is no such file, or it is damaged, or holds
            something else.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"'path' must be a path (got "
                        f"'{type(path).__name__}')")
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"'path' {str(path)!r} is not a file")
    try:
        with safe_open(path, framework='pt') as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        config = json.loads(metadata[_KEY]) if _KEY in metadata else None
    except Exception as error:  # A damaged file fails in many ways.
        raise ValueError(f"'path' {str(path)!r} is damaged or no safetensors "
                         f"file ({str(error).splitlines()[0]:.200})"
                         ) from error
    if not isinstance(config, dict) or config.get('kind') != kind:
        found = config.get('kind') if isinstance(config, dict) else None
        raise ValueError(f"'path' {str(path)!r} does not hold a {kind} of "
                         f"torch_promptmm (it holds {found or 'none'})")
    return tensors, config


def student_config(student: LightGCNStudent) -> dict[str, int]:
    r"""The arguments that make the same student again."""
    return {
        name: getattr(student, name)
        for name in ('num_users', 'num_items', 'hidden_channels',
                     'num_layers')
    }


def save_student(path: str | os.PathLike, student: LightGCNStudent,
                 edge_index: Tensor | None = None,
                 score: str = 'dot') -> None:
    r"""Saves a student alone, with the interactions that it propagates
    over.

    Args:
        path (str): The file.
        student (LightGCNStudent): The student.
        edge_index (torch.Tensor, optional): The training interactions
            :math:`(2, E)`. (default: :obj:`None`)
        score (str, optional): The score function that it was trained with.
            (default: :obj:`"dot"`)
    """
    tensors = dict(student.state_dict())
    if edge_index is not None:
        tensors['edge_index'] = edge_index
    save_tensors(path, 'student', tensors, {
        'student': student_config(student),
        'score': score
    })


def load_student(
    path: str | os.PathLike,
) -> tuple[LightGCNStudent, Tensor | None, str]:
    r"""Returns the student, its interactions and its score function, as
    :func:`save_student` wrote them."""
    tensors, config = load_tensors(path, 'student')
    edge_index = tensors.pop('edge_index', None)
    try:
        student = LightGCNStudent(**config['student'])
        student.load_state_dict(tensors)
        return student, edge_index, config['score']
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"'path' {str(path)!r} is damaged "
                         f"({str(error):.200})") from error


def subset(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    r"""The tensors under a prefix, without it."""
    prefix += '.'
    return {
        name[len(prefix):]: tensor
        for name, tensor in tensors.items() if name.startswith(prefix)
    }


def load_state(module: torch.nn.Module, tensors: dict[str, Tensor],
               what: str) -> None:
    r"""Loads a state, or says what does not fit."""
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"The saved {what} does not fit "
                         f"({str(error):.300})") from error
