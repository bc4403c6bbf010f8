r"""Products with raw features, which stay where they are.

Features may be wide, in half precision, on another device or mapped from a
file. They are held by reference, and read in blocks of rows that are cast
and moved one by one, forward and backward.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from torch_promptmm.nn.dense import matmul

_BLOCK_SIZE = 2**22  # Elements of a block: 16 MiB in single precision.


def row_slices(x: Tensor) -> Iterator[slice]:
    r"""Yields slices that cover the rows of :obj:`x`, each of a block's
    size."""
    step = max(1, _BLOCK_SIZE // max(x.size(1), 1))
    for start in range(0, x.size(0), step):
        yield slice(start, start + step)


def row_blocks(x: Tensor, like: Tensor,
               dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    r"""Yields slices and the rows of :obj:`x` in them, in the given type and
    on the device of :obj:`like`. Where nothing has to be converted, one slice
    holds all rows."""
    if x.dtype == dtype and x.device == like.device:
        yield slice(0, x.size(0)), x
        return
    for rows in row_slices(x):
        yield rows, x[rows].to(like.device, dtype)


def _product_type(x: Tensor, like: Tensor) -> torch.dtype:
    r"""The type in which features are multiplied: the parameters' type, or
    the features' own where that is the one that autocast asks for."""
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


class _FeaturesMatMul(torch.autograd.Function):
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
        return None, _FeaturesTMatMul.apply(ctx.x, grad, ctx.dtype).t(), None


class _FeaturesTMatMul(torch.autograd.Function):
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
        return None, _FeaturesMatMul.apply(ctx.x, grad.t(), ctx.dtype), None


def features_matmul(x: Tensor, weight: Tensor) -> Tensor:
    r"""Returns :math:`\mathbf{X} \mathbf{W}` :math:`(n, d)` for features
    :math:`(n, d_m)` and weights :math:`(d_m, d)`.

    Under :class:`torch.autocast`, features that are kept in its type are
    multiplied in it; all others in that of the weights, block by block.
    """
    if x.requires_grad:
        return matmul(x.to(weight.device, weight.dtype), weight)
    return _FeaturesMatMul.apply(x, weight, _product_type(x, weight))


def features_t_matmul(x: Tensor, y: Tensor) -> Tensor:
    r"""Returns :math:`\mathbf{Y}^{\top} \mathbf{X}` :math:`(d, d_m)` for
    features :math:`(n, d_m)` and a matrix :math:`(n, d)`, in the type that
    :meth:`features_matmul` takes."""
    if x.requires_grad:
        return matmul(y.t(), x.to(y.device, y.dtype))
    return _FeaturesTMatMul.apply(x, y, _product_type(x, y))
