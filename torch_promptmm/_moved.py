r"""Names that are imported from elsewhere when they are asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(
    module: str,
    names: Mapping[str, str],
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    r"""Returns a module's :obj:`__getattr__`, which imports names when they
    are asked for, and its :obj:`__dir__`, which lists them. Importing the
    module imports none of them.

    Args:
        module (str): The name of the module.
        names (dict): From a name to the file or room that defines it; to
            :obj:`""`, if it is a room of the module itself.
    """
    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module '{module}' has no attribute "
                                 f"'{name}'")
        if not names[name]:
            return import_module(f'{module}.{name}')
        return getattr(import_module(names[name]), name)

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[module]), *names})

    return __getattr__, __dir__
