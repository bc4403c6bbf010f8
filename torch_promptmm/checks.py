r"""Argument checks that every room uses: one wording, one place."""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def check_int(name: str, value: Any, minimum: int = 0) -> int:
    r"""Returns :obj:`value` as an :class:`int` of at least
    :obj:`minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"'{name}' must be an integer (got {value!r} of type "
                        f"'{type(value).__name__}')")
    if value < minimum:
        raise ValueError(f"'{name}' must be at least {minimum} (got {value})")
    return int(value)


def check_float(
    name: str,
    value: Any,
    minimum: float = 0.0,
    maximum: float = math.inf,
    exclusive: bool = False,
) -> float:
    r"""Returns :obj:`value` as a finite :class:`float` in
    :math:`[minimum, maximum]`, or, if :obj:`exclusive`, above
    :obj:`minimum` and below :obj:`maximum`."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"'{name}' must be a number (got {value!r} of type "
                        f"'{type(value).__name__}')")
    value = float(value)
    inside = (minimum < value < maximum) if exclusive else (
        minimum <= value <= maximum and math.isfinite(value))
    if not inside:
        low, high = ('(', ')') if exclusive else ('[', ']')
        raise ValueError(f"'{name}' must be a finite number in "
                         f"{low}{minimum:g}, {maximum:g}{high} (got {value})")
    return value


def check_choice(name: str, value: Any, choices: Collection[Any]) -> Any:
    r"""Returns :obj:`value` if it is one of :obj:`choices`."""
    if not any(value is c or (type(value) is type(c) and value == c)
               for c in choices):
        raise ValueError(f"'{name}' must be one of "
                         f"{', '.join(repr(c) for c in choices)} "
                         f"(got {value!r})")
    return value


def check_matrix(name: str, value: Any, num_cols: int | None = None) -> Tensor:
    r"""Returns :obj:`value` if it is a two-dimensional floating-point
    tensor (with :obj:`num_cols` columns)."""
    if not isinstance(value, Tensor):
        raise TypeError(f"'{name}' must be a torch.Tensor (got "
                        f"'{type(value).__name__}')")
    if value.dim() != 2 or not value.is_floating_point():
        raise ValueError(f"'{name}' must be a two-dimensional floating-point "
                         f"tensor (got shape {list(value.shape)}, "
                         f"{value.dtype})")
    if num_cols is not None and value.size(1) != num_cols:
        raise ValueError(f"'{name}' must have {num_cols} columns (got shape "
                         f"{list(value.shape)})")
    return value


def check_mask(name: str, value: Any, size: int,
               some: bool = False) -> Tensor:
    r"""Returns :obj:`value` if it is a boolean tensor of :obj:`size`
    entries, with :obj:`some` if one of them is :obj:`True`."""
    if not isinstance(value, Tensor):
        raise TypeError(f"'{name}' must be a torch.Tensor (got "
                        f"'{type(value).__name__}')")
    if value.dtype != torch.bool or list(value.shape) != [size]:
        raise ValueError(f"'{name}' must be a boolean tensor of shape "
                         f"[{size}] (got shape {list(value.shape)}, "
                         f"{value.dtype})")
    if some and not bool(value.any()):
        raise ValueError(f"'{name}' is False for all {size} entries; leave "
                         f"it out, and what it is the mask of")
    return value


def check_range(
    name: str,
    index: Tensor,
    size: int | None,
    what: str,
    minimum: int = 0,
    hint: str = '',
    error: type[Exception] = ValueError,
) -> int:
    r"""Checks that an integer tensor holds ids in :math:`[minimum, size)`
    and returns the largest one, or :obj:`minimum - 1` if there is none.

    Args:
        name (str): The argument.
        index (torch.Tensor): The ids. Their bounds are read, for which the
            device is waited for.
        size (int, optional): The number of what they stand for, or
            :obj:`None` if any number will do.
        what (str): What they stand for, in the singular.
        minimum (int, optional): The smallest id. (default: :obj:`0`)
        hint (str, optional): What to add to the message.
            (default: :obj:`''`)
        error (type, optional): What to raise. (default: :class:`ValueError`)
    """
    if index.numel() == 0:
        return minimum - 1
    low, high = (int(x) for x in index.aminmax())
    if low < minimum:
        wrong = low
    elif size is not None and high >= size:
        wrong = high
    else:
        return high
    known = (f'{what} ids start at {minimum}' if size is None else
             f'there are {size} {what}s ({minimum} to {size - 1})')
    raise error(f"'{name}' has {what} id {wrong}, but {known}{hint}")


def check_ids(name: str, value: Any, size: int, what: str) -> Tensor:
    r"""Returns :obj:`value` as a one-dimensional tensor of ids in
    :math:`[0, size)`; numbers, lists and arrays are converted."""
    try:
        if hasattr(value, '__array__') and not isinstance(value, Tensor):
            value = np.array(value)  # Writable, whatever its strides.
        ids = value if isinstance(value, Tensor) else torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"'{name}' must hold integer {what} ids (got "
                        f"{value!r})") from error
    if ids.numel() == 0 and not isinstance(value, Tensor):
        ids = ids.long()
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"'{name}' must hold integer {what} ids (got "
                        f"{ids.dtype})")
    if ids.dim() > 1:
        raise ValueError(f"'{name}' must be one-dimensional (got shape "
                         f"{list(ids.shape)})")
    ids = ids.reshape(-1).long()
    check_range(name, ids, size, what)
    return ids


def check_path(name: str, value: Any) -> Path:
    r"""Returns :obj:`value` as the :class:`~pathlib.Path` of a file."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"'{name}' must be a path (got {value!r} of type "
                        f"'{type(value).__name__}')")
    path = Path(value)
    if path.is_dir():
        raise ValueError(f"'{name}' must name a file, but {str(path)!r} is a "
                         f"folder")
    return path


def check_bool(name: str, value: Any) -> bool:
    r"""Returns :obj:`value` if it is :obj:`True` or :obj:`False`."""
    if not isinstance(value, bool):
        raise TypeError(f"'{name}' must be True or False (got {value!r})")
    return value


def check_device(device: Any) -> torch.device:
    r"""Returns :obj:`device` as a :class:`torch.device` of this machine."""
    try:
        device = torch.device(device)
        if device.type != 'meta':
            torch.empty(0, device=device)
    except Exception as error:  # Each backend raises an error of its own.
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"'device' {device!r} is unknown or not available "
                         f"here ({why})") from error
    return device
