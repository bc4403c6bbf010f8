r"""Files that are whole or not there, and one process at a time."""

from __future__ import annotations

import os
import platform
import uuid
import zlib
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
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    r"""Yields a temporary path beside :obj:`path`, which takes its place
    when the block ends without an error. If the process is killed before
    that, the old file stays whole.

    The temporary name belongs to this call alone: of two that write one
    path at the same time, the last one to end stays, whole. What a killed
    process left behind is removed by the next one that writes the path on
    the same machine.

    Args:
        path (str): The file to be written.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"'path' must name a file, but {str(path)!r} is a "
                         f"folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f'.{path.name}.{zlib.crc32(platform.node().encode()):08x}-'
    _remove_left_behind(path.parent, prefix)
    temporary = path.with_name(
        f'{prefix}{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp')
    try:
        yield temporary
        with open(temporary, 'rb+') as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_left_behind(folder: Path, prefix: str) -> None:
    for name in os.listdir(folder):
        if name.startswith(prefix) and name.endswith('.tmp'):
            owner = name.removeprefix(prefix).partition('-')[0]
            if owner.isdecimal() and not _is_running(int(owner)):
                (folder / name).unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if os.name != 'posix':  # There `os.kill` would end it.
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


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
