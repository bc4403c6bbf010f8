r"""The feature files that all layouts of the field share."""

from __future__ import annotations

import json
import os
import os.path as osp
from typing import Any

import torch
from torch import Tensor

from torch_promptmm.files import atomic_path

from .._features import MASK_SUFFIX
from ..arrays import read_array
from ..contract import InteractionData
from ..features import mask_broken
from ..npy import save_npy
from ..report import Report

SUFFIX = '_feat'
SIDECAR = 'torch_promptmm.json'
# What the field calls its files, and what the modalities are called here.
NAMES = {'image': 'visual', 'text': 'textual', 'audio': 'acoustic'}
STEMS = {name: stem for stem, name in NAMES.items()}


def read_sidecar(root: str) -> dict[str, Any]:
    r"""What our own writers noted beside the files, empty for a folder that
    somebody else wrote.

    Args:
        root (str): The folder.
    """
    path = osp.join(root, SIDECAR)
    if not osp.isfile(path):
        return {}
    with open(path, encoding='utf-8') as f:
        try:
            out = json.load(f)
        except (ValueError, RecursionError) as error:
            raise ValueError(f'{path}: no JSON ({error}); delete it to read '
                             f'the folder without it') from error
    if not isinstance(out, dict):
        raise ValueError(f'{path}: must hold an object (got '
                         f'{type(out).__name__}); delete it to read the '
                         f'folder without it')
    return out


def read_features(
    root: str,
    note: dict[str, Any],
    mmap: bool,
    report: Report,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    r"""All :obj:`<name>_feat.npy` of a folder, with their masks.

    Args:
        root (str): The folder.
        note (Dict[str, Any]): What :func:`read_sidecar` returned.
        mmap (bool): If they are to be mapped into memory.
        report (Report): Where repairs are noted.
    """
    names = {**NAMES, **note.get('features', {})}
    features, masks = {}, {}
    for file in sorted(os.listdir(root)):
        stem, suffix = osp.splitext(file)
        if suffix != '.npy' or not stem.endswith(SUFFIX) or file[0] == '.':
            continue
        path = osp.join(root, file)
        name = str(names.get(stem.removesuffix(SUFFIX),
                             stem.removesuffix(SUFFIX)))
        array = read_array(path, mmap)
        if array.ndim != 2 or array.dtype.kind != 'f':
            raise ValueError(f'{path}: features must be a floating-point '
                             f'matrix, one row an item (got the shape '
                             f'{list(array.shape)} and dtype {array.dtype})')
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder('='))
        feature = torch.from_numpy(array)
        mask_path = osp.join(root, f'{stem}{MASK_SUFFIX}.npy')
        mask = torch.ones(len(feature), dtype=torch.bool)
        if osp.isfile(mask_path):
            mask = torch.from_numpy(read_array(mask_path))
            if mask.shape != (len(feature),) or mask.dtype != torch.bool:
                raise ValueError(f'{mask_path}: must hold {len(feature)} '
                                 f'booleans, one a row of {file} (got the '
                                 f'shape {list(mask.shape)} and dtype '
                                 f'{mask.dtype})')
        feature, mask = mask_broken(feature, mask, name, path, report)
        features[name] = feature
        if not bool(mask.all()):
            masks[name] = mask
    return features, masks


def write_features(
    root: str,
    graph: InteractionData,
    note: dict[str, Any],
) -> None:
    r"""Writes the features of a graph, their masks, and a sidecar with what
    the layout itself has no place for.

    Args:
        root (str): The folder.
        graph (InteractionData): The graph.
        note (Dict[str, Any]): What else goes into the sidecar.
    """
    stems = {name: STEMS.get(name, name) for name in graph.features}
    if len(set(stems.values())) < len(stems):
        raise ValueError(f'Two modalities would become one file (got '
                         f'{sorted(stems)}); rename one of them')
    for name, feature in graph.features.items():
        if feature.dtype == torch.bfloat16:
            raise ValueError(f"The modality '{name}' is bfloat16, which .npy "
                             f"files do not know; convert it with '.float()'")
        stem = stems[name] + SUFFIX
        save_npy(osp.join(root, f'{stem}.npy'), feature)
        mask_path = osp.join(root, f'{stem}{MASK_SUFFIX}.npy')
        if name in graph.masks:
            save_npy(mask_path, graph.masks[name])
        elif osp.isfile(mask_path):
            os.unlink(mask_path)
    body = {
        'num_users': graph.num_users,
        'num_items': graph.num_items,
        'features': {stem: name for name, stem in stems.items()},
        **note,
    }
    with atomic_path(osp.join(root, SIDECAR)) as path:
        path.write_text(json.dumps(body, indent=1) + '\n', encoding='utf-8')


def number_of(
    kind: str,
    highest: int,
    note: dict[str, Any],
    rows: dict[str, int],
    where: str,
) -> int:
    r"""The number of users or items, from all that a folder tells.

    Args:
        kind (str): ``users`` or ``items``.
        highest (int): The highest row that occurs.
        note (Dict[str, Any]): What :func:`read_sidecar` returned.
        rows (Dict[str, int]): Sizes that must agree, and where from.
        where (str): The folder.

    Raises:
        ValueError: If sizes contradict each other.
    """
    sizes = dict(rows)
    if f'num_{kind}' in note:
        sizes[SIDECAR] = int(note[f'num_{kind}'])
    if len(set(sizes.values())) > 1:
        raise ValueError(f'{where}: its files disagree on the number of '
                         f'{kind} (got {sizes})')
    size = next(iter(sizes.values()), highest + 1)
    if highest >= size:
        raise ValueError(f"{where}: an interaction has the {kind[:-1]} "
                         f"{highest}, but there are {size} {kind} ("
                         f"{next(iter(sizes), 'none')}); the files do not "
                         f"belong together")
    return size


def check_splits(splits: Any, write: str) -> None:
    r"""Checks that three graphs were given to a writer.

    Args:
        splits (Any): What was given.
        write (str): The name of the writer.
    """
    if len(splits) != 3:
        raise ValueError(f'{write} takes train, val and test (got '
                         f'{len(splits)} graphs)')
