r"""What a batch of PyG's neighbour loaders says of the user-item graph."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import HeteroData

from torch_promptmm.adjacency import is_sparse, sparse_to_coo
from torch_promptmm.checks import check_range
from torch_promptmm.nn.csr import CSRMatrix

EdgeType = tuple[str, str, str]


def node_ids(batch: HeteroData, edge_type: EdgeType,
             full_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    r"""Returns which of all users and items those of a batch are."""
    out = []
    for kind, what, size in [(edge_type[0], 'user', full_size[0]),
                             (edge_type[2], 'item', full_size[1])]:
        store = batch[kind] if kind in batch.node_types else {}
        if 'n_id' not in store:
            raise ValueError(f"'batch' has no batch['{kind}'].n_id; take a "
                             f"batch of a NeighborLoader or "
                             f"LinkNeighborLoader, and name 'edge_type' if "
                             f"its nodes are called otherwise")
        check_range(f"batch['{kind}'].n_id", store['n_id'], size, what)
        out.append(store['n_id'])
    return out[0], out[1]


def sampled_edges(batch: HeteroData, edge_type: EdgeType,
                  size: tuple[int, int]) -> Tensor:
    r"""Returns the distinct interactions of a batch :math:`(2, E)`, users
    and items numbered within it, that were sampled in either direction."""
    user, relation, item = edge_type
    found = []
    for each in (edge_type, (item, f'rev_{relation}', user)):
        store = batch[each] if each in batch.edge_types else {}
        name = 'edge_index' if 'edge_index' in store else 'adj_t'
        if name not in store:
            continue
        adj, is_reverse = store[name], each != edge_type
        if is_sparse(adj):  # Its rows are where the edges lead to.
            index, is_reverse = sparse_to_coo(name, adj)[0], not is_reverse
        else:
            index = adj.as_tensor() if isinstance(adj, EdgeIndex) else adj
        index = index.long().flip([0]) if is_reverse else index.long()
        for row, what in enumerate(('user', 'item')):
            check_range(f'batch[{each}].{name}', index[row], size[row], what)
        found.append(index)
    if not found:
        raise ValueError(f"'batch' has no edges of the type {edge_type} or "
                         f"its reverse (it has {batch.edge_types}); name "
                         f"them with 'edge_type'")
    user_id, item_id = torch.cat(found, dim=1)
    num_items = max(size[1], 1)
    key = (user_id * num_items + item_id).unique()
    return torch.stack([key // num_items, key % num_items])


def look_up(user_item: CSRMatrix, user_n_id: Tensor, item_n_id: Tensor,
            index: Tensor) -> tuple[Tensor, Tensor]:
    r"""Finds the interactions of a batch in the full matrix, as often as
    they are there, and their values."""
    num_items = user_item.shape[1]
    rows = user_item.select_rows(user_n_id)
    row = torch.arange(user_n_id.numel(), device=index.device)
    row = row.repeat_interleave(rows.crow.diff().long())
    key = row * num_items + rows.col.long()  # Sorted, as rows are.
    want = index[0] * num_items + item_n_id[index[1]]
    first = torch.searchsorted(key, want)
    count = torch.searchsorted(key, want, right=True) - first
    if not bool((count > 0).all()):
        user, item = index[:, (count == 0).nonzero()[0, 0]]
        raise ValueError(f"'batch' has an interaction of user "
                         f"{int(user_n_id[user])} and item "
                         f"{int(item_n_id[item])}, which 'graph' does not "
                         f"have; pass the graph that was sampled from")
    # The entries first, first + 1, ... of each.
    entry = (first - count.cumsum(0) + count).repeat_interleave(count)
    entry += torch.arange(entry.numel(), device=entry.device)
    return index.repeat_interleave(count, dim=1), rows.value[entry]
