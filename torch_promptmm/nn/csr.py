r"""Sparse matrices in compressed rows."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

_INT32_MAX = 2**31 - 1
# Asked once: `torch.export` and `torch.compile` cannot trace the question.
_HAS_AVX = torch.backends.cpu.get_cpu_capability().startswith('AVX')

# Before torch 2.7 there is no such question.
is_exporting = getattr(torch.compiler, 'is_exporting', lambda: False)


class CSRMatrix:
    r"""A sparse matrix in compressed rows, the form in which
    :class:`UserItemGraph` keeps each half of its adjacency.

    On a CPU, products in single precision are sums of bags
    (:func:`torch.nn.functional.embedding_bag`), whose kernel fetches rows
    ahead and takes a third of the time of a :obj:`torch.sparse` product.

    It is a node of :obj:`torch.utils._pytree`, whose leaves are its tensors.

    Args:
        crow (torch.Tensor): Row pointers :math:`(n + 1)`.
        col (torch.Tensor): Column indices :math:`(nnz)`.
        value (torch.Tensor): Values :math:`(nnz)`.
        num_cols (int): The number of columns.
    """
    def __init__(self, crow: Tensor, col: Tensor, value: Tensor,
                 num_cols: int) -> None:
        self.crow, self.col, self.value = crow, col, value
        self.shape = (crow.numel() - 1, num_cols)

    def __reduce__(self) -> tuple[Any, ...]:  # Not what is kept beside.
        return type(self), (self.crow, self.col, self.value, self.shape[1])

    @property
    def nnz(self) -> int:
        return self.col.numel()

    @cached_property
    def tensor(self) -> Tensor:
        r"""The matrix as a :obj:`torch.sparse` CSR tensor."""
        with warnings.catch_warnings():  # "CSR support is in beta state"
            warnings.simplefilter('ignore', UserWarning)
            return torch.sparse_csr_tensor(self.crow, self.col, self.value,
                                           size=self.shape,
                                           device=self.value.device,
                                           check_invariants=False)

    def edge_means(self) -> CSRMatrix:
        r"""Returns the matrix of means over each row's edges, whatever their
        weights above zero."""
        value = (self.value > 0).to(self.value.dtype)
        degree = self.crow.diff()
        row = degree.clamp(min=1).to(value.dtype).reciprocal()
        row = row.repeat_interleave(degree, output_size=value.numel())
        return CSRMatrix(self.crow, self.col, value * row, self.shape[1])

    @cached_property
    def row(self) -> Tensor:
        r"""The row of each non-zero :math:`(nnz)`."""
        return torch.repeat_interleave(
            torch.arange(self.shape[0], device=self.crow.device),
            self.crow.diff().long(), output_size=self.nnz)

    @cached_property
    def order(self) -> Tensor:
        r"""The non-zeros in the order in which :attr:`t` has them
        :math:`(nnz)`."""
        return self.col.argsort(stable=True)

    @cached_property
    def t(self) -> CSRMatrix:
        r"""The transpose. It is computed once, and kept."""
        return compress_sorted(self.col.index_select(0, self.order),
                               self.row.index_select(0, self.order),
                               self.value.index_select(0, self.order),
                               *self.shape[::-1])

    def with_value(self, value: Tensor) -> CSRMatrix:
        r"""Returns the matrix with other values."""
        return CSRMatrix(self.crow, self.col, value, self.shape[1])

    def matmul(self, x: Tensor, add: Tensor | None = None,
               beta: float = 1.0) -> Tensor:
        r"""Returns :math:`M x + \beta \, add`, without a gradient."""
        if not _sums_bags(x):
            if add is None:
                add = x.new_zeros(()).expand(self.shape[0], x.size(1))
                beta = 0.0
            return torch.addmm(add, self.tensor, x, beta=beta)
        out = torch.nn.functional.embedding_bag(
            self.col, x.detach(), self.crow, mode='sum',
            per_sample_weights=self.value, include_last_offset=True)
        return out if add is None else out.add_(add, alpha=beta)

    def select_rows(self, row: Tensor) -> CSRMatrix:
        r"""Returns the matrix of the given rows, in their order."""
        start = self.crow.index_select(0, row)
        count = self.crow.index_select(0, row + 1) - start
        crow = count.new_zeros(row.numel() + 1)
        torch.cumsum(count, dim=0, out=crow[1:])
        # Entry j is at j plus an offset, which changes where a row begins.
        offset = start - crow[:-1]
        step = crow.new_ones(int(crow[-1]) + 1)
        step[0] = 0
        step.index_add_(0, crow[:-1],
                        offset.diff(prepend=offset.new_zeros(1)))
        index = step.cumsum(0, dtype=step.dtype)[:-1]
        return CSRMatrix(crow, self.col.index_select(0, index),
                         self.value.index_select(0, index), self.shape[1])

    def rename_cols(self, name: Tensor, num_cols: int) -> CSRMatrix:
        r"""Returns the matrix with column :math:`j` called :obj:`name[j]`;
        columns of one name are added up."""
        return CSRMatrix(self.crow, name.index_select(0, self.col),
                         self.value, num_cols)

    def to(self, device: Any, dtype: torch.dtype) -> CSRMatrix:
        return CSRMatrix(self.crow.to(device), self.col.to(device),
                         self.value.to(device, dtype), self.shape[1])


def _sums_bags(x: Tensor) -> bool:
    r"""Whether sums of bags are the faster product, or the only one that
    can be exported."""
    return is_exporting() or (x.device.type == 'cpu' and
                              x.dtype == torch.float and _HAS_AVX)


def compress(row: Tensor, col: Tensor, value: Tensor, num_rows: int,
              num_cols: int) -> CSRMatrix:
    r"""Sorts an edge list by (row, column) into compressed rows."""
    perm = (row * num_cols + col).argsort(stable=True)
    return compress_sorted(row[perm], col[perm], value[perm], num_rows,
                           num_cols)


def compress_sorted(row: Tensor, col: Tensor, value: Tensor, num_rows: int,
                    num_cols: int) -> CSRMatrix:
    r"""Turns an edge list that is sorted by row into compressed rows."""
    dtype = torch.int32
    if max(row.numel(), num_rows, num_cols) > _INT32_MAX:
        dtype = torch.int64
    crow = torch.zeros(num_rows + 1, dtype=dtype, device=row.device)
    count = torch.bincount(row, minlength=num_rows)
    crow[1:] = count.cumsum(0)
    return CSRMatrix(crow, col.to(dtype), value, num_cols)


_LEAVES = ('crow', 'col', 'value')


def _unflatten(leaves: Any, shape: tuple[int, int]) -> CSRMatrix:
    out = object.__new__(CSRMatrix)  # The leaves need not be tensors.
    out.crow, out.col, out.value = leaves
    out.shape = shape
    return out


pytree.register_pytree_node(
    CSRMatrix,
    lambda x: ([getattr(x, name) for name in _LEAVES], x.shape),
    _unflatten,
    serialized_type_name='torch_promptmm.nn.csr.CSRMatrix',
    to_dumpable_context=list,
    from_dumpable_context=tuple,
    flatten_with_keys_fn=lambda x: (
        [(pytree.GetAttrKey(name), getattr(x, name)) for name in _LEAVES],
        x.shape),
)
