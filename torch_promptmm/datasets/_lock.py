r"""One process at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows.
    fcntl = None


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    r"""Waits until no other process is in such a block with the same folder,
    which is made if it is not there. The lock of a process that is killed
    goes with it. Yields :obj:`False` where the system has no locks."""
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield False
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        locked = False
        with suppress(OSError):  # Some network drives have none either.
            fcntl.flock(handle, fcntl.LOCK_EX)
            locked = True
        yield locked
    finally:
        os.close(handle)
