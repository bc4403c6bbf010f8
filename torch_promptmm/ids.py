r"""Raw ids and the rows that they stand for."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torch_promptmm.checks import check_choice

FORMAT = 'torch_promptmm.IdMap/1'


class IdMap:
    r"""Raw ids and the rows that they stand for: entry :math:`i` is the id
    of row :math:`i`.

    It lies on a graph as :obj:`data['user'].raw_id`, a plain object which
    :obj:`data.to()`, :obj:`copy.copy` and
    :class:`~torch_geometric.transforms.RandomLinkSplit` leave alone. It
    needs no graph, nor PyG: what serves holds it as well.

    .. code-block:: python

        ids = IdMap(['anna', 'ben'])
        ids.encode(['ben', 'anna'])      # tensor([1, 0])
        ids.decode(torch.tensor([1]))    # ['ben']

    Args:
        ids (Iterable): The ids, each one once: all strings, or all integers
            of 64 bits.
    """
    def __init__(self, ids: Iterable[Any]) -> None:
        values = list_ids(ids)
        self._array = _to_array(values)
        self._rows: dict[Any, int] | None = None
        if len(set(values)) < len(values):
            last = self._lookup()
            twice = next(x for i, x in enumerate(self) if last[x] != i)
            raise ValueError(f"'ids' has {twice!r} more than once; each row "
                             f"must have an id of its own")

    @classmethod
    def of(cls, array: np.ndarray) -> IdMap:
        r"""The map of an array :math:`[N]`, int64 or of :class:`str` objects,
        which is known to hold each id once."""
        out = cls.__new__(cls)
        out._array, out._rows = array, None
        return out

    @property
    def kind(self) -> str:
        r"""``'int'`` or ``'str'``."""
        return 'int' if self._array.dtype == np.int64 else 'str'

    def encode(self, raw: Any, unknown: str = 'error') -> Tensor:
        r"""Rows of raw ids.

        Args:
            raw (Any): Ids, one-dimensional, or a single id.
            unknown (str, optional): What to do with an id that is not in the
                map: :obj:`"error"`, or :obj:`"mark"` to return the row
                :obj:`-1`. (default: :obj:`"error"`)

        Returns:
            torch.Tensor: :math:`[N]`, int64.
        """
        check_choice('unknown', unknown, ('error', 'mark'))
        values = list_ids(raw)
        rows = self._lookup()
        try:
            out = [rows.get(x, -1) for x in values]
        except TypeError as error:  # Not even hashable.
            raise TypeError(f"'raw' must hold strings or integers "
                            f"({error})") from error
        if unknown == 'error' and -1 in out:
            lost = [x for x, row in zip(values, out, strict=True) if row < 0]
            hint = ''
            if self.kind == 'str' and not isinstance(lost[0], str):
                hint = '; the ids here are strings, so pass strings'
            elif self.kind == 'int' and isinstance(lost[0], str):
                hint = '; the ids here are integers, so pass integers'
            raise ValueError(f"{len(lost)} unknown ids, such as {lost[0]!r}"
                             f"{hint} (unknown='mark' returns -1 for them)")
        return torch.tensor(out, dtype=torch.long)

    def decode(self, rows: Any) -> Any:
        r"""Raw ids of rows, as lists nested like ``rows``. The padding that
        :obj:`recommend` returns, row :obj:`-1`, becomes :obj:`None`.

        Args:
            rows (torch.Tensor or numpy.ndarray or list or int): Row numbers
                of any shape.
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
        return IdMap.of(self._array[torch.as_tensor(rows).numpy(force=True)])

    def to_list(self) -> list[Any]:
        r"""The ids in the order of the rows."""
        return self._array.tolist()

    def to_bytes(self) -> bytes:
        r"""The map as JSON in UTF-8, see :meth:`from_bytes`."""
        return json.dumps({'format': FORMAT, 'kind': self.kind,
                           'ids': self.to_list()}).encode()

    @classmethod
    def from_bytes(cls, value: bytes) -> IdMap:
        r"""Reads what :meth:`to_bytes` wrote. Nothing in it is executed."""
        try:
            body = json.loads(value)
            if body['format'] != FORMAT:
                raise ValueError(f"of the format {body['format']!r}")
            out = cls(body['ids'])
            if len(out) > 0 and out.kind != body['kind']:
                raise ValueError(f"ids of the kind {out.kind!r} instead of "
                                 f"{body['kind']!r}")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"'value' is no id map ({error}); expected what "
                             f"IdMap.to_bytes() returns") from error
        return out

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, row: int) -> Any:
        return self.decode(operator.index(row))

    def __contains__(self, raw: object) -> bool:
        return isinstance(raw, (str, int)) and raw in self._lookup()

    def __iter__(self) -> Any:
        return iter(self.to_list())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IdMap) and (
            self is other or self.to_list() == other.to_list())

    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        return {'_array': self._array, '_rows': None}

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({len(self)})'

    def _lookup(self) -> dict[Any, int]:
        if self._rows is None:
            self._rows = {x: i for i, x in enumerate(self.to_list())}
        return self._rows


def list_ids(values: Any) -> list[Any]:
    r"""Ids of any kind as a list of Python objects."""
    if getattr(values, 'ndim', 1) > 1:
        raise ValueError(f'Ids must be one-dimensional (got the shape '
                         f'{list(values.shape)})')
    if hasattr(values, 'tolist'):  # An array, a tensor or a column.
        values = values.tolist()
    if np.isscalar(values):
        values = [values]
    if not isinstance(values, Iterable):
        raise TypeError(f'Ids must be a list (got {type(values).__name__})')
    values = list(values)
    # The types first: a million ids have few.
    if any(issubclass(x, np.generic) for x in set(map(type, values))):
        return [x.item() if isinstance(x, np.generic) else x for x in values]
    return values


def _to_array(values: list[Any]) -> np.ndarray:
    kind = str if values and type(values[0]) is str else int
    odd = next((x for x in values if type(x) is not kind), kind())
    if type(odd) is not kind:
        raise TypeError(f'Ids must be all strings or all integers (got '
                        f'{odd!r} of type {type(odd).__name__}, and '
                        f'{values[0]!r} first); convert them with str()')
    try:
        return np.array(values, dtype=np.int64 if kind is int else object)
    except OverflowError as error:
        raise ValueError(f'Ids that are integers must fit into 64 bits '
                         f'({error}); convert them with str()') from error
