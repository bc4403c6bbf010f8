r"""Names that are importable from another room than their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    r"""Returns the :obj:`__getattr__` of a module that finds names in upper
    rooms when they are asked for, so that importing the room itself imports
    none of these.

    Args:
        module (str): The name of the module.
        names (dict): From a name to the room that defines it.
    """
    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module '{module}' has no attribute "
                                 f"'{name}'")
        return getattr(import_module(names[name]), name)

    return __getattr__
