from __future__ import annotations

import numpy as np
import torch
from torch_geometric.data import HeteroData
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from torch_promptmm.checks import check_int
from torch_promptmm.data.contract import EdgeType
from torch_promptmm.data.split import read_unsplit
from torch_promptmm.data.subgraph import subgraph


def k_core(user: np.ndarray, item: np.ndarray, user_k: int,
           item_k: int) -> np.ndarray:
    r"""The positions, ascending, of the interactions :math:`[E]` in the core:
    users and items with too few of them are taken away, and so on until
    nothing changes any more."""
    rows = np.arange(len(user))
    while len(rows):
        u, i = user[rows], item[rows]
        keep = np.bincount(u)[u] >= user_k
        keep &= np.bincount(i)[i] >= item_k
        if keep.all():
            break
        rows = rows[keep]
    return rows


@functional_transform('interaction_k_core')
class KCore(BaseTransform):
    r"""Keeps users and items with enough interactions, to a fixed point: in
    what is left every user has at least :obj:`user_k` interactions and every
    item at least :obj:`item_k`.

    Rows are numbered anew, without gaps, in their old order; features, masks
    and raw ids go along. :obj:`data.report` says how much was left out.

    .. code-block:: python

        data = KCore(5)(read_interactions('ratings.csv'))

    Args:
        user_k (int): The least number of interactions of a user.
        item_k (int, optional): The least number of an item. If :obj:`None`,
            :obj:`user_k`. (default: :obj:`None`)
        edge_type (tuple[str, str, str], optional): The edge type of the
            interactions. (default: :obj:`None`)

    Raises:
        ValueError: If nothing is left.
    """
    def __init__(
        self,
        user_k: int,
        item_k: int | None = None,
        edge_type: EdgeType | None = None,
    ) -> None:
        self.user_k = check_int('user_k', user_k)
        self.item_k = self.user_k if item_k is None else check_int(
            'item_k', item_k)
        self.edge_type = edge_type

    def forward(self, data: HeteroData) -> HeteroData:
        data, graph, user, item = read_unsplit(data, self.edge_type, 'KCore')
        rows = k_core(user, item, self.user_k, self.item_k)
        if len(rows) == 0:
            raise ValueError(
                f"No interaction is left in the core of users with "
                f"{self.user_k} and items with {self.item_k} interactions "
                f"(of {len(user)}); lower 'user_k' or 'item_k'")
        # All interactions between those who stay are in the core.
        users, items = np.unique(user[rows]), np.unique(item[rows])
        out = subgraph(data, graph.edge_type, None, torch.from_numpy(users),
                       torch.from_numpy(items))
        for count, what in [(len(user) - len(rows), 'interactions'),
                            (graph.num_users - len(users), 'users'),
                            (graph.num_items - len(items), 'items')]:
            out.report.note(count, f'{what} are not in the {self.user_k}-'
                                   f'{self.item_k}-core')
        return out

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}(user_k={self.user_k}, '
                f'item_k={self.item_k})')
