from __future__ import annotations

import copy
import os
import os.path as osp
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from ._features import BLOCK_NUMEL, MASK_SUFFIX
from .contract import EdgeType, read_graph
from .feature_files import read_source
from .ids import IdMap, item_ids
from .report import Report, report_of, shorten

PathLike = str | os.PathLike[str]
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
        source (str or numpy.ndarray or torch.Tensor or Mapping): A matrix
            with one row an id (the path of a :obj:`.npy` or :obj:`.npz` file,
            or the matrix itself), the path of a Parquet file with a column of
            ids and a column of lists or columns of numbers, or a mapping from
            id to vector.
        ids (list or str, optional): The ids of the rows of a matrix, or the
            path of a file that holds them (one a line in :obj:`.txt`; a list
            in :obj:`.json`; an array in :obj:`.npy`). (default: :obj:`None`)
        id_column (str, optional): The column of the ids in a Parquet file. If
            :obj:`None`, the first one. (default: :obj:`None`)
        mmap (bool, optional): If set to :obj:`True`, a :obj:`.npy` file is
            mapped into memory. It stays mapped if its rows are in the order of
            the items already. (default: :obj:`False`)
        max_bytes (int, optional): The most that an :obj:`.npz` archive may
            unpack to. (default: :obj:`None`)
        edge_type (Tuple[str, str, str], optional): The edge type of the
            interactions. (default: :obj:`None`)

    Returns:
        HeteroData: A shallow copy of the graph with the features.

    Raises:
        ValueError: If the source is not as described.
    """
    graph = read_graph(data, edge_type, modalities=[])
    catalogue = item_ids(data, graph.edge_type)
    report = Report()
    matrix, row_ids, where = read_source(source, ids, id_column, mmap,
                                         max_bytes)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise ValueError(f'{where}: features must be a matrix, one row an '
                         f'item (got the shape {list(matrix.shape)})')
    if matrix.dtype.kind not in 'fiu':
        raise ValueError(f'{where}: features must be numbers (got the dtype '
                         f'{matrix.dtype})')
    if row_ids is None:
        rows = _rows_in_order(matrix, catalogue, graph.num_items, where)
    else:
        if len(row_ids) != len(matrix):
            raise ValueError(f'{where}: {len(row_ids)} ids for '
                             f'{len(matrix)} rows; there must be one id a '
                             f'row')
        rows = _match(row_ids, catalogue, graph.num_items, name, where,
                      report)

    feature, mask = _arrange(matrix, rows, name, where, report)
    if not bool(mask.any()):
        raise ValueError(f'{where}: no item has a feature ({report}); are '
                         f'the ids those of the interactions, such as '
                         f'{_example(catalogue)}?')
    out = copy.copy(data)
    item = graph.edge_type[2]
    out[item][name] = feature
    if name + MASK_SUFFIX in out[item]:
        del out[item][name + MASK_SUFFIX]
    if not bool(mask.all()):
        report.repair(int((~mask).sum()),
                      f"of {graph.num_items} items have no '{name}' feature; "
                      f"they are masked")
        out[item][name + MASK_SUFFIX] = mask
    out.report = report_of(data) + report
    return out


def add_feature_folder(
    data: HeteroData,
    root: PathLike,
    mmap: bool = False,
    edge_type: EdgeType | None = None,
) -> HeteroData:
    r"""Gives the items of a graph all features of a folder, by id.

    Each :obj:`<name>.npy` with a float matrix is the modality ``<name>``; its
    ids lie beside it in :obj:`<name>_ids.txt` (one id a line),
    :obj:`<name>_ids.json` or :obj:`<name>_ids.npy`, or in an
    :obj:`ids.txt`, :obj:`ids.json` or :obj:`ids.npy` for all of them. Each
    :obj:`<name>.parquet` has its ids in its first column.

    Args:
        data (HeteroData): The graph; it is not changed.
        root (str): The folder.
        mmap (bool, optional): See :func:`add_features`.
            (default: :obj:`False`)
        edge_type (Tuple[str, str, str], optional): The edge type of the
            interactions. (default: :obj:`None`)

    Raises:
        ValueError: If there is no feature, or one without ids.
    """
    root = osp.expanduser(os.fspath(root))
    if not osp.isdir(root):
        raise ValueError(f"'root' must be a folder (got {root})")
    found = 0
    for file in sorted(os.listdir(root)):
        name, suffix = osp.splitext(file)
        is_ids = name == 'ids' or name.endswith('_ids')
        if suffix not in ('.npy', '.parquet') or is_ids or file[0] == '.':
            continue
        ids = None
        if suffix == '.npy':
            ids = next((osp.join(root, x.format(name)) for x in ID_FILES
                        if osp.isfile(osp.join(root, x.format(name)))), None)
        data = add_features(data, name, osp.join(root, file), ids, mmap=mmap,
                            edge_type=edge_type)
        found += 1
    if not found:
        raise ValueError(f"'root' has no .npy or .parquet file with features "
                         f"in it ({root} holds {sorted(os.listdir(root))})")
    return data


# Private ######################################################################


def _rows_in_order(
    matrix: np.ndarray,
    catalogue: IdMap | None,
    num_items: int,
    where: str,
) -> np.ndarray:
    if catalogue is not None:
        raise ValueError(
            f"'ids' must say which item each row of {where} belongs to; the "
            f"items of this graph have ids, such as {_example(catalogue)} "
            f"(if the rows are in their order already, pass "
            f"ids=item_ids(data))")
    if len(matrix) != num_items:
        raise ValueError(f'{where}: {len(matrix)} rows for {num_items} '
                         f'items; pass ids=')
    return np.arange(num_items)


def _match(
    row_ids: list[Any],
    catalogue: IdMap | None,
    num_items: int,
    name: str,
    where: str,
    report: Report,
) -> np.ndarray:
    r"""For each item the row with its feature, or ``-1``."""
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
    unknown = int((items < 0).sum())
    report.repair(unknown, f"rows of '{name}' belong to no item of the graph "
                           f"and were left out", 4)
    known = np.flatnonzero(items >= 0)
    rows = np.full(num_items, -1, dtype=np.int64)
    rows[items[known[::-1]]] = known[::-1]  # The first row of an id wins.
    repeated = len(known) - int((rows >= 0).sum())
    report.repair(repeated, f"rows of '{name}' repeat an id and were left "
                            f"out", 4)
    return rows


def _arrange(
    matrix: np.ndarray,
    rows: np.ndarray,
    name: str,
    where: str,
    report: Report,
) -> tuple[Tensor, Tensor]:
    r"""Rows in the order of the items, zero where missing, in blocks."""
    mask = rows >= 0
    ordered = len(rows) == len(matrix) and bool(
        (rows == np.arange(len(rows))).all())
    floats = (np.float32, np.float64, np.float16)
    if ordered and matrix.dtype in floats and matrix.dtype.isnative:
        feature = torch.from_numpy(
            matrix if matrix.flags.writeable else matrix.copy())
    else:
        kind = matrix.dtype.newbyteorder('=')
        if kind not in floats:
            kind = np.dtype(np.float32)
        out = np.zeros((len(rows), matrix.shape[1]), dtype=kind)
        step = max(1, BLOCK_NUMEL // matrix.shape[1])
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            out[part][mask[part]] = matrix[rows[part][mask[part]]]
        feature = torch.from_numpy(out)

    return mask_broken(feature, torch.from_numpy(mask), name, where, report)


def mask_broken(
    feature: Tensor,
    mask: Tensor,
    name: str,
    where: str,
    report: Report,
) -> tuple[Tensor, Tensor]:
    r"""Takes rows with NaN or infinite entries for missing.

    Args:
        feature (torch.Tensor): The features :math:`[I, d_m]`; left as they
            are.
        mask (torch.Tensor): The items that have one :math:`[I]`.
        name (str): The name of the modality.
        where (str): How a warning calls the source.
        report (Report): Where repairs are noted.
    """
    broken = _not_finite(feature) & mask
    if bool(broken.any()):
        report.repair(int(broken.sum()),
                      f"rows of '{name}' ({where}) have NaN or infinite "
                      f"entries and count as missing", 5)
        feature = feature.clone()
        feature[broken] = 0
        mask = mask & ~broken
    return feature, mask


def _not_finite(feature: Tensor) -> Tensor:
    step = max(1, BLOCK_NUMEL // feature.size(1))
    parts = [~feature[i:i + step].isfinite().all(dim=1)
             for i in range(0, feature.size(0), step)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.bool)


def _example(catalogue: IdMap | None) -> str:
    return repr(catalogue[0]) if catalogue else '0'
