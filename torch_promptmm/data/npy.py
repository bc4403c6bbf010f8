r"""Reading and writing :obj:`.npy` files, safely."""

from __future__ import annotations

import os
import os.path as osp
import tempfile

import numpy as np
import torch
from torch import Tensor


def load_npy(path: str | os.PathLike[str], mmap: bool = False) -> Tensor:
    r"""Reads a :obj:`.npy` file as a tensor. Nothing in it is executed.

    Args:
        path (str): The file.
        mmap (bool, optional): If set to :obj:`True`, the file is mapped into
            memory copy-on-write: its pages are read when they are used, and
            it is never written to. (default: :obj:`False`)

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no whole :obj:`.npy` file of numbers.
    """
    try:
        array = np.load(path, mmap_mode='c' if mmap else None,
                        allow_pickle=False)
    except FileNotFoundError:
        raise
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"'{os.fspath(path)}' is no readable .npy file of "
                         f"numbers ({error})") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(f"'{os.fspath(path)}' is an archive of several "
                         f"arrays; save each one with numpy.save")
    if not array.dtype.isnative:
        if mmap:
            raise ValueError(f"'{os.fspath(path)}' has foreign byte order "
                             f"(dtype {array.dtype}), which cannot be "
                             f"mapped; read it without mmap=True")
        array = array.astype(array.dtype.newbyteorder('='))
    if array.dtype.kind == 'u' and array.dtype != np.uint8:
        array = array.astype(np.int64)
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        raise ValueError(f"'{os.fspath(path)}' must hold numbers or booleans "
                         f"(got dtype {array.dtype})") from error


def read_npy_header(
    path: str | os.PathLike[str],
) -> tuple[tuple[int, ...], np.dtype]:
    r"""The shape and type of the array in a :obj:`.npy` file, whatever it
    holds; only its first bytes are read.

    Args:
        path (str): The file.

    Raises:
        ValueError: If it is no :obj:`.npy` file.
    """
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        with open(path, 'rb') as f:
            version = np.lib.format.read_magic(f)
            if version not in readers:  # Of arrays with named fields.
                return (), np.dtype(object)
            shape, _, dtype = readers[version](f)
    except ValueError as error:
        raise ValueError(f"'{os.fspath(path)}' is no readable .npy file "
                         f"({error})") from error
    return shape, dtype


def save_npy(path: str | os.PathLike[str], value: Tensor | np.ndarray) -> None:
    r"""Writes a :obj:`.npy` file so that it is there whole or not at all.

    Args:
        path (str): The file; its folder must exist.
        value (torch.Tensor or numpy.ndarray): What to write.
    """
    path = os.fspath(path)
    array = value.numpy() if isinstance(value, Tensor) else value
    handle, temp = tempfile.mkstemp(dir=osp.dirname(path) or '.',
                                    prefix=osp.basename(path) + '.')
    try:
        with os.fdopen(handle, 'wb') as f:
            np.save(f, array, allow_pickle=False)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temp, path)
    except BaseException:
        os.unlink(temp)
        raise
