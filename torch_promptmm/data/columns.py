r"""Columns of a table as arrays: ids, ratings and times."""

from __future__ import annotations

from typing import Any

import numpy as np

from .csv_scan import shorten
from .extras import import_extra
from .ids import IdMap
from .report import Report
from .tables import Table
from .times import parse_dates, to_milliseconds

INTEGER = r'^(0|-?[1-9][0-9]{0,17})$'
CONTROL = r'[\x00-\x08\x0a-\x1f\x7f]'


def read_ids(
    table: Table,
    role: str,
    id_type: str,
    report: Report,
) -> tuple[np.ndarray, IdMap]:
    r"""The rows of a column of ids, ``-1`` where there is none, and the ids
    that they stand for in the order of their first appearance.

    Args:
        table (Table): The table.
        role (str): The column, ``user`` or ``item``.
        id_type (str): ``"auto"``, ``"str"`` or ``"int"``.
        report (Report): Where repairs are noted.
    """
    pa = import_extra('pyarrow', 'tables', 'Reading a table')
    pc = import_extra('pyarrow.compute', 'tables', 'Reading a table')
    column = table.columns[role]
    if not isinstance(column, pa.ChunkedArray):
        return _factorise(column)
    if pa.types.is_floating(column.type):
        column = _whole_numbers(column, pa, pc)
    if pa.types.is_dictionary(column.type):
        # Arrow numbers each chunk by itself: one numbering for all of them.
        column = column.unify_dictionaries()
    else:
        try:
            column = column.dictionary_encode()  # One for all already.
        except pa.ArrowNotImplementedError:  # Such as UUIDs.
            return _factorise(column.to_pandas())
    parts = column.chunks or [pa.array([], column.type)]
    ids = parts[-1].dictionary
    rows = pc.fill_null(pa.chunked_array([x.indices for x in parts]),
                        -1).to_numpy()
    if _is_text(ids, pa):
        rows, ids = _clean(table, role, rows, ids, report)
        whole = len(ids) > 0 and pc.all(
            pc.match_substring_regex(ids, INTEGER)).as_py()
        if id_type == 'int' and not whole and len(ids) > 0:
            bad = next(x for x in ids.to_pylist() if not _is_integer(x))
            raise ValueError(f"{table.where}: the {role} {shorten(bad)} is no "
                             f"plain integer; pass id_type='str'")
        if whole and (id_type == 'int' or (id_type == 'auto'
                                           and table.is_text)):
            ids = pc.cast(ids, pa.int64())
    elif id_type == 'str':
        ids = pc.cast(ids, pa.string())
    if pa.types.is_signed_integer(ids.type):
        array = ids.to_numpy(zero_copy_only=False).astype(np.int64)
        return rows, IdMap._of(array)
    if _is_text(ids, pa):  # A dictionary has each entry once.
        return rows, IdMap._of(ids.to_numpy(zero_copy_only=False))
    return rows, IdMap(ids.to_pylist())


def _is_text(column: Any, pa: Any) -> bool:
    kind = column.type
    return (pa.types.is_string(kind) or pa.types.is_large_string(kind)
            or pa.types.is_string_view(kind))


def _factorise(column: Any) -> tuple[np.ndarray, IdMap]:
    rows, values = column.factorize()
    return rows.astype(np.int64), IdMap(list(values))


def _is_integer(text: str) -> bool:
    return text.lstrip('-').isdigit() and str(int(text)) == text


def _whole_numbers(column: Any, pa: Any, pc: Any) -> Any:
    r"""Floats that pandas made of integers, for a gap among them, go back."""
    column = pc.if_else(pc.is_finite(column), column,
                        pa.scalar(None, column.type))
    if pc.all(pc.equal(column, pc.round(column))).as_py():
        return pc.cast(column, pa.int64())
    return column


def _clean(
    table: Table,
    role: str,
    rows: np.ndarray,
    ids: Any,
    report: Report,
) -> tuple[np.ndarray, Any]:
    pa = import_extra('pyarrow', 'tables', 'Reading a table')
    pc = import_extra('pyarrow.compute', 'tables', 'Reading a table')
    if table.is_text:
        trimmed = pc.utf8_trim_whitespace(ids)
        changed = pc.sum(pc.not_equal(trimmed, ids)).as_py() or 0
        if changed:
            if (pc.any(pc.match_substring(ids, '\n')).as_py()):
                _raise_control(table, role)
            report.repair(changed, f'{role} ids of {table.where} had white '
                                   f'space around them, which was removed', 5)
            merged = trimmed.dictionary_encode()
            table_of = merged.indices.to_numpy(zero_copy_only=False)
            rows = np.where(rows >= 0, table_of[rows], -1)
            ids = merged.dictionary
    if pc.any(pc.match_substring_regex(ids, CONTROL)).as_py():
        _raise_control(table, role)
    empty = pc.index(ids, '').as_py()
    if empty >= 0:
        rows = np.where(rows == empty, -1, rows)
        keep = np.arange(len(ids)) != empty
        new = np.cumsum(keep) - 1
        rows = np.where(rows >= 0, new[rows], -1)
        ids = ids.filter(pa.array(keep))
    return rows, ids


def _raise_control(table: Table, role: str) -> None:
    place = table.locate(role, lambda x: any(ord(c) < 32 and c != '\t'
                                             or ord(c) == 127 for c in x))
    raise ValueError(f'{place}: a {role} id has a line break or another '
                     f'control character in it; is a quote never closed?')


def read_ratings(table: Table) -> np.ndarray | None:
    r"""Ratings as floats, NaN where there is none, if there is such a column.

    Args:
        table (Table): The table.
    """
    if 'rating' not in table.columns:
        return None
    column = _to_float(table, 'rating')
    if column is None:
        place = table.locate('rating', lambda x: not _is_float(x))
        raise ValueError(f'{place}: the rating is no number')
    return column


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in ('None', '<NA>', 'NaT')
    return True


def _to_float(table: Table, role: str) -> np.ndarray | None:
    pa = import_extra('pyarrow', 'tables', 'Reading a table')
    pc = import_extra('pyarrow.compute', 'tables', 'Reading a table')
    column = table.columns[role]
    if not isinstance(column, pa.ChunkedArray):
        return None
    try:
        column = pc.cast(column, pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    if column.null_count:
        column = pc.fill_null(column, float('nan'))
    return column.to_numpy()


def read_times(
    table: Table,
    unit: str | None,
    time_format: str | None,
    report: Report,
) -> tuple[np.ndarray, np.ndarray] | None:
    r"""Times in milliseconds, and which ones are missing, if there is such a
    column.

    Args:
        table (Table): The table.
        unit (str, optional): The unit of numbers, or :obj:`None`.
        time_format (str, optional): The format of text, or :obj:`None`.
        report (Report): Where repairs are noted.
    """
    if 'time' not in table.columns:
        return None
    pa = import_extra('pyarrow', 'tables', 'Reading a table')
    column = table.columns['time']
    text = not isinstance(column, pa.ChunkedArray) or pa.types.is_string(
        column.type) or pa.types.is_large_string(column.type)
    if text or pa.types.is_temporal(column.type):
        pandas = import_extra('pandas', 'tables', 'Reading dates')
        values = pandas.Series(column if not isinstance(
            column, pa.ChunkedArray) else column.to_pandas())
        if text:
            values = values.where(values != '', None)
        try:
            value = parse_dates(values, time_format)
        except (ValueError, TypeError) as error:
            place = table.locate('time', lambda x: x != '' and not _is_date(
                x, time_format))
            raise ValueError(
                f"{place}: the time is no date of the format "
                f"{time_format or 'ISO 8601'}; name the format, such as "
                f"time_format='%d.%m.%Y'") from error
        unit = 'ms'
    else:
        found = _to_float(table, 'time')
        if found is None:
            raise ValueError(f'{table.where}: the time must be numbers or '
                             f'dates (got the type {column.type})')
        value = found
    out, counts = to_milliseconds(value, unit)
    if len(counts) > 1:
        usual = max(counts, key=lambda name: counts[name])
        for name in counts.keys() - {usual}:
            report.repair(counts[name], f"times of {table.where} were taken "
                                        f"to count in '{name}' and the other "
                                        f"ones in '{usual}'; pass time_unit= "
                                        f"if that is wrong", 4)
    return out, ~np.isfinite(value)


def _is_date(text: str, time_format: str | None) -> bool:
    pandas = import_extra('pandas', 'tables', 'Reading dates')
    try:
        parse_dates(pandas.Series([text]), time_format)
    except (ValueError, TypeError):
        return False
    return True
