r"""Interactions as tensors of two rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import HeteroData

from torch_promptmm.adjacency import is_sparse, sparse_to_coo
from torch_promptmm.checks import check_range

EdgeType = tuple[str, str, str]
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_edges(name: str, index: Any) -> Tensor:
    r"""Returns :obj:`index` as a tensor :math:`[2, E]`, int64, with users in
    row 0 and items in row 1."""
    if not isinstance(index, Tensor):
        raise TypeError(f"'{name}' must be an integer tensor of shape [2, E] "
                        f"(got {type(index).__name__})")
    if isinstance(index, EdgeIndex):
        index = index.as_tensor()
    if index.layout != torch.strided:
        raise TypeError(f"'{name}' must be a dense [2, E] tensor of indices "
                        f"(got layout {index.layout}); pass the row and "
                        f"column indices of the sparse matrix")
    if index.dtype not in INTEGERS:
        raise TypeError(f"'{name}' must hold integer ids (got dtype "
                        f"{index.dtype}); convert it to int64")
    if index.dim() != 2 or index.size(0) != 2:
        hint = ('; its rows look like pairs, so pass its transpose'
                if index.dim() == 2 and index.size(1) == 2 else '')
        raise ValueError(f"'{name}' must have the shape [2, E], user row and "
                         f"item row (got {list(index.shape)}){hint}")
    return index.long()


def check_edge_range(name: str, index: Tensor, num_users: int,
                     num_items: int) -> None:
    r"""Checks that the ids of interactions are within bounds."""
    hint = '; renumber the ids, or correct the numbers of nodes'
    try:
        check_range(name, index[0], num_users, 'user', hint=hint)
        check_range(name, index[1], num_items, 'item', hint=hint)
    except ValueError as error:
        user, item = index.amax(dim=1).tolist()
        flip = user < num_items and item < num_users
        raise ValueError(f"{error}{' (are its rows swapped?)' * flip}"
                         ) from None


def stored_edges(data: HeteroData, edge_type: EdgeType,
                 size: tuple[int, int] | None = None) -> tuple[str, Tensor]:
    r"""Returns the interactions :math:`[2, E]` of :obj:`edge_index`, or else
    of :obj:`adj_t`, in the order of the edges' attributes, and where they
    were found. :obj:`size` are the numbers of users and items, which
    :obj:`adj_t` must have."""
    store: Mapping[str, Any] = data[edge_type]
    name = f'data[{edge_type}].edge_index'
    if 'edge_index' in store:
        return name, check_edges(name, store['edge_index'])
    if 'adj_t' not in store:
        raise ValueError(f"'{name}' is missing (there is "
                         f"{sorted(store.keys())})")
    name, adj = f'data[{edge_type}].adj_t', store['adj_t']
    if not is_sparse(adj):
        raise TypeError(f"'{name}' must be a torch.sparse or torch_sparse "
                        f"matrix, as T.ToSparseTensor makes it (got "
                        f"{type(adj).__name__})")
    index, _, shape = sparse_to_coo(name, adj)
    if size is not None and shape != size[::-1]:
        raise ValueError(f"'{name}' must be of shape [num_items, num_users] "
                         f"= {list(size[::-1])}, the transpose that "
                         f"T.ToSparseTensor makes (got {list(shape)})")
    return name, index.long().flip([0])


def edge_key(index: Tensor, num_items: int) -> Tensor:
    r"""One number for each interaction, user times items plus item."""
    return index[0] * num_items + index[1]


def unique_edges(index: Tensor, num_items: int) -> Tensor:
    r"""Sorts interactions by (user, item) and drops the duplicates."""
    key = edge_key(index, num_items)
    if bool((key[1:] > key[:-1]).all()):  # Nothing to do, the usual case.
        return index
    key = key.unique()
    return torch.stack([key // num_items, key % num_items])


def union_edges(a: Tensor, b: Tensor, num_items: int) -> Tensor:
    r"""The interactions in :obj:`a` or :obj:`b`, sorted, each once."""
    return unique_edges(torch.cat([a, b], dim=1), num_items)


def difference_edges(a: Tensor, b: Tensor, num_items: int) -> Tensor:
    r"""The interactions in :obj:`a` that are not in :obj:`b`, in the order
    of :obj:`a`; :obj:`b` must be sorted."""
    if a.size(1) == 0 or b.size(1) == 0:
        return a
    key, other = edge_key(a, num_items), edge_key(b, num_items)
    pos = torch.searchsorted(other, key).clamp_(max=other.numel() - 1)
    return a[:, other[pos] != key]
