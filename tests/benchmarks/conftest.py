"""A tiny folder of planted data, and the scripts as modules."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from torch_promptmm.datasets import SyntheticMultimodal

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


@pytest.fixture(scope='session')
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for InteractionFolder: 60 users, 50 items."""
    root = tmp_path_factory.mktemp('data') / 'tiny'
    root.mkdir()
    splits = SyntheticMultimodal(60, 50, 600, {'visual': 6, 'textual': 5})
    for name, data in zip(['train', 'val', 'test'], splits, strict=True):
        key = 'edge_index' if name == 'train' else 'edge_label_index'
        edges = data['user', 'interacts', 'item'][key]
        np.save(root / f'{name}.npy', edges.numpy())
    for name in ('visual', 'textual'):
        np.save(root / f'{name}.npy', splits[0]['item'][name].numpy())
    return root


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a script of `benchmarks/` by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def quick(tiny: Path, tmp_path: Path) -> list[str]:
    """Options of a run of seconds: two seeds, two epochs."""
    return ['--datasets', str(tiny), '--quick', '--epochs', '2',
            '--hidden-channels', '8', '--runs', str(tmp_path / 'runs')]
