from __future__ import annotations

import hashlib
import json
import os
import os.path as osp
import sys
import time
import urllib.error
import urllib.request
from typing import IO, Any
from urllib.parse import urlsplit

BLOCK = 1 << 20
SCHEMES = ('http', 'https', 'file')


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
    ``Last-Modified``) that the file is still the same.

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
    path = osp.abspath(osp.expanduser(os.fspath(path)))
    if urlsplit(url).scheme not in SCHEMES:
        raise ValueError(f"'url' must begin with "
                         f"{', '.join(x + '://' for x in SCHEMES)} (got "
                         f"{url!r})")
    _parse_checksum(checksum)
    os.makedirs(osp.dirname(path), exist_ok=True)
    error: BaseException | None = None
    for attempt in range(retries + 1):
        if attempt:
            time.sleep(min(0.2 * 2**attempt, 10))
        try:
            if _fetch(url, path + '.part', timeout, progress):
                return _finish(path, url, checksum)
        except urllib.error.HTTPError as found:
            error = found
            if found.code < 500 and found.code not in (408, 416, 429):
                break  # Asking again will not help.
        except (OSError, ValueError) as found:
            if isinstance(found, OSError) and found.errno in _FULL:
                raise
            error = found
    raise ConnectionError(
        f"{url} cannot be fetched ({error or 'the connection broke off'}); "
        f"what has come so far is kept in {path}.part, so run this again, or "
        f"fetch the file by other means and put it at {path}") from error


def verify(path: str, checksum: str) -> None:
    r"""Checks the checksum of a file.

    Args:
        path (str): The file.
        checksum (str): :obj:`"sha256:<hex>"` or :obj:`"md5:<hex>"`.

    Raises:
        ValueError: If it is another one.
    """
    kind, wanted = _parse_checksum(checksum)
    digest = hashlib.new(kind)
    with open(path, 'rb') as f:
        while block := f.read(BLOCK):
            digest.update(block)
    if digest.hexdigest() != wanted:
        raise ValueError(f'{path} has the {kind} checksum '
                         f'{digest.hexdigest()} instead of {wanted}: it is '
                         f'damaged or another file; fetch it again')


# Private ######################################################################

_FULL = (28, 122)  # No space left, quota exceeded: a server cannot help.


def _parse_checksum(checksum: str | None) -> tuple[str, str]:
    kind, _, wanted = (checksum or 'sha256:').partition(':')
    if kind not in ('sha256', 'md5') or (checksum and not wanted):
        raise ValueError(f"'checksum' must be 'sha256:<hex>' or 'md5:<hex>' "
                         f"(got {checksum!r})")
    return kind, wanted.lower()


def _fetch(url: str, part: str, timeout: float, progress: bool) -> bool:
    r"""Fetches what is missing; true if all of it is there then."""
    start, stamp = _state(part)
    request = urllib.request.Request(url)
    if start and stamp:
        request.add_header('Range', f'bytes={start}-')
        request.add_header('If-Range', stamp)
    try:
        reply = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # Nothing from there on: begin anew.
            _forget(part)
        raise
    with reply:
        headers = reply.headers
        resumed = getattr(reply, 'status', 200) == 206
        if resumed:
            begin = headers.get('Content-Range', '').partition('-')[0]
            if begin.split() != ['bytes', str(start)]:
                _forget(part)
                return False
        else:
            start = 0
        length = headers.get('Content-Length')
        total = None if length is None else start + int(length)
        found = headers.get('ETag') or headers.get('Last-Modified')
        if found and not found.startswith('W/'):  # Weak tags prove nothing.
            with open(part + '.json', 'w', encoding='utf-8') as f:
                json.dump({'stamp': found}, f)
        elif not resumed and osp.exists(part + '.json'):
            os.unlink(part + '.json')
        with open(part, 'ab' if resumed else 'wb') as f:
            size = _copy(reply, f, start, total, progress)
            f.flush()
            os.fsync(f.fileno())
    return total is None or size == total


def _copy(
    reply: Any,
    out: IO[bytes],
    size: int,
    total: int | None,
    progress: bool,
) -> int:
    while block := reply.read(BLOCK):
        out.write(block)
        size += len(block)
        if progress:
            of = '' if total is None else f' of {total / 1e6:,.0f}'
            print(f'\r{osp.basename(out.name)}: {size / 1e6:,.0f}{of} MB',
                  end='', file=sys.stderr, flush=True)
    if progress:
        print(file=sys.stderr)
    return size


def _state(part: str) -> tuple[int, str | None]:
    r"""How much is there already, and of which version."""
    try:
        with open(part + '.json', encoding='utf-8') as f:
            return osp.getsize(part), str(json.load(f)['stamp'])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, None


def _forget(part: str) -> None:
    for file in (part, part + '.json'):
        if osp.exists(file):
            os.unlink(file)


def _finish(path: str, url: str, checksum: str | None) -> str:
    part = path + '.part'
    if checksum is not None:
        try:
            verify(part, checksum)
        except ValueError as error:
            _forget(part)
            raise ConnectionError(f'{url}: {error}') from error
    os.replace(part, path)
    _forget(part)
    return path
