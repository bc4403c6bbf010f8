r"""The map that makes the columns of raw features uncorrelated."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_promptmm.checks import check_float
from torch_promptmm.nn.column_statistics import ColumnStatistics
from torch_promptmm.nn.dense import matmul
from torch_promptmm.nn.feature_matmul import row_slices
from torch_promptmm.nn.functional import masked_rows


def whitening_matrix(x: Tensor, mask: Tensor | None,
                     statistics: ColumnStatistics,
                     shrinkage: float = 0.1) -> Tensor:
    r"""Computes a matrix that whitens standardised features,

    .. math::
        \mathbf{W} \mathbf{W}^{\top} = \big( (1 - \rho) \, \mathbf{C} + \rho
        \, \mathbf{I} \big)^{-1}, \qquad \mathbf{C} = \frac{1}{n} \sum_i
        \mathbf{z}_i \mathbf{z}_i^{\top}, \quad \mathbf{z}_i = \mathbf{D}
        (\mathbf{x}_i - \mu).

    All such matrices, that of ZCA and of PCA too, differ by a rotation of
    the new columns, which no product of two rows sees; this one is the
    transposed inverse of a Cholesky factor, in :math:`O(d_m^3)`. Without the
    shrinkage, columns that hardly vary would say as much as those that do.
    The features are read in blocks of rows, once, and nothing but matrices
    of :math:`d_m \times d_m` is kept.

    Args:
        x (torch.Tensor): The features :math:`(n, d_m)`.
        mask (torch.Tensor, optional): True for the rows that count
            :math:`(n)`.
        statistics (ColumnStatistics): :math:`\mu` and :math:`\mathbf{D}`,
            which say where and in which type to compute.
        shrinkage (float, optional): :math:`\rho`, above 0 and no more than
            1. (default: :obj:`0.1`)

    Returns:
        :math:`\mathbf{W}` :math:`(d_m, d_m)`.
    """
    shrinkage = check_float('shrinkage', shrinkage, exclusive=True)
    if shrinkage > 1.0:
        raise ValueError(f"'shrinkage' must be at most 1 (got {shrinkage})")
    like = statistics.mean
    total = like.new_zeros(x.size(1), x.size(1), dtype=torch.double)
    for rows in row_slices(x):
        block = x[rows].to(like.device, like.dtype)
        block = (block - statistics.mean).mul_(statistics.scale)
        block = masked_rows(block, None if mask is None else mask[rows])
        total += matmul(block.t(), block)
    count = x.size(0) if mask is None else int(mask.sum())
    total *= (1.0 - shrinkage) / max(count, 1)
    total.diagonal().add_(shrinkage)
    factor = torch.linalg.cholesky(total)
    eye = torch.eye(x.size(1), dtype=total.dtype, device=total.device)
    inverse = torch.linalg.solve_triangular(factor, eye, upper=False)
    return inverse.t().to(like.dtype).contiguous()
