r"""Raw ids on a graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch_geometric.data import HeteroData

from torch_promptmm.data.contract import EdgeType, find_edge_type
from torch_promptmm.ids import IdMap

ATTRIBUTE = 'raw_id'


def user_ids(
    data: HeteroData,
    edge_type: EdgeType | None = None,
) -> IdMap | None:
    r"""The raw ids of the users of a graph, or :obj:`None` where its users
    have none. Ids that are not one a row are a :class:`ValueError`.

    Args:
        data (HeteroData): The graph.
        edge_type (tuple[str, str, str], optional): The edge type of its
            interactions. (default: :obj:`None`)
    """
    return _read(data, find_edge_type(data, edge_type)[0])


def item_ids(
    data: HeteroData,
    edge_type: EdgeType | None = None,
) -> IdMap | None:
    r"""The raw ids of the items of a graph, see :func:`user_ids`."""
    return _read(data, find_edge_type(data, edge_type)[2])


def id_maps(
    data: HeteroData,
    edge_type: EdgeType | None = None,
) -> dict[str, IdMap]:
    r"""The raw ids of a graph under :obj:`"user"` and :obj:`"item"`, where
    it has them."""
    maps = {'user': user_ids(data, edge_type),
            'item': item_ids(data, edge_type)}
    return {kind: ids for kind, ids in maps.items() if ids is not None}


def set_ids(
    data: HeteroData,
    users: IdMap | Iterable[Any] | None = None,
    items: IdMap | Iterable[Any] | None = None,
    edge_type: EdgeType | None = None,
) -> HeteroData:
    r"""Gives a graph raw ids, in place.

    Args:
        data (HeteroData): The graph.
        users (IdMap or Iterable, optional): The ids of the users in the order
            of their rows. (default: :obj:`None`)
        items (IdMap or Iterable, optional): The ids of the items.
            (default: :obj:`None`)
        edge_type (tuple[str, str, str], optional): The edge type of the
            interactions. (default: :obj:`None`)
    """
    edge_type = find_edge_type(data, edge_type)
    for kind, ids in [(edge_type[0], users), (edge_type[2], items)]:
        if ids is None:
            continue
        ids = ids if isinstance(ids, IdMap) else IdMap(ids)
        _check_length(ids, kind, data[kind].num_nodes)
        data[kind][ATTRIBUTE] = ids
    return data


def _read(data: HeteroData, kind: str) -> IdMap | None:
    store = data[kind]
    if ATTRIBUTE not in store:
        return None
    ids = store[ATTRIBUTE]
    if not isinstance(ids, IdMap):
        raise TypeError(f"data['{kind}'].{ATTRIBUTE} must be an IdMap (got "
                        f"{type(ids).__name__}); use set_ids")
    if 'n_id' in store and len(store['n_id']) == store.num_nodes:
        return ids.subset(store['n_id'])  # A batch of a `NeighborLoader`.
    _check_length(ids, kind, store.num_nodes)
    return ids


def _check_length(ids: IdMap, kind: str, num_nodes: int | None) -> None:
    if len(ids) != num_nodes:
        raise ValueError(f"There are {len(ids)} ids for the {num_nodes} nodes "
                         f"of data['{kind}']; give one id a row (after "
                         f"taking a subgraph, use ids.subset(rows))")
