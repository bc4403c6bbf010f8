r"""A processed dataset on disk: whole, or not there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_geometric.data import HeteroData

from torch_promptmm.data import from_splits
from torch_promptmm.data.contract import DEFAULT_EDGE_TYPE
from torch_promptmm.data.ids import IdMap, item_ids, set_ids, user_ids
from torch_promptmm.data.matrices import read_matrices
from torch_promptmm.data.modalities import MASK_SUFFIX
from torch_promptmm.data.npy import load_npy, save_npy
from torch_promptmm.data.report import Report, report_of
from torch_promptmm.datasets.base import SPLITS
from torch_promptmm.files import atomic_path

INDEX = 'dataset.json'
Splits = tuple[HeteroData, HeteroData, HeteroData]


@contextmanager
def partial_folder(target: Path, clean: bool) -> Iterator[Path]:
    r"""A folder to write into, which becomes :obj:`target` if all goes well
    and is gone if not. With :obj:`clean`, which is for who writes
    :func:`~torch_promptmm.files.alone`, it removes what killed runs
    left behind."""
    prefix = f'.{target.name}.partial-'
    target.parent.mkdir(parents=True, exist_ok=True)
    if clean:
        for left in target.parent.glob(f'{prefix}*'):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    folder.chmod(0o755)
    old = folder.with_name(f'{folder.name}-old')
    try:
        yield folder
        for path in folder.iterdir():
            with open(path, 'rb') as f:
                os.fsync(f.fileno())
        with suppress(FileNotFoundError):
            target.rename(old)
        try:
            folder.rename(target)
        except OSError:  # Somebody else was quicker: theirs is whole too.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_splits(folder: Path, splits: Splits, settings: dict[str, Any],
                 features: Path) -> None:
    r"""Writes everything into a folder that is there, the index last, but
    the features, which are in theirs already."""
    train = splits[0]
    for name, data in zip(SPLITS, splits, strict=True):
        store = data[DEFAULT_EDGE_TYPE]
        key = 'edge_index' if name == 'train' else 'edge_label_index'
        save_npy(folder / f'{name}.npy', store[key])
        time = store.get('time' if name == 'train' else 'edge_label_time')
        if time is not None:
            save_npy(folder / f'{name}_time.npy', time)
    for kind, ids in [('user', user_ids(train)), ('item', item_ids(train))]:
        if ids is not None:
            with atomic_path(folder / f'{kind}_ids.json') as path:
                path.write_bytes(ids.to_bytes())
    body = {
        'settings': settings,
        'num_users': train['user'].num_nodes,
        'num_items': train['item'].num_nodes,
        'report': report_of(train).notes,
        'files': _sizes(folder),
        'features': _sizes(features),
    }
    with atomic_path(folder / INDEX) as path:
        path.write_text(json.dumps(body, indent=1), encoding='utf-8')


def read_splits(folder: Path, features: Path, known: str,
                mmap: bool) -> Splits:
    r"""Reads what :func:`write_splits` wrote, with the features of a folder;
    a file that is missing or of another size is an error."""
    path = folder / INDEX
    try:
        body = json.loads(path.read_text('utf-8'))
        for where, files in [(folder, body['files']),
                             (features, body['features'])]:
            for file, size in files.items():
                path = where / file
                if path.stat().st_size != size:
                    raise ValueError(f'not of {size} bytes')
    except (OSError, ValueError) as error:
        raise ValueError(f'{path} is missing or damaged; make the dataset '
                         f'anew with force_reload=True') from error
    train, val, test = (load_npy(folder / f'{x}.npy') for x in SPLITS)
    matrices = {Path(x).stem: features / x for x in body['features']}
    tensors, masks = read_matrices(
        {name: path for name, path in matrices.items()
         if not name.endswith(MASK_SUFFIX)}, mmap)
    splits = from_splits(train, val, test, tensors, body['num_users'],
                         body['num_items'], masks, known=known)
    users, items = (
        IdMap.from_bytes(path.read_bytes()) if path.is_file() else None
        for path in (folder / 'user_ids.json', folder / 'item_ids.json'))
    times = [load_npy(folder / f'{x}_time.npy') for x in SPLITS
             if f'{x}_time.npy' in body['files']]
    for i, data in enumerate(splits):
        data.report = Report(body['report'])
        set_ids(data, users, items)
        if times:
            store = data[DEFAULT_EDGE_TYPE]
            store.time = times[0]
            if i:
                store.edge_label_time = times[i]
            if i == 2 and known == 'train+val':
                index = torch.cat([train, val], dim=1)
                order = (index[0] * body['num_items'] + index[1]).argsort()
                store.time = torch.cat(times[:2])[order]
    return splits


def reserve(path: Path, shape: tuple[int, int], dtype: Any) -> np.memmap:
    r"""A new :obj:`.npy` file mapped into memory, its space taken beforehand.

    Writing into a mapped file that the disk has no space for would end the
    process without a word; so a full disk is an :class:`OSError` here."""
    out = np.lib.format.open_memmap(path, 'w+', dtype, shape)
    size = path.stat().st_size
    with open(path, 'rb+') as f:
        if hasattr(os, 'posix_fallocate'):
            os.posix_fallocate(f.fileno(), 0, size)
        else:
            f.seek(size - out.nbytes)
            for start in range(0, out.nbytes, 1 << 20):
                f.write(bytes(min(1 << 20, out.nbytes - start)))
    return out


def _sizes(folder: Path) -> dict[str, int]:
    return {x.name: x.stat().st_size for x in sorted(folder.iterdir())}
