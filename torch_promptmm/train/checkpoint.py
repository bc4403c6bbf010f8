r"""Checkpoints: the whole state of a run, in one file."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torch_promptmm.checks import check_path
from torch_promptmm.files import atomic_path

_FORMAT = 'torch_promptmm checkpoint 1'
_TYPES = {
    'name': str,
    'notes': dict,
    'kinds': list,
    'module': dict,
    'optimizer': dict,
    'history': str,
    'stopped': bool,
    'best_value': float,
    'rng': dict,
}


def save_checkpoint(path: str | os.PathLike, state: dict[str, Any]) -> None:
    r"""Writes a state to :obj:`path`, all of it or nothing."""
    with atomic_path(path) as temporary:
        torch.save({'format': _FORMAT, **state}, temporary)


def load_checkpoint(path: str | os.PathLike) -> dict[str, Any] | None:
    r"""Reads a state; :obj:`None` where there is no file yet. Nothing but
    tensors and plain values is read.

    Raises:
        ValueError: If the file is damaged or no checkpoint.
    """
    path = check_path('checkpoint', path)
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as file:  # torch checks no sums.
            if (damaged := file.testzip()) is not None:
                raise ValueError(f"'{damaged}' does not match its checksum")
        state = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # A damaged file fails in many ways.
        raise ValueError(f"'checkpoint' {str(path)!r} is damaged or no "
                         f"checkpoint ({first_line(error)})") from error
    if not isinstance(state, dict) or state.get('format') != _FORMAT:
        raise ValueError(f"'checkpoint' {str(path)!r} is no checkpoint of "
                         f"this version of torch_promptmm")
    wrong = [
        key for key, kind in _TYPES.items()
        if not isinstance(state.get(key), kind)
    ]
    if wrong:
        raise ValueError(f"'checkpoint' {str(path)!r} is damaged or of "
                         f"another kind (it lacks {wrong})")
    return state


def load_weights(module: torch.nn.Module, state: Mapping[str, Any],
                 source: str) -> None:
    r"""Loads a state, or says what does not fit and loads nothing.

    Args:
        module (torch.nn.Module): Whose state it is.
        state (dict): The state.
        source (str): Where it comes from, for the message.
    """
    own = module.state_dict()
    wrong = [f"'{key}' is missing" for key in own if key not in state]
    wrong += [f"'{key}' is unknown" for key in state if key not in own]
    wrong += [
        f"'{key}' is of shape {list(state[key].shape)} instead of "
        f"{list(value.shape)}" for key, value in own.items()
        if isinstance(value, Tensor) and isinstance(state.get(key), Tensor)
        and state[key].shape != value.shape
    ]
    if wrong:
        more = f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''
        raise ValueError(f"{source} is of another model "
                         f"({', '.join(wrong[:3])}{more})")
    try:
        module.load_state_dict(state)
    except Exception as error:  # Whatever a module of another class raises.
        raise ValueError(f'{source} does not fit '
                         f'({first_line(error)})') from error


def first_line(error: Exception) -> str:
    r"""What an error says, in one line."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def rng_state(device: torch.device) -> dict[str, Any]:
    r"""The state of the random generators that training draws from."""
    state = {'cpu': torch.get_rng_state()}
    if device.type == 'cuda':
        state['cuda'] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    r"""Takes the generators back to a state."""
    torch.set_rng_state(state['cpu'])
    if device.type == 'cuda' and 'cuda' in state:
        torch.cuda.set_rng_state(state['cuda'], device)
