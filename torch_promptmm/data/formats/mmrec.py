from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
from torch_geometric.data import HeteroData

from torch_promptmm.data.columns import to_numbers
from torch_promptmm.data.contract import DEFAULT_EDGE_TYPE, EdgeType
from torch_promptmm.data.formats._folder import make_splits, write_common
from torch_promptmm.data.frame import read_frame
from torch_promptmm.data.ids import IdMap, item_ids, user_ids
from torch_promptmm.data.matrices import check_folder
from torch_promptmm.data.report import Report
from torch_promptmm.data.split import Split
from torch_promptmm.files import atomic_path

USER, ITEM, LABEL = 'userID', 'itemID', 'x_label'
ID_FILES = {'users': ('u_id_mapping.csv', USER),
            'items': ('i_id_mapping.csv', ITEM)}


def read_mmrec(
    root: str | os.PathLike[str],
    name: str | None = None,
    known: str = 'train',
    mmap: bool = False,
    edge_type: EdgeType = DEFAULT_EDGE_TYPE,
) -> Split:
    r"""Reads a folder of MMRec: ``train, val, test`` as it splits them.

    .. code-block:: text

        root/<name>.inter       userID, itemID, ..., x_label (0 train, 1
                                validation, 2 test), with tabs in between
        root/<name>_feat.npy    modalities, named as by read_promptmm
        root/u_id_mapping.csv   raw ids, where they are there
        root/i_id_mapping.csv

    MMRec itself leaves out validation and test interactions of users whom the
    training does not know; here they stay. :obj:`name` tells the
    :obj:`.inter` file if there are several; the other arguments are those of
    :func:`~torch_promptmm.data.read_promptmm`.
    """
    root = check_folder(root)
    report = Report()
    rows = _read_interactions(_inter_file(root, name), report)
    parts = [rows[:2, rows[2] == i] for i in range(3)]
    return make_splits(
        root, parts, ({}, {}),
        lambda note, kind, size: _read_ids(root, kind, size),
        known, mmap, edge_type, report)


def write_mmrec(
    root: str | os.PathLike[str],
    train: HeteroData,
    val: HeteroData,
    test: HeteroData,
    name: str | None = None,
    edge_type: EdgeType | None = None,
) -> None:
    r"""Writes a split as a folder of MMRec, see :func:`read_mmrec`.

    What MMRec has no place for (masks, users and items beyond the last one
    with an interaction) goes into files that it does not look at. The
    :obj:`.inter` file is called :obj:`name`, or else as the folder; the other
    arguments are those of :func:`~torch_promptmm.data.write_promptmm`.
    """
    root = Path(root).expanduser().absolute()
    _, parts = write_common(root, (train, val, test), edge_type, {})
    _write_ids(root, 'users', user_ids(train, edge_type))
    _write_ids(root, 'items', item_ids(train, edge_type))
    with atomic_path(root / f'{name or root.name}.inter') as path:
        with open(path, 'w', encoding='utf-8', newline='') as f:
            f.write(f'{USER}\t{ITEM}\t{LABEL}\n')
            for label, index in enumerate(parts):
                f.writelines(f'{user}\t{item}\t{label}\n'
                             for user, item in index.T.tolist())


def _inter_file(root: Path, name: str | None) -> Path:
    if name is not None:
        path = root / f"{name.removesuffix('.inter')}.inter"
        if not path.is_file():
            raise ValueError(f"'name' is {name!r}, but there is no {path}")
        return path
    found = [x for x in sorted(root.glob('*.inter')) if x.name[0] != '.']
    if len(found) != 1:
        raise ValueError(f"'root' must have one .inter file (got {root} with "
                         f"{[x.name for x in found]}); name it with name=")
    return found[0]


def _read_interactions(path: Path, report: Report) -> np.ndarray:
    r"""User, item and split of the rows that have all three :math:`[3, N]`."""
    frame = read_frame(path, {x: x for x in (USER, ITEM, LABEL)}, sep='\t',
                       quote=None)
    rows = np.stack([to_numbers(frame, x) for x in (USER, ITEM, LABEL)])
    known = np.isfinite(rows).all(axis=0)
    for bad, what in [
        ((rows < 0) | (known & (rows != np.rint(rows))),
         'a number that is negative or not whole'),
        (known & (rows[2:] > 2), f'an {LABEL} other than 0, 1, 2'),
    ]:
        if bad.any():
            row = int(bad.any(axis=0).argmax())
            raise ValueError(f'{frame.place(row)}: {what} (got '
                             f'{rows[:, row].tolist()})')
    report.repair(int((~known).sum()), f'rows of {path} without user, item '
                                       f'or {LABEL} were left out')
    if not known.any():
        raise ValueError(f'{path}: no interaction is left ({report})')
    return rows[:, known].astype(np.int64)


def _read_ids(root: Path, kind: str, size: int) -> IdMap | None:
    file, column = ID_FILES[kind]
    path = root / file
    if not path.is_file():
        return None
    raw: list[Any] = [None] * size
    try:
        with open(path, encoding='utf-8-sig', newline='') as f:
            reader = csv.reader(f, delimiter='\t', strict=True)
            head = next(reader, [])
            if column not in head or len(head) != 2:
                raise ValueError(f'the columns must be <raw id> and {column} '
                                 f'(got {head})')
            at = head.index(column)
            for row in filter(None, reader):
                number = row[at] if len(row) == 2 else ''
                if not number.isdecimal() or int(number) >= size:
                    raise ValueError(f'line {reader.line_num}: no row from 0 '
                                     f'to {size - 1} (got {row})')
                if raw[int(number)] is not None:
                    raise ValueError(f'line {reader.line_num}: the row '
                                     f'{number} is there twice')
                raw[int(number)] = row[1 - at]
    except (ValueError, csv.Error) as error:
        raise ValueError(f'{path}: {error}') from error
    if None in raw:
        raise ValueError(f'{path}: has no id for the row {raw.index(None)}')
    return IdMap(raw)


def _write_ids(root: Path, kind: str, ids: IdMap | None) -> None:
    file, column = ID_FILES[kind]
    if ids is None:
        (root / file).unlink(missing_ok=True)
        return
    with atomic_path(root / file) as path:
        with open(path, 'w', encoding='utf-8', newline='') as f:
            writer = csv.writer(f, delimiter='\t', lineterminator='\n')
            writer.writerow([f'raw_{column}', column])
            writer.writerows((str(x), i) for i, x in enumerate(ids))
