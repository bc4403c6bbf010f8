from __future__ import annotations

import csv
import os
import os.path as osp
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from torch_promptmm.files import atomic_path

from ..columns import number_ids, to_numbers
from ..contract import (
    DEFAULT_EDGE_TYPE,
    EdgeType,
    check_same_entities,
    read_graph,
)
from ..frame import read_frame
from ..ids import IdMap, item_ids, set_ids, user_ids
from ..interactions import from_splits
from ..report import Report
from ..split import Split
from ._features import number_of, read_features, read_sidecar, write_features

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
        root/image_feat.npy     the modality "visual"
        root/text_feat.npy      the modality "textual"
        root/audio_feat.npy     the modality "acoustic"
        root/<other>_feat.npy   the modality "<other>"
        root/u_id_mapping.csv   raw ids, where they are there
        root/i_id_mapping.csv

    MMRec itself leaves out validation and test interactions of users whom the
    training does not know; here they stay.

    Args:
        root (str): The folder.
        name (str, optional): The name of the :obj:`.inter` file. If
            :obj:`None`, the only one. (default: :obj:`None`)
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
    path = _inter_file(root, name)
    report = Report()
    frame = read_frame(path, {'user': USER, 'item': ITEM, 'rating': LABEL},
                       sep='\t')
    columns = []
    for role in ('user', 'item'):
        rows, ids = number_ids(frame, role, 'int', report)
        number = np.array([*ids.to_list(), -1], dtype=np.int64)[rows]
        bad = (number < 0) & (rows >= 0)
        if bad.any():
            raise ValueError(f'{frame.place(int(bad.argmax()))}: a {role} has '
                             f'a negative number')
        columns.append(number)
    user, item = columns
    label: Any = to_numbers(frame, 'rating')
    missing = (user < 0) | (item < 0) | ~np.isfinite(label)
    report.repair(int(missing.sum()), f'rows of {path} without user, item or '
                                      f'{LABEL} were left out')
    bad = ~np.isin(label, [0, 1, 2]) & ~missing
    if bad.any():
        raise ValueError(f'{frame.place(int(bad.argmax()))}: {LABEL} must be '
                         f'0, 1 or 2')
    user, item, label = user[~missing], item[~missing], label[~missing]
    if len(user) == 0:
        raise ValueError(f'{path}: no interaction is left ({report})')

    note = read_sidecar(root)
    features, masks = read_features(root, note, mmap, report)
    num_items = number_of('items', int(item.max()), note,
                          {k: len(v) for k, v in features.items()}, root)
    num_users = number_of('users', int(user.max()), note, {}, root)
    parts = [np.stack([user[label == i], item[label == i]]) for i in range(3)]
    splits = from_splits(parts[0], parts[1], parts[2], features or None,
                         num_users, num_items, masks, edge_type, known)
    users = _read_ids(root, 'users', num_users)
    items = _read_ids(root, 'items', num_items)
    for data in splits:
        data.report = report
        set_ids(data, users, items, edge_type)
    return splits


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
    with an interaction) goes into files that it does not look at.

    Args:
        root (str): The folder; made if it is not there.
        train (HeteroData): The training graph.
        val (HeteroData): The graph with the interactions to validate on.
        test (HeteroData): The graph with the interactions to test on.
        name (str, optional): The name of the :obj:`.inter` file. If
            :obj:`None`, that of the folder. (default: :obj:`None`)
        edge_type (Tuple[str, str, str], optional): The edge type of the
            interactions. (default: :obj:`None`)
    """
    root = osp.abspath(osp.expanduser(os.fspath(root)))
    name = name or osp.basename(root)
    graphs = [read_graph(x, edge_type) for x in (train, val, test)]
    graph = graphs[0]
    for other, kind in [(graphs[1], 'val'), (graphs[2], 'test')]:
        check_same_entities(graph, other, ('train', kind))
    os.makedirs(root, exist_ok=True)
    write_features(root, graph, {})
    for kind, ids in [('users', user_ids(train, edge_type)),
                      ('items', item_ids(train, edge_type))]:
        _write_ids(root, kind, ids)
    with atomic_path(osp.join(root, f'{name}.inter')) as path:
        with open(path, 'w', encoding='utf-8', newline='') as f:
            f.write(f'{USER}\t{ITEM}\t{LABEL}\n')
            for label, index in enumerate(_parts(graphs)):
                for user, item in index.t().tolist():
                    f.write(f'{user}\t{item}\t{label}\n')


# Private ######################################################################


def _parts(graphs: list) -> list[Tensor]:
    empty = torch.empty(2, 0, dtype=torch.long)
    held = [empty if x.label_index is None else x.label_index
            for x in graphs[1:]]
    return [graphs[0].edge_index, *held]


def _inter_file(root: str, name: str | None) -> str:
    if not osp.isdir(root):
        raise ValueError(f"'root' must be a folder (got {root})")
    if name is not None:
        path = osp.join(root, f"{name.removesuffix('.inter')}.inter")
        if not osp.isfile(path):
            raise ValueError(f"'name' is {name!r}, but there is no {path}")
        return path
    found = sorted(x for x in os.listdir(root)
                   if x.endswith('.inter') and x[0] != '.')
    if len(found) != 1:
        raise ValueError(f"'root' must have one .inter file (got {root} with "
                         f"{found}); name it with name=")
    return osp.join(root, found[0])


def _read_ids(root: str, kind: str, size: int) -> IdMap | None:
    file, column = ID_FILES[kind]
    path = osp.join(root, file)
    if not osp.isfile(path):
        return None
    try:
        with open(path, encoding='utf-8-sig', newline='') as f:
            reader = csv.reader(f, delimiter='\t', strict=True)
            rows = [(reader.line_num, row) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f'{path}: cannot be read ({error})') from error
    _, head = rows.pop(0) if rows else (0, [])
    if column not in head or len(head) != 2:
        raise ValueError(f'{path}: must have the columns <raw id> and '
                         f'{column} (got {head})')
    at = head.index(column)
    raw: list[str | None] = [None] * size
    for line, row in rows:
        text = row[at] if len(row) == 2 else ''
        if not text.isdigit() or int(text) >= size:
            raise ValueError(f'{path}, line {line}: no row from 0 to '
                             f'{size - 1} (got {row})')
        if raw[int(text)] is not None:
            raise ValueError(f'{path}, line {line}: the row {text} is there '
                             f'twice')
        raw[int(text)] = row[1 - at]
    if None in raw:
        raise ValueError(f'{path}: has no id for the row {raw.index(None)}')
    return IdMap(raw)


def _write_ids(root: str, kind: str, ids: IdMap | None) -> None:
    file, column = ID_FILES[kind]
    target = osp.join(root, file)
    if ids is None:
        if osp.isfile(target):
            os.unlink(target)
        return
    with atomic_path(target) as path:
        with open(path, 'w', encoding='utf-8', newline='') as f:
            writer = csv.writer(f, delimiter='\t', lineterminator='\n')
            writer.writerow([f'raw_{column}', column])
            writer.writerows((str(x), i) for i, x in enumerate(ids))
