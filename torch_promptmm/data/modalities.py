r"""What a modality is: a floating-point matrix, one row an item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
MASK_SUFFIX = '_mask'
BLOCK_NUMEL = 1 << 20  # Entries that are looked at at a time.


def find_modalities(attrs: Mapping[str, Any], modalities: Sequence[str] | None,
                    owner: str) -> list[str]:
    r"""The names of the modalities among the attributes of the items."""
    if modalities is None:
        return [
            name for name, value in attrs.items()
            if not name.endswith(MASK_SUFFIX) and _is_float_matrix(value)
        ]

    if isinstance(modalities, str):
        raise TypeError(f"'modalities' must be a list of names (got the "
                        f"string '{modalities}'); pass ['{modalities}']")
    names = list(modalities)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"'modalities' must be a list of names (got an "
                            f"entry of type {type(name).__name__})")
        if name not in attrs:
            available = find_modalities(attrs, None, owner)
            raise ValueError(f"'modalities' names '{name}', which {owner} "
                             f"does not have; it has {available}")
    if len(set(names)) < len(names):
        raise ValueError(f"'modalities' names a modality twice (got {names})")
    return names


def _is_float_matrix(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.dim() == 2 and value.is_floating_point()
    return (isinstance(value, np.ndarray) and value.ndim == 2
            and value.dtype.kind == 'f')


def check_feature(value: Any, name: str) -> Tensor:
    r"""Returns :obj:`value` if it is a usable feature matrix, whatever its
    number of rows."""
    if not isinstance(value, Tensor):
        fix = ''
        if isinstance(value, np.ndarray):
            fix = "; wrap it with 'torch.from_numpy'"
        raise TypeError(f"'{name}' must be a floating-point tensor of shape "
                        f"[num_items, channels] (got "
                        f"{type(value).__name__}){fix}")
    if value.layout != torch.strided:
        raise TypeError(f"'{name}' must be a dense tensor (got layout "
                        f"{value.layout}); call '.to_dense()' first")
    if value.dtype not in FLOATS:
        raise TypeError(f"'{name}' must be of dtype float32, float64, "
                        f"float16 or bfloat16 (got {value.dtype}); convert "
                        f"it with '.float()'")
    if value.dim() != 2:
        raise ValueError(f"'{name}' must have the shape [num_items, "
                         f"channels] (got {list(value.shape)}); reshape it "
                         f"to one row an item")
    if value.size(1) == 0:
        raise ValueError(f"'{name}' has no columns (got shape "
                         f"{list(value.shape)}); leave this modality out")
    return value


def check_rows(value: Tensor, name: str, num_items: int,
               finite: bool = True) -> None:
    r"""Checks that there is one row an item and, with :obj:`finite`, for NaN
    and infinite entries, a block of rows at a time."""
    if value.size(0) != num_items:
        raise ValueError(f"'{name}' has {value.size(0)} rows for {num_items} "
                         f"items; it must have one row an item (items that "
                         f"lack the modality have a row too, and False in "
                         f"its mask)")
    step = max(1, BLOCK_NUMEL // value.size(1))
    for start in range(0, num_items if finite else 0, step):
        good = value[start:start + step].isfinite()
        if bool(good.all()):
            continue
        row, column = (~good).nonzero()[0].tolist()
        entry = float(value[start + row, column])
        raise ValueError(
            f"'{name}' must be finite (got {entry} in row {start + row}, "
            f"column {column}); where an item lacks the modality, write "
            f"zeros into its row and False into the modality's mask")
