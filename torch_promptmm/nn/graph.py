r"""The user-item graph, normalised once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch_geometric import EdgeIndex
from torch_geometric.data import HeteroData
from torch_geometric.typing import Adj

from torch_promptmm.adjacency import is_sparse, sparse_to_coo
from torch_promptmm.checks import check_int, check_range
from torch_promptmm.nn.batch import look_up, node_ids, sampled_edges
from torch_promptmm.nn.csr import CSRMatrix, compress


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

    It is a node of :obj:`torch.utils._pytree`, and so an argument that
    :func:`torch.export.export` takes. The graph of a batch is made by
    :meth:`from_batch`.

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

    Attributes:
        num_users (int): The number of users.
        num_items (int): The number of items.
        user_n_id (torch.Tensor, optional): In the graph of a batch, which of
            all users its users are :math:`(|\mathcal{U}|)`; else
            :obj:`None`.
        item_n_id (torch.Tensor, optional): The same for items.
        full_size (tuple): The number of all users and all items.

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
            edge_index = edge_index.as_tensor()
        index, weight, size = _to_coo(edge_index, edge_weight)
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
        row, col = index
        hint = '. Users are in row 0, items in row 1'
        last_user = check_range('edge_index', row, num_users, 'user',
                                hint=hint)
        last_item = check_range('edge_index', col, num_items, 'item',
                                hint=hint)
        num_users = num_users or max(last_user + 1, 1)
        num_items = num_items or max(last_item + 1, 1)

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
        self._set(compress(row, col, value, num_users, num_items),
                  compress(col, row, value, num_items, num_users))

    def _set(
        self,
        user_item: CSRMatrix,
        item_user: CSRMatrix,
        user_n_id: Tensor | None = None,
        item_n_id: Tensor | None = None,
        full_size: tuple[int, int] | None = None,
    ) -> UserItemGraph:
        self.user_item, self.item_user = user_item, item_user
        self.num_users, self.num_items = user_item.shape
        self.user_n_id, self.item_n_id = user_n_id, item_n_id
        self.full_size = full_size or user_item.shape
        return self

    @classmethod
    def from_batch(
        cls,
        batch: HeteroData,
        graph: UserItemGraph,
        edge_type: tuple[str, str, str] = ('user', 'interacts', 'item'),
    ) -> UserItemGraph:
        r"""Returns the graph of a batch of a
        :class:`~torch_geometric.loader.NeighborLoader` or
        :class:`~torch_geometric.loader.LinkNeighborLoader`.

        It has the batch's nodes, in the batch's order, and the interactions
        that were sampled in either direction. Each has the value that it has
        in :obj:`graph`, normalised by the degrees there: where all
        neighbours were sampled, as far away as the model looks, embeddings
        are those of the full graph. Where fewer were, sums are smaller, not
        estimates of the full ones.

        Args:
            batch (HeteroData): The batch, with :obj:`n_id` of users and
                items and the edges of :obj:`edge_type`, of its reverse
                :obj:`("item", "rev_interacts", "user")`, or of both, as
                :obj:`edge_index` or :obj:`adj_t`.
            graph (UserItemGraph): The full graph that was sampled from.
            edge_type (tuple, optional): The edge type of the interactions.
                (default: :obj:`("user", "interacts", "item")`)

        Raises:
            ValueError: If the batch has no :obj:`n_id`, or interactions that
                :obj:`graph` does not have.
        """
        if graph.is_batch:
            raise ValueError(f"'graph' must be the full graph that 'batch' "
                             f"was sampled from (got {graph})")
        n_ids = node_ids(batch, edge_type, graph.full_size)
        user_n_id, item_n_id = (n_id.to(graph.device) for n_id in n_ids)
        num_users, num_items = user_n_id.numel(), item_n_id.numel()
        index = sampled_edges(batch, edge_type, (num_users, num_items))
        (user, item), value = look_up(graph.user_item, user_n_id, item_n_id,
                                      index.to(graph.device))
        return object.__new__(cls)._set(
            compress(user, item, value, num_users, num_items),
            compress(item, user, value, num_items, num_users),
            user_n_id, item_n_id, graph.full_size)

    @property
    def is_batch(self) -> bool:
        r"""Whether it is the graph of a batch, see :meth:`from_batch`."""
        return self.user_n_id is not None

    def gather(self, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns the rows of this graph's users and items of tables
        :math:`(|\mathcal{U}|, *)` and :math:`(|\mathcal{I}|, *)` of *all*
        users and items: the tables themselves, unless this is the graph of a
        batch."""
        if (user.size(0), item.size(0)) != self.full_size:
            raise ValueError(f"'user' and 'item' must have the "
                             f"{list(self.full_size)} rows of all users and "
                             f"items (got {[user.size(0), item.size(0)]})")
        if self.user_n_id is None or self.item_n_id is None:
            return user, item
        return (user.index_select(0, self.user_n_id),
                item.index_select(0, self.item_n_id))

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
        user_n_id, item_n_id = (
            None if n_id is None else n_id.to(device)
            for n_id in (self.user_n_id, self.item_n_id))
        return object.__new__(type(self))._set(
            self.user_item.to(device, dtype), self.item_user.to(device, dtype),
            user_n_id, item_n_id, self.full_size)

    def __repr__(self) -> str:
        of = f', full_size={self.full_size}' if self.is_batch else ''
        return (f'{self.__class__.__name__}(num_users={self.num_users}, '
                f'num_items={self.num_items}, num_edges={self.num_edges}{of})')


def _to_coo(
    adj: Any,
    weight: Tensor | None,
) -> tuple[Tensor, Tensor | None, tuple[int, int] | None]:
    r"""Returns users and items, weights and, for matrices, the shape."""
    if is_sparse(adj):
        if weight is not None:
            raise ValueError("'edge_weight' is for a [2, num_edges] "
                             "'edge_index'; the values of a sparse matrix "
                             "are its weights")
        index, value, size = sparse_to_coo('edge_index', adj)
        return index, _constant(value), size
    if not isinstance(adj, Tensor):
        raise TypeError(
            f"'edge_index' must be a [2, num_edges] tensor, an EdgeIndex, a "
            f"torch.sparse or torch_sparse matrix of shape [num_users, "
            f"num_items], or a UserItemGraph (got '{type(adj).__name__}')")
    if adj.dim() != 2 or adj.size(0) != 2:
        raise ValueError(f"'edge_index' must be of shape [2, num_edges] (got "
                         f"{list(adj.shape)})")
    if adj.is_floating_point() or adj.is_complex() or adj.dtype == torch.bool:
        raise TypeError(f"'edge_index' must hold integers (got {adj.dtype})")
    if weight is not None and weight.shape != adj.shape[1:]:
        raise ValueError(f"'edge_weight' must be of shape [{adj.size(1)}] "
                         f"(got {list(weight.shape)})")
    return adj.long(), _constant(weight), None


def _constant(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.detach().double()


def as_graph(
    graph: Adj | UserItemGraph,
    num_users: int,
    num_items: int,
    device: Any = None,
    dtype: torch.dtype | None = None,
    batch: bool = False,
) -> UserItemGraph:
    r"""Returns any form of a user-item adjacency as a
    :class:`UserItemGraph`, on :obj:`device`.

    Args:
        graph (torch.Tensor or SparseTensor or UserItemGraph): The adjacency.
        num_users (int): The number of users.
        num_items (int): The number of items.
        device (torch.device, optional): Where to. (default: stays)
        dtype (torch.dtype, optional): The type of the values.
            (default: stays)
        batch (bool, optional): If :obj:`True`, the graph may be one of a
            batch. Its sizes are not looked at here: of tables of all users
            and items, take :meth:`UserItemGraph.gather`'s rows.
            (default: :obj:`False`)

    Raises:
        ValueError: If its sizes are not :obj:`num_users` and
            :obj:`num_items`.
    """
    if not isinstance(graph, UserItemGraph):
        graph = UserItemGraph(graph, num_users, num_items, dtype=dtype)
    elif graph.is_batch:
        if not batch:
            raise ValueError(f"'graph' must be the full graph, not that of a "
                             f"batch (got {graph})")
    elif (graph.num_users, graph.num_items) != (num_users, num_items):
        raise ValueError(f"'graph' must have {num_users} users and "
                         f"{num_items} items (got {graph})")
    return graph.to(device, dtype)


_CHILDREN = ('user_item', 'item_user', 'user_n_id', 'item_n_id')


def _context(graph: UserItemGraph) -> tuple[int, ...]:
    return (graph.num_users, graph.num_items, *graph.full_size)


def _unflatten(children: Any, context: tuple[int, ...]) -> UserItemGraph:
    out = object.__new__(UserItemGraph)  # The leaves need not be tensors.
    for name, child in zip(_CHILDREN, children, strict=True):
        setattr(out, name, child)
    out.num_users, out.num_items = context[:2]
    out.full_size = (context[2], context[3])
    return out


pytree.register_pytree_node(
    UserItemGraph,
    lambda x: ([getattr(x, name) for name in _CHILDREN], _context(x)),
    _unflatten,
    serialized_type_name='torch_promptmm.nn.graph.UserItemGraph',
    to_dumpable_context=list,
    from_dumpable_context=tuple,
    flatten_with_keys_fn=lambda x: (
        [(pytree.GetAttrKey(name), getattr(x, name)) for name in _CHILDREN],
        _context(x)),
)
# Exported programs hold their example inputs.
torch.serialization.add_safe_globals([CSRMatrix, UserItemGraph])
