"""One small graph in every form that PyG knows."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from torch_promptmm.nn import UserItemGraph

NUM_USERS, NUM_ITEMS = 7, 11
HAS_TORCH_SPARSE = importlib.util.find_spec('torch_sparse') is not None


def random_edges(seed: int = 1, num_edges: int = 24,
                 duplicates: bool = False) -> Tensor:
    """User 3 and items 0 and 10 stay without an edge."""
    generator = torch.Generator().manual_seed(seed)
    users = torch.tensor([0, 1, 2, 4, 5, 6])
    pairs = torch.cartesian_prod(users, torch.arange(1, NUM_ITEMS - 1))
    perm = torch.randperm(len(pairs), generator=generator)[:num_edges]
    out = pairs[perm].t().contiguous()
    return torch.cat([out, out[:, :5]], dim=1) if duplicates else out


def square(edge_index: Tensor) -> Tensor:
    """The homogeneous graph, both directions, that PyG's models want."""
    user, item = edge_index[0], edge_index[1] + NUM_USERS
    return torch.cat([torch.stack([user, item]), torch.stack([item, user])], 1)


def to_csr(edge_index: Tensor, weight: Tensor | None = None) -> Tensor:
    return to_coo(edge_index, weight).to_sparse_csr()


def to_coo(edge_index: Tensor, weight: Tensor | None = None) -> Tensor:
    if weight is None:
        weight = torch.ones(edge_index.size(1))
    return torch.sparse_coo_tensor(edge_index, weight,
                                   (NUM_USERS, NUM_ITEMS))


def to_edge_index(edge_index: Tensor) -> Any:
    from torch_geometric import EdgeIndex
    return EdgeIndex(edge_index, sparse_size=(NUM_USERS, NUM_ITEMS))


def to_sparse_tensor(edge_index: Tensor, weight: Tensor | None = None) -> Any:
    if not HAS_TORCH_SPARSE:
        pytest.skip('torch_sparse is not installed')
    from torch_sparse import SparseTensor
    return SparseTensor(row=edge_index[0], col=edge_index[1], value=weight,
                        sparse_sizes=(NUM_USERS, NUM_ITEMS))


def to_graph(edge_index: Tensor, weight: Tensor | None = None) -> Any:
    return UserItemGraph(edge_index, NUM_USERS, NUM_ITEMS, weight)


LAYOUTS: dict[str, Callable[[Tensor], Any]] = {
    'edge_index': lambda edge_index: edge_index,
    'int32': lambda edge_index: edge_index.int(),
    'EdgeIndex': to_edge_index,
    'CSR': to_csr,
    'COO': to_coo,
    'CSC': lambda edge_index: to_coo(edge_index).to_sparse_csc(),
    'SparseTensor': to_sparse_tensor,
    'UserItemGraph': to_graph,
}

WEIGHTED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    'CSR': to_csr,
    'COO': to_coo,
    'SparseTensor': to_sparse_tensor,
    'UserItemGraph': to_graph,
}


UI = ('user', 'interacts', 'item')
IU = ('item', 'rev_interacts', 'user')
SEEDS = torch.tensor([4, 1])  # Users.


def hand_made_batch(edge_index: Tensor) -> HeteroData:
    """The neighbourhood of two users, as far as two steps look: the items
    that they have (reverse edges lead from these to the users), and the
    users that have those (forward edges), in an order as it comes."""
    user, item = edge_index
    items = item[torch.isin(user, SEEDS)].unique().flip(0)
    others = user[torch.isin(item, items)].unique()
    users = torch.cat([SEEDS, others[~torch.isin(others, SEEDS)]])

    def local(n_id: Tensor, value: Tensor) -> Tensor:
        return (value.view(-1, 1) == n_id).long().argmax(dim=1)

    batch = HeteroData()
    batch['user'].n_id, batch['item'].n_id = users, items
    near = torch.isin(user, SEEDS)
    batch[IU].edge_index = torch.stack([local(items, item[near]),
                                        local(users, user[near])])
    far = torch.isin(item, items)
    batch[UI].edge_index = torch.stack([local(users, user[far]),
                                        local(items, item[far])])
    return batch
