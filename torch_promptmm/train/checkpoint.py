r"""Checkpoints: the whole state of a run, in one file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from torch_promptmm.files import atomic_path

_FORMAT = 'torch_promptmm checkpoint 1'


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
    path = Path(path)
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # A damaged file fails in many ways.
        raise ValueError(f"'checkpoint' {str(path)!r} is damaged or no "
                         f"checkpoint ({str(error).splitlines()[0]:.200})"
                         ) from error
    if not isinstance(state, dict) or state.get('format') != _FORMAT:
        raise ValueError(f"'checkpoint' {str(path)!r} is no checkpoint of "
                         f"this version of torch_promptmm")
    return state


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
