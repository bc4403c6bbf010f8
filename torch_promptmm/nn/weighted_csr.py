r"""Products with a sparse matrix whose values have gradients.

The places of the non-zeros are those of a
:class:`~torch_promptmm.nn.csr.CSRMatrix`, whose own values are not looked at:
the values are a vector beside it, one for each non-zero, in its order. They
keep that order in products with the transpose, so that both directions of a
graph can have values of their own.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch_geometric.utils import softmax

from torch_promptmm.checks import check_choice
from torch_promptmm.nn.csr import CSRMatrix

_HALF = (torch.half, torch.bfloat16)


def spmm(matrix: CSRMatrix, value: Tensor, x: Tensor,
         transpose: bool = False) -> Tensor:
    r"""Returns :math:`\mathbf{A} \mathbf{x}`, or
    :math:`\mathbf{A}^{\top} \mathbf{x}`, with gradients for the values of
    :math:`\mathbf{A}` and for :math:`\mathbf{x}`, of any order.

    The gradient of the values is :func:`sddmm`, so that nothing of the size
    of :obj:`nnz` rows comes to be. (The backward pass of a
    :obj:`torch.sparse` product takes a hundred times as long, and has no
    answer where a matrix holds an entry twice.)

    Args:
        matrix (CSRMatrix): The places of the non-zeros :math:`(n, m)`.
        value (torch.Tensor): Their values :math:`(nnz)`.
        x (torch.Tensor): Rows :math:`(m, d)`; :math:`(n, d)` where
            transposed. They are taken in the type of the values.
        transpose (bool, optional): If :obj:`True`, multiplies by the
            transpose. (default: :obj:`False`)
    """
    _check_value('value', matrix, value)
    _check_rows('x', x, matrix.shape[0 if transpose else 1])
    with _no_autocast(x):
        return _SpMM.apply(matrix, value, x.to(value.dtype), transpose)


def sddmm(matrix: CSRMatrix, left: Tensor, right: Tensor) -> Tensor:
    r"""Returns the dot product of two rows for each non-zero,
    :math:`\langle \mathbf{a}_i, \mathbf{b}_j \rangle`, in the order of the
    matrix :math:`(nnz)`, with gradients of any order.

    Args:
        matrix (CSRMatrix): The places of the non-zeros :math:`(n, m)`.
        left (torch.Tensor): :math:`\mathbf{a}` :math:`(n, d)`.
        right (torch.Tensor): :math:`\mathbf{b}` :math:`(m, d)`. Half
            precision is computed in single precision.
    """
    _check_rows('left', left, matrix.shape[0])
    _check_rows('right', right, matrix.shape[1])
    if left.size(1) != right.size(1):
        raise ValueError(f"'left' and 'right' must be of one width (got "
                         f"{left.size(1)} and {right.size(1)})")
    dtype = torch.promote_types(left.dtype, right.dtype)
    dtype = torch.float if dtype in _HALF else dtype
    with _no_autocast(left):
        return _SDDMM.apply(matrix, left.to(dtype), right.to(dtype))


def edge_softmax(matrix: CSRMatrix, score: Tensor, dim: int = 1) -> Tensor:
    r"""Returns the softmax of scores over the non-zeros of each row
    (:obj:`dim=1`), or of each column (:obj:`dim=0`).

    Args:
        matrix (CSRMatrix): The places of the non-zeros :math:`(n, m)`.
        score (torch.Tensor): The scores :math:`(nnz)`.
        dim (int, optional): What is added up to one. (default: :obj:`1`)
    """
    _check_value('score', matrix, score)
    if check_choice('dim', dim, (0, 1)) == 1:
        return softmax(score, ptr=matrix.crow)
    return softmax(score, matrix.col.long(), num_nodes=matrix.shape[1])


def sum_edges(matrix: CSRMatrix, value: Tensor, dim: int = 1) -> Tensor:
    r"""Returns the sum of the values in each row :math:`(n)`
    (:obj:`dim=1`), or in each column :math:`(m)` (:obj:`dim=0`)."""
    check_choice('dim', dim, (0, 1))
    one = value.new_ones(matrix.shape[dim], 1)
    return spmm(matrix, value, one, transpose=dim == 0).view(-1)


def scale_edges(matrix: CSRMatrix, value: Tensor, row: Tensor | None = None,
                col: Tensor | None = None) -> Tensor:
    r"""Returns the values :math:`a_{ij} r_i c_j`.

    Args:
        matrix (CSRMatrix): The places of the non-zeros :math:`(n, m)`.
        value (torch.Tensor): :math:`a` :math:`(nnz)`.
        row (torch.Tensor, optional): :math:`r` :math:`(n)`.
            (default: ones)
        col (torch.Tensor, optional): :math:`c` :math:`(m)`.
            (default: ones)
    """
    _check_value('value', matrix, value)
    if row is not None:
        value = value * row.index_select(0, matrix.row)
    return value if col is None else value * col.index_select(0, matrix.col)


def normalize_edges(matrix: CSRMatrix, value: Tensor,
                    method: str = 'sym') -> Tensor:
    r"""Returns the values of a normalised matrix, with gradients through
    the degrees, which are vectors.

    A row or column whose sum is not positive gets zeros: the sum of values
    that may be negative, such as cosines, has no root.

    Args:
        matrix (CSRMatrix): The places of the non-zeros :math:`(n, m)`.
        value (torch.Tensor): :math:`a` :math:`(nnz)`.
        method (str, optional): With the sums :math:`r_i` of the rows and
            :math:`c_j` of the columns, :obj:`"sym"` is :math:`a_{ij} /
            \sqrt{r_i c_j}`; :obj:`"rows"` takes :math:`r_j` for
            :math:`c_j`, in a square matrix; :obj:`"mean"` is
            :math:`a_{ij} / r_i`. (default: :obj:`"sym"`)
    """
    check_choice('method', method, ('sym', 'rows', 'mean'))
    rows = sum_edges(matrix, value)
    if method == 'mean':
        return scale_edges(matrix, value, _power(rows, -1.0))
    if method == 'sym':
        cols = sum_edges(matrix, value, dim=0)
    elif matrix.shape[0] == matrix.shape[1]:
        cols = rows
    else:
        raise ValueError(f"'method' must be 'sym' or 'mean' where the matrix "
                         f"is not square (got 'rows' and shape "
                         f"{list(matrix.shape)})")
    return scale_edges(matrix, value, _power(rows, -0.5), _power(cols, -0.5))


class _SpMM(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: CSRMatrix, value: Tensor, x: Tensor,
                transpose: bool) -> Tensor:
        ctx.matrix, ctx.transpose = matrix, transpose
        ctx.save_for_backward(value, x)
        if transpose:
            matrix, value = matrix.t, value.index_select(0, matrix.order)
        return matrix.with_value(value).matmul(x.contiguous())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, x = ctx.saved_tensors
        rows = (x, grad) if ctx.transpose else (grad, x)
        return (
            None,
            sddmm(ctx.matrix, *rows) if ctx.needs_input_grad[1] else None,
            spmm(ctx.matrix, value, grad, not ctx.transpose)
            if ctx.needs_input_grad[2] else None,
            None,
        )


class _SDDMM(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: CSRMatrix, left: Tensor,
                right: Tensor) -> Tensor:
        ctx.matrix = matrix
        ctx.save_for_backward(left, right)
        if matrix.nnz > matrix.shape[0] * matrix.shape[1]:
            # Some are there twice, and torch's kernel has room for as many
            # as there are places.
            return (left.index_select(0, matrix.row) *
                    right.index_select(0, matrix.col)).sum(dim=1)
        # The values are added, times zero: they must be finite.
        zeros = matrix.with_value(left.new_zeros(matrix.nnz))
        return torch.sparse.sampled_addmm(
            zeros.tensor, left.contiguous(), right.contiguous().t(),
            beta=0.0).values()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        left, right = ctx.saved_tensors
        return (
            None,
            spmm(ctx.matrix, grad, right) if ctx.needs_input_grad[1] else None,
            spmm(ctx.matrix, grad, left, transpose=True)
            if ctx.needs_input_grad[2] else None,
        )


def _power(degree: Tensor, exponent: float) -> Tensor:
    positive = degree > 0
    return torch.where(positive, torch.where(positive, degree, 1)**exponent,
                       0.0)


def _no_autocast(x: Tensor) -> Any:
    r"""Sparse products are not there in every type that autocast may
    choose."""
    kind = x.device.type
    return (torch.autocast(kind, enabled=False)
            if torch.is_autocast_enabled(kind) else nullcontext())


def _check_value(name: str, matrix: CSRMatrix, value: Tensor) -> None:
    if value.dim() != 1 or value.numel() != matrix.nnz:
        raise ValueError(f"'{name}' must have one number for each of the "
                         f"{matrix.nnz} non-zeros (got shape "
                         f"{list(value.shape)})")


def _check_rows(name: str, x: Tensor, num_rows: int) -> None:
    if x.dim() != 2 or x.size(0) != num_rows:
        raise ValueError(f"'{name}' must be of shape [{num_rows}, channels] "
                         f"(got {list(x.shape)})")
