r"""What all datasets of three splits share."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch_geometric.data import Dataset, HeteroData

from torch_promptmm.data import InteractionData, read_graph
from torch_promptmm.data.contract import EdgeType

Transform = Callable[[HeteroData], HeteroData]
SPLITS = ('train', 'val', 'test')


class SplitDataset(Dataset):
    r"""The base class of datasets that unpack as ``train, val, test``: three
    graphs of the data contract over one feature storage.

    A subclass calls :meth:`set_splits` once it has the graphs; the number of
    graphs, their statistics and their presentation follow from it.
    """
    def set_splits(
        self,
        train: HeteroData,
        val: HeteroData,
        test: HeteroData,
        edge_type: EdgeType | None = None,
    ) -> None:
        r"""Keeps the three graphs, whose interactions have the edge type."""
        self._splits = (train, val, test)
        self._edge_type = edge_type

    def len(self) -> int:
        return len(self._splits)

    def get(self, idx: int) -> HeteroData:
        return copy.copy(self._splits[idx])  # The dataset's own stays as is.

    @property
    def num_users(self) -> int:
        r"""The number of users."""
        return self._graph(0).num_users

    @property
    def num_items(self) -> int:
        r"""The number of items."""
        return self._graph(0).num_items

    @property
    def statistics(self) -> dict[str, Any]:
        r"""What the dataset holds: :obj:`users` and :obj:`items`, the
        interactions in all and in each split, :obj:`density` and
        :obj:`sparsity` (of all interactions), the width of each modality in
        :obj:`features`, and how many users and items have no training
        interaction (:obj:`cold_users`, :obj:`cold_items`,
        :obj:`cold_test_items` of them in the test, in
        :obj:`cold_test_interactions`).
        """
        train, val, test = (self._graph(i) for i in range(3))
        edges = [train.edge_index] + [
            x.edge_index[:, :0] if x.label_index is None else x.label_index
            for x in (val, test)
        ]
        sizes = [x.size(1) for x in edges]
        cold_users = torch.ones(train.num_users, dtype=torch.bool)
        cold_items = torch.ones(train.num_items, dtype=torch.bool)
        cold_users[train.edge_index[0]] = False
        cold_items[train.edge_index[1]] = False
        cold_test = edges[2][1][cold_items[edges[2][1]]]
        density = sum(sizes) / (train.num_users * train.num_items)
        return {
            'users': train.num_users,
            'items': train.num_items,
            'interactions': sum(sizes),
            **dict(zip(SPLITS, sizes, strict=True)),
            'density': density,
            'sparsity': 1.0 - density,
            'features': {k: v.size(1) for k, v in train.features.items()},
            'cold_users': int(cold_users.sum()),
            'cold_items': int(cold_items.sum()),
            'cold_test_items': cold_test.unique().numel(),
            'cold_test_interactions': cold_test.numel(),
        }

    def _graph(self, idx: int) -> InteractionData:
        return read_graph(self._splits[idx], self._edge_type,
                          check_finite=False)

    def __repr__(self) -> str:
        stats = self.statistics
        keys = ['users', 'items', *SPLITS, 'features']
        body = ', '.join(f'{key}={stats[key]}' for key in keys)
        return f'{self.__class__.__name__}({body})'
