r"""Means and deviations of the columns of raw features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torch_promptmm.checks import check_mask, check_matrix
from torch_promptmm.nn.feature_matmul import row_slices


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
    for rows in row_slices(x):
        block = x[rows].to(wide.device, wide.dtype)
        if mask is not None:
            block = block[mask[rows].to(like.device)]
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
