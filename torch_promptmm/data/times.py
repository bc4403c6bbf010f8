from __future__ import annotations

from typing import Any

import numpy as np

from .extras import import_extra

# The smallest number that is read in each unit; as seconds it would be the
# year 5138 or later, in its own unit it is 1973 or later.
UNITS = {'s': 0.0, 'ms': 1e11, 'us': 1e14, 'ns': 1e17}
TO_MS = {'s': 1e3, 'ms': 1.0, 'us': 1e-3, 'ns': 1e-6}


def to_milliseconds(
    value: np.ndarray,
    unit: str | None = None,
) -> tuple[np.ndarray, dict[str, int]]:
    r"""Times as whole milliseconds since 1970.

    Without a ``unit`` each number tells its own by its size: below
    :math:`10^{11}` it counts seconds, below :math:`10^{14}` milliseconds,
    below :math:`10^{17}` microseconds, else nanoseconds. So a column in which
    two sources are mixed is put right, number by number.

    Args:
        value (numpy.ndarray): Numbers :math:`[N]`; NaN stays undefined.
        unit (str, optional): ``"s"``, ``"ms"``, ``"us"`` or ``"ns"``.
            (default: :obj:`None`)

    Returns:
        Tuple[numpy.ndarray, Dict[str, int]]: The times :math:`[N]`, int64
        (0 where undefined), and how many numbers were in which unit.
    """
    if unit is not None and unit not in UNITS:
        raise ValueError(f"'time_unit' must be one of {', '.join(UNITS)} or "
                         f"None (got {unit!r})")
    bounds = [*UNITS.values(), np.inf]
    with np.errstate(invalid='ignore'):
        low, high = (value.min(), value.max()) if len(value) else (0.0, 0.0)
    if unit is None and 0 <= low and high < UNITS['ms']:  # The usual case.
        return np.rint(value * TO_MS['s']).astype(np.int64), {
            's': len(value)}
    finite = np.isfinite(value)
    size = np.where(finite, np.abs(value), 0)
    counts = {}
    out = np.zeros(len(value), dtype=np.int64)
    for i, name in enumerate(UNITS):
        if unit is not None:
            rows = finite if name == unit else np.zeros_like(finite)
        else:
            rows = finite & (size >= bounds[i]) & (size < bounds[i + 1])
        if not rows.any():
            continue
        counts[name] = int(rows.sum())
        if rows.all():
            return np.rint(value * TO_MS[name]).astype(np.int64), counts
        out[rows] = np.rint(value[rows] * TO_MS[name]).astype(np.int64)
    return out, counts


def parse_dates(values: Any, time_format: str | None = None) -> np.ndarray:
    r"""Dates as float milliseconds since 1970, NaN where there is none.

    Args:
        values (Any): A pandas series of strings or of dates.
        time_format (str, optional): A format of :meth:`strftime`. If
            :obj:`None`, ISO 8601. (default: :obj:`None`)

    Raises:
        ValueError: If a value is no date.
    """
    pandas = import_extra('pandas', 'tables', 'Reading dates')
    dates = pandas.to_datetime(values, utc=True,
                               format=time_format or 'ISO8601')
    missing = dates.isna().to_numpy()
    dates = dates.dt.tz_localize(None).dt.as_unit('ms').to_numpy()
    out = dates.astype('datetime64[ms]').astype(np.int64).astype(np.float64)
    out[missing] = np.nan
    return out
