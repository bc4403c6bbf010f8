from __future__ import annotations

import json
import os
import os.path as osp
import pickle
from typing import Any

import numpy as np
import torch
from torch_geometric.data import HeteroData

from torch_promptmm.files import atomic_path

from ..contract import (
    DEFAULT_EDGE_TYPE,
    EdgeType,
    check_same_entities,
    read_graph,
)
from ..extras import import_extra
from ..ids import IdMap, item_ids, set_ids, user_ids
from ..interactions import from_splits
from ..report import Report, shorten
from ..split import Split
from ..unpickle import read_pickle
from ._features import number_of, read_features, read_sidecar, write_features
from .mmrec import _parts

SPLITS = ('train', 'val', 'test')
# PromptMM, MMSSL and LLMRec; then DiffMM.
MATRICES = (('train_mat', 'val_mat', 'test_mat'),
            ('trnMat.pkl', 'valMat.pkl', 'tstMat.pkl'))
LISTS = ('train.json', 'val.json', 'test.json')


def read_promptmm(
    root: str | os.PathLike[str],
    source: str | None = None,
    known: str = 'train',
    mmap: bool = False,
    edge_type: EdgeType = DEFAULT_EDGE_TYPE,
) -> Split:
    r"""Reads a folder in the layout that the authors of PromptMM share with
    those of MMSSL, LLMRec and DiffMM: ``train, val, test`` as it splits them.

    .. code-block:: text

        root/train.json, val.json, test.json   {"user": [item, ...], ...}
        root/train_mat, val_mat, test_mat      pickles of scipy matrices
        root/trnMat.pkl, valMat.pkl, tstMat.pkl    DiffMM's names for them
        root/image_feat.npy                    the modality "visual"
        root/text_feat.npy                     the modality "textual"
        root/audio_feat.npy                    the modality "acoustic"
        root/<other>_feat.npy                  the modality "<other>"

    The lists or the matrices will do. Where both are there they must agree.
    Nothing in a pickle is executed: whatever in it is not a numpy array or a
    scipy matrix is an error that names it.

    Args:
        root (str): The folder.
        source (str, optional): :obj:`"json"` or :obj:`"mat"` to read only
            those. (default: :obj:`None`)
        known (str, optional): The interactions that the test graph knows of,
            :obj:`"train"` or :obj:`"train+val"`. (default: :obj:`"train"`)
        mmap (bool, optional): If set to :obj:`True`, features are mapped into
            memory. (default: :obj:`False`)
        edge_type (Tuple[str, str, str], optional): The names of users,
            relation and items.
            (default: :obj:`("user", "interacts", "item")`)

    Raises:
        ValueError: If the folder is not of this layout, or its files
            contradict each other.
    """
    root = osp.expanduser(os.fspath(root))
    if source not in (None, 'json', 'mat'):
        raise ValueError(f"'source' must be 'json', 'mat' or None (got "
                         f"{source!r})")
    if not osp.isdir(root):
        raise ValueError(f"'root' must be a folder (got {root})")
    report = Report()
    lists = _find(root, [LISTS]) if source != 'mat' else None
    matrices = _find(root, MATRICES) if source != 'json' else None
    if lists is None and matrices is None:
        raise ValueError(
            f"'root' must have {', '.join(LISTS)} or "
            f"{' or '.join(', '.join(x) for x in MATRICES)} (got {root} with "
            f"{sorted(os.listdir(root))})")

    users, items = {}, {}
    parts = []
    if matrices is not None:
        for file in matrices:
            index, shape = _read_matrix(osp.join(root, file), report)
            users[file], items[file] = shape
            parts.append(index)
    if lists is not None:
        from_lists = [_read_lists(osp.join(root, x)) for x in lists]
        if parts:
            _compare(parts, from_lists, lists, matrices, root)
        parts = from_lists

    note = read_sidecar(root)
    features, masks = read_features(root, note, mmap, report)
    items |= {k: len(v) for k, v in features.items()}
    highest = [max((int(x[end].max(initial=-1)) for x in parts))
               for end in range(2)]
    num_users = number_of('users', highest[0], note, users, root)
    num_items = number_of('items', highest[1], note, items, root)
    splits = from_splits(parts[0], parts[1], parts[2], features or None,
                         num_users, num_items, masks, edge_type, known)
    maps = [IdMap.from_bytes(json.dumps(note[x]).encode())
            if note.get(x) else None for x in ('user_ids', 'item_ids')]
    for data in splits:
        data.report = report
        set_ids(data, maps[0], maps[1], edge_type)
    return splits


def write_promptmm(
    root: str | os.PathLike[str],
    train: HeteroData,
    val: HeteroData,
    test: HeteroData,
    edge_type: EdgeType | None = None,
) -> None:
    r"""Writes a split in the authors' layout, lists and matrices, see
    :func:`read_promptmm`.

    What the layout has no place for (masks, raw ids) goes into files that the
    authors' code does not look at. Its matrices are pickles: they open with
    scipy 1.8 or later.

    Args:
        root (str): The folder; made if it is not there.
        train (HeteroData): The training graph.
        val (HeteroData): The graph with the interactions to validate on.
        test (HeteroData): The graph with the interactions to test on.
        edge_type (Tuple[str, str, str], optional): The edge type of the
            interactions. (default: :obj:`None`)
    """
    sparse = import_extra('scipy.sparse', 'tables', 'Writing a matrix')
    root = osp.abspath(osp.expanduser(os.fspath(root)))
    graphs = [read_graph(x, edge_type) for x in (train, val, test)]
    graph = graphs[0]
    for other, kind in [(graphs[1], 'val'), (graphs[2], 'test')]:
        check_same_entities(graph, other, ('train', kind))
    os.makedirs(root, exist_ok=True)
    maps = {'user_ids': user_ids(train, edge_type),
            'item_ids': item_ids(train, edge_type)}
    write_features(root, graph, {
        k: json.loads(v.to_bytes()) for k, v in maps.items() if v is not None})
    shape = (graph.num_users, graph.num_items)
    for index, file, matrix in zip(_parts(graphs), LISTS, MATRICES[0],
                                   strict=True):
        row, col = index.numpy()
        body: dict[str, list[int]] = {}
        for user, item in zip(row.tolist(), col.tolist(), strict=True):
            body.setdefault(str(user), []).append(item)
        with atomic_path(osp.join(root, file)) as path:
            path.write_text(json.dumps(body), encoding='utf-8')
        value = sparse.csr_matrix(
            (np.ones(len(row), dtype=np.float32), (row, col)), shape=shape)
        with atomic_path(osp.join(root, matrix)) as path:
            path.write_bytes(pickle.dumps(value, protocol=4))


# Private ######################################################################


def _find(root: str, layouts: Any) -> tuple[str, ...] | None:
    r"""The first layout of which all files are there."""
    for files in layouts:
        here = [osp.isfile(osp.join(root, x)) for x in files]
        if all(here):
            return files
        if here[0]:  # A training file alone is half a dataset.
            lost = [x for x, y in zip(files, here, strict=True) if not y]
            raise ValueError(f"'root' has {files[0]} but lacks "
                             f"{', '.join(lost)} (got {root})")
    return None


def _read_matrix(
    path: str,
    report: Report,
) -> tuple[np.ndarray, tuple[int, int]]:
    matrix = read_pickle(path)
    if isinstance(matrix, np.ndarray):
        if matrix.ndim != 2 or matrix.dtype.kind not in 'biuf':
            raise ValueError(f'{path}: must hold a matrix of users and items '
                             f'(got the shape {list(matrix.shape)} and dtype '
                             f'{matrix.dtype})')
        row, col = matrix.nonzero()
        shape = matrix.shape
    else:
        keep = matrix.data != 0
        row, col, shape = matrix.row[keep], matrix.col[keep], matrix.shape
        bad = ~np.isfinite(matrix.data[keep])
        report.repair(int(bad.sum()), f'entries of {path} are NaN or '
                                      f'infinite and were left out')
        row, col = row[~bad], col[~bad]
    return np.stack([row, col]).astype(np.int64), shape


def _read_lists(path: str) -> np.ndarray:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) < len(pairs):
            seen: set[str] = set()
            twice = next(k for k, _ in pairs
                         if k in seen or seen.add(k))  # type: ignore
            raise ValueError(f'the user {twice!r} is there twice')
        return out

    try:
        with open(path, encoding='utf-8-sig') as f:
            body = json.load(f, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path}: no sound JSON ({error})') from error
    if not isinstance(body, dict):
        raise ValueError(f'{path}: must hold an object of users (got '
                         f'{type(body).__name__})')
    user, item = [], []
    for key, values in body.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10):
            raise ValueError(f'{path}: the user {shorten(key)} is no row '
                             f'number')
        if not isinstance(values, list) or not all(
                type(x) is int and 0 <= x < 2**31 for x in values):
            raise ValueError(f'{path}: the items of user {key} must be a list '
                             f'of row numbers (got {shorten(values)})')
        user += [int(key)] * len(values)
        item += values
    return torch.tensor([user, item], dtype=torch.long).numpy()


def _compare(
    matrices: list[np.ndarray],
    lists: list[np.ndarray],
    list_files: tuple[str, ...],
    matrix_files: Any,
    root: str,
) -> None:
    for a, b, x, y in zip(lists, matrices, list_files, matrix_files,
                          strict=True):
        width = int(max(a[1].max(initial=0), b[1].max(initial=0))) + 1
        odd = np.setxor1d(a[0] * width + a[1], b[0] * width + b[1])
        if len(odd):
            raise ValueError(
                f"{root}: {x} and {y} disagree on {len(odd)} interactions, "
                f"such as user {odd[0] // width} with item {odd[0] % width}; "
                f"say which is right with source='json' or source='mat'")
