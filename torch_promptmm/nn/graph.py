r"""The user-item graph, normalised once."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.typing import Adj, SparseTensor

from torch_promptmm.checks import check_int

_INT32_MAX = 2**31 - 1


class CSRMatrix:
    r"""A sparse matrix in compressed rows, the form in which
    :class:`UserItemGraph` keeps each half of its adjacency.

    On a CPU, products in single precision are sums of bags
    (:func:`torch.nn.functional.embedding_bag`), whose kernel fetches rows
    ahead and takes a third of the time of a :obj:`torch.sparse` product.

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

    def __reduce__(self) -> tuple[Any, ...]:  # `tensor` cannot be copied.
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
                                           check_invariants=False)

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

    def apply(self, fn: Callable[[Tensor], Tensor]) -> CSRMatrix:
        return CSRMatrix(fn(self.crow), fn(self.col), fn(self.value),
                         self.shape[1])


def _sums_bags(x: Tensor) -> bool:
    r"""Whether sums of bags are the faster product."""
    return (x.device.type == 'cpu' and x.dtype == torch.float
            and torch.backends.cpu.get_cpu_capability().startswith('AVX'))


def _compress(row: Tensor, col: Tensor, value: Tensor, num_rows: int,
              num_cols: int) -> CSRMatrix:
    r"""Sorts an edge list by (row, column) into compressed rows."""
    perm = (row * num_cols + col).argsort(stable=True)
    dtype = torch.int32
    if max(row.numel(), num_rows, num_cols) > _INT32_MAX:
        dtype = torch.int64
    crow = torch.zeros(num_rows + 1, dtype=dtype, device=row.device)
    count = torch.bincount(row, minlength=num_rows)
    crow[1:] = count.cumsum(0)
    return CSRMatrix(crow, col[perm].to(dtype), value[perm], num_cols)


class UserItemGraph:
    r"""A user-item graph, normalised once, with all that propagation needs.

    The symmetrically normalised adjacency of LightGCN is

    .. math::
        \mathbf{A} = \begin{pmatrix} \mathbf{0} & \mathbf{R} \\
        \mathbf{R}^{\top} & \mathbf{0} \end{pmatrix}, \qquad
        R_{ui} = \frac{w_{ui}}{\sqrt{\deg(u)\deg(i)}}.

    :math:`\mathbf{R}` and :math:`\mathbf{R}^{\top}` are kept as two matrices
    in compressed rows, with 32-bit indices where they fit. Since
    :math:`\mathbf{A}` is its own transpose, the same two serve the forward
    and the backward pass: nothing is normalised or transposed in a training
    step. Build it once and pass it wherever a graph is taken.

    Args:
        edge_index (torch.Tensor or SparseTensor): The interactions:
            a :math:`(2, |\mathcal{E}|)` tensor (or
            :class:`~torch_geometric.EdgeIndex`) with users in row 0 and
            items in row 1, a :obj:`torch.sparse` matrix or a
            :class:`torch_sparse.SparseTensor` of shape
            :math:`(|\mathcal{U}|, |\mathcal{I}|)`. Values of the sparse
            forms are edge weights. Repeated edges count as often as they
            are there, as in PyG. Weights are constants: they get no
            gradient.
        num_users (int, optional): The number of users. Sparse matrices have
            it in their shape. (default: :obj:`None`)
        num_items (int, optional): The number of items.
            (default: :obj:`None`)
        edge_weight (torch.Tensor, optional): Non-negative weights
            :math:`(|\mathcal{E}|)` of a :math:`(2, |\mathcal{E}|)`
            :obj:`edge_index`. (default: :obj:`None`)
        dtype (torch.dtype, optional): The type of the normalised values,
            which are computed in double precision.
            (default: :meth:`torch.get_default_dtype`)

    Raises:
        TypeError: If :obj:`edge_index` is not an adjacency.
        ValueError: If its shape is not :math:`(2, |\mathcal{E}|)` or
            :math:`(|\mathcal{U}|, |\mathcal{I}|)`, an id is out of range, or
            a weight is negative or not finite.
    """
    def __init__(
        self,
        edge_index: Adj,
        num_users: int | None = None,
        num_items: int | None = None,
        edge_weight: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if num_users is not None:
            num_users = check_int('num_users', num_users, 1)
        if num_items is not None:
            num_items = check_int('num_items', num_items, 1)
        if isinstance(edge_index, EdgeIndex):
            sizes = edge_index.sparse_size()
            num_users = sizes[0] if num_users is None else num_users
            num_items = sizes[1] if num_items is None else num_items
        row, col, weight, size = _to_coo(edge_index, edge_weight)
        if size is not None:
            want = (num_users or size[0], num_items or size[1])
            if size != want:
                hint = ''
                if size == want[::-1]:
                    hint = ('. It looks transposed: rows are users, columns '
                            'are items')
                raise ValueError(f"'edge_index' must be of shape [num_users, "
                                 f"num_items] = {list(want)} (got "
                                 f"{list(size)}){hint}")
            num_users, num_items = size
        if num_users is None:
            num_users = int(row.max()) + 1 if row.numel() > 0 else 1
        if num_items is None:
            num_items = int(col.max()) + 1 if col.numel() > 0 else 1
        for name, index, limit in [('user', row, num_users),
                                   ('item', col, num_items)]:
            if index.numel() > 0:
                low, high = int(index.min()), int(index.max())
                if low < 0 or high >= limit:
                    raise ValueError(
                        f"'edge_index' has {name} id "
                        f"{low if low < 0 else high}, but 'num_{name}s' is "
                        f"{limit}. Users are in row 0, items in row 1")

        self.num_users, self.num_items = num_users, num_items
        if weight is None:
            weight = torch.ones(row.numel(), dtype=torch.double,
                                device=row.device)
        elif not bool((weight.isfinite() & (weight >= 0)).all()):
            raise ValueError(f'Edge weights must be finite and not negative '
                             f'(got values from {float(weight.min())} to '
                             f'{float(weight.max())})')
        degree_user = weight.new_zeros(num_users).index_add_(0, row, weight)
        degree_item = weight.new_zeros(num_items).index_add_(0, col, weight)
        norm_user, norm_item = [
            torch.where(degree > 0, degree, 1).rsqrt() * (degree > 0)
            for degree in (degree_user, degree_item)
        ]
        value = norm_user[row] * weight * norm_item[col]
        value = value.to(dtype or torch.get_default_dtype())
        self.user_item = _compress(row, col, value, num_users, num_items)
        self.item_user = _compress(col, row, value, num_items, num_users)

    @property
    def num_edges(self) -> int:
        return self.user_item.nnz

    @property
    def device(self) -> torch.device:
        return self.user_item.value.device

    @property
    def dtype(self) -> torch.dtype:
        return self.user_item.value.dtype

    @property
    def edge_index(self) -> Tensor:
        r"""The interactions :math:`(2, |\mathcal{E}|)`, sorted by user and
        item."""
        degree = self.user_item.crow.diff().long()
        user = torch.arange(self.num_users, device=self.device)
        return torch.stack([
            user.repeat_interleave(degree),
            self.user_item.col.long(),
        ])

    def to(
        self,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> UserItemGraph:
        r"""Returns the graph on :obj:`device` and with values of type
        :obj:`dtype`; itself if nothing changes."""
        device = self.device if device is None else torch.device(device)
        dtype = dtype or self.dtype
        same = device.type == self.device.type and device.index in (
            None, self.device.index)
        if same and dtype == self.dtype:
            return self
        out = object.__new__(type(self))
        out.num_users, out.num_items = self.num_users, self.num_items
        out.user_item = self.user_item.to(device, dtype)
        out.item_user = self.item_user.to(device, dtype)
        return out

    def apply(self, fn: Callable[[Tensor], Tensor]) -> UserItemGraph:
        r"""Returns the graph with :obj:`fn` applied to each of its
        tensors."""
        out = copy.copy(self)
        out.user_item = self.user_item.apply(fn)
        out.item_user = self.item_user.apply(fn)
        return out

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}(num_users={self.num_users}, '
                f'num_items={self.num_items}, num_edges={self.num_edges})')


def _to_coo(
    adj: Any,
    weight: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None, tuple[int, int] | None]:
    r"""Returns users, items, weights and, for matrices, the shape."""
    is_sparse = isinstance(adj, SparseTensor) or (
        isinstance(adj, Tensor) and adj.layout != torch.strided)
    if is_sparse and weight is not None:
        raise ValueError("'edge_weight' is for a [2, num_edges] 'edge_index'; "
                         "the values of a sparse matrix are its weights")
    if isinstance(adj, SparseTensor):
        row, col, value = adj.coo()
        size = (adj.size(0), adj.size(1))
        return row, col, _constant(value), size
    if not isinstance(adj, Tensor):
        raise TypeError(
            f"'edge_index' must be a [2, num_edges] tensor, an EdgeIndex, a "
            f"torch.sparse or torch_sparse matrix of shape [num_users, "
            f"num_items], or a UserItemGraph (got '{type(adj).__name__}')")
    if is_sparse:
        if adj.dim() != 2:
            raise ValueError(f"'edge_index' must be of shape [num_users, "
                             f"num_items] (got {list(adj.shape)})")
        coo = adj.detach()
        if adj.layout != torch.sparse_coo:
            coo = coo.to_sparse_coo()
            indices = coo._indices()  # Keeps repeated entries of a CSR.
            value = coo._values()
        else:
            coo = coo.coalesce()
            indices, value = coo.indices(), coo.values()
        return indices[0], indices[1], _constant(value), (adj.size(0),
                                                          adj.size(1))
    adj = adj.as_subclass(Tensor)
    if adj.dim() != 2 or adj.size(0) != 2:
        raise ValueError(f"'edge_index' must be of shape [2, num_edges] (got "
                         f"{list(adj.shape)})")
    if adj.is_floating_point() or adj.is_complex() or adj.dtype == torch.bool:
        raise TypeError(f"'edge_index' must hold integers (got {adj.dtype})")
    if weight is not None and weight.shape != adj.shape[1:]:
        raise ValueError(f"'edge_weight' must be of shape [{adj.size(1)}] "
                         f"(got {list(weight.shape)})")
    adj = adj.long()
    return adj[0], adj[1], _constant(weight), None


def _constant(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.detach().double()


def as_graph(
    graph: Adj | UserItemGraph,
    num_users: int,
    num_items: int,
    device: Any = None,
    dtype: torch.dtype | None = None,
) -> UserItemGraph:
    r"""Returns any form of a user-item adjacency as a
    :class:`UserItemGraph`, on :obj:`device`.

    Raises:
        ValueError: If its sizes are not :obj:`num_users` and
            :obj:`num_items`.
    """
    if not isinstance(graph, UserItemGraph):
        graph = UserItemGraph(graph, num_users, num_items, dtype=dtype)
    elif (graph.num_users, graph.num_items) != (num_users, num_items):
        raise ValueError(f"'graph' must have {num_users} users and "
                         f"{num_items} items (got {graph})")
    return graph.to(device, dtype)
