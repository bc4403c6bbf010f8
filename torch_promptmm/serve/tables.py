r"""Tables of vectors: single precision, or a half or a quarter of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torch_promptmm.checks import check_choice, check_matrix
from torch_promptmm.nn.dense import FixedProduct, matmul

#: What a table may be kept in.
DTYPES = {
    'float32': torch.float,
    'float16': torch.half,
    'int8': torch.int8,
}
_ROWS = 2**13  # Of a table in less than single precision, that are widened.


def check_table(name: str, value: Any, scale: Tensor | None,
                channels: int | None = None) -> Tensor:
    r"""Returns :obj:`value` if it is a table of finite numbers, or of int8
    with a scale for each row."""
    if isinstance(value, Tensor) and value.dtype == torch.int8:
        check_matrix(name, value.float(), channels)
        if scale is None or list(scale.shape) != [value.size(0)]:
            found = None if scale is None else list(scale.shape)
            raise ValueError(f"'scales' must have a tensor of shape "
                             f"[{value.size(0)}] for '{name}', which is int8 "
                             f"(got {found}); Recommender.to_dtype('int8') "
                             f"makes both")
        numbers = scale
    else:
        check_matrix(name, value, channels)
        if scale is not None:
            raise ValueError(f"'scales' are for tables of int8, but '{name}' "
                             f"is {value.dtype}; leave them out")
        numbers = value
    if value.device.type == 'meta' or numbers.numel() == 0:
        return value
    # A NaN stays in both; a tenth of the time of `isfinite`, and no memory.
    if not all(x.isfinite() for x in numbers.aminmax()):
        row = int((~numbers.isfinite()).nonzero()[0, 0])
        raise ValueError(f"'{name}' must be finite, but row {row} is not; "
                         f"has training diverged?")
    return value


def to_table(x: Tensor, dtype: str) -> tuple[Tensor, Tensor | None]:
    r"""Returns vectors :math:`(n, d)` in another type, and for int8 the
    scale of each row :math:`(n)`: the largest entry is 127."""
    kind = DTYPES[check_choice('dtype', dtype, tuple(DTYPES))]
    if kind != torch.int8:
        if kind == torch.half and x.numel() > 0 and float(
                x.abs().max()) > torch.finfo(kind).max:
            raise ValueError(f"'dtype' {dtype!r} holds no number above "
                             f"{torch.finfo(kind).max:g} (the largest here "
                             f"is {float(x.abs().max()):g}); use 'int8' or "
                             f"'float32'")
        return x.to(kind), None
    scale = x.float().abs().amax(dim=1) / 127
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    return (x.float() * inverse.view(-1, 1)).round_().to(kind), scale


def table_rows(table: Tensor, scale: Tensor | None,
               index: Tensor | None = None) -> Tensor:
    r"""Returns rows of a table (default: all), in single precision at
    least."""
    out = table if index is None else table.index_select(0, index)
    out = out.to(torch.promote_types(out.dtype, torch.float))
    if scale is not None:
        scale = scale if index is None else scale.index_select(0, index)
        out = out * scale.view(-1, 1)
    return out


class TableProduct:
    r"""The products of vectors :math:`(b, d)` with all rows of a table, in
    single precision at least, without the whole table in it.

    Args:
        table (torch.Tensor): The table :math:`(n, d)`.
        scale (torch.Tensor, optional): Factors of its rows :math:`(n)`.
    """
    def __init__(self, table: Tensor, scale: Tensor | None) -> None:
        self.table, self.scale = table, scale
        self.is_wide = table.dtype in (torch.float, torch.double)
        self.product: Callable[[Tensor], Tensor] = self._product

    def _product(self, x: Tensor) -> Tensor:
        return matmul(x, self.table.t())

    def prepare(self, num_rows: int) -> None:
        r"""Puts the table in order for many vectors, so many at a time."""
        if self.is_wide:
            self.product = FixedProduct(self.table, num_rows)

    def __call__(self, x: Tensor) -> Tensor:
        if not self.is_wide:
            out = x.new_empty(x.size(0), self.table.size(0))
            for first in range(0, self.table.size(0), _ROWS):
                part = self.table[first:first + _ROWS].to(x.dtype)
                out[:, first:first + _ROWS] = x @ part.t()
        elif x.size(0) == 1:  # Reads the table once, in its order.
            out = torch.mv(self.table, x.view(-1)).view(1, -1)
        else:
            out = self.product(x)
        return out if self.scale is None else out.mul_(self.scale)
