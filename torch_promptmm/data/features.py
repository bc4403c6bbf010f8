r"""Gives the items of a graph their features, by id."""

from __future__ import annotations

import copy
import os
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from torch_promptmm.data.contract import EdgeType, read_graph
from torch_promptmm.data.ids import IdMap, item_ids
from torch_promptmm.data.matrices import (
    TABLES,
    check_folder,
    matrix_files,
    read_mask,
    read_source,
)
from torch_promptmm.data.modalities import BLOCK_NUMEL, MASK_SUFFIX
from torch_promptmm.data.report import Report, report_of, shorten

FLOATS = (np.float16, np.float32, np.float64)
ID_FILES = ('{}_ids.txt', '{}_ids.json', '{}_ids.npy', '{}.ids', 'ids.txt',
            'ids.json', 'ids.npy', 'item_ids.txt', 'item_ids.json')


def add_features(
    data: HeteroData,
    name: str,
    source: Any,
    ids: Any = None,
    id_column: str | None = None,
    mmap: bool = False,
    max_bytes: int | None = None,
    edge_type: EdgeType | None = None,
    columns: Collection[str] | None = None,
) -> HeteroData:
    r"""Gives the items of a graph the features of one modality, by id.

    Rows find their items through the raw ids of the graph, never through
    their order. Items without a feature get a row of zeros and
    :obj:`False` in the modality's mask, and are counted in a warning; so are
    rows with a NaN or an infinite entry (they count as missing), repeated ids
    (the first row stays) and rows of unknown items (left out).

    .. code-block:: python

        data = read_interactions('ratings.csv')
        data = add_features(data, 'visual', 'visual.npy', ids='ids.txt')
        data = add_features(data, 'textual', 'text.parquet', id_column='sku')
        data = add_features(data, 'price', {'B01': [9.9], 'B02': [3.5]})

    Args:
        data (HeteroData): The graph; it is not changed.
        name (str): The name of the modality.
        source (str or numpy.ndarray or torch.Tensor or Mapping or table): A
            matrix with one row an id (the path of a :obj:`.npy` or
            :obj:`.npz` file, or the matrix itself), a mapping from id to
            vector, or a table with a column of ids and a column of lists or
            columns of numbers: the path of a Parquet file, or a frame of
            pandas, polars, pyarrow, DuckDB or whatever else has
            :meth:`__arrow_c_stream__`.
        ids (list or str, optional): The ids of the rows of a matrix, or the
            path of a file that holds them (one a line in :obj:`.txt`; a list
            in :obj:`.json`; an array in :obj:`.npy`). (default: :obj:`None`)
        id_column (str, optional): The column of the ids in a table. If
            :obj:`None`, the first one, or the named index of a pandas frame
            if the first one holds no ids. (default: :obj:`None`)
        mmap (bool, optional): If set to :obj:`True`, a :obj:`.npy` file is
            mapped into memory. It stays mapped if its rows are in the order of
            the items already. (default: :obj:`False`)
        max_bytes (int, optional): The most that an :obj:`.npz` archive may
            unpack to. (default: :obj:`None`)
        edge_type (tuple, optional): The edge type of the
            interactions. (default: :obj:`None`)
        columns (list of str, optional): The columns of the features in a
            table. If :obj:`None`, all but the ids and the index of a pandas
            frame; a column that looks like ids is an error then. The report
            names those that were taken. (default: :obj:`None`)

    Returns:
        HeteroData: A shallow copy of the graph with the features.
    """
    report = Report()
    found = read_source(source, ids, id_column, columns, mmap, max_bytes,
                        report)
    return _add(data, name, *found, report, edge_type)


def add_feature_folder(
    data: HeteroData,
    root: str | os.PathLike[str],
    mmap: bool = False,
    edge_type: EdgeType | None = None,
) -> HeteroData:
    r"""Gives the items of a graph all features of a folder, by id.

    Each :obj:`<name>.npy` with a matrix is the modality ``<name>``; its
    ids lie beside it in :obj:`<name>_ids.txt` (one id a line),
    :obj:`<name>_ids.json` or :obj:`<name>_ids.npy`, or in an
    :obj:`ids.txt`, :obj:`ids.json` or :obj:`ids.npy` for all of them. Rows
    that are :obj:`False` in a :obj:`<name>_mask.npy` are missing. Each
    :obj:`<name>.parquet` has its ids in its first column.

    Args:
        data (HeteroData): The graph; it is not changed.
        root (str): The folder.
        mmap (bool, optional): See :func:`add_features`.
            (default: :obj:`False`)
        edge_type (tuple, optional): The edge type of the
            interactions. (default: :obj:`None`)

    """
    root = check_folder(root)
    files = {name: path for name, path in
             matrix_files(root, kinds=('.npy', *TABLES)).items()
             if name != 'ids' and not name.endswith('_ids')}
    if not files:
        raise ValueError(f"'root' has no .npy or .parquet file with features "
                         f"in it ({root} holds "
                         f"{sorted(x.name for x in root.iterdir())})")
    for name, path in files.items():
        ids = None
        if path.suffix == '.npy':
            ids = next((root / x.format(name) for x in ID_FILES
                        if (root / x.format(name)).is_file()), None)
        report = Report()
        found = read_source(path, ids, None, None, mmap, None, report)
        data = _add(data, name, *found, report, edge_type,
                    read_mask(path, len(found[0])))
    return data


def _add(
    data: HeteroData,
    name: str,
    matrix: np.ndarray,
    row_ids: list[Any] | None,
    where: str,
    report: Report,
    edge_type: EdgeType | None,
    row_mask: Tensor | None = None,
) -> HeteroData:
    graph = read_graph(data, edge_type, modalities=[])
    catalogue = item_ids(data, graph.edge_type)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise ValueError(f'{where}: features must be a matrix, one row an '
                         f'item (got the shape {list(matrix.shape)})')
    if matrix.dtype.kind not in 'fiu':
        raise ValueError(f'{where}: features must be numbers (got the dtype '
                         f'{matrix.dtype})')
    if row_ids is None and catalogue is not None:
        raise ValueError(
            f"'ids' must say which item each row of {where} belongs to; the "
            f"items of this graph have ids, such as {_example(catalogue)} "
            f"(if the rows are in their order already, pass "
            f"ids=item_ids(data))")
    if row_ids is None and len(matrix) != graph.num_items:
        raise ValueError(f'{where}: {len(matrix)} rows for {graph.num_items} '
                         f'items; pass ids=')
    if row_ids is not None and len(row_ids) != len(matrix):
        raise ValueError(f'{where}: {len(row_ids)} ids for {len(matrix)} '
                         f'rows; there must be one id a row')
    rows = (np.arange(graph.num_items) if row_ids is None else
            _match(row_ids, catalogue, graph.num_items, name, where, report))
    if row_mask is not None:
        rows[(rows >= 0) & ~row_mask.numpy()[rows]] = -1

    feature, mask = _arrange(matrix, rows)
    feature, mask = mask_broken(feature, mask, name, where, report)
    if not bool(mask.any()):
        raise ValueError(f'{where}: no item has a feature ({report}); are '
                         f'the ids those of the interactions, such as '
                         f'{_example(catalogue)}?')
    out = copy.copy(data)
    store = out[graph.edge_type[2]]
    store[name] = feature
    store.pop(name + MASK_SUFFIX, None)
    if not bool(mask.all()):
        report.repair(int((~mask).sum()),
                      f"of {graph.num_items} items have no '{name}' feature; "
                      f"they are masked", 4)
        store[name + MASK_SUFFIX] = mask
    out.report = report_of(data) + report
    return out


def _match(row_ids: list[Any], catalogue: IdMap | None, num_items: int,
           name: str, where: str, report: Report) -> np.ndarray:
    r"""For each item the row with its feature, or :obj:`-1`."""
    if catalogue is None:
        catalogue = IdMap(range(num_items))
    if catalogue.kind == 'int' and all(isinstance(x, str) for x in row_ids):
        # A text file of numbers: the table had them as integers.
        row_ids = [int(x) if x.lstrip('-').isdigit() and str(int(x)) == x
                   else x for x in row_ids]
    elif catalogue.kind == 'str' and all(type(x) is int for x in row_ids):
        raise ValueError(f'{where}: its ids are integers, such as '
                         f'{shorten(row_ids[0])}, but those of the items are '
                         f'text, such as {_example(catalogue)}; make them '
                         f'alike')
    items = catalogue.encode(row_ids, unknown='mark').numpy()
    report.repair(int((items < 0).sum()), f"rows of '{name}' belong to no "
                  f"item of the graph and were left out", 5)
    known = np.flatnonzero(items >= 0)
    rows = np.full(num_items, -1, dtype=np.int64)
    rows[items[known[::-1]]] = known[::-1]  # The first row of an id wins.
    report.repair(len(known) - int((rows >= 0).sum()), f"rows of '{name}' "
                  f"repeat an id and were left out", 5)
    return rows


def _arrange(matrix: np.ndarray, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    r"""Rows in the order of the items, zero where missing, in blocks."""
    mask = rows >= 0
    known = matrix.dtype in FLOATS and matrix.dtype.isnative
    if known and np.array_equal(rows, np.arange(len(matrix))):
        feature = matrix if matrix.flags.writeable else matrix.copy()
    else:
        kind = matrix.dtype.newbyteorder('=')
        feature = np.zeros((len(rows), matrix.shape[1]),
                           kind if kind in FLOATS else np.float32)
        step = max(1, BLOCK_NUMEL // matrix.shape[1])
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            feature[part][mask[part]] = matrix[rows[part][mask[part]]]
    return torch.from_numpy(feature), torch.from_numpy(mask)


def mask_broken(feature: Tensor, mask: Tensor, name: str, where: str,
                report: Report) -> tuple[Tensor, Tensor]:
    r"""Takes rows with NaN or infinite entries for missing: features
    :math:`[I, d_m]`, which stay as they are, and mask :math:`[I]` without
    them."""
    step = max(1, BLOCK_NUMEL // feature.size(1))
    broken = mask & ~torch.cat([x.isfinite().all(dim=1)
                                for x in feature.split(step)])
    if bool(broken.any()):
        report.repair(int(broken.sum()),
                      f"rows of '{name}' ({where}) have NaN or infinite "
                      f"entries and count as missing", 5)
        feature = feature.clone()
        feature[broken] = 0
        mask = mask & ~broken
    return feature, mask


def _example(catalogue: IdMap | None) -> str:
    return repr(catalogue[0]) if catalogue else '0'
