r"""Files from the net: whole, or not there."""

from __future__ import annotations

import hashlib
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from torch_promptmm.files import alone

BLOCK = 1 << 20
SCHEMES = ('http', 'https', 'file')
FULL = (28, 122)  # No space left, quota exceeded: a server cannot help.


def download(
    url: str,
    path: str | os.PathLike[str],
    checksum: str | None = None,
    timeout: float = 60.0,
    retries: int = 3,
    progress: bool = False,
) -> str:
    r"""Fetches a file: whole, or not at all.

    Bytes go into :obj:`<path>.part` and get their name once all have come and
    the checksum is right. A broken connection is taken up where it broke off,
    in this run or in a later one, as long as the server says (by ``ETag`` or
    ``Last-Modified``) that the file is still the same. Where several
    processes want the file, one fetches it and the others wait.

    Args:
        url (str): The address: ``http``, ``https`` or ``file``.
        path (str): Where the file goes.
        checksum (str, optional): :obj:`"sha256:<hex>"` or
            :obj:`"md5:<hex>"`. (default: :obj:`None`)
        timeout (float, optional): Seconds without a byte after which a
            connection counts as broken. (default: :obj:`60.0`)
        retries (int, optional): How often a broken connection is taken up
            again. (default: :obj:`3`)
        progress (bool, optional): If set to :obj:`True`, megabytes are
            written to the standard error stream. (default: :obj:`False`)

    Returns:
        str: The path.

    Raises:
        ConnectionError: If the file cannot be fetched.
        ValueError: If the address or the checksum is wrong.
    """
    path = Path(path).expanduser().absolute()
    if urlsplit(url).scheme not in SCHEMES:
        raise ValueError(f"'url' must begin with "
                         f"{', '.join(x + '://' for x in SCHEMES)} (got "
                         f"{url!r})")
    if checksum is not None:
        _parse_checksum(checksum)
    before = path.exists()
    with alone(path.parent):
        if before or not path.exists():  # Nobody was quicker.
            _fetch(url, path, checksum, timeout, retries, progress)
    return str(path)


def fetch_missing(path: Path, urls: Mapping[str, str], base_url: str | None,
                  checksums: Mapping[str, str], progress: bool) -> None:
    r"""Fetches a file that is not there from its address in :obj:`urls`, or
    else from the folder at :obj:`base_url`."""
    name = path.name
    url = urls.get(name) or (base_url and f'{base_url.rstrip("/")}/{name}')
    if not url:
        raise ValueError(f"'urls' has no address for {name}")
    if not path.exists():
        download(url, path, checksums.get(name), progress=progress)


def verify(path: str | os.PathLike[str], checksum: str) -> None:
    r"""Checks the checksum of a file, see :func:`download`."""
    kind, wanted = _parse_checksum(checksum)
    digest = hashlib.new(kind)
    with open(path, 'rb') as f:
        while block := f.read(BLOCK):
            digest.update(block)
    if digest.hexdigest() != wanted:
        raise ValueError(f'{path} has the {kind} checksum '
                         f'{digest.hexdigest()} instead of {wanted}: it is '
                         f'damaged or another file; fetch it again')


def _parse_checksum(checksum: str) -> tuple[str, str]:
    kind, _, wanted = checksum.partition(':')
    if kind not in ('sha256', 'md5') or not wanted:
        raise ValueError(f"'checksum' must be 'sha256:<hex>' or 'md5:<hex>' "
                         f"(got {checksum!r})")
    return kind, wanted.lower()


def _fetch(url: str, path: Path, checksum: str | None, timeout: float,
           retries: int, progress: bool) -> None:
    part, tag = (path.with_name(f'{path.name}.part{x}') for x in ('', '.tag'))
    error: BaseException | None = None
    for attempt in range(retries + 1):
        if attempt:
            time.sleep(min(0.2 * 2**attempt, 10))
        try:
            if _continue(url, part, tag, timeout, progress):
                if checksum is not None:
                    verify(part, checksum)
                os.replace(part, path)
                tag.unlink(missing_ok=True)
                return
        except (OSError, ValueError, HTTPException) as found:
            error, code = found, getattr(found, 'code', None)
            if isinstance(found, OSError) and found.errno in FULL:
                raise
            if isinstance(found, ValueError) or code == 416:  # Begin anew.
                part.unlink(missing_ok=True)
                tag.unlink(missing_ok=True)
            elif code is not None and code < 500 and code not in (408, 429):
                break  # Asking again will not help.
    raise ConnectionError(
        f"{url} cannot be fetched ({error or 'the connection broke off'}); "
        f"what has come so far is kept in {part}, so run this again, or "
        f"fetch the file by other means and put it at {path}") from error


def _continue(url: str, part: Path, tag: Path, timeout: float,
              progress: bool) -> bool:
    r"""Fetches what is missing of the version that :obj:`tag` tells of; true
    if all of it is there then."""
    request, start = urllib.request.Request(url), 0
    if part.exists() and tag.exists() and (version := tag.read_text('utf-8')):
        start = part.stat().st_size
        request.add_header('Range', f'bytes={start}-')
        request.add_header('If-Range', version)
    with urllib.request.urlopen(request, timeout=timeout) as reply:
        headers = reply.headers
        if getattr(reply, 'status', 200) == 206:
            begin = headers.get('Content-Range', '').partition('-')[0]
            if begin.split() != ['bytes', str(start)]:
                raise ValueError(f'not what was asked for: {begin}')
        else:
            # A part never lies beside the tag of another version.
            part.unlink(missing_ok=True)
            start, version = 0, (headers.get('ETag')
                                 or headers.get('Last-Modified') or '')
            if version.startswith('W/'):  # Weak tags prove nothing.
                version = ''
            tag.write_text(version, encoding='utf-8')
        length = headers.get('Content-Length')
        total = None if length is None else start + int(length)
        with open(part, 'ab') as f:
            size = _copy(reply, f, start, total, progress)
            f.flush()
            os.fsync(f.fileno())
    return total is None or size == total


def _copy(reply: Any, out: IO[bytes], size: int, total: int | None,
          progress: bool) -> int:
    while block := reply.read(BLOCK):
        out.write(block)
        size += len(block)
        if progress:
            of = '' if total is None else f' of {total / 1e6:,.0f}'
            print(f'\r{Path(out.name).name}: {size / 1e6:,.0f}{of} MB',
                  end='', file=sys.stderr, flush=True)
    if progress:
        print(file=sys.stderr)
    return size
