r"""Arrays from files that may hold anything."""

from __future__ import annotations

import os
import os.path as osp
import zipfile
import zlib
from typing import Any

import numpy as np

MAX_RATIO = 200  # Features packed by DEFLATE shrink to a third or so.
MAX_FREE = 1 << 26  # Archives that unpack to less may shrink as they like.


def read_array(
    path: str | os.PathLike[str],
    mmap: bool = False,
    key: str | None = None,
    max_bytes: int | None = None,
) -> np.ndarray:
    r"""Reads a :obj:`.npy` file, or one array of an :obj:`.npz` archive.
    Nothing in it is executed.

    Args:
        path (str): The file.
        mmap (bool, optional): If set to :obj:`True`, a :obj:`.npy` file is
            mapped into memory copy-on-write. (default: :obj:`False`)
        key (str, optional): The array of an archive; needed if there are
            several. (default: :obj:`None`)
        max_bytes (int, optional): An archive that unpacks to more is refused.
            If :obj:`None`, it may not unpack to more than 200 times its size
            (or 64 MiB). (default: :obj:`None`)

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, holds Python objects, or unpacks
            to more than it should.
    """
    path = osp.expanduser(os.fspath(path))
    if not osp.exists(path):
        raise FileNotFoundError(f'There is no file {path}')
    if path.endswith('.npz'):
        return _read_npz(path, key, max_bytes)
    with open(path, 'rb') as f:
        shape, fortran, dtype = _read_header(f, path)
        start = f.tell()
        count = int(np.prod(shape, dtype=object))
        held = osp.getsize(path) - start
        if held < count * dtype.itemsize:
            raise ValueError(
                f'{path}: cut off: its header tells of '
                f'{count * dtype.itemsize} bytes (shape {list(shape)}, '
                f'{dtype}), but {held} follow; fetch or write it again')
        if mmap:
            out: np.ndarray = np.memmap(
                path, dtype, 'c', start, shape,
                'F' if fortran else 'C') if count else np.empty(shape, dtype)
            return np.asarray(out) if not count else out
        out = np.fromfile(f, dtype, count)
    return out.reshape(shape[::-1]).T if fortran else out.reshape(shape)


# Private ######################################################################


def _read_header(f: Any, path: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(f)
        reader = (np.lib.format.read_array_header_1_0 if version == (1, 0)
                  else np.lib.format.read_array_header_2_0)
        shape, fortran, dtype = reader(f)
    except Exception as error:  # Parsed as a Python literal: many kinds.
        raise ValueError(f'{path}: no .npy file ({error}); write it with '
                         f'numpy.save') from error
    if dtype.hasobject:
        raise ValueError(
            f"{path}: holds Python objects (dtype {dtype}), which are never "
            f"unpickled here; save numbers, such as "
            f"numpy.stack(list(x)).astype('float32')")
    if any(size < 0 for size in shape):
        raise ValueError(f'{path}: has the impossible shape {list(shape)}')
    return shape, fortran, dtype


def _read_npz(path: str, key: str | None, max_bytes: int | None) -> np.ndarray:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {x.filename.removesuffix('.npy'): x
                     for x in archive.infolist()}
            info = _pick(names, key, path)
            limit = max_bytes
            if limit is None:
                limit = max(MAX_FREE, MAX_RATIO * osp.getsize(path))
            if info.file_size > limit:
                raise ValueError(
                    f"{path}: '{info.filename}' unpacks to "
                    f"{info.file_size:,} bytes, over the limit of {limit:,}; "
                    f"if that is right, pass max_bytes=")
            with archive.open(info) as f:
                shape, fortran, dtype = _read_header(f, path)
                count = int(np.prod(shape, dtype=object))
                if count * dtype.itemsize > info.file_size:
                    raise ValueError(
                        f"{path}: '{info.filename}' is cut off: its header "
                        f"tells of the shape {list(shape)}")
                data = f.read(count * dtype.itemsize)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError,
            RuntimeError, OSError) as error:
        raise ValueError(f'{path}: no whole .npz archive ({error}); fetch or '
                         f'write it again') from error
    out = np.frombuffer(bytearray(data), dtype)
    return out.reshape(shape[::-1]).T if fortran else out.reshape(shape)


def _pick(names: dict[str, Any], key: str | None, path: str) -> Any:
    if key is None and len(names) == 1:
        return next(iter(names.values()))
    if key is None:
        raise ValueError(f'{path}: holds several arrays ({sorted(names)}); '
                         f'say which one with key=')
    if key not in names:
        raise ValueError(f'{path}: has no array {key!r}; it has '
                         f'{sorted(names)}')
    return names[key]
