from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_geometric.data import HeteroData

from torch_promptmm.checks import check_choice, check_int
from torch_promptmm.data.columns import to_milliseconds
from torch_promptmm.data.contract import DEFAULT_EDGE_TYPE
from torch_promptmm.data.filtering import KCore, k_core
from torch_promptmm.data.ids import IdMap
from torch_promptmm.data.npy import save_npy
from torch_promptmm.data.read import assemble
from torch_promptmm.data.report import Report, report_of, shorten
from torch_promptmm.data.subgraph import subgraph
from torch_promptmm.data.text import TfidfSVD, check_encoded
from torch_promptmm.data.transforms import InteractionSplit, RandomUserSplit
from torch_promptmm.datasets.amazon_raw import (
    IMAGE_CHANNELS,
    read_images,
    read_reviews,
    read_texts,
)
from torch_promptmm.datasets.base import SplitDataset, Transform
from torch_promptmm.datasets.fetch import fetch_missing, verify
from torch_promptmm.datasets.processed import (
    INDEX,
    partial_folder,
    read_splits,
    reserve,
    write_splits,
)
from torch_promptmm.datasets.table3 import TABLE3, beside_table3
from torch_promptmm.files import alone

MODALITIES = ('visual', 'textual')
SUBSETS: dict[str, dict[str, Any]] = {
    '5-core': {'core': 5, 'num_users': None},
    'paper': {'core': 5, 'num_users': TABLE3['Electronics'].users},
}


class AmazonReviews(SplitDataset):
    r"""Reviews of one category of Amazon with images and texts, from the raw
    files of `McAuley <https://jmcauley.ucsd.edu/data/amazon/links.html>`_:
    the 5-core reviews, the metadata and the image features.

    .. code-block:: python

        train, val, test = AmazonReviews('data/amazon')

    **"Electronics" means two datasets.** The 5-core of the category, which
    toolboxes such as MMRec use, is published as 192,403 users × 63,001 items
    with 1,689,188 interactions: :obj:`subset="5-core"`. The paper's Table 3
    has 41,691 × 21,479 with 359,165 interactions, and does not say by which
    filter. :obj:`subset="paper"` is therefore of the paper's *size*, not its
    rows: users are drawn at random, as many as it takes for the 5-core of
    their interactions to have the most users up to 41,691.
    (The authors' own rows come with
    :func:`~torch_promptmm.data.read_promptmm` from the folder that they
    share.) :meth:`table3` prints what was found beside the paper's figures.

    Files are fetched into :obj:`root/raw` unless they are there. The dataset
    is made once for each choice of arguments, and is there whole or not at
    all, whatever happens meanwhile; features lie as :obj:`.npy` in
    :obj:`root/features`.

    Args:
        root (str): The folder.
        category (str, optional): The category, such as :obj:`"Baby"`.
            (default: :obj:`"Electronics"`)
        subset (str, optional): :obj:`"5-core"` or :obj:`"paper"`: what
            :obj:`core` and :obj:`num_users` are unless they are given.
            (default: :obj:`"5-core"`)
        core (int, optional): The least number of interactions of users and
            items, to a fixed point. (default: :obj:`None`)
        num_users (int, optional): Draw users until the core has about so
            many. (default: :obj:`None`)
        min_rating (float, optional): Leave lower ratings out, before the
            core is taken. (default: :obj:`None`)
        require (list of str, optional): Leave items without one of these
            modalities out, before the core is taken. Otherwise they are
            masked. (default: :obj:`()`)
        modalities (list of str, optional): Which features to make.
            (default: :obj:`("visual", "textual")`)
        encoder (callable, optional): From a list of texts to a float array,
            one row a text. If :obj:`None`,
            :class:`~torch_promptmm.data.TfidfSVD` with 512 columns.
            Its :meth:`repr` tells one encoder from another.
            (default: :obj:`None`)
        split (InteractionSplit, optional): If :obj:`None`,
            :class:`~torch_promptmm.data.RandomUserSplit` (0.1 and 0.1).
            (default: :obj:`None`)
        seed (int, optional): For drawing users. (default: :obj:`0`)
        known, mmap, urls, base_url, checksums, progress, transform
            (optional): See :class:`Netflix`.
        force_reload (bool, optional): Whether to make the dataset anew.
            (default: :obj:`False`)
    """
    reviews_url = ('http://snap.stanford.edu/data/amazon/productGraph/'
                   'categoryFiles')
    images_url = ('http://snap.stanford.edu/data/amazon/productGraph/'
                  'image_features/categoryFiles')

    def __init__(
        self,
        root: str | os.PathLike[str],
        category: str = 'Electronics',
        subset: str = '5-core',
        core: int | None = None,
        num_users: int | None = None,
        min_rating: float | None = None,
        require: Sequence[str] = (),
        modalities: Sequence[str] = MODALITIES,
        encoder: Callable[[list[str]], Any] | None = None,
        split: InteractionSplit | None = None,
        seed: int = 0,
        known: str = 'train',
        mmap: bool = False,
        urls: Mapping[str, str] | None = None,
        base_url: str | None = None,
        checksums: Mapping[str, str] | None = None,
        progress: bool = False,
        transform: Transform | None = None,
        force_reload: bool = False,
    ) -> None:
        if not re.fullmatch(r'[A-Za-z0-9_&-]+', category):
            raise ValueError(f"'category' must be the name of a category as "
                             f"it is in the files' names, such as "
                             f"'Clothing_Shoes_and_Jewelry' (got "
                             f"{category!r})")
        check_choice('subset', subset, SUBSETS)
        if subset == 'paper' and category != 'Electronics':
            raise ValueError(f"'subset' is 'paper', but the paper has "
                             f"Electronics only (got the category "
                             f"{category!r})")
        for name, value in [('modalities', modalities), ('require', require)]:
            if isinstance(value, str) or not set(value) <= set(MODALITIES):
                raise ValueError(f"'{name}' must be a list of "
                                 f"{' and '.join(MODALITIES)} (got "
                                 f"{value!r})")
        preset = SUBSETS[subset]
        self.category = category
        self.core = check_int('core', preset['core'] if core is None else core)
        self.num_users_wanted = (preset['num_users'] if num_users is None
                                 else check_int('num_users', num_users, 1))
        self.min_rating = min_rating
        self.modalities = tuple(x for x in MODALITIES
                                if x in modalities or x in require)
        self.require = tuple(x for x in MODALITIES if x in require)
        self.encoder = TfidfSVD() if encoder is None else encoder
        self.split = RandomUserSplit() if split is None else split
        self.seed = check_int('seed', seed)
        self.urls, self.base_url = dict(urls or {}), base_url
        self.checksums, self.progress = dict(checksums or {}), progress
        root = str(Path(root).expanduser())
        super().__init__(root, transform, force_reload=force_reload)
        self.set_splits(*read_splits(Path(self.processed_dir),
                                     Path(self.features_dir), known, mmap))

    @property
    def raw_file_names(self) -> list[str]:
        return list(self._raw_files.values())

    @property
    def _raw_files(self) -> dict[str, str]:
        files = {'reviews': f'reviews_{self.category}_5.json.gz',
                 'textual': f'meta_{self.category}.json.gz',
                 'visual': f'image_features_{self.category}.b'}
        return {kind: file for kind, file in files.items()
                if kind == 'reviews' or kind in self.modalities}

    @property
    def processed_file_names(self) -> list[str]:
        return [INDEX]

    @property
    def processed_dir(self) -> str:
        return str(Path(self.root, 'processed', self._key))

    @property
    def features_dir(self) -> str:
        r"""The folder of the processed features, one :obj:`.npy` each."""
        return str(Path(self.root, 'features', self._key))

    @property
    def settings(self) -> dict[str, Any]:
        r"""All that decides what the dataset holds."""
        return {
            'category': self.category,
            'core': self.core,
            'num_users': self.num_users_wanted,
            'min_rating': self.min_rating,
            'require': list(self.require),
            'modalities': list(self.modalities),
            'encoder': repr(self.encoder),
            'split': repr(self.split),
            'seed': self.seed,
        }

    @property
    def _key(self) -> str:
        text = json.dumps(self.settings, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return f'{self.category}-{digest}'

    def table3(self) -> str:
        r"""The figures of this dataset, and beside them the paper's."""
        return beside_table3(self.category, self.statistics)

    def download(self) -> None:
        for path in map(Path, self.raw_paths):
            base = self.base_url or (
                self.images_url if path.suffix == '.b' else self.reviews_url)
            fetch_missing(path, self.urls, base, self.checksums,
                          self.progress)

    def process(self) -> None:
        paths = dict(zip(self._raw_files, self.raw_paths, strict=True))
        index = Path(self.processed_dir, INDEX)
        with alone(Path(self.root)) as locked:
            if locked and index.exists() and not self.force_reload:
                return  # Another process made it while this one waited.
            for path in map(Path, self.raw_paths):
                if path.name in self.checksums:
                    verify(path, self.checksums[path.name])
            # From here on there is no dataset, until it is whole.
            index.unlink(missing_ok=True)
            data, texts = self._interactions(paths)
            with partial_folder(Path(self.features_dir), locked) as folder:
                data = self._features(data, paths, texts, folder)
            with partial_folder(Path(self.processed_dir), locked) as folder:
                write_splits(folder, self.split(data), self.settings,
                             Path(self.features_dir))

    def _interactions(
        self,
        paths: dict[str, Any],
    ) -> tuple[HeteroData, dict[str, str]]:
        r"""The filtered interactions, and the texts if they were read."""
        report = Report()
        rows, maps = read_reviews(paths['reviews'])
        columns = dict(zip(('user', 'item', 'rating', 'time'), rows,
                           strict=True))
        columns['time'] = to_milliseconds(columns['time'])[0]
        data = assemble(columns, {'user': maps[0], 'item': maps[1]},
                        paths['reviews'], report, self.min_rating)
        texts: dict[str, str] = {}
        if self.require:
            items: IdMap = data['item'].raw_id
            keep: Any = np.ones(len(items), dtype=bool)
            if 'textual' in self.require:
                texts = read_texts(paths['textual'], items, report)
                keep &= np.array([x in texts for x in items])
            if 'visual' in self.require:
                keep &= read_images(paths['visual'], items, None, report)
            data = _restrict(data, 1, keep)
            data.report.note(int((~keep).sum()),
                             f'items have no {" or no ".join(self.require)} '
                             f'feature and were left out')
        if self.num_users_wanted is not None:
            data = draw_users(data, self.num_users_wanted, self.core,
                              self.seed)
        return KCore(max(self.core, 1))(data), texts

    def _features(self, data: HeteroData, paths: dict[str, Any],
                  texts: dict[str, str], folder: Path) -> HeteroData:
        items: IdMap = data['item'].raw_id
        report = report_of(data)
        masks = {}
        if 'textual' in self.modalities:
            texts = texts or read_texts(paths['textual'], items, report)
            matrix = check_encoded(
                self.encoder([texts.get(x, '') for x in items]), len(items),
                self.encoder)
            masks['textual'] = np.array([x in texts for x in items])
            matrix[~masks['textual']] = 0
            save_npy(folder / 'textual.npy', matrix)
        if 'visual' in self.modalities:
            image = reserve(folder / 'visual.npy',
                            (len(items), IMAGE_CHANNELS), np.float32)
            masks['visual'] = read_images(paths['visual'], items, image,
                                          report)
            image.flush()
            del image
        for name, mask in masks.items():
            if not mask.any():
                raise ValueError(
                    f'{paths[name]}: has none of the {len(items)} items, such '
                    f'as {shorten(items[0])}; is it of another category?')
            report.repair(int((~mask).sum()),
                          f"of {len(items)} items have no '{name}' feature; "
                          f"they are masked")
            if not mask.all():
                save_npy(folder / f'{name}_mask.npy', mask)
        data.report = report
        return data


def draw_users(data: HeteroData, num_users: int, core: int,
               seed: int = 0) -> HeteroData:
    r"""Keeps the interactions of randomly drawn users: the most for which the
    core of their interactions has no more than :obj:`num_users` users."""
    user, item = data[DEFAULT_EDGE_TYPE].edge_index.numpy()
    size = data['user'].num_nodes
    place = np.random.RandomState(seed).permutation(size)

    def count(drawn: int) -> int:
        some = place[user] < drawn
        rows = k_core(user[some], item[some], core, core)
        return len(np.unique(user[some][rows]))

    # More users never make the core smaller, so halving finds the number.
    low, high = 0, size + 1
    while high - low > 1:
        middle = (low + high) // 2
        if count(middle) <= num_users:
            low = middle
        else:
            high = middle
    out = _restrict(data, 0, place < low)
    out.report.note(size - low, 'users were not drawn')
    return out


def _restrict(data: HeteroData, end: int, keep: np.ndarray) -> HeteroData:
    r"""Leaves out the interactions of users (or items) that are not kept;
    their rows stay, without interactions, for the core to take away."""
    mask = keep[data[DEFAULT_EDGE_TYPE].edge_index[end].numpy()]
    if not mask.any():
        raise ValueError(f'No interaction is left of the {len(mask)} there '
                         f'were ({report_of(data)})')
    return subgraph(data, DEFAULT_EDGE_TYPE, torch.from_numpy(mask))
