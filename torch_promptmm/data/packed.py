r"""Files that may be packed, such as :obj:`.csv.gz`."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from pathlib import Path
from typing import IO, Any, NoReturn

OPENERS: dict[str, Any] = {
    '.gz': gzip.open,
    '.bz2': bz2.open,
    '.xz': lzma.open,
}
# What a packed file raises that is cut off or damaged.
BROKEN = (EOFError, OSError, zlib.error, lzma.LZMAError)


def open_packed(path: Path) -> IO[bytes]:
    r"""Opens a file, unpacked where its name says that it is packed."""
    return OPENERS.get(path.suffix, open)(path, 'rb')


def raise_broken(where: object, error: BaseException) -> NoReturn:
    r"""Reports a file, or a place in one, that cannot be read to its end."""
    why = ('is cut off' if isinstance(error, EOFError)
           else f'is damaged ({error})')
    raise ValueError(f'{where}: the compressed file {why}; delete it and '
                     f'fetch it again') from error
