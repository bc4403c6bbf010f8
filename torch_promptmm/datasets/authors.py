r"""The datasets that the authors of PromptMM share as folders."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch_promptmm.data.formats import read_mmrec, read_promptmm
from torch_promptmm.datasets.base import SplitDataset, Transform
from torch_promptmm.datasets.fetch import fetch_missing, verify
from torch_promptmm.datasets.interaction_folder import InteractionFolder
from torch_promptmm.datasets.table3 import beside_table3

SHARED = ('https://drive.google.com/drive/folders/'
          '17vnX8S6a_68xzML1tAM5m9YsQyKZ1UKb')


class AuthorsFolder(SplitDataset):
    r"""The base class of datasets that the authors of PromptMM share as a
    folder. The folder is read in place, and nothing in it is executed.

    It may be :obj:`root` or :obj:`root/raw`, and of any layout of the field:
    the authors' own (:func:`~torch_promptmm.data.read_promptmm`), MMRec's
    (:func:`~torch_promptmm.data.read_mmrec`) or that of
    :class:`InteractionFolder`. A subclass names the files.
    """
    name = ''
    features: tuple[str, ...] = ()

    def __init__(
        self,
        root: str | os.PathLike[str],
        known: str = 'train',
        mmap: bool = False,
        urls: Mapping[str, str] | None = None,
        base_url: str | None = None,
        checksums: Mapping[str, str] | None = None,
        progress: bool = False,
        transform: Transform | None = None,
    ) -> None:
        if not isinstance(root, (str, os.PathLike)):
            raise TypeError(f"'root' must be the path of a folder (got "
                            f"{type(root).__name__})")
        root = Path(root).expanduser()
        self.urls, self.base_url = dict(urls or {}), base_url
        self.checksums, self.progress = dict(checksums or {}), progress
        self._layout, self._folder = _find_layout(root)
        super().__init__(str(root), transform)
        if self._layout is None:  # It was fetched just now.
            self._layout, self._folder = _find_layout(root)
        for name, checksum in self.checksums.items():
            verify(self._folder / name, checksum)
        reader: Any = READERS[self._layout]
        self.set_splits(*reader(self._folder, known=known, mmap=mmap))

    @property
    def raw_dir(self) -> str:
        return str(self._folder)

    @property
    def raw_file_names(self) -> list[str]:
        if self._layout is not None:
            return sorted(x.name for x in self._folder.iterdir()
                          if x.is_file() and x.name[0] != '.')
        # The training comes last: where it is, all the rest has been fetched.
        return [*(f'{x}_feat.npy' for x in self.features), 'val.json',
                'test.json', 'train.json']

    def download(self) -> None:
        if self.base_url is None and not self.urls:
            raise FileNotFoundError(
                f"{self.name} is not at {self._folder}. The authors share it "
                f"by hand at {SHARED}: put its files "
                f"({', '.join(self.raw_file_names)}, or train_mat, val_mat "
                f"and test_mat for the lists) there, or pass base_url= for a "
                f"copy of your own")
        for name in self.raw_file_names:
            fetch_missing(self._folder / name, self.urls, self.base_url,
                          self.checksums, self.progress)

    def table3(self) -> str:
        r"""The figures of this dataset, and beside them the paper's."""
        return beside_table3(self.name, self.statistics)


class Netflix(AuthorsFolder):
    r"""Netflix with posters (CLIP-ViT, 512 wide) and texts (BERT, 768 wide),
    from the folder that the authors share. Table 3 of the paper: 43,739 users,
    17,239 items, 609,341 interactions.

    .. code-block:: python

        train, val, test = Netflix('data/netflix')

    Args:
        root (str): The folder.
        known (str, optional): The interactions that the test graph knows of,
            :obj:`"train"` or :obj:`"train+val"`. (default: :obj:`"train"`)
        mmap (bool, optional): If set to :obj:`True`, features are mapped into
            memory. (default: :obj:`False`)
        urls (dict, optional): Addresses of files, by file name.
            (default: :obj:`None`)
        base_url (str, optional): The address of a folder with all files; the
            authors' own cannot be fetched by a program.
            (default: :obj:`None`)
        checksums (dict, optional): Checksums of files, such as
            :obj:`"sha256:<hex>"`; the authors publish none.
            (default: :obj:`None`)
        progress (bool, optional): If set to :obj:`True`, downloads report
            how far they are. (default: :obj:`False`)
        transform (callable, optional): Applied to each graph at each access.
            (default: :obj:`None`)
    """
    name = 'Netflix'
    features = ('image', 'text')


class TikTok(AuthorsFolder):
    r"""TikTok's micro-videos with images, sound (128 wide each) and captions
    (768 wide), from the folder that the authors share. Table 3 of the paper:
    14,343 users, 8,690 items, 276,637 interactions.

    The folder that MMSSL and DiffMM share has 9,308 users, 6,710 items and
    68,722 interactions: :meth:`table3` prints what was found beside the
    paper's figures.

    .. code-block:: python

        train, val, test = TikTok('data/tiktok')

    Args:
        root (str): The folder.
        known, mmap, urls, base_url, checksums, progress, transform
            (optional): See :class:`Netflix`.
    """
    name = 'TikTok'
    features = ('image', 'audio', 'text')


READERS: dict[str | None, Any] = {
    'npy': InteractionFolder,
    'promptmm': read_promptmm,
    'mmrec': read_mmrec,
}


def _find_layout(root: Path) -> tuple[str | None, Path]:
    r"""The layout that is there, and the folder it is, or is to be, in."""
    for folder in (root / 'raw', root):
        files = ({x.name for x in folder.iterdir()} if folder.is_dir()
                 else set())
        if 'train.npy' in files:
            return 'npy', folder
        if ({'train_mat', 'trnMat.pkl'} & files
                or {'train.json', 'val.json', 'test.json'} <= files):
            return 'promptmm', folder
        if any(x.endswith('.inter') for x in files):
            return 'mmrec', folder
    return None, root / 'raw'
