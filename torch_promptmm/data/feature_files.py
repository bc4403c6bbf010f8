r"""The features of items and their ids, as they lie in files."""

from __future__ import annotations

import json
import os
import os.path as osp
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from .arrays import read_array
from .extras import import_extra
from .ids import IdMap


def read_ids(source: Any) -> list[Any]:
    r"""Ids from a list or a file: one a line in a text file (empty lines are
    left out), a list in :obj:`.json`, an array in :obj:`.npy`.

    Args:
        source (list or str): The ids, or the path of their file.

    Raises:
        ValueError: If the file does not hold ids.
    """
    if isinstance(source, IdMap):
        return source.to_list()
    if isinstance(source, Tensor):
        return source.tolist()
    if not isinstance(source, (str, os.PathLike)):
        if not isinstance(source, Iterable):
            raise TypeError(f"'ids' must be a list or the path of a file "
                            f"(got {type(source).__name__})")
        return [x.item() if isinstance(x, np.generic) else x for x in source]
    path = osp.expanduser(os.fspath(source))
    if path.endswith('.npy'):
        array = read_array(path)
        if array.ndim != 1 or array.dtype.kind not in 'iuUS':
            raise ValueError(f'{path}: must hold one id a row (got the shape '
                             f'{list(array.shape)} and dtype {array.dtype})')
        if array.dtype.kind == 'S':
            array = np.char.decode(array, 'utf-8')
        return array.tolist()
    if path.endswith('.json'):
        with open(path, encoding='utf-8-sig') as f:
            try:
                out = json.load(f)
            except (ValueError, RecursionError) as error:
                raise ValueError(f'{path}: no JSON ({error})') from error
        if not isinstance(out, list):
            raise ValueError(f'{path}: must hold a list of ids (got '
                             f'{type(out).__name__})')
        return out
    with open(path, 'rb') as raw:
        out = []
        for number, line in enumerate(raw, start=1):
            try:
                text = line.decode('utf-8-sig' if number == 1 else 'utf-8')
            except UnicodeDecodeError as error:
                raise ValueError(f'{path}, line {number}: not UTF-8 '
                                 f'({error})') from error
            if text.strip():
                out.append(text.strip())
    return out


def read_source(
    source: Any,
    ids: Any,
    id_column: str | None,
    mmap: bool,
    max_bytes: int | None,
) -> tuple[np.ndarray, list[Any] | None, str]:
    r"""The matrix, the ids of its rows, and what to call it in an error.

    Args:
        source (Any): See :func:`~torch_promptmm.data.add_features`.
        ids (Any): The ids of the rows, if the source does not tell them.
        id_column (str, optional): The column of the ids in a Parquet file.
        mmap (bool): If a file is to be mapped into memory.
        max_bytes (int, optional): The most that an archive may unpack to.
    """
    given = None if ids is None else read_ids(ids)
    if isinstance(source, Mapping):
        if given is not None:
            raise ValueError("'ids' must not be given with a mapping, which "
                             "has them as its keys")
        return (*_stack(source), 'the mapping')
    if isinstance(source, Tensor):
        source = source.numpy(force=True)
    if isinstance(source, np.ndarray):
        return source, given, 'the matrix'
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"'source' must be a path, a matrix or a mapping "
                        f"(got {type(source).__name__})")
    path = osp.expanduser(os.fspath(source))
    if path.endswith(('.parquet', '.pq')):
        if given is not None:
            raise ValueError("'ids' must not be given with a Parquet file; "
                             "name its column with id_column=")
        return (*_read_parquet(path, id_column), path)
    if not path.endswith(('.npy', '.npz')):
        raise ValueError(f"'source' must be a .npy, .npz or .parquet file "
                         f"(got {path})")
    return read_array(path, mmap, max_bytes=max_bytes), given, path


# Private ######################################################################


def _stack(source: Mapping[Any, Any]) -> tuple[np.ndarray, list[Any]]:
    if not source:
        raise ValueError("'source' is an empty mapping; leave this modality "
                         "out")
    ids, rows, width = list(source), [], None
    for key in ids:
        value = source[key]
        if isinstance(value, Tensor):
            value = value.numpy(force=True)
        row = np.asarray(value)
        if row.ndim != 1 or row.dtype.kind not in 'fiu':
            raise ValueError(f"'source' must map ids to vectors of numbers "
                             f"(got the shape {list(row.shape)} and dtype "
                             f"{row.dtype} for {key!r})")
        if width is not None and len(row) != width:
            raise ValueError(f"'source' has a vector of {len(row)} numbers "
                             f"for {key!r} and of {width} for {ids[0]!r}; "
                             f"all must be equally long")
        width = len(row)
        rows.append(row)
    return np.stack(rows), ids


def _read_parquet(path: str, column: str | None) -> tuple[np.ndarray, list]:
    pa = import_extra('pyarrow', 'tables', 'Reading Parquet')
    parquet = import_extra('pyarrow.parquet', 'tables', 'Reading Parquet')
    try:
        table = parquet.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f'{path}: no whole Parquet file ({error}); fetch or '
                         f'write it again') from error
    column = column or table.column_names[0]
    if column not in table.column_names:
        raise ValueError(f"'id_column' names {column!r}, which {path} does "
                         f"not have; it has {table.column_names}")
    ids = table[column].to_pylist()
    rest = table.drop_columns([column])
    if rest.num_columns == 0:
        raise ValueError(f'{path}: has no column beside the ids')
    columns = [x.combine_chunks() for x in rest.columns]
    kind = columns[0].type
    if pa.types.is_list(kind) or pa.types.is_large_list(
            kind) or pa.types.is_fixed_size_list(kind):
        if len(columns) > 1:
            raise ValueError(f'{path}: must have one column of lists beside '
                             f'the ids (got {rest.column_names})')
        return _lists(columns[0], ids, path), ids
    for name, value in zip(rest.column_names, columns, strict=True):
        if not (pa.types.is_floating(value.type)
                or pa.types.is_integer(value.type)):
            raise ValueError(f'{path}: the column {name!r} holds no numbers '
                             f'(got {value.type})')
    numbers = [x.to_numpy(zero_copy_only=False) for x in columns]
    return np.stack(numbers, axis=1), ids


def _lists(column: Any, ids: list[Any], path: str) -> np.ndarray:
    pc = import_extra('pyarrow.compute', 'tables', 'Reading Parquet')
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    lengths = np.nan_to_num(lengths.astype(np.float64))
    width = int(lengths.max(initial=0))
    odd = np.flatnonzero((lengths != width) & (lengths != 0))
    if len(odd):
        raise ValueError(f'{path}, row {odd[0]}: a vector of '
                         f'{int(lengths[odd[0]])} numbers for '
                         f'{ids[odd[0]]!r}, elsewhere of {width}; all must '
                         f'be equally long')
    flat = pc.list_flatten(column).to_numpy(zero_copy_only=False)
    if flat.dtype.kind not in 'fiu':
        raise ValueError(f'{path}: the lists hold no numbers (got '
                         f'{flat.dtype})')
    kind = flat.dtype if flat.dtype.kind == 'f' else np.dtype(np.float32)
    out = np.full((len(ids), width), np.nan, dtype=kind)
    out[lengths > 0] = flat.reshape(-1, max(width, 1))
    return out
