"""Random graphs of any size, some of whose nodes have no interaction."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

WIDTHS = {'visual': 5, 'textual': 7, 'acoustic': 6}


def random_data(num_users: int, num_items: int, num_edges: int,
                features: Mapping[str, int] | None = None,
                seed: int = 0) -> HeteroData:
    """The last user and the first and last items have no interaction. A
    third of the items lack the last of the modalities: False in its mask, and
    zero.
    """
    features = WIDTHS if features is None else features
    generator = torch.Generator().manual_seed(seed)
    user = torch.randint(num_users - 1, (num_edges, ), generator=generator)
    item = torch.randint(1, num_items - 1, (num_edges, ), generator=generator)
    data = HeteroData()
    data['user'].num_nodes = num_users
    data['item'].num_nodes = num_items
    data['user', 'interacts', 'item'].edge_index = torch.stack(
        [user, item]).unique(dim=1)
    for name, width in features.items():
        x = torch.randn(num_items, width, generator=generator) + 1.0
        data['item'][name] = x
    mask = torch.arange(num_items) % 3 != 1
    data['item'][name] = x * mask.view(-1, 1)
    data['item'][f'{name}_mask'] = mask
    return data


def relabelled(data: HeteroData, user: Tensor, item: Tensor) -> HeteroData:
    """The same graph, in which user u is called ``user[u]``, item i
    ``item[i]``.
    """
    out = data.clone()
    store = out['user', 'interacts', 'item']
    edges = store.edge_index
    store.edge_index = torch.stack([user[edges[0]], item[edges[1]]])
    for name, x in data['item'].items():
        if isinstance(x, Tensor):
            out['item'][name] = torch.empty_like(x).index_copy_(0, item, x)
    return out
