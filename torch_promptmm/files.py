r"""Files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    r"""Yields a temporary path beside :obj:`path`, which takes its place
    when the block ends without an error. Killed before that, the old file is
    whole.

    Args:
        path (str): The file to be written.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"'path' must name a file, but {str(path)!r} is a "
                         f"folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.tmp')
    try:
        yield temporary
        with open(temporary, 'rb+') as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
