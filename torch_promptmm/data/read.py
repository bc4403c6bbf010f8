from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch_geometric.data import HeteroData

from torch_promptmm.checks import check_choice
from torch_promptmm.data.columns import number_ids, read_times, to_numbers
from torch_promptmm.data.contract import DEFAULT_EDGE_TYPE, EdgeType
from torch_promptmm.data.frame import Column, read_frame
from torch_promptmm.data.ids import IdMap, set_ids
from torch_promptmm.data.interactions import from_interactions
from torch_promptmm.data.report import Report

Columns = dict[str, np.ndarray]


def read_interactions(
    source: Any,
    user: Column = 'user',
    item: Column = 'item',
    rating: Column | None = None,
    time: Column | None = None,
    min_rating: float | None = None,
    users: Any = None,
    items: Any = None,
    unknown: str = 'error',
    sep: str | None = None,
    encoding: str = 'utf-8',
    header: bool = True,
    quote: str | None = '"',
    decimal: str = '.',
    time_unit: str | None = None,
    time_format: str | None = None,
    id_type: str = 'auto',
    edge_type: EdgeType = DEFAULT_EDGE_TYPE,
) -> HeteroData:
    r"""Reads a table of interactions with ids of your own.

    CSV and TSV files (packed as :obj:`.gz`, :obj:`.bz2` or :obj:`.xz` too),
    the :obj:`.inter` files of RecBole and MMRec, Parquet files and folders of
    them, pandas data frames and whatever else hands over Arrow data (polars,
    DuckDB, a table or a stream of pyarrow) become one graph of the data
    contract. Its rows are numbered in the order in which ids first appear;
    :func:`~torch_promptmm.data.user_ids` and
    :func:`~torch_promptmm.data.item_ids` lead back to the raw ids. Features
    come in by id with :func:`~torch_promptmm.data.add_features`.

    .. code-block:: python

        data = read_interactions('ratings.csv', user='customer',
                                 item='sku', rating='stars', time='when',
                                 min_rating=4)
        item_ids(data).decode([0, 1])   # ['B000F83SZQ', '007-X']

    Bad input is either an error that names the file and the row (the first
    row, be it the header, is row 1; empty lines do not count), or a repair
    with a warning and a count that :obj:`data.report` keeps:

    * A row without user, item, rating (NaN and infinite ones included) or
      time, where that column is asked for, is left out.
    * Of several rows with one user and item the latest stays (without times
      the last one), before :obj:`min_rating` is looked at.
    * White space around an id in a text file is removed.
    * Times count in seconds, milliseconds, microseconds or nanoseconds; each
      number tells which by its size (see :obj:`time_unit`).
    * Byte order marks, CRLF and empty lines have no meaning.

    Ids are strings or integers. In text files they are text, so that ``007``
    keeps its zeros; if all ids of a column are plain integers, they become
    integers.

    Args:
        source (Any): The path of a file, a pandas data frame, or anything
            with :meth:`__arrow_c_stream__`.
        user (str or int, optional): The column of the user, by name or
            number. (default: :obj:`"user"`)
        item (str or int, optional): The column of the item.
            (default: :obj:`"item"`)
        rating (str or int, optional): The column of the rating, kept as
            :obj:`data[edge_type].rating`. (default: :obj:`None`)
        time (str or int, optional): The column of the time, kept as
            :obj:`data[edge_type].time` in milliseconds since 1970.
            (default: :obj:`None`)
        min_rating (float, optional): Interactions with a lower rating are
            left out. (default: :obj:`None`)
        users (list or IdMap, optional): All users there are, in the order
            that their rows are to have. If :obj:`None`, these are those with
            an interaction. (default: :obj:`None`)
        items (list or IdMap, optional): All items there are, such as the
            catalogue with its cold items. (default: :obj:`None`)
        unknown (str, optional): What to do with an interaction of a user or
            an item that is not among :obj:`users` or :obj:`items`:
            :obj:`"error"` or :obj:`"drop"`. (default: :obj:`"error"`)
        sep (str, optional): The separator in a text file. If :obj:`None`, a
            comma for :obj:`.csv` and a tab for :obj:`.tsv` and
            :obj:`.inter`. (default: :obj:`None`)
        encoding (str, optional): The encoding of a text file.
            (default: :obj:`"utf-8"`)
        header (bool, optional): If set to :obj:`False`, the first line of a
            text file is data, and columns go by number.
            (default: :obj:`True`)
        quote (str, optional): The character around quoted fields, or
            :obj:`None`. (default: :obj:`'"'`)
        decimal (str, optional): The decimal point. (default: :obj:`"."`)
        time_unit (str, optional): The unit of numeric times, ``"s"``,
            ``"ms"``, ``"us"`` or ``"ns"``. If :obj:`None`, each number's size
            tells. (default: :obj:`None`)
        time_format (str, optional): The format of times that are text, as
            for :meth:`strftime`. If :obj:`None`, ISO 8601.
            (default: :obj:`None`)
        id_type (str, optional): :obj:`"auto"`, :obj:`"str"` or
            :obj:`"int"`. (default: :obj:`"auto"`)
        edge_type (Tuple[str, str, str], optional): The names of users,
            relation and items.
            (default: :obj:`("user", "interacts", "item")`)

    Raises:
        ImportError: If pandas or pyarrow is not installed.
        ValueError: If the table cannot be read; the message names the file
            and the row.
    """
    if min_rating is not None and rating is None:
        raise ValueError(f"'min_rating' is {min_rating}, but no 'rating' "
                         f"column is named")
    check_choice('unknown', unknown, ('error', 'drop'))
    check_choice('id_type', id_type, ('auto', 'str', 'int'))
    wanted = {'user': user, 'item': item, 'rating': rating, 'time': time}
    frame = read_frame(
        source, {role: x for role, x in wanted.items() if x is not None},
        sep=sep, encoding=encoding, header=header, quote=quote,
        decimal=decimal)
    report = Report()
    columns: Columns = {}
    maps: dict[str, IdMap] = {}
    given: dict[str, IdMap] = {}
    for role, ids in [('user', users), ('item', items)]:
        kind = id_type
        if ids is not None:
            given[role] = ids if isinstance(ids, IdMap) else IdMap(ids)
            if kind == 'auto' and given[role].kind == 'str':
                kind = 'str'  # Known as text, so read as text.
        columns[role], maps[role] = number_ids(frame, role, kind, report)
    if rating is not None:
        columns['rating'] = to_numbers(frame, 'rating')
    if time is not None:
        columns['time'] = read_times(frame, time_unit, time_format, report)
    where = frame.where
    del frame  # Its columns are read, and may be large.
    return assemble(columns, maps, where, report, min_rating, given, unknown,
                    edge_type)


def assemble(
    columns: Columns,
    maps: dict[str, IdMap],
    where: str,
    report: Report,
    min_rating: float | None = None,
    given: dict[str, IdMap] | None = None,
    unknown: str = 'error',
    edge_type: EdgeType = DEFAULT_EDGE_TYPE,
) -> HeteroData:
    r"""Builds a graph of interactions, with the repairs and filters of
    :func:`read_interactions`.

    :obj:`columns` are the rows of ``user`` and ``item`` :math:`[N]`, ``-1``
    where missing, that :obj:`maps` has the ids of, and perhaps ``rating`` and
    ``time`` in milliseconds :math:`[N]`, NaN where missing. They are changed,
    for the sake of memory. :obj:`given` are all the users or items there are,
    :obj:`where` is what a warning calls the source.
    """
    keep = np.ones(len(columns['user']), dtype=bool)
    for role, value in columns.items():
        known = np.isfinite(value) if value.dtype.kind == 'f' else value >= 0
        article = 'an' if role == 'item' else 'a'
        report.repair(int((keep & ~known).sum()),
                      f'rows of {where} without {article} {role} were left '
                      f'out', 4)
        keep &= known
    if not keep.all():
        _take(columns, keep)
    _take_latest(columns, len(maps['item']), where, report)
    if min_rating is not None:
        good = columns['rating'] >= min_rating
        report.note(int((~good).sum()),
                    f'interactions rated below {min_rating:g} were left out')
        _take(columns, good)

    maps = {role: _renumber(columns, role, ids, (given or {}).get(role),
                            unknown, where, report)
            for role, ids in maps.items()}
    if len(columns['user']) == 0:
        raise ValueError(f'{where}: no interaction is left ({report})')
    key = columns['user'] * len(maps['item']) + columns['item']
    if not bool((key[1:] > key[:-1]).all()):  # After `given` alone.
        _take(columns, np.argsort(key))
    edge_index = torch.from_numpy(np.stack([columns.pop('user'),
                                            columns.pop('item')]))
    data = from_interactions(edge_index, {}, len(maps['user']),
                             len(maps['item']), edge_type=edge_type)
    for name, kind in [('rating', torch.float), ('time', torch.long)]:
        if name in columns:
            data[edge_type][name] = torch.from_numpy(columns[name]).to(kind)
    data.report = report
    return set_ids(data, maps['user'], maps['item'], edge_type)


def _take(columns: Columns, rows: np.ndarray) -> None:
    for name in columns:
        columns[name] = columns[name][rows]


def _take_latest(columns: Columns, num_items: int, where: str,
                 report: Report) -> None:
    r"""Sorts by (user, item) and keeps the latest of equal rows."""
    time = columns.get('time', np.empty(0))
    if not bool((time[1:] >= time[:-1]).all()):
        _take(columns, np.argsort(time, kind='stable'))
    key, order = stable_sort(
        columns['user'].astype(np.int64) * num_items + columns['item'])
    last = np.append(key[1:] != key[:-1], np.ones(min(len(key), 1), bool))
    _take(columns, order[last])
    report.repair(len(key) - int(last.sum()),
                  f'repeated interactions of {where} were left out', 5)


def stable_sort(key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""The sorted keys, none below zero, and the order that sorts them."""
    bits = len(key).bit_length()
    if len(key) and int(key.max()).bit_length() + bits <= 63:
        # Key and place in one number: sorting numbers is twice as fast as
        # sorting places.
        both = (key << bits) | np.arange(len(key))
        both.sort()
        return both >> bits, both & ((1 << bits) - 1)
    order = np.argsort(key, kind='stable')
    return key[order], order


def _renumber(columns: Columns, role: str, ids: IdMap, given: IdMap | None,
              unknown: str, where: str, report: Report) -> IdMap:
    r"""Gives users or items their final rows."""
    rows = columns[role]
    used = np.bincount(rows, minlength=len(ids)) > 0
    if given is None:
        columns[role] = (np.cumsum(used) - 1)[rows]
        return ids if used.all() else ids.subset(np.flatnonzero(used))
    new = given.encode(ids, unknown='mark').numpy()
    lost = np.flatnonzero(used & (new < 0))
    if len(lost) and unknown == 'error':
        raise ValueError(
            f"{where}: {len(lost)} {role} ids, such as {ids[lost[0]]!r}, are "
            f"not among '{role}s'; add them, or pass unknown='drop'")
    columns[role] = new[rows]
    keep = columns[role] >= 0
    report.note(int((~keep).sum()), f'interactions of {len(lost)} unknown '
                                    f'{role}s were left out')
    _take(columns, keep)
    return given
