r"""Columns of a table as arrays: ids, ratings and times."""

from __future__ import annotations

from typing import Any

import numpy as np

from torch_promptmm.checks import check_choice
from torch_promptmm.data.extras import pa, pandas, pc
from torch_promptmm.data.frame import Frame, is_number
from torch_promptmm.data.ids import IdMap
from torch_promptmm.data.report import Report, shorten

INTEGER = r'^(0|-?[1-9][0-9]{0,17})$'
CONTROL = r'[\x00-\x08\x0a-\x1f\x7f]'
TO_MS = {'s': 1e3, 'ms': 1.0, 'us': 1e-3, 'ns': 1e-6}
# The smallest number that is read as ms, us and ns; as seconds it is the year
# 5138 or later, in its own unit it is 1973 or later.
BOUNDS = [1e11, 1e14, 1e17]


def number_ids(frame: Frame, role: str, id_type: str,
               report: Report) -> tuple[np.ndarray, IdMap]:
    r"""The rows of a column of ids :math:`[N]`, ``-1`` where there is none,
    and the ids that they stand for in the order of their first appearance.
    """
    column = frame.table[role]
    if pa.types.is_dictionary(column.type):  # Each chunk may have its own.
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        # pandas makes floats of integers that have a gap among them.
        column = pc.if_else(pc.is_finite(column), column,
                            pa.scalar(None, column.type))
        if pc.all(pc.equal(column, pc.round(column))).as_py() is not False:
            column = column.cast(pa.int64())
    if pa.types.is_integer(column.type):
        rows, ids = _encode(pc.cast(column, pa.int64()))
        if id_type != 'str':
            return rows, IdMap.of(ids.to_numpy())
        ids = ids.cast(pa.string())
    elif _is_text(column.type) or pa.types.is_null(column.type):
        rows, ids = _clean(frame, role, *_encode(column), report)
    else:
        raise TypeError(f'{frame.where}: the {role} ids must be strings or '
                        f'integers (got {column.type}); convert the column '
                        f'with .astype(str)')
    whole = pc.match_substring_regex(ids, INTEGER)
    if id_type == 'int' and not pc.all(whole, min_count=0).as_py():
        bad = ids[pc.index(whole, False).as_py()].as_py()
        raise ValueError(f"{frame.where}: the {role} {shorten(bad)} is no "
                         f"plain integer; pass id_type='str'")
    if id_type == 'int' or (id_type == 'auto' and frame.is_text and len(ids)
                            and pc.all(whole).as_py()):
        return rows, IdMap.of(ids.cast(pa.int64()).to_numpy())
    return rows, IdMap.of(ids.to_numpy(zero_copy_only=False))


def _is_text(kind: Any) -> bool:
    # Also `large_string` and `string_view`, which polars hands over.
    return str(kind).endswith(('string', 'string_view'))


def _encode(column: Any) -> tuple[np.ndarray, Any]:
    r"""The place of each value among the distinct ones, ``-1`` for a missing
    one, and these in the order of their first appearance."""
    if not pa.types.is_integer(column.type):
        column = column.cast(pa.string() if column.nbytes < 1 << 31 else
                             pa.large_string())
    parts = column.dictionary_encode().chunks  # All have one dictionary.
    if not parts:
        return np.empty(0, np.int64), pa.array([], column.type)
    rows = pc.fill_null(pa.chunked_array([x.indices for x in parts]), -1)
    return rows.to_numpy(), parts[-1].dictionary


def _clean(frame: Frame, role: str, rows: np.ndarray, ids: Any,
           report: Report) -> tuple[np.ndarray, Any]:
    r"""Takes white space from around ids; empty ones are missing."""
    clean = pc.utf8_trim_whitespace(ids) if frame.is_text else ids
    bad = pc.or_(pc.match_substring_regex(clean, CONTROL),
                 pc.match_substring(ids, '\n'))
    at = pc.index(bad, True).as_py()
    if at >= 0:
        raise ValueError(
            f'{frame.place(int(np.argmax(rows == at)))}: the {role} id '
            f'{shorten(ids[at].as_py())} has a line break or another control '
            f'character in it; is a quote never closed?')
    changed = pc.sum(pc.not_equal(clean, ids)).as_py() or 0
    report.repair(changed, f'{role} ids of {frame.where} had white space '
                           f'around them, which was removed', 5)
    if not changed and pc.index(clean, '').as_py() < 0:
        return rows, ids
    again = pc.if_else(pc.equal(clean, ''), None, clean).dictionary_encode()
    new = pc.fill_null(again.indices, -1).to_numpy()
    return np.append(new, -1)[rows], again.dictionary


def to_numbers(frame: Frame, role: str) -> np.ndarray:
    r"""A column as floats :math:`[N]`, NaN where there is none."""
    column = frame.table[role]
    try:
        return column.cast(pa.float64(), safe=False).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        for row, value in enumerate(column):
            if value.is_valid and not is_number(str(value)):
                raise ValueError(f'{frame.place(row)}: the {role} '
                                 f'{shorten(value.as_py())} is no '
                                 f'number') from error
        raise ValueError(f'{frame.where}: the {role} must be numbers '
                         f'({error})') from error


def read_times(frame: Frame, unit: str | None, time_format: str | None,
               report: Report) -> np.ndarray:
    r"""The column of times in milliseconds since 1970 :math:`[N]`, NaN where
    there is none.
    """
    check_choice('time_unit', unit, (None, *TO_MS))
    column = frame.table['time']
    if _is_text(column.type):
        return _parse_dates(frame, *_encode(column), time_format)
    if pa.types.is_temporal(column.type):
        try:
            dates = column.cast(pa.timestamp(
                'ms', getattr(column.type, 'tz', None)), safe=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ValueError(f'{frame.where}: the time must be numbers or '
                             f'dates (got {column.type})') from error
        return dates.cast(pa.int64()).cast(pa.float64(), safe=False).to_numpy()
    out, counts = to_milliseconds(to_numbers(frame, 'time'), unit)
    usual = max(counts, key=lambda name: counts[name], default=None)
    for name in counts.keys() - {usual}:
        report.repair(counts[name], f"times of {frame.where} were taken to "
                                    f"count in '{name}' and the other ones in "
                                    f"'{usual}'; pass time_unit= if that is "
                                    f"wrong", 4)
    return out


def to_milliseconds(
    value: np.ndarray,
    unit: str | None = None,
) -> tuple[np.ndarray, dict[str, int]]:
    r"""Times :math:`[N]` as whole milliseconds since 1970, NaN where a number
    is not finite, and how many numbers were in which unit.

    Without a ``unit`` each number tells its own by its size: below
    :math:`10^{11}` it counts seconds, below :math:`10^{14}` milliseconds,
    below :math:`10^{17}` microseconds, else nanoseconds. So a column in which
    two sources are mixed is put right, number by number.
    """
    finite = np.isfinite(value)
    value = np.where(finite, value, np.nan)
    if unit is not None:
        return np.rint(value * TO_MS[unit]), {unit: int(finite.sum())}
    place = np.searchsorted(BOUNDS, np.abs(value), side='right')
    counts = np.bincount(place[finite], minlength=len(TO_MS)).tolist()
    factor = np.array(list(TO_MS.values()))
    return (np.rint(value * factor[place]),
            {k: n for k, n in zip(TO_MS, counts, strict=True) if n})


def _parse_dates(frame: Frame, rows: np.ndarray, values: Any,
                 time_format: str | None) -> np.ndarray:
    texts = values.to_pandas()
    how = {'utc': True, 'format': time_format or 'ISO8601'}
    try:
        dates = pandas.to_datetime(texts, **how)
    except (ValueError, TypeError) as error:
        bad = pandas.to_datetime(texts, errors='coerce', **how).isna()
        bad &= ~texts.str.lower().isin(['', 'nan', 'nat'])
        at = int(np.argmax(bad))
        raise ValueError(
            f"{frame.place(int(np.argmax(rows == at)))}: the time "
            f"{shorten(texts[at])} is no date of the format "
            f"{time_format or 'ISO 8601'}; name the format, such as "
            f"time_format='%d.%m.%Y'") from error
    dates = dates.dt.tz_localize(None).to_numpy().astype('datetime64[ms]')
    out = np.where(np.isnat(dates), np.nan, dates.astype(np.int64))
    return np.append(out, np.nan)[rows]
