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


def table_of(text: str) -> dict[str, list[str]]:
    """The first table of a Markdown text: from the first cell of a line to
    the others, the header under an empty name."""
    lines = [x for x in text.splitlines() if x.startswith('| ')]
    out: dict[str, list[str]] = {}
    for number, line in enumerate(lines):
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        if number == 0:
            out[''] = cells[1:]
        elif not set(line) <= set('| -'):
            out.setdefault(cells[0], cells[1:])
    return out


def written(folder: Path) -> dict[Path, int]:
    """When each file of a folder was written."""
    return {x: x.stat().st_mtime_ns for x in folder.rglob('*')
            if x.is_file()}
