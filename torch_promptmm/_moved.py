r"""Names that are still importable from the room where they were."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    r"""Returns a module's :obj:`__getattr__` that imports names from upper
    rooms when they are asked for. Importing the module imports none of them.

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
