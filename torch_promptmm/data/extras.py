r"""Optional packages, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any


def import_extra(name: str, extra: str, why: str) -> Any:
    r"""Imports an optional package that :obj:`extra` of this one installs,
    or says so: :obj:`why` begins the message."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition('.')[0].replace('_', '-')
        raise ImportError(
            f"{why} needs '{package}', which is not installed; run "
            f"'pip install torch_promptmm[{extra}]'") from error


class _Table:
    r"""A module for tables, imported when something of it is used."""
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        module = import_extra(self._name, 'tables', 'Reading a table')
        return getattr(module, name)


pa: Any = _Table('pyarrow')
pc: Any = _Table('pyarrow.compute')
csv: Any = _Table('pyarrow.csv')
datasets: Any = _Table('pyarrow.dataset')
parquet: Any = _Table('pyarrow.parquet')
pandas: Any = _Table('pandas')
