r"""A processed dataset on disk: whole, or not there."""

from __future__ import annotations

import json
import os
import os.path as osp
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from torch_promptmm.data import from_splits, load_npy, save_npy
from torch_promptmm.data.ids import IdMap, item_ids, set_ids, user_ids
from torch_promptmm.data.report import Report
from torch_promptmm.datasets.base import SPLITS
from torch_promptmm.files import atomic_path

EDGE_TYPE = ('user', 'interacts', 'item')
INDEX = 'dataset.json'
Splits = tuple[HeteroData, HeteroData, HeteroData]


@contextmanager
def partial_folder(target: str) -> Iterator[str]:
    r"""A folder to write into, which becomes :obj:`target` if all goes well
    and is gone if not. What a killed run left behind is removed first.

    Args:
        target (str): The folder that is to be there in the end.
    """
    parent, name = osp.split(target)
    os.makedirs(parent, exist_ok=True)
    prefix = f'.{name}.partial-'
    for old in os.listdir(parent):
        if old.startswith(prefix) and not _alive(old[len(prefix):]):
            shutil.rmtree(osp.join(parent, old), ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f'{prefix}{os.getpid()}-', dir=parent)
    os.chmod(folder, 0o755)
    try:
        yield folder
        _replace(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_splits(
    folder: str,
    splits: Splits,
    settings: dict[str, Any],
    features: str,
) -> None:
    r"""Writes everything but the features, the index last.

    Args:
        folder (str): The folder; it must exist.
        splits (Tuple[HeteroData, ...]): Training, validation and test.
        settings (Dict[str, Any]): What the dataset was made with.
        features (str): The folder of the features, which are there already.
    """
    train = splits[0]
    for name, data in zip(SPLITS, splits, strict=True):
        store = data[EDGE_TYPE]
        key = 'edge_index' if name == 'train' else 'edge_label_index'
        save_npy(osp.join(folder, f'{name}.npy'), store[key])
        time = store.get('time' if name == 'train' else 'edge_label_time')
        if time is not None:
            save_npy(osp.join(folder, f'{name}_time.npy'), time)
    for kind, ids in [('user', user_ids(train)), ('item', item_ids(train))]:
        if ids is not None:
            with atomic_path(osp.join(folder, f'{kind}_ids.json')) as path:
                path.write_bytes(ids.to_bytes())
    report = train.report if 'report' in train else Report()
    body = {
        'settings': settings,
        'num_users': train['user'].num_nodes,
        'num_items': train['item'].num_nodes,
        'report': report.notes,
        'files': _sizes(folder),
        'features': _sizes(features),
    }
    with atomic_path(osp.join(folder, INDEX)) as path:
        path.write_text(json.dumps(body, indent=1), encoding='utf-8')


def read_splits(
    folder: str,
    features: str,
    known: str,
    mmap: bool,
) -> Splits:
    r"""Reads what :func:`write_splits` wrote, with the features of a folder.

    Args:
        folder (str): The folder.
        features (str): The folder of the features.
        known (str): The interactions that the test graph knows of.
        mmap (bool): If features are to be mapped into memory.

    Raises:
        ValueError: If a file is missing or of another size than it was.
    """
    body = _read_index(folder)
    for where, files in [(folder, body['files']),
                         (features, body['features'])]:
        for file, size in files.items():
            path = osp.join(where, file)
            if not osp.isfile(path) or osp.getsize(path) != size:
                raise ValueError(f'{path} is missing or damaged; make the '
                                 f'dataset anew with force_reload=True')
    parts = [load_npy(osp.join(folder, f'{x}.npy')) for x in SPLITS]
    tensors: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    for file in body['features']:
        name = file.removesuffix('.npy')
        path = osp.join(features, file)
        if name.endswith('_mask'):
            masks[name.removesuffix('_mask')] = load_npy(path)
        else:
            tensors[name] = load_npy(path, mmap)
    splits = from_splits(parts[0], parts[1], parts[2], tensors,
                         body['num_users'], body['num_items'], masks,
                         EDGE_TYPE, known)
    times = _times(folder)
    maps = {}
    for kind in ('user', 'item'):
        path = osp.join(folder, f'{kind}_ids.json')
        if osp.isfile(path):
            with open(path, 'rb') as f:
                maps[kind] = IdMap.from_bytes(f.read())
    for i, data in enumerate(splits):
        data.report = Report(body['report'])
        set_ids(data, maps.get('user'), maps.get('item'), EDGE_TYPE)
        if times is not None:
            store = data[EDGE_TYPE]
            store.time = times[0]
            if i:
                store.edge_label_time = times[i]
            if i == 2 and known == 'train+val':
                store.time = _merge_times(parts, times,
                                          body['num_items'])
    return splits


def reserve(path: str, shape: tuple[int, int], dtype: Any) -> np.memmap:
    r"""A new :obj:`.npy` file mapped into memory, its space taken beforehand.

    Writing into a mapped file that the disk has no space for would end the
    process without a word; so a full disk is an :class:`OSError` here.

    Args:
        path (str): The file.
        shape (Tuple[int, int]): The shape of the array.
        dtype (Any): Its type.
    """
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    with open(path, 'wb') as f:
        header = {'descr': np.lib.format.dtype_to_descr(dtype),
                  'fortran_order': False, 'shape': tuple(shape)}
        np.lib.format.write_array_header_1_0(f, header)
        f.flush()
        start = f.tell()
        if hasattr(os, 'posix_fallocate'):
            os.posix_fallocate(f.fileno(), start, max(size, 1))
            os.ftruncate(f.fileno(), start + size)
        else:
            zeros = bytes(1 << 20)
            for at in range(0, size, len(zeros)):
                f.write(zeros[:size - at])
    return np.lib.format.open_memmap(path, mode='r+')


# Private ######################################################################


def _alive(rest: str) -> bool:
    r"""If the process that a partial folder belongs to still runs."""
    pid = rest.partition('-')[0]
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return int(pid) != os.getpid()


def _replace(folder: str, target: str) -> None:
    for file in os.listdir(folder):
        with open(osp.join(folder, file), 'rb') as f:
            os.fsync(f.fileno())
    for _ in range(2):
        if osp.isdir(target):
            old = tempfile.mkdtemp(prefix=osp.basename(folder) + '-old-',
                                   dir=osp.dirname(target))
            os.replace(target, osp.join(old, 'x'))
            shutil.rmtree(old, ignore_errors=True)
        try:
            os.replace(folder, target)
            return
        except OSError:  # Somebody else was quicker: theirs is whole too.
            if not osp.isdir(target):
                raise
    with suppress(OSError):
        os.replace(folder, target)


def _sizes(folder: str) -> dict[str, int]:
    return {x: osp.getsize(osp.join(folder, x))
            for x in sorted(os.listdir(folder))}


def _read_index(folder: str) -> dict[str, Any]:
    path = osp.join(folder, INDEX)
    try:
        with open(path, encoding='utf-8') as f:
            return json.load(f)
    except (OSError, ValueError) as error:
        raise ValueError(f'{path} is missing or damaged; make the dataset '
                         f'anew with force_reload=True') from error


def _times(folder: str) -> list[Tensor] | None:
    paths = [osp.join(folder, f'{x}_time.npy') for x in SPLITS]
    if not all(osp.isfile(x) for x in paths):
        return None
    return [load_npy(x) for x in paths]


def _merge_times(
    parts: list[Tensor],
    times: list[Tensor],
    num_items: int,
) -> Tensor:
    index = torch.cat(parts[:2], dim=1)
    order = (index[0] * num_items + index[1]).argsort()
    return torch.cat(times[:2])[order]
