r"""A dataset in a folder of :obj:`.npy` files."""

from __future__ import annotations

import os
import os.path as osp
from collections.abc import Sequence

from torch import Tensor

from torch_promptmm.data import from_splits, load_npy
from torch_promptmm.data._features import MASK_SUFFIX
from torch_promptmm.data.npy import read_npy_header
from torch_promptmm.datasets.base import SPLITS, SplitDataset, Transform


class InteractionFolder(SplitDataset):
    r"""A dataset in a folder of :obj:`.npy` files, read in place.

    .. code-block:: text

        root/train.npy          int [2, E]: user row, item row
        root/val.npy
        root/test.npy
        root/<name>.npy         float [num_items, channels], one a modality
        root/<name>_mask.npy    bool [num_items], optional: who has it

    .. code-block:: python

        train, val, test = InteractionFolder(root)

    Nothing is written into the folder, and nothing in a file is executed. The
    three graphs share the storage of the features.

    Args:
        root (str): The folder.
        modalities (List[str], optional): The names of the feature files to
            read. If :obj:`None`, these are all two-dimensional
            floating-point ones, in the order of the alphabet.
            (default: :obj:`None`)
        known (str, optional): The interactions that the test graph knows of,
            :obj:`"train"` or :obj:`"train+val"`. (default: :obj:`"train"`)
        mmap (bool, optional): If set to :obj:`True`, features are mapped into
            memory instead of being read into it. (default: :obj:`False`)
        transform (callable, optional): Applied to each graph at each access.
            (default: :obj:`None`)
    """
    def __init__(
        self,
        root: str | os.PathLike[str],
        modalities: Sequence[str] | None = None,
        known: str = 'train',
        mmap: bool = False,
        transform: Transform | None = None,
    ) -> None:
        if not isinstance(root, (str, os.PathLike)):
            raise TypeError(f"'root' must be the path of a folder (got "
                            f"{type(root).__name__})")
        root = osp.expanduser(os.fspath(root))
        missing = [x for x in SPLITS if not osp.isfile(_path(root, x))]
        if missing:
            raise ValueError(
                f"'root' must be a folder with train.npy, val.npy and "
                f"test.npy (got '{root}', which "
                + (f"lacks {', '.join(f'{x}.npy' for x in missing)})"
                   if osp.isdir(root) else 'is no folder)'))

        super().__init__(root, transform)
        train, val, test = (load_npy(_path(root, name)) for name in SPLITS)
        features = _read_features(root, modalities, mmap)
        masks = {
            name: load_npy(_path(root, name + MASK_SUFFIX))
            for name in features
            if osp.isfile(_path(root, name + MASK_SUFFIX))
        }
        self.set_splits(*from_splits(train, val, test, features,
                                     masks=masks, known=known))


def _path(root: str, name: str) -> str:
    return osp.join(root, f'{name}.npy')


def _read_features(
    root: str,
    modalities: Sequence[str] | None,
    mmap: bool,
) -> dict[str, Tensor]:
    names = sorted(
        osp.splitext(name)[0] for name in os.listdir(root)
        if name.endswith('.npy') and not name.startswith('.'))
    names = [
        name for name in names
        if name not in SPLITS and not name.endswith(MASK_SUFFIX)
    ]
    if modalities is not None:
        if isinstance(modalities, str):
            raise TypeError(f"'modalities' must be a list of names (got the "
                            f"string '{modalities}'); pass "
                            f"['{modalities}']")
        for name in modalities:
            if name not in names:
                raise ValueError(f"'modalities' names '{name}', but '{root}' "
                                 f"has no {name}.npy; it has {names}")
        names = list(modalities)

    features = {}
    for name in names:
        shape, dtype = read_npy_header(_path(root, name))
        if modalities is None and not (len(shape) == 2 and dtype.kind == 'f'):
            continue  # Something else that lies there, such as lists of ids.
        features[name] = load_npy(_path(root, name), mmap)
    return features
