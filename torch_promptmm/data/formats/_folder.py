r"""What the folders of the field have in common: features, sizes, splits."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_geometric.data import HeteroData

from torch_promptmm.data.contract import (
    EdgeType,
    InteractionData,
    check_same_entities,
    read_graph,
)
from torch_promptmm.data.features import mask_broken
from torch_promptmm.data.ids import IdMap, set_ids
from torch_promptmm.data.interactions import from_splits
from torch_promptmm.data.matrices import mask_file, matrix_files, read_matrices
from torch_promptmm.data.npy import save_npy
from torch_promptmm.data.report import Report
from torch_promptmm.data.split import Split
from torch_promptmm.files import atomic_path

SUFFIX = '_feat'
SIDECAR = 'torch_promptmm.json'
# What the field calls its files, and what the modalities are called here.
NAMES = {'image': 'visual', 'text': 'textual', 'audio': 'acoustic'}
STEMS = {name: stem for stem, name in NAMES.items()}


def make_splits(
    root: Path,
    parts: Sequence[np.ndarray],
    sizes: tuple[dict[str, int], dict[str, int]],
    read_ids: Callable[[dict[str, Any], str, int], IdMap | None],
    known: str,
    mmap: bool,
    edge_type: EdgeType,
    report: Report,
) -> Split:
    r"""Puts the interactions of the three splits and all
    :obj:`<name>_feat.npy` of a folder together.

    :obj:`sizes` are the numbers of users and of items that files told of;
    :obj:`read_ids` gets the sidecar, :obj:`"users"` or :obj:`"items"`, and
    their number, and returns their ids."""
    note = _read_sidecar(root)
    names = {**NAMES, **note.get('features', {})}
    files = {str(names.get(stem, stem)): path
             for stem, path in matrix_files(root, SUFFIX).items()}
    features, masks = read_matrices(files, mmap)
    for name, value in features.items():
        mask = masks.pop(name, torch.ones(len(value), dtype=torch.bool))
        features[name], mask = mask_broken(value, mask, name,
                                           str(files[name]), report)
        if not bool(mask.all()):
            masks[name] = mask
    sizes[1].update({name: len(value) for name, value in features.items()})
    highest = np.concatenate(parts, axis=1).max(axis=1, initial=-1)
    num_users, num_items = (
        _number_of(kind, int(highest[end]), note, sizes[end], root)
        for end, kind in enumerate(['users', 'items']))
    train, val, test = parts
    splits = from_splits(train, val, test, features, num_users, num_items,
                         masks, edge_type, known)
    maps = (read_ids(note, 'users', num_users),
            read_ids(note, 'items', num_items))
    for data in splits:
        data.report = report
        set_ids(data, *maps, edge_type)
    return splits


def write_common(
    root: Path,
    splits: Sequence[HeteroData],
    edge_type: EdgeType | None,
    note: Mapping[str, Any],
) -> tuple[InteractionData, list[np.ndarray]]:
    r"""Writes the features, their masks, and a sidecar with what the layout
    itself has no place for. Returns the training graph and the interactions
    :math:`[2, E]` of the three splits."""
    graph, *held = (read_graph(data, edge_type) for data in splits)
    for other, kind in zip(held, ('val', 'test'), strict=True):
        check_same_entities(graph, other, ('train', kind))
    stems = {name: STEMS.get(name, name) for name in graph.features}
    if len(set(stems.values())) < len(stems):
        raise ValueError(f'Two modalities would become one file (got '
                         f'{sorted(stems)}); rename one of them')
    for name, feature in graph.features.items():
        if feature.dtype == torch.bfloat16:
            raise ValueError(f"The modality '{name}' is bfloat16, which .npy "
                             f"files do not know; convert it with '.float()'")
        path = root / f'{stems[name]}{SUFFIX}.npy'
        save_npy(path, feature)
        if name in graph.masks:
            save_npy(mask_file(path), graph.masks[name])
        else:
            mask_file(path).unlink(missing_ok=True)
    body = {
        'num_users': graph.num_users,
        'num_items': graph.num_items,
        'features': {stem: name for name, stem in stems.items()},
        **note,
    }
    with atomic_path(root / SIDECAR) as path:
        path.write_text(json.dumps(body, indent=1) + '\n', encoding='utf-8')
    empty = np.empty((2, 0), dtype=np.int64)
    return graph, [graph.edge_index.numpy(),
                   *(empty if x.label_index is None else x.label_index.numpy()
                     for x in held)]


def _read_sidecar(root: Path) -> dict[str, Any]:
    r"""What our own writers noted beside the files, empty for a folder that
    somebody else wrote."""
    path = root / SIDECAR
    if not path.is_file():
        return {}
    try:
        out = json.loads(path.read_text('utf-8'))
        if not isinstance(out, dict):
            raise ValueError(f'a {type(out).__name__}')
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path}: no JSON object ({error}); delete it to '
                         f'read the folder without it') from error
    return out


def _number_of(kind: str, highest: int, note: dict[str, Any],
               sizes: dict[str, int], root: Path) -> int:
    r"""The number of users or items, from all that a folder tells."""
    if f'num_{kind}' in note:
        sizes = {**sizes, SIDECAR: int(note[f'num_{kind}'])}
    if len(set(sizes.values())) > 1:
        raise ValueError(f'{root}: its files disagree on the number of '
                         f'{kind} (got {sizes})')
    where, size = next(iter(sizes.items()), ('none', highest + 1))
    if highest >= size:
        raise ValueError(f'{root}: an interaction has the {kind[:-1]} '
                         f'{highest}, but there are {size} {kind} ({where}); '
                         f'the files do not belong together')
    return size
