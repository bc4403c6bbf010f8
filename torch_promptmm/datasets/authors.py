from __future__ import annotations

import os
import os.path as osp
from collections.abc import Mapping
from typing import Any

from torch_geometric.data import HeteroData

from torch_promptmm.data.formats import read_mmrec, read_promptmm
from torch_promptmm.datasets.base import SplitDataset, Transform
from torch_promptmm.datasets.fetch import download, verify
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
        root = osp.expanduser(os.fspath(root))
        self.urls, self.base_url = dict(urls or {}), base_url
        self.checksums, self.progress = dict(checksums or {}), progress
        self._layout, self._folder = _find_layout(root)
        super().__init__(root, transform)
        if self._layout is None:  # It was fetched just now.
            self._layout, self._folder = _find_layout(root)
        for name, checksum in self.checksums.items():
            verify(osp.join(self._folder, name), checksum)
        self.set_splits(*_read(self._layout, self._folder, known, mmap))

    @property
    def raw_dir(self) -> str:
        return self._folder

    @property
    def raw_file_names(self) -> list[str]:
        if self._layout is not None:
            return sorted(
                x for x in os.listdir(self._folder)
                if osp.isfile(osp.join(self._folder, x)) and x[0] != '.')
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
            path = osp.join(self._folder, name)
            if osp.exists(path):
                continue
            url = self.urls.get(name)
            if url is None and self.base_url is not None:
                url = f'{self.base_url.rstrip("/")}/{name}'
            if url is None:
                raise ValueError(f"'urls' has no address for {name}")
            download(url, path, self.checksums.get(name),
                     progress=self.progress)

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
        urls (Dict[str, str], optional): Addresses of files, by file name.
            (default: :obj:`None`)
        base_url (str, optional): The address of a folder with all files; the
            authors' own cannot be fetched by a program.
            (default: :obj:`None`)
        checksums (Dict[str, str], optional): Checksums of files, such as
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
        known (str, optional): See :class:`Netflix`. (default:
            :obj:`"train"`)
        mmap (bool, optional): See :class:`Netflix`.
            (default: :obj:`False`)
        urls (Dict[str, str], optional): See :class:`Netflix`.
            (default: :obj:`None`)
        base_url (str, optional): See :class:`Netflix`.
            (default: :obj:`None`)
        checksums (Dict[str, str], optional): See :class:`Netflix`.
            (default: :obj:`None`)
        progress (bool, optional): See :class:`Netflix`.
            (default: :obj:`False`)
        transform (callable, optional): See :class:`Netflix`.
            (default: :obj:`None`)
    """
    name = 'TikTok'
    features = ('image', 'audio', 'text')


# Private ######################################################################


def _find_layout(root: str) -> tuple[str | None, str]:
    r"""The layout that is there, and the folder it is, or is to be, in."""
    for folder in (osp.join(root, 'raw'), root):
        files = os.listdir(folder) if osp.isdir(folder) else []
        if 'train.npy' in files:
            return 'npy', folder
        if {'train_mat', 'trnMat.pkl'} & set(files):
            return 'promptmm', folder
        if 'train.json' in files and {'val.json', 'test.json'} <= set(files):
            return 'promptmm', folder
        if any(x.endswith('.inter') for x in files):
            return 'mmrec', folder
    return None, osp.join(root, 'raw')


def _read(
    layout: str | None,
    folder: str,
    known: str,
    mmap: bool,
) -> tuple[HeteroData, HeteroData, HeteroData]:
    readers: dict[str | None, Any] = {
        'npy': InteractionFolder,
        'promptmm': read_promptmm,
        'mmrec': read_mmrec,
    }
    train, val, test = readers[layout](folder, known=known, mmap=mmap)
    return train, val, test
