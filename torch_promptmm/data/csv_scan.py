r"""Where in a text file the error is: the slow second look, taken only once
the fast reader has failed.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, NoReturn

MAX_SHOWN = 80
OPENERS: dict[str, Any] = {
    '.gz': gzip.open,
    '.bz2': bz2.open,
    '.xz': lzma.open,
}
BROKEN = (EOFError, OSError, zlib.error, lzma.LZMAError)


def open_bytes(path: str) -> IO[bytes]:
    r"""Opens a file, unpacked where its name says that it is packed."""
    for suffix, opener in OPENERS.items():
        if path.endswith(suffix):
            return opener(path, 'rb')
    return open(path, 'rb')


def shorten(value: object) -> str:
    r"""A piece of the input as it is shown in an error."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN - 3] + '...'


def rows_of(
    path: str,
    sep: str,
    encoding: str,
    quote: str | None = '"',
) -> Iterator[tuple[int, list[str]]]:
    r"""The rows of a file that are not empty, with the line on which each one
    ends, counted from 1.

    Raises:
        ValueError: If the file cannot be unpacked, decoded or split, with
            file and line.
    """
    csv.field_size_limit(1 << 27)  # The default is too short for reviews.
    quoting: Any = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
    with open_bytes(path) as raw:
        text = io.TextIOWrapper(raw, encoding=encoding, newline='')
        reader = csv.reader(text, delimiter=sep, quotechar=quote,
                            quoting=quoting, strict=True)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except UnicodeDecodeError:
                _raise_undecodable(path, encoding)
            except csv.Error as error:
                raise ValueError(
                    f'{path}, line {reader.line_num}: {error} (is a quote '
                    f'never closed?)') from error
            except BROKEN as error:
                raise_broken(path, error)
            if row:
                yield reader.line_num, row


def raise_broken(path: str, error: BaseException) -> NoReturn:
    r"""Reports a file that cannot be read to its end."""
    if isinstance(error, EOFError):
        why = 'the compressed file is cut off'
    else:
        why = f'the compressed file is damaged ({error})'
    raise ValueError(f'{path}: {why}; delete it and fetch it '
                     f'again') from error


def first_row(
    path: str,
    sep: str,
    encoding: str,
    wanted: Callable[[list[str]], bool],
    header: bool = True,
    quote: str | None = '"',
) -> tuple[int, list[str]] | None:
    r"""Line and content of the first data row that is wanted."""
    rows = rows_of(path, sep, encoding, quote)
    if header:
        next(rows, None)
    for line, row in rows:
        if wanted(row):
            return line, row
    return None


def diagnose(
    path: str,
    sep: str,
    encoding: str,
    error: BaseException,
    quote: str | None = '"',
) -> NoReturn:
    r"""Raises an error with the line on which reading a table failed."""
    rows = rows_of(path, sep, encoding, quote)
    _, head = next(rows, (0, []))
    for line, row in rows:
        if len(row) != len(head):
            raise ValueError(
                f'{path}, line {line}: {len(row)} fields where the first '
                f'line has {len(head)} (got {shorten(sep.join(row))}); was '
                f'the file cut off, or does a field contain the separator '
                f'{sep!r} without quotes?') from error
    raise ValueError(f'{path}: cannot be read ({error})') from error


def _raise_undecodable(path: str, encoding: str) -> NoReturn:
    with open_bytes(path) as raw:
        number, line = 0, b''
        try:
            for number, line in enumerate(raw, start=1):  # noqa: B007
                line.decode(encoding)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}, line {number}: byte 0x{line[error.start]:02x} at "
                f"position {error.start + 1} is not {encoding}; convert the "
                f"file, or name its encoding, such as encoding='latin-1' (a "
                f"file in two encodings has to be repaired first)") from None
        except BROKEN as error:
            raise_broken(path, error)
    raise ValueError(f"{path}: not {encoding}; name its encoding, such as "
                     f"encoding='latin-1'")
