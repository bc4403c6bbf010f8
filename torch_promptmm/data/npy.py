r"""Reading and writing :obj:`.npy` files; nothing in them is executed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torch_promptmm.files import atomic_path

PathLike = str | os.PathLike[str]
MAX_RATIO = 200  # Features packed by DEFLATE shrink to a third or so.
MAX_FREE = 1 << 26  # Archives that unpack to less may shrink as they like.


def read_array(path: PathLike, mmap: bool = False,
               max_bytes: int | None = None) -> np.ndarray:
    r"""Reads a :obj:`.npy` file, or the one array of an :obj:`.npz` archive.

    With :obj:`mmap` a :obj:`.npy` file is mapped into memory copy-on-write:
    its pages are read when they are used, and it is never written to. An
    archive that unpacks to more than :obj:`max_bytes` is refused; these are
    200 times its size (or 64 MiB) if they are not given.
    """
    path = Path(path).expanduser()
    with _explained(path):
        # Mapping a file first shows that it is cut off, before memory is
        # taken for all that its header tells of.
        out: Any = np.load(path, mmap_mode='c', allow_pickle=False)
        if isinstance(out, np.ndarray):
            return out if mmap else np.load(path, allow_pickle=False)
    with out:
        return _unpack(out, path, max_bytes)


def load_npy(path: PathLike, mmap: bool = False) -> Tensor:
    r"""Reads a :obj:`.npy` file as a tensor, see :func:`read_array`."""
    if Path(path).suffix == '.npz':
        raise ValueError(f'{path}: an archive of several arrays; save each '
                         f'one with numpy.save')
    array = read_array(path, mmap)
    if not array.dtype.isnative:
        if mmap:
            raise ValueError(f'{path}: has foreign byte order (dtype '
                             f'{array.dtype}), which cannot be mapped; read '
                             f'it without mmap=True')
        array = array.astype(array.dtype.newbyteorder('='))
    if array.dtype.kind == 'u' and array.dtype != np.uint8:
        array = array.astype(np.int64)
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        raise ValueError(f'{path}: must hold numbers or booleans (got dtype '
                         f'{array.dtype})') from error


def is_float_matrix(path: PathLike) -> bool:
    r"""Whether a :obj:`.npy` file holds a floating-point matrix; only its
    first bytes are read."""
    with _explained(path), open(path, 'rb') as f:
        first = np.lib.format.read_magic(f) == (1, 0)
        shape, _, dtype = (np.lib.format.read_array_header_1_0(f) if first
                           else np.lib.format.read_array_header_2_0(f))
    return len(shape) == 2 and dtype.kind == 'f'


def save_npy(path: PathLike, value: Tensor | np.ndarray) -> None:
    r"""Writes a :obj:`.npy` file so that it is there whole or not at all."""
    array = value.numpy() if isinstance(value, Tensor) else value
    with atomic_path(path) as temporary, open(temporary, 'wb') as f:
        np.save(f, array, allow_pickle=False)


@contextmanager
def _explained(path: PathLike) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:  # A damaged file raises about anything.
        # NumPy's second sentence says how to load the file unsafely.
        why = str(error).partition('. ')[0]
        raise ValueError(f'{path}: no whole array of numbers or text ({why}); '
                         f'fetch it again, or write it with '
                         f'numpy.save') from error


def _unpack(archive: Any, path: Path, max_bytes: int | None) -> np.ndarray:
    if len(archive.files) != 1:
        raise ValueError(f'{path}: holds the arrays {sorted(archive.files)}; '
                         f'save the one that is meant with numpy.save')
    key, size = archive.files[0], archive.zip.infolist()[0].file_size
    if max_bytes is None:
        max_bytes = max(MAX_FREE, MAX_RATIO * path.stat().st_size)
    if size > max_bytes:
        raise ValueError(f"{path}: '{key}' unpacks to {size:,} bytes, over "
                         f"the limit of {max_bytes:,}; if that is right, "
                         f"pass max_bytes=")
    with _explained(path):
        return archive[key]
