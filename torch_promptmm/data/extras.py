r"""Optional packages, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any


def import_extra(name: str, extra: str, why: str) -> Any:
    r"""Imports an optional package, or says how to install it.

    Args:
        name (str): The module, such as :obj:`"pyarrow.csv"`.
        extra (str): The extra of this package that installs it.
        why (str): What needs it, the beginning of the message.

    Raises:
        ImportError: If the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition('.')[0].replace('_', '-')
        raise ImportError(
            f"{why} needs '{package}', which is not installed; run "
            f"'pip install torch_promptmm[{extra}]'") from error
