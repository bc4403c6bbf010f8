from __future__ import annotations

import copy
from typing import Any

import numpy as np
from torch import Tensor
from torch_geometric.data import HeteroData

from torch_promptmm.data._edges import check_edges
from torch_promptmm.data.contract import EdgeType
from torch_promptmm.data.ids import IdMap
from torch_promptmm.data.report import report_of


def subgraph(
    data: HeteroData,
    edge_type: EdgeType,
    edges: Tensor | None = None,
    users: Tensor | None = None,
    items: Tensor | None = None,
) -> HeteroData:
    r"""The graph of a part of the interactions, the users and the items.

    It is :meth:`torch_geometric.data.HeteroData.subgraph`, which numbers rows
    anew, for more than tensors: raw ids, arrays and lists go along. Nodes of
    which all stay keep their features by reference.

    Args:
        data (HeteroData): The graph, which is left as it is.
        edge_type (tuple[str, str, str]): The edge type of the interactions.
        edges (torch.Tensor, optional): A mask :math:`[E]` of the interactions
            that stay, or all between the nodes that do.
            (default: :obj:`None`)
        users (torch.Tensor, optional): The rows of the users that stay, or
            all. (default: :obj:`None`)
        items (torch.Tensor, optional): The rows of the items that stay, or
            all. (default: :obj:`None`)
    """
    out = copy.copy(data)
    store = data[edge_type]
    index = check_edges('edge_index', store.edge_index)
    out[edge_type].edge_index = index
    if edges is not None:
        rows = edges.nonzero().view(-1)
        for name, value in store.items():
            out[edge_type][name] = _pick(value, rows, index.size(1))
        out[edge_type].edge_index = index[:, rows]

    nodes = {kind: rows for kind, rows in
             [(edge_type[0], users), (edge_type[2], items)]
             if rows is not None and len(rows) < data[kind].num_nodes}
    others: dict[tuple[str, str], Any] = {}
    for kind, rows in nodes.items():
        for name, value in data[kind].items():
            if not isinstance(value, (Tensor, int)):
                others[kind, name] = _pick(value, rows, data[kind].num_nodes)
                del out[kind][name]
    out = out.subgraph(nodes) if nodes else out
    for (kind, name), value in others.items():
        out[kind][name] = value
    for kind, rows in nodes.items():
        out[kind].num_nodes = len(rows)
    out.report = report_of(data)
    return out


def _pick(value: Any, rows: Tensor, size: int) -> Any:
    r"""The rows of a value that has one a node or an edge."""
    if isinstance(value, IdMap):
        return value.subset(rows)
    if isinstance(value, (Tensor, np.ndarray)):
        if value.ndim == 0 or len(value) != size:
            return value
        return value[rows if isinstance(value, Tensor) else rows.numpy()]
    if isinstance(value, (list, tuple)) and len(value) == size:
        return type(value)(value[i] for i in rows.tolist())
    return value
