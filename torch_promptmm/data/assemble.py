r"""From numbered rows to a graph of the data contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch_geometric.data import HeteroData

from .contract import DEFAULT_EDGE_TYPE, EdgeType
from .ids import IdMap, set_ids
from .interactions import from_interactions
from .report import Report


def assemble(
    rows: list[Any],
    maps: list[IdMap],
    where: str,
    report: Report,
    missing_time: np.ndarray | None = None,
    min_rating: float | None = None,
    users: Any = None,
    items: Any = None,
    unknown: str = 'error',
    edge_type: EdgeType = DEFAULT_EDGE_TYPE,
) -> HeteroData:
    r"""Builds a graph of interactions, with the repairs and filters that
    :func:`~torch_promptmm.data.read_interactions` describes.

    Args:
        rows (List[numpy.ndarray]): Users, items, ratings and times
            :math:`[N]`; the last two may be :obj:`None`, and ``-1`` is a
            missing user or item. The list is emptied.
        maps (List[IdMap]): What users and items stand for.
        where (str): How a warning calls the source.
        report (Report): Where repairs are noted.
        missing_time (numpy.ndarray, optional): Which times are missing
            :math:`[N]`. (default: :obj:`None`)
        min_rating (float, optional): See there. (default: :obj:`None`)
        users (list or IdMap, optional): See there. (default: :obj:`None`)
        items (list or IdMap, optional): See there. (default: :obj:`None`)
        unknown (str, optional): See there. (default: :obj:`"error"`)
        edge_type (Tuple[str, str, str], optional): See there.
            (default: :obj:`("user", "interacts", "item")`)
    """
    maps = list(maps)
    keep = np.ones(len(rows[0]), dtype=bool)
    for name, missing in [
        ('a user', rows[0] < 0),
        ('an item', rows[1] < 0),
        ('a rating', None if rows[2] is None else ~np.isfinite(rows[2])),
        ('a time', missing_time),
    ]:
        if missing is not None:
            report.repair(int((missing & keep).sum()),
                          f'rows of {where} without {name} were left out', 4)
            keep &= ~missing
    if not keep.all():
        rows[:] = [None if x is None else x[keep] for x in rows]
    del keep
    rows = _latest(rows, len(maps[1]), where, report)
    if min_rating is not None and rows[2] is not None:
        good = rows[2] >= min_rating
        report.note(int((~good).sum()),
                    f'interactions rated below {min_rating:g} were left out')
        rows = [None if x is None else x[good] for x in rows]

    for end, given in enumerate([users, items]):
        rows, maps[end] = _renumber(rows, end, maps[end], given, unknown,
                                    where, report)
    if len(rows[0]) == 0:
        raise ValueError(f'{where}: no interaction is left ({report})')
    return _graph(rows, maps, edge_type, report)


# Private ######################################################################


def _latest(
    rows: list[Any],
    num_items: int,
    where: str,
    report: Report,
) -> list[Any]:
    r"""Sorts rows by (user, item) and keeps the latest of equal ones."""
    key = rows[0].astype(np.int64) * num_items + rows[1]
    if rows[2] is None and rows[3] is None:
        unique = np.unique(key)  # Nothing hangs on which one stays.
        report.repair(len(key) - len(unique),
                      f'repeated interactions of {where} were left out', 4)
        return [unique // num_items, unique % num_items, None, None]
    if (rows[3] is not None and len(key) > 1
            and not bool((rows[3][1:] >= rows[3][:-1]).all())):
        order = np.argsort(rows[3], kind='stable')
        key, again = _stable_sort(key[order])
        order = order[again]
    else:
        key, order = _stable_sort(key)
    last = np.ones(len(key), dtype=bool)
    last[:-1] = key[1:] != key[:-1]
    report.repair(int((~last).sum()),
                  f'repeated interactions of {where} were left out', 4)
    order = order[last]
    return [None if x is None else x[order] for x in rows]


def _stable_sort(key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""The sorted keys, and the order that sorts them."""
    bits = len(key).bit_length()
    if len(key) and int(key.max()).bit_length() + bits <= 63:
        # Key and place in one number: sorting numbers is twice as fast as
        # sorting places.
        both = (key << bits) | np.arange(len(key))
        both.sort()
        return both >> bits, both & ((1 << bits) - 1)
    order = np.argsort(key, kind='stable')
    return key[order], order


def _renumber(
    rows: list[Any],
    end: int,
    ids: IdMap,
    given: Any,
    unknown: str,
    where: str,
    report: Report,
) -> tuple[list[Any], IdMap]:
    r"""Gives users or items their final rows."""
    kind = ('user', 'item')[end]
    used = np.bincount(rows[end], minlength=len(ids)) > 0
    if given is None:
        if used.all():
            return rows, ids
        new = np.cumsum(used) - 1
        rows[end] = new[rows[end]]
        return rows, ids.subset(np.flatnonzero(used))
    given = given if isinstance(given, IdMap) else IdMap(given)
    new = given.encode(ids, unknown='mark').numpy()
    lost = used & (new < 0)
    if lost.any() and unknown == 'error':
        raise ValueError(
            f"{where}: {int(lost.sum())} {kind} ids, such as "
            f"{ids[int(np.flatnonzero(lost)[0])]!r}, are not among "
            f"'{kind}s'; add them, or pass unknown='drop'")
    row = new[rows[end]]
    keep = row >= 0
    report.note(int((~keep).sum()),
                f'interactions of {int(lost.sum())} unknown {kind}s were '
                f'left out')
    rows[end] = row
    return [None if x is None else x[keep] for x in rows], given


def _graph(
    rows: list[Any],
    maps: list[IdMap],
    edge_type: EdgeType,
    report: Report,
) -> HeteroData:
    # The contract sorts by (user, item); ratings and times go along.
    key = rows[0].astype(np.int64) * len(maps[1]) + rows[1]
    if not bool((key[1:] > key[:-1]).all()):
        order = np.argsort(key)
        rows = [None if x is None else x[order] for x in rows]
    edge_index = torch.empty(2, len(rows[0]), dtype=torch.long)
    edge_index[0] = torch.from_numpy(rows[0])
    edge_index[1] = torch.from_numpy(rows[1])
    data = from_interactions(edge_index, {}, len(maps[0]), len(maps[1]),
                             edge_type=edge_type)
    if rows[2] is not None:
        data[edge_type].rating = torch.from_numpy(rows[2]).float()
    if rows[3] is not None:
        data[edge_type].time = torch.from_numpy(rows[3])
    data.report = report
    return set_ids(data, maps[0], maps[1], edge_type)
