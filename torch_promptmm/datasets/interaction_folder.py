r"""A dataset in a folder of :obj:`.npy` files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from torch_promptmm.data import from_splits
from torch_promptmm.data.matrices import matrix_files, read_matrices
from torch_promptmm.data.npy import is_float_matrix, load_npy
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
        modalities (list of str, optional): The names of the feature files to
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
        folder = Path(root).expanduser()
        lost = [f'{x}.npy' for x in SPLITS
                if not (folder / f'{x}.npy').is_file()]
        if lost:
            found = (f"lacks {', '.join(lost)}" if folder.is_dir()
                     else 'is no folder')
            raise ValueError(f"'root' must be a folder with train.npy, "
                             f"val.npy and test.npy (got '{folder}', which "
                             f"{found})")
        if isinstance(modalities, str):
            raise TypeError(f"'modalities' must be a list of names (got the "
                            f"string '{modalities}'); pass "
                            f"['{modalities}']")

        super().__init__(str(folder), transform)
        files = {name: path for name, path in matrix_files(folder).items()
                 if name not in SPLITS}
        if modalities is None:
            # Something else may lie there, such as lists of ids.
            files = {k: v for k, v in files.items() if is_float_matrix(v)}
        else:
            for name in modalities:
                if name not in files:
                    raise ValueError(f"'modalities' names '{name}', but "
                                     f"'{folder}' has no {name}.npy; it has "
                                     f"{list(files)}")
            files = {name: files[name] for name in modalities}
        features, masks = read_matrices(files, mmap)
        train, val, test = (load_npy(folder / f'{x}.npy') for x in SPLITS)
        self.set_splits(*from_splits(train, val, test, features,
                                     masks=masks, known=known))
