from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from torch_geometric.data import HeteroData

from torch_promptmm.checks import check_choice
from torch_promptmm.data.contract import DEFAULT_EDGE_TYPE, EdgeType
from torch_promptmm.data.formats._folder import make_splits, write_common
from torch_promptmm.data.ids import IdMap, item_ids, user_ids
from torch_promptmm.data.matrices import check_folder
from torch_promptmm.data.report import Report, shorten
from torch_promptmm.data.split import Split
from torch_promptmm.data.unpickle import read_pickle
from torch_promptmm.files import atomic_path

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
        edge_type (tuple, optional): The names of users, relation and items.
            (default: :obj:`("user", "interacts", "item")`)

    Raises:
        ValueError: If the folder is not of this layout, or its files
            contradict each other.
    """
    root = check_folder(root)
    check_choice('source', source, (None, 'json', 'mat'))
    report = Report()
    lists = _find(root, LISTS) if source != 'mat' else ()
    matrices = _find(root, *MATRICES) if source != 'json' else ()
    if not lists and not matrices:
        raise ValueError(
            f"'root' must have {', '.join(LISTS)} or "
            f"{' or '.join(', '.join(x) for x in MATRICES)} (got {root} with "
            f"{sorted(x.name for x in root.iterdir())})")

    sizes: tuple[dict[str, int], dict[str, int]] = ({}, {})
    parts, found = [], [_read_lists(root / x) for x in lists]
    for file in matrices:
        index, (sizes[0][file], sizes[1][file]) = _read_matrix(root / file,
                                                               report)
        parts.append(index)
    if lists and matrices:
        for a, b, *files in zip(found, parts, lists, matrices, strict=True):
            _compare(root, a, b, files)
    return make_splits(root, found or parts, sizes, _ids_of, known, mmap,
                       edge_type, report)


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
        edge_type (tuple, optional): The edge type of the
            interactions. (default: :obj:`None`)
    """
    root = Path(root).expanduser()
    ids = {'user_ids': user_ids(train, edge_type),
           'item_ids': item_ids(train, edge_type)}
    graph, parts = write_common(
        root, (train, val, test), edge_type,
        {k: json.loads(v.to_bytes()) for k, v in ids.items() if v is not None})
    for index, file, matrix in zip(parts, LISTS, MATRICES[0], strict=True):
        body: dict[int, list[int]] = {}
        for user, item in index.T.tolist():
            body.setdefault(user, []).append(item)
        with atomic_path(root / file) as path:
            path.write_text(json.dumps(body), encoding='utf-8')
        value = sparse.csr_matrix(
            (np.ones(index.shape[1], dtype=np.float32), tuple(index)),
            shape=(graph.num_users, graph.num_items))
        with atomic_path(root / matrix) as path:
            path.write_bytes(pickle.dumps(value, protocol=4))


def _ids_of(note: dict[str, Any], kind: str, size: int) -> IdMap | None:
    value = note.get(f'{kind[:-1]}_ids')
    return IdMap.from_bytes(json.dumps(value).encode()) if value else None


def _find(root: Path, *layouts: tuple[str, ...]) -> tuple[str, ...]:
    r"""The first layout of which all files are there."""
    for files in layouts:
        lost = [x for x in files if not (root / x).is_file()]
        if not lost:
            return files
        if files[0] not in lost:  # A training file alone is half a dataset.
            raise ValueError(f"'root' has {files[0]} but lacks "
                             f"{', '.join(lost)} (got {root})")
    return ()


def _read_matrix(path: Path,
                 report: Report) -> tuple[np.ndarray, tuple[int, int]]:
    matrix = read_pickle(path)
    if isinstance(matrix, np.ndarray):
        if matrix.ndim != 2:
            raise ValueError(f'{path}: must hold a matrix of users and items '
                             f'(got the shape {list(matrix.shape)})')
        index = np.stack(matrix.nonzero())
        data = matrix[tuple(index)]
    else:
        keep = matrix.data != 0
        index = np.stack([matrix.row[keep], matrix.col[keep]])
        data = matrix.data[keep]
    bad = ~np.isfinite(data)
    report.repair(int(bad.sum()), f'entries of {path} are NaN or infinite '
                                  f'and were left out')
    return index[:, ~bad].astype(np.int64), matrix.shape


def _read_lists(path: Path) -> np.ndarray:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in pairs:
            if key in out:
                raise ValueError(f'the user {key!r} is there twice')
            out[key] = value
        return out

    try:
        body = json.loads(path.read_text('utf-8-sig'),
                          object_pairs_hook=unique)
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
    return np.array([user, item], dtype=np.int64)


def _compare(root: Path, a: np.ndarray, b: np.ndarray,
             files: list[str]) -> None:
    width = int(max(a[1].max(initial=0), b[1].max(initial=0))) + 1
    odd = np.setxor1d(a[0] * width + a[1], b[0] * width + b[1])
    if len(odd):
        raise ValueError(
            f"{root}: {' and '.join(files)} disagree on {len(odd)} "
            f"interactions, such as user {odd[0] // width} with item "
            f"{odd[0] % width}; say which is right with source='json' or "
            f"source='mat'")
