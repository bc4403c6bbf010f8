from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from torch_promptmm.checks import check_int

from .contract import (
    EdgeType,
    InteractionData,
    read_graph,
    with_edge_index,
)
from .ids import IdMap
from .report import report_of
from .split import check_unsplit


def k_core(
    user: np.ndarray,
    item: np.ndarray,
    user_k: int,
    item_k: int,
) -> np.ndarray:
    r"""Which interactions are in the core: users and items with too few of
    them are taken away, and so on until nothing changes any more.

    Args:
        user (numpy.ndarray): The users :math:`[E]`, rows from zero.
        item (numpy.ndarray): The items :math:`[E]`.
        user_k (int): The least number of interactions of a user.
        item_k (int): The least number of interactions of an item.

    Returns:
        numpy.ndarray: The positions of the interactions that stay, ascending.
    """
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
        edge_type (Tuple[str, str, str], optional): The edge type of the
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
        data = with_edge_index(data, self.edge_type)
        graph = read_graph(data, self.edge_type, modalities=[])
        check_unsplit(data, graph.edge_type, 'KCore')
        store = data[graph.edge_type]
        edge_index = store.edge_index.long()
        user, item = edge_index.numpy(force=True)
        rows = k_core(user, item, self.user_k, self.item_k)
        if len(rows) == 0:
            raise ValueError(
                f"No interaction is left in the core of users with "
                f"{self.user_k} and items with {self.item_k} interactions "
                f"(of {len(user)}); lower 'user_k' or 'item_k'")
        keep = [np.unique(user[rows]), np.unique(item[rows])]
        out = _take(data, graph, torch.from_numpy(rows), keep)
        report = report_of(data)
        name = f'in the {self.user_k}-{self.item_k}-core'
        report.note(len(user) - len(rows), f'interactions are not {name}')
        report.note(graph.num_users - len(keep[0]), f'users are not {name}')
        report.note(graph.num_items - len(keep[1]), f'items are not {name}')
        out.report = report
        return out

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}(user_k={self.user_k}, '
                f'item_k={self.item_k})')


# Private ######################################################################


def _take(
    data: HeteroData,
    graph: InteractionData,
    rows: Tensor,
    keep: list[np.ndarray],
) -> HeteroData:
    r"""The graph of a part of the interactions, users and items."""
    out = copy.copy(data)
    sizes = [graph.num_users, graph.num_items]
    index = data[graph.edge_type].edge_index.long()[:, rows]
    for end, kind in [(0, graph.edge_type[0]), (1, graph.edge_type[2])]:
        nodes = torch.from_numpy(keep[end])
        new = torch.full((sizes[end],), -1)
        new[nodes] = torch.arange(len(nodes))
        index[end] = new[index[end]]
        whole = len(nodes) == sizes[end]
        for name, value in list(data[kind].items()):
            if not whole:
                out[kind][name] = _take_rows(value, nodes, sizes[end])
        out[kind].num_nodes = len(nodes)
    for name, value in list(data[graph.edge_type].items()):
        is_attr = isinstance(value, Tensor) and name != 'edge_index'
        if is_attr and value.size(0) == data[graph.edge_type].num_edges:
            out[graph.edge_type][name] = value[rows]
    out[graph.edge_type].edge_index = index
    return out


def _take_rows(value: Any, rows: Tensor, num_rows: int) -> Any:
    if isinstance(value, IdMap):
        return value.subset(rows)
    if isinstance(value, Tensor) and value.dim() and len(value) == num_rows:
        return value[rows]
    if isinstance(value, np.ndarray) and len(value) == num_rows:
        return value[rows.numpy()]
    return value


