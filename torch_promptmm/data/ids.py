from __future__ import annotations

import datetime
import json
import operator
import uuid
from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from .contract import DEFAULT_EDGE_TYPE, EdgeType, read_graph

ATTRIBUTE = 'raw_id'
FORMAT = 'torch_promptmm.IdMap/1'


class IdMap:
    r"""Raw ids and the rows that they stand for: entry :math:`i` is the id
    of row :math:`i`.

    It lies on a graph as :obj:`data['user'].raw_id`, a plain object which
    :obj:`data.to()`, :obj:`copy.copy` and
    :class:`~torch_geometric.transforms.RandomLinkSplit` leave alone.

    .. code-block:: python

        ids = IdMap(['anna', 'ben'])
        ids.encode(['ben', 'anna'])      # tensor([1, 0])
        ids.decode(torch.tensor([1]))    # ['ben']

    Args:
        ids (Iterable): The ids, each one once: strings, integers, or any
            other hashable values. Numpy scalars become Python's.

    Raises:
        TypeError: If an id cannot be hashed.
        ValueError: If an id occurs twice.
    """
    def __init__(self, ids: Iterable[Any]) -> None:
        values = _to_list(ids)
        if all(type(x) is int and -2**63 <= x < 2**63 for x in values):
            self._array = np.array(values, dtype=np.int64)
        else:
            self._array = np.empty(len(values), dtype=object)
            for i, x in enumerate(values):  # At once, tuples would spread.
                self._array[i] = x
        self._rows: dict[Hashable, int] | None = None
        self._check_unique()

    @property
    def kind(self) -> str:
        r"""``'int'``, ``'str'`` or, for anything else, ``'any'``."""
        if self._array.dtype == np.int64:
            return 'int'
        return 'str' if all(type(x) is str for x in self._array) else 'any'

    def encode(self, raw: Any, unknown: str = 'error') -> Tensor:
        r"""Rows of raw ids.

        Args:
            raw (Any): Ids, one-dimensional, or a single id.
            unknown (str, optional): What to do with an id that is not in the
                map: :obj:`"error"`, or :obj:`"mark"` to return the row
                :obj:`-1`. (default: :obj:`"error"`)

        Returns:
            torch.Tensor: :math:`[N]`, int64.

        Raises:
            ValueError: If an id is unknown.
        """
        if unknown not in ('error', 'mark'):
            raise ValueError(f"'unknown' must be 'error' or 'mark' (got "
                             f"{unknown!r})")
        values = _to_list(raw)
        rows = self._lookup()
        out = [rows.get(_hashable(x), -1) for x in values]
        if unknown == 'error' and -1 in out:
            self._raise_unknown([x for x, i in zip(values, out, strict=True)
                                 if i < 0])
        return torch.tensor(out, dtype=torch.long)

    def decode(self, rows: Any) -> Any:
        r"""Raw ids of rows, as lists nested like ``rows``. The padding that
        :obj:`recommend` returns, row :obj:`-1`, becomes :obj:`None`.

        Args:
            rows (torch.Tensor or numpy.ndarray or list or int): Row numbers
                of any shape.

        Raises:
            IndexError: If there is no such row.
        """
        index = torch.as_tensor(rows).numpy(force=True)
        if index.size == 0:
            return index.tolist()
        if index.dtype.kind not in 'iu':
            raise TypeError(f"'rows' must hold integers (got dtype "
                            f"{index.dtype}); raw ids go into 'encode'")
        low, high = int(index.min()), int(index.max())
        if low < -1 or high >= len(self):
            raise IndexError(f"'rows' has the row "
                             f"{low if low < -1 else high}, but there are "
                             f"{len(self)} ids (0 to {len(self) - 1})")
        out = np.empty(index.shape, dtype=object)
        known = index >= 0
        out[known] = self._array[index[known]].astype(object)
        return out.tolist()

    def subset(self, rows: Any) -> IdMap:
        r"""The map of a part of the rows, renumbered in the order given."""
        index = torch.as_tensor(rows).numpy(force=True)
        return IdMap._of(self._array[index])

    @classmethod
    def _of(cls, array: np.ndarray) -> IdMap:
        r"""The map of an array whose ids are known to be sound: int64, or
        objects that are unique and hashable."""
        out = cls.__new__(cls)
        out._array, out._rows = array, None
        return out

    def to_list(self) -> list[Any]:
        r"""The ids in the order of the rows."""
        return self._array.tolist()

    def to_bytes(self) -> bytes:
        r"""The map as JSON in UTF-8, see :meth:`from_bytes`."""
        kind = self.kind
        ids = self.to_list()
        if kind == 'any':
            ids = [_to_json(x) for x in ids]
        body = {'format': FORMAT, 'kind': kind, 'ids': ids}
        return json.dumps(body, ensure_ascii=True).encode()

    @classmethod
    def from_bytes(cls, value: bytes) -> IdMap:
        r"""Reads what :meth:`to_bytes` wrote. Nothing in it is executed.

        Raises:
            ValueError: If it is something else.
        """
        try:
            body = json.loads(value)
            if body['format'] != FORMAT:
                raise ValueError(f"of the format {body['format']!r}")
            ids = body['ids']
            if body['kind'] == 'any':
                ids = [_from_json(x) for x in ids]
            out = cls(ids)
            if len(out) > 0 and out.kind != body['kind']:
                raise ValueError(f"ids of the kind {out.kind!r} instead of "
                                 f"{body['kind']!r}")
        except (ValueError, KeyError, TypeError, IndexError,
                RecursionError) as error:
            raise ValueError(f"'value' is no id map ({error}); expected what "
                             f"IdMap.to_bytes() returns") from error
        return out

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, row: int) -> Any:
        return self.decode(operator.index(row))

    def __contains__(self, raw: object) -> bool:
        try:
            return raw in self._lookup()
        except TypeError:
            return False

    def __iter__(self) -> Any:
        return iter(self.to_list())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IdMap):
            return False
        return self is other or self.to_list() == other.to_list()

    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        return {'_array': self._array, '_rows': None}

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({len(self)})'

    def _lookup(self) -> dict[Hashable, int]:
        if self._rows is None:
            ids = self._array.tolist()
            self._rows = {x: i for i, x in enumerate(ids)}
        return self._rows

    def _check_unique(self) -> None:
        if self._array.dtype == np.int64:
            duplicate = len(np.unique(self._array)) < len(self._array)
        else:
            ids = self._array.tolist()
            try:
                duplicate = len(set(ids)) < len(ids)
            except TypeError:
                for x in ids:
                    _hashable(x)
                raise
        if duplicate:
            seen: set[Any] = set()
            first = next(x for x in self.to_list()
                         if x in seen or seen.add(x))  # type: ignore
            raise ValueError(f"'ids' has {first!r} more than once; each row "
                             f"must have an id of its own")

    def _raise_unknown(self, unknown: list[Any]) -> None:
        hint = ''
        if self.kind == 'str' and not isinstance(unknown[0], str):
            hint = '; the ids here are strings, so pass strings'
        elif self.kind == 'int' and isinstance(unknown[0], str):
            hint = '; the ids here are integers, so pass integers'
        raise ValueError(f"{len(unknown)} unknown ids, such as {unknown[0]!r}"
                         f"{hint} (unknown='mark' returns -1 for them)")


def user_ids(
    data: HeteroData,
    edge_type: EdgeType | None = None,
) -> IdMap | None:
    r"""The raw ids of the users of a graph, or :obj:`None` where its users
    have none.

    Args:
        data (HeteroData): The graph.
        edge_type (Tuple[str, str, str], optional): The edge type of its
            interactions. (default: :obj:`None`)

    Raises:
        ValueError: If the ids are not those of the graph's rows.
    """
    return _read(data, edge_type, 0)


def item_ids(
    data: HeteroData,
    edge_type: EdgeType | None = None,
) -> IdMap | None:
    r"""The raw ids of the items of a graph, see :func:`user_ids`."""
    return _read(data, edge_type, 2)


def id_maps(
    data: HeteroData,
    edge_type: EdgeType | None = None,
) -> dict[str, IdMap]:
    r"""The raw ids of a graph under :obj:`"user"` and :obj:`"item"`, where
    it has them."""
    maps = {
        'user': user_ids(data, edge_type),
        'item': item_ids(data, edge_type)
    }
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
        edge_type (Tuple[str, str, str], optional): The edge type of the
            interactions. (default: :obj:`None`)

    Raises:
        ValueError: If there is not one id a row.
    """
    edge_type = _edge_type(data, edge_type)
    for kind, ids in [(edge_type[0], users), (edge_type[2], items)]:
        if ids is None:
            continue
        ids = ids if isinstance(ids, IdMap) else IdMap(ids)
        _check_length(ids, kind, data[kind].num_nodes)
        data[kind][ATTRIBUTE] = ids
    return data


# Private ######################################################################


def _edge_type(data: HeteroData, edge_type: EdgeType | None) -> EdgeType:
    if edge_type is not None:
        return edge_type
    if DEFAULT_EDGE_TYPE in data.edge_types:
        return DEFAULT_EDGE_TYPE
    return read_graph(data, modalities=[], check_finite=False).edge_type


def _read(
    data: HeteroData,
    edge_type: EdgeType | None,
    end: int,
) -> IdMap | None:
    kind = _edge_type(data, edge_type)[end]
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


def _to_list(values: Any) -> list[Any]:
    if isinstance(values, IdMap):
        return values.to_list()
    if isinstance(values, Tensor):
        values = values.numpy(force=True)
    if isinstance(values, (str, bytes, int, float)) or np.isscalar(values):
        values = [values]
    if isinstance(values, np.ndarray):
        if values.ndim > 1:
            raise ValueError(f'Ids must be one-dimensional (got the shape '
                             f'{list(values.shape)})')
        return values.reshape(-1).tolist()
    if not isinstance(values, Iterable):
        raise TypeError(f'Ids must be a list (got {type(values).__name__})')
    return [x.item() if isinstance(x, np.generic) else x for x in values]


def _hashable(value: Any) -> Hashable:
    try:
        hash(value)
    except TypeError as error:
        raise TypeError(f'An id must be hashable (got {value!r} of type '
                        f'{type(value).__name__})') from error
    return value


def _to_json(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, bytes):
        return ['bytes', value.hex()]
    if isinstance(value, uuid.UUID):
        return ['uuid', value.hex]
    if isinstance(value, datetime.datetime):
        return ['datetime', value.isoformat()]
    if isinstance(value, datetime.date):
        return ['date', value.isoformat()]
    if type(value) is tuple:
        return ['tuple', [_to_json(x) for x in value]]
    raise TypeError(f'An id of type {type(value).__name__} cannot be written '
                    f'(got {value!r}); make it a string or an integer')


def _from_json(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    kind, body = value
    readers: dict[str, Any] = {
        'bytes': bytes.fromhex,
        'uuid': lambda x: uuid.UUID(hex=x),
        'datetime': datetime.datetime.fromisoformat,
        'date': datetime.date.fromisoformat,
        'tuple': lambda xs: tuple(_from_json(x) for x in xs),
    }
    return readers[kind](body)
