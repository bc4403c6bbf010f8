r"""Products with raw features, which stay where they are.

Features may be wide, in half precision, on another device or mapped from a
file. They are held by reference, and read in blocks of rows that are cast
and moved one by one, forward and backward.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_promptmm.checks import check_mask, check_matrix
from torch_promptmm.nn.dense import matmul

_BLOCK_SIZE = 2**22  # Elements of a block: 16 MiB in single precision.


def row_blocks(x: Tensor, like: Tensor,
               dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    r"""Yields slices of rows and these rows of :obj:`x`, in the given type
    and on the device of :obj:`like`; all at once where nothing is to be
    converted."""
    if x.dtype == dtype and x.device == like.device:
        yield slice(0, x.size(0)), x
        return
    step = max(1, _BLOCK_SIZE // max(x.size(1), 1))
    for start in range(0, x.size(0), step):
        rows = slice(start, min(start + step, x.size(0)))
        yield rows, x[rows].to(like.device, dtype)


def _product_type(x: Tensor, like: Tensor) -> torch.dtype:
    r"""The type that features are multiplied in: that of the parameters, or
    their own, where they are kept in what autocast asks for."""
    kind = like.device.type
    if (torch.amp.is_autocast_available(kind)
            and torch.is_autocast_enabled(kind)
            and x.dtype == torch.get_autocast_dtype(kind)):
        return x.dtype
    return like.dtype


def _without_autocast(like: Tensor) -> AbstractContextManager[Any]:
    if not torch.amp.is_autocast_available(like.device.type):
        return nullcontext()
    return torch.autocast(like.device.type, enabled=False)


class _MatMul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor,
                dtype: torch.dtype) -> Tensor:
        ctx.x, ctx.dtype = x, dtype
        out = weight.new_empty(x.size(0), weight.size(1))
        narrow = weight.to(dtype)
        with _without_autocast(weight):
            for rows, block in row_blocks(x, weight, dtype):
                part = matmul(block, narrow)
                if part.shape == out.shape:  # All at once.
                    return part.to(weight.dtype)
                out[rows] = part
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        return None, _TMatMul.apply(ctx.x, grad, ctx.dtype).t(), None


class _TMatMul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor,
                dtype: torch.dtype) -> Tensor:
        ctx.x, ctx.dtype = x, dtype
        out = y.new_zeros(y.size(1), x.size(1))
        narrow = y.to(dtype)
        with _without_autocast(y):
            for rows, block in row_blocks(x, y, dtype):
                out += matmul(narrow[rows].t(), block)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        return None, _MatMul.apply(ctx.x, grad.t(), ctx.dtype), None


def features_matmul(x: Tensor, weight: Tensor) -> Tensor:
    r"""Returns :math:`\mathbf{X} \mathbf{W}` :math:`(n, d)` for features
    :math:`(n, d_m)` and weights :math:`(d_m, d)`.

    Under :class:`torch.autocast`, features that are kept in its type are
    multiplied in it; all others in that of the weights, block by block.
    """
    if x.requires_grad:
        return matmul(x.to(weight.device, weight.dtype), weight)
    return _MatMul.apply(x, weight, _product_type(x, weight))


def features_t_matmul(x: Tensor, y: Tensor) -> Tensor:
    r"""Returns :math:`\mathbf{Y}^{\top} \mathbf{X}` :math:`(d, d_m)` for
    features :math:`(n, d_m)` and a matrix :math:`(n, d)`, in the type that
    :meth:`features_matmul` takes."""
    if x.requires_grad:
        return matmul(y.t(), x.to(y.device, y.dtype))
    return _TMatMul.apply(x, y, _product_type(x, y))


def checked_masks(masks: Mapping[str, Tensor] | None,
                  sizes: Mapping[str, int]) -> dict[str, Tensor]:
    r"""Returns the masks of some modalities, of which :obj:`sizes` are the
    numbers of rows."""
    out = dict(masks or {})
    for name, mask in out.items():
        if name not in sizes:
            raise ValueError(f"'masks' has {name!r}, but the modalities are "
                             f"{list(sizes)}")
        check_mask(f'masks[{name!r}]', mask, sizes[name])
    return out


def masked_rows(x: Tensor, mask: Tensor | None) -> Tensor:
    r"""Sets the rows to zero where :obj:`mask` is :obj:`False`."""
    if mask is None:
        return x
    check_mask('mask', mask, x.size(0))
    return torch.where(mask.to(x.device).view(-1, 1), x, 0.0)


class ColumnStatistics(NamedTuple):
    r"""The mean :math:`\mu` and the reciprocal standard deviation
    (:math:`\mathbf{D}`) of the columns; zero where a column is constant."""
    mean: Tensor
    scale: Tensor


def column_statistics(x: Tensor, mask: Tensor | None = None,
                      like: Tensor | None = None) -> ColumnStatistics:
    r"""Computes :class:`ColumnStatistics` of the rows of :obj:`x` that
    :obj:`mask` admits, in one pass over blocks, accumulated in double
    precision.

    Args:
        x (torch.Tensor): The features :math:`(n, d_m)`.
        mask (torch.Tensor, optional): True for the rows that count
            :math:`(n)`. (default: :obj:`None`)
        like (torch.Tensor, optional): Computes on the device and in the
            type of this tensor. (default: CPU, single precision)
    """
    check_matrix('x', x)
    if mask is not None:
        check_mask('mask', mask, x.size(0))
    like = torch.empty(0) if like is None else like
    # Squares leave the range of half precision.
    wide = like.to(torch.promote_types(like.dtype, torch.float))
    count, origin = 0, None
    total = square = torch.zeros((), dtype=torch.double)
    step = max(1, _BLOCK_SIZE // max(x.size(1), 1))
    for start in range(0, x.size(0), step):
        block = x[start:start + step].to(wide.device, wide.dtype)
        if mask is not None:
            block = block[mask[start:start + step].to(like.device)]
        if block.size(0) == 0:
            continue
        if origin is None:  # Keeps squares small where means are large.
            origin = block.mean(dim=0)
        block = block - origin
        count += block.size(0)
        total = total + block.sum(dim=0).double().cpu()
        square = square + block.square().sum(dim=0).double().cpu()
    if count == 0 or origin is None:
        zero = like.new_zeros(x.size(1))
        return ColumnStatistics(zero, zero.clone())
    mean = total / count
    variance = (square / count - mean.square()).clamp(min=0.0)
    # What rounding alone makes of a constant column.
    rounding = 8 * torch.finfo(wide.dtype).eps * origin.double().cpu()
    floor = 1e-12 * square / count + rounding.square()
    scale = torch.where(variance > floor, variance, 1.0).rsqrt()
    scale = torch.where(variance > floor, scale, 0.0)
    mean = mean + origin.double().cpu()
    return ColumnStatistics(mean.to(like), scale.to(like))
