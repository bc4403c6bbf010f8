r"""Planted datasets of any size, whose truth is known."""

from __future__ import annotations

import hashlib
import json
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torch_promptmm.checks import check_choice, check_float, check_int
from torch_promptmm.data import from_splits
from torch_promptmm.data.modalities import FLOATS, MASK_SUFFIX
from torch_promptmm.data.npy import load_npy, save_npy
from torch_promptmm.datasets import _planted
from torch_promptmm.datasets.base import SPLITS, SplitDataset, Transform
from torch_promptmm.datasets.blocks import BlockDataset
from torch_promptmm.files import atomic_path

# Table 3 of the paper, a small one, and one whose features are wide and
# redundant and whose test is to a large part of cold items.
PRESETS: dict[str, dict[str, Any]] = {
    'netflix': dict(num_users=43739, num_items=17239, num_interactions=609341,
                    features={'visual': 512, 'textual': 768}),
    'tiktok': dict(num_users=14343, num_items=8690, num_interactions=276637,
                   features={'visual': 128, 'acoustic': 128, 'textual': 768}),
    'electronics': dict(num_users=41691, num_items=21479,
                        num_interactions=359165,
                        features={'visual': 4096, 'textual': 1024}),
    'small': dict(num_users=600, num_items=400, num_interactions=9000,
                  features={'visual': 64, 'textual': 48}, informative=0.2),
    'wide': dict(num_users=3000, num_items=2000, num_interactions=45000,
                 features={'visual': 1024, 'textual': 512},
                 cold_fraction=0.136),
}


class SyntheticMultimodal(SplitDataset):
    r"""A planted dataset of any size, without a download.

    Users and items have latent tastes: unit vectors, those of items around
    the centres of clusters, those of users between a few of them. A user
    chooses items, each at most once, with a probability that is proportional
    to their long-tailed popularity times the exponential of the match of
    tastes. The features of an item are a non-linear view of its taste which
    holds only a small share of their variance (:obj:`informative`); the rest
    is low-rank factors and noise that have nothing to do with it, and each
    column has an arbitrary mean and scale. The interactions of cold items are
    all held out, so that only their features can place them.

    .. code-block:: python

        train, val, test = SyntheticMultimodal.preset('small', seed=0)

    Args:
        num_users (int, optional): The number of users. (default: :obj:`600`)
        num_items (int, optional): The number of items. (default: :obj:`400`)
        num_interactions (int, optional): The number of interactions in all
            three splits together, met exactly. If :obj:`None`, it is 15 times
            the number of users, or half of all pairs where that is less.
            (default: :obj:`None`)
        features (dict, optional): The width of each modality. If
            :obj:`None`, it is :obj:`{"visual": 64, "textual": 48}`.
            (default: :obj:`None`)
        informative (float, optional): The share of the features' variance
            that comes from the taste. (default: :obj:`0.05`)
        taste_channels (int, optional): The width of the latent tastes.
            (default: :obj:`16`)
        taste_strength (float, optional): How much tastes count against
            popularity. (default: :obj:`8.0`)
        num_clusters (int, optional): The number of clusters of items. If
            :obj:`None`, it is chosen by the number of items, from 8 to 64.
            (default: :obj:`None`)
        cold_fraction (float, optional): The share of items without any
            training interaction, as popular as the others.
            (default: :obj:`0.05`)
        cold_in_val (bool, optional): If set to :obj:`False`, interactions of
            cold items are all in the test. (default: :obj:`True`)
        missing_fraction (float, optional): The share of items that lack a
            modality, for each one apart; their rows are zero and
            :obj:`False` in its mask. (default: :obj:`0.0`)
        val_fraction (float, optional): The share of each user's other
            interactions that goes to validation. (default: :obj:`0.1`)
        test_fraction (float, optional): The share of each user's other
            interactions that goes to the test. (default: :obj:`0.1`)
        known (str, optional): The interactions that the test graph knows of,
            :obj:`"train"` or :obj:`"train+val"`. (default: :obj:`"train"`)
        dtype (torch.dtype, optional): The type of the features.
            (default: :obj:`torch.float32`)
        seed (int, optional): The same seed gives the same dataset.
            (default: :obj:`0`)
        root (str, optional): Where to keep the dataset, to be read from there
            the next time. If :obj:`None`, it is held in memory only.
            (default: :obj:`None`)
        mmap (bool, optional): If set to :obj:`True`, features under
            :obj:`root` are mapped into memory instead of being read into it.
            (default: :obj:`False`)
        transform (callable, optional): Applied to each graph at each access.
            (default: :obj:`None`)
        force_reload (bool, optional): Whether to generate a dataset that is
            under :obj:`root` already once more. (default: :obj:`False`)
    """
    def __init__(
        self,
        num_users: int = 600,
        num_items: int = 400,
        num_interactions: int | None = None,
        features: Mapping[str, int] | None = None,
        informative: float = 0.05,
        taste_channels: int = 16,
        taste_strength: float = 8.0,
        num_clusters: int | None = None,
        cold_fraction: float = 0.05,
        cold_in_val: bool = True,
        missing_fraction: float = 0.0,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        known: str = 'train',
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        root: str | os.PathLike[str] | None = None,
        mmap: bool = False,
        transform: Transform | None = None,
        force_reload: bool = False,
    ) -> None:
        if root is None and mmap:
            raise ValueError("'root' must be a folder where 'mmap' is True "
                             "(got root=None)")
        if root is not None and dtype == torch.bfloat16:
            raise ValueError("'dtype' cannot be torch.bfloat16 where there "
                             "is a 'root': .npy files have no such type")
        if features is None:
            features = {'visual': 64, 'textual': 48}
        self.config = _checked(
            num_users=num_users, num_items=num_items,
            num_interactions=num_interactions, features=features,
            informative=informative, taste_channels=taste_channels,
            taste_strength=taste_strength, num_clusters=num_clusters,
            cold_fraction=cold_fraction, cold_in_val=bool(cold_in_val),
            missing_fraction=missing_fraction, val_fraction=val_fraction,
            test_fraction=test_fraction,
            dtype=check_choice('dtype', dtype, FLOATS),
            seed=operator.index(seed))
        self._folder: Path | None = None
        if root is not None:
            text = json.dumps([_planted.VERSION, self.config])
            digest = hashlib.sha256(text.encode()).hexdigest()[:12]
            root = str(Path(root).expanduser())
            self._folder = Path(root, digest)
        super().__init__(root, transform, force_reload=force_reload)

        tensors = self._load(mmap) if self.has_process else self._generate()
        masks = {name: tensors[name + MASK_SUFFIX]
                 for name in features if name + MASK_SUFFIX in tensors}
        self.taste = (tensors['user_taste'], tensors['item_taste'])
        self.set_splits(*from_splits(
            tensors['train'], tensors['val'], tensors['test'],
            {name: tensors[name] for name in features},
            self.config['num_users'], self.config['num_items'], masks,
            known=known))

    @classmethod
    def preset(
        cls,
        name: str,
        scale: float = 1.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> SyntheticMultimodal:
        r"""A planted dataset with the statistics of a known one.

        Args:
            name (str): The preset: :obj:`"netflix"`, :obj:`"tiktok"` and
                :obj:`"electronics"` have the users, items, interactions and
                feature widths of the paper's Table 3; :obj:`"small"` trains
                in seconds; :obj:`"wide"` has wide redundant features, and
                cold items make up 44 % of its test.
            scale (float, optional): Multiplies the numbers of users, items
                and interactions. (default: :obj:`1.0`)
            seed (int, optional): The seed. (default: :obj:`0`)
            **kwargs (optional): Arguments of :class:`SyntheticMultimodal`
                which override those of the preset.
        """
        check_choice('name', name, PRESETS)
        if not 0.0 < scale < float('inf'):
            raise ValueError(f"'scale' must be positive (got {scale})")
        config = dict(PRESETS[name])
        for key in ['num_users', 'num_items', 'num_interactions']:
            config[key] = max(round(config[key] * scale), 1)
        config['num_interactions'] = min(
            config['num_interactions'],
            max(config['num_users'] * config['num_items'] // 2, 1))
        return cls(**{**config, 'seed': seed, **kwargs})

    @staticmethod
    def blocks(*args: Any, **kwargs: Any) -> BlockDataset:
        r"""A :class:`BlockDataset`, on which the right answer is known."""
        return BlockDataset(*args, **kwargs)

    # Where a root is given, PyG's `Dataset` calls `process` once:

    @property
    def has_process(self) -> bool:
        r"""Whether there is a :obj:`root` to keep the dataset under."""
        return self._folder is not None

    @property
    def processed_dir(self) -> str:
        r"""The folder of the interactions; the features lie beside it."""
        return str((self._folder or Path()) / 'processed')

    @property
    def processed_file_names(self) -> list[str]:
        r"""The files of the dataset, in the order of writing. Those of which
        the last one is there are whole.
        """
        names = [*SPLITS, 'user_taste', 'item_taste']
        for name in self.config['features']:
            names.append(f'../{name}')
            if self.config['missing_fraction'] > 0:
                names.append(f'../{name}{MASK_SUFFIX}')
        return [f'{name}.npy' for name in names] + ['config.json']

    def process(self) -> None:
        r"""Generates the dataset and writes it to :obj:`root`."""
        *paths, config_path = map(Path, self.processed_paths)
        config_path.unlink(missing_ok=True)
        tensors = self._generate()
        for path in paths:
            save_npy(path, tensors[path.stem])
        with atomic_path(config_path) as path:
            path.write_text(json.dumps(self.config, indent=2))

    def _load(self, mmap: bool) -> dict[str, Tensor]:
        paths = map(Path, self.processed_paths[:-1])
        return {path.stem: load_npy(path, mmap and '..' in path.parts)
                for path in paths}

    def _generate(self) -> dict[str, Tensor]:
        config = self.config
        generator = torch.Generator().manual_seed(config['seed'])
        user, item = _planted.sample_tastes(
            config['num_users'], config['num_items'],
            config['taste_channels'], config['num_clusters'], generator)
        popularity = _planted.sample_popularity(item.size(0), generator)
        activity = _planted.sample_activity(
            user.size(0), item.size(0), config['num_interactions'], generator)
        edge_index = _planted.sample_interactions(
            user, item, popularity, activity, config['taste_strength'],
            generator)
        cold = _planted.sample_cold(popularity, config['cold_fraction'],
                                    generator)
        splits = _planted.split_interactions(
            edge_index, cold, user.size(0), config['val_fraction'],
            config['test_fraction'], config['cold_in_val'], generator)

        out = dict(zip(SPLITS, splits, strict=True))
        out |= {'user_taste': user, 'item_taste': item}
        for name, width in config['features'].items():
            out[name] = _planted.sample_features(
                item, width, config['informative'],
                getattr(torch, config['dtype']), generator)
            if config['missing_fraction'] > 0:
                draw = torch.rand(item.size(0), generator=generator)
                mask = draw >= config['missing_fraction']
                out[name][~mask] = 0
                out[name + MASK_SUFFIX] = mask
        return out


def _checked(**config: Any) -> dict[str, Any]:
    r"""The settings as JSON has them, in the order given: their text names
    the folder of the dataset."""
    users, items = (check_int(name, config[name], 1)
                    for name in ('num_users', 'num_items'))
    half = max(users * items // 2, 1)
    if config['num_interactions'] is None:
        config['num_interactions'] = min(15 * users, half)
    if config['num_clusters'] is None:
        config['num_clusters'] = min(max(items // 80, 8), 64)
    for name in ('num_users', 'num_items', 'num_interactions',
                 'taste_channels', 'num_clusters'):
        config[name] = check_int(name, config[name], 1)
    if config['num_interactions'] > half:
        raise ValueError(f"'num_interactions' must be at most half of all "
                         f"{users} x {items} pairs (got "
                         f"{config['num_interactions']})")
    features = config['features']
    if not isinstance(features, Mapping) or not features:
        raise ValueError(f"'features' must give the width of at least one "
                         f"modality, as in {{'visual': 64}} (got "
                         f"{features!r})")
    config['features'] = {name: check_int(f"features['{name}']", width, 1)
                          for name, width in features.items()}
    for name in ('informative', 'cold_fraction', 'missing_fraction',
                 'val_fraction', 'test_fraction'):
        config[name] = check_float(name, config[name], 0, 1)
    config['taste_strength'] = check_float('taste_strength',
                                           config['taste_strength'])
    if config['val_fraction'] + config['test_fraction'] >= 1.0:
        raise ValueError(f"'val_fraction' and 'test_fraction' must leave "
                         f"something to train on (got "
                         f"{config['val_fraction']} and "
                         f"{config['test_fraction']})")
    config['dtype'] = str(config['dtype']).removeprefix('torch.')
    return config
