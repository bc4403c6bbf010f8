r"""Matrices with one row an item: from files, tables, mappings, folders."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from torch_promptmm.checks import check_mask
from torch_promptmm.data.extras import pa, parquet, pc
from torch_promptmm.data.modalities import MASK_SUFFIX, check_feature
from torch_promptmm.data.npy import load_npy, read_array
from torch_promptmm.data.report import Report
from torch_promptmm.ids import list_ids

TABLES = ('.parquet', '.pq')
UNNAMED_INDEX = re.compile(r'__index_level_\d+__')  # As pandas calls it.


def check_folder(root: str | os.PathLike[str]) -> Path:
    r"""Returns :obj:`root` as a path if it is a folder."""
    path = Path(root).expanduser()
    if not path.is_dir():
        raise ValueError(f"'root' must be a folder (got {path})")
    return path


def matrix_files(root: Path, suffix: str = '',
                 kinds: Collection[str] = ('.npy', )) -> dict[str, Path]:
    r"""The files :obj:`<name><suffix>.npy` (or of other :obj:`kinds`) of a
    folder by name, in the order of the alphabet, without those of masks."""
    files: dict[str, Path] = {}
    for path in sorted(root.iterdir(), key=lambda path: path.stem):
        if (path.suffix not in kinds or not path.stem.endswith(suffix)
                or path.stem.endswith(MASK_SUFFIX) or path.name[0] == '.'):
            continue
        name = path.stem.removesuffix(suffix)
        if name in files:
            raise ValueError(f"{files[name]} and {path} both hold '{name}'; "
                             f"keep one of them")
        files[name] = path
    return files


def read_matrices(
    files: Mapping[str, Path],
    mmap: bool = False,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    r"""Reads features, one row an item, and the masks that lie beside them
    as :obj:`<file>_mask.npy`. An error names the file."""
    features, masks = {}, {}
    for name, path in files.items():
        features[name] = check_feature(load_npy(path, mmap), str(path))
        mask = read_mask(path, features[name].size(0))
        if mask is not None:
            masks[name] = mask
    return features, masks


def mask_file(path: Path) -> Path:
    r"""Where the mask of the matrix in a file lies."""
    return path.with_name(f'{path.stem}{MASK_SUFFIX}.npy')


def read_mask(path: Path, size: int) -> Tensor | None:
    r"""The mask beside a matrix of :obj:`size` rows, if there is one."""
    path = mask_file(path)
    return (check_mask(str(path), load_npy(path), size) if path.is_file()
            else None)


def read_source(
    source: Any,
    ids: Any,
    id_column: str | None,
    columns: Collection[str] | None,
    mmap: bool,
    max_bytes: int | None,
    report: Report,
) -> tuple[np.ndarray, list[Any] | None, str]:
    r"""The matrix, the ids of its rows if they are known, and what to call
    it in an error, see :func:`~torch_promptmm.data.add_features`."""
    if isinstance(source, (str, os.PathLike)):
        source = Path(source).expanduser()
    is_table = (source.suffix in TABLES if isinstance(source, Path)
                else hasattr(source, '__arrow_c_stream__'))
    kind = 'table' if is_table else 'mapping'
    if ids is not None and (is_table or isinstance(source, Mapping)):
        raise ValueError(f"'ids' must not be given with a {kind}, which has "
                         f"ids already (those of a table are in id_column=)")
    if is_table:
        return _read_table(source, id_column, columns, report)
    for name, value in [('id_column', id_column), ('columns', columns)]:
        if value is not None:
            raise ValueError(f"'{name}' must not be given where 'source' is "
                             f"no table (got {value!r})")
    if isinstance(source, Mapping):
        return _stack(source), list(source), 'the mapping'
    rows = None if ids is None else load_ids(ids)
    if isinstance(source, (Tensor, np.ndarray)):
        return _to_numpy(source), rows, 'the matrix'
    if not isinstance(source, Path):
        raise TypeError(f"'source' must be a path, a matrix, a table or a "
                        f"mapping (got {type(source).__name__})")
    if source.suffix not in ('.npy', '.npz'):
        raise ValueError(f"'source' must be a .npy, .npz or .parquet file "
                         f"(got {source})")
    return read_array(source, mmap, max_bytes), rows, str(source)


def load_ids(source: Any) -> list[Any]:
    r"""Ids from a list or a file: one a line in a text file (empty lines are
    left out), a list in :obj:`.json`, an array in :obj:`.npy`."""
    if not isinstance(source, (str, os.PathLike)):
        return list_ids(source)
    path = Path(source).expanduser()
    if path.suffix == '.npy':
        array = read_array(path)
        if array.ndim != 1 or array.dtype.kind not in 'iuUS':
            raise ValueError(f'{path}: must hold one id a row (got the shape '
                             f'{list(array.shape)} and dtype {array.dtype})')
        if array.dtype.kind == 'S':
            array = np.char.decode(array, 'utf-8')
        return array.tolist()
    body = path.read_bytes()
    try:
        text = body.decode('utf-8-sig')
        if path.suffix != '.json':
            return [x.strip() for x in text.split('\n') if x.strip()]
        out = json.loads(text)
    except UnicodeDecodeError as error:
        line = body.count(b'\n', 0, error.start) + 1
        raise ValueError(f'{path}, line {line}: not UTF-8 '
                         f'({error})') from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path}: no JSON ({error})') from error
    if not isinstance(out, list):
        raise ValueError(f'{path}: must hold a list of ids (got '
                         f'{type(out).__name__})')
    return out


def _stack(source: Mapping[Any, Any]) -> np.ndarray:
    if not source:
        raise ValueError("'source' is an empty mapping; leave this modality "
                         "out")
    rows = {key: _to_numpy(value) for key, value in source.items()}
    first, width = next((key, row.size) for key, row in rows.items())
    for key, row in rows.items():
        if row.ndim != 1 or row.dtype.kind not in 'fiu':
            raise ValueError(f"'source' must map ids to vectors of numbers "
                             f"(got the shape {list(row.shape)} and dtype "
                             f"{row.dtype} for {key!r})")
        if len(row) != width:
            raise ValueError(f"'source' has a vector of {len(row)} numbers "
                             f"for {key!r} and of {width} for {first!r}; all "
                             f"must be equally long")
    return np.stack(list(rows.values()))


def _to_numpy(value: Any) -> np.ndarray:
    return (value.numpy(force=True) if isinstance(value, Tensor) else
            np.asarray(value))


def _read_table(source: Any, id_column: str | None,
                columns: Collection[str] | None,
                report: Report) -> tuple[np.ndarray, list[Any], str]:
    is_file = isinstance(source, Path)
    where = str(source) if is_file else 'the table'
    try:
        table = (parquet.read_table if is_file else pa.table)(source)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise ValueError(f'{where}: no whole table ({error}); fetch or write '
                         f'it again') from error
    names = table.column_names
    if isinstance(columns, str):
        columns = [columns]
    for name in [id_column, *(columns or ())]:
        if name is not None and names.count(name) != 1:
            argument = 'id_column' if name == id_column else 'columns'
            raise ValueError(f"'{argument}' names {name!r}, which {where} "
                             f"does not have once; it has {names}")
    index = _saved_index(table)
    key = id_column or _id_column(table, index, where)
    rest = [x for x in names if x != key]
    taken = ([x for x in rest if x not in index] if columns is None
             else list(columns))
    if not taken:
        raise ValueError(f'{where}: has no column beside the ids {key!r} '
                         f'that features could be in (it has {names})')
    ids = table[key].to_pylist()
    matrix = _to_matrix(table.select(taken), ids, where, columns is None)
    report.note(len(taken), f'columns of {where} were taken as features: '
                            f'{_listed(taken)}')
    left = [x for x in rest if x not in taken]
    report.note(len(left), f'columns of {where} were not taken: '
                           f'{_listed(left)}')
    return matrix, ids, where


def _listed(names: list[str]) -> str:
    if len(names) > 8:
        names = [*names[:6], '...', names[-1]]
    return ', '.join(names)


def _saved_index(table: Any) -> set[str]:
    r"""The columns that were the index of a pandas frame."""
    note = table.schema.pandas_metadata or {}
    saved = {x for x in note.get('index_columns', ()) if isinstance(x, str)}
    return saved | set(filter(UNNAMED_INDEX.fullmatch, table.column_names))


def _id_column(table: Any, index: set[str], where: str) -> str:
    r"""The first column, or the index that a pandas frame was saved with, if
    that has a name; only one of them may be ids."""
    def may_be_ids(name: str) -> bool:
        kind = table.schema.field(name).type
        return not (pa.types.is_floating(kind) or _is_list(kind))

    names = table.column_names
    first = [x for x in names if x not in index][:1]
    named = [x for x in index if not UNNAMED_INDEX.fullmatch(x)]
    found = [x for x in (*first, *named) if may_be_ids(x)]
    if len(found) != 1:
        raise ValueError(f'{where}: cannot tell which column holds the ids; '
                         f'name it with id_column=, such as one of '
                         f'{found or list(filter(may_be_ids, names))}')
    return found[0]


def _is_list(kind: Any) -> bool:
    return (pa.types.is_list(kind) or pa.types.is_large_list(kind)
            or pa.types.is_fixed_size_list(kind))


def _to_matrix(table: Any, ids: list[Any], where: str,
               search: bool) -> np.ndarray:
    r"""The matrix in a column of lists or several of numbers; with
    :obj:`search`, none of these may be ids."""
    hint = 'say which columns hold the features with columns='
    kinds = dict(zip(table.column_names, table.schema.types, strict=True))
    if any(map(_is_list, kinds.values())):
        if len(kinds) > 1:
            raise ValueError(f'{where}: must have one column of lists beside '
                             f'the ids (got {list(kinds)}); {hint}')
        return _lists(table.column(0).combine_chunks(), ids, where)
    some_float = any(map(pa.types.is_floating, kinds.values()))
    for name, kind in kinds.items():
        is_int = pa.types.is_integer(kind)
        if not (is_int or pa.types.is_floating(kind)):
            raise ValueError(f'{where}: the column {name!r} holds no numbers '
                             f'(got {kind}); {hint}')
        if (search and is_int and some_float and
                1 < len(ids) == pc.count_distinct(table[name]).as_py()):
            raise ValueError(f'{where}: the column {name!r} holds a different '
                             f'integer in each row, as ids do; {hint}')
    return np.stack([x.to_numpy() for x in table.columns], axis=1)


def _lists(column: Any, ids: list[Any], where: str) -> np.ndarray:
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    width = int(lengths.max(initial=0))
    odd = np.flatnonzero((lengths != width) & (lengths != 0))
    if len(odd):
        raise ValueError(f'{where}, row {odd[0]}: a vector of '
                         f'{lengths[odd[0]]} numbers for {ids[odd[0]]!r}, '
                         f'elsewhere of {width}; all must be equally long')
    flat = pc.list_flatten(column).to_numpy(zero_copy_only=False)
    if flat.dtype.kind not in 'fiu':
        raise ValueError(f'{where}: the lists hold no numbers (got '
                         f'{flat.dtype})')
    kind = flat.dtype if flat.dtype.kind == 'f' else np.dtype(np.float32)
    out = np.full((len(ids), width), np.nan, dtype=kind)
    out[lengths > 0] = flat.reshape(-1, max(width, 1))
    return out
