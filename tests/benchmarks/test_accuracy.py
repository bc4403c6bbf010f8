"""A table of accuracy from two short runs, and from what they have left."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from torch_promptmm.datasets import SyntheticMultimodal

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / 'benchmarks/accuracy.py'
NUMBER = r'0\.\d{4}'


def run(*args: str) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *args],
        check=True, capture_output=True, text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)})
    return done.stdout


def test_table(tmp_path: Path) -> None:
    args = ['--planted', 'small', '--seeds', '2', '--epochs', '2', '--only',
            ', faithful, no prompt', '--runs', str(tmp_path / 'runs')]
    path = tmp_path / 'table.md'
    out = run(*args, '--output', str(path))
    assert '[2/2]' in out
    for model in ('teacher', 'student'):
        assert re.search(
            rf'^\| {model}, faithful, no prompt \| 2 \| {NUMBER} ± {NUMBER} '
            rf'\| {NUMBER} ± {NUMBER} \| {NUMBER} \|', out, re.M), out
    text = path.read_text()
    assert re.match(r'`python benchmarks/accuracy.py --seeds 2 --planted small'
                    r'`, commit \w+.*torch \d', text)
    table = text.partition('\n\n')[2].strip()
    assert table in out and len(table.splitlines()) == 4

    # Nothing is run again.
    kept = {x: x.stat().st_mtime_ns for x in (tmp_path / 'runs').iterdir()}
    assert len(kept) == 2 * (2 * 2 + 2)  # Runs and recalls, and a teacher.
    out = run(*args, '--table-only')
    assert table in out
    run(*args)
    assert kept == {x: x.stat().st_mtime_ns
                    for x in (tmp_path / 'runs').iterdir()}


def test_lightgcn_of_pyg_is_ours(tmp_path: Path) -> None:
    """PyG's LightGCN and ours start from the same weights, and are trained
    by the same loss: their rows are the same."""
    root = tmp_path / 'folder'
    root.mkdir()
    splits = SyntheticMultimodal(80, 60, 700, {'visual': 8})
    for name, data in zip(['train', 'val', 'test'], splits, strict=True):
        key = 'edge_index' if name == 'train' else 'edge_label_index'
        edges = data['user', 'interacts', 'item'][key]
        np.save(root / f'{name}.npy', edges.numpy())
    np.save(root / 'visual.npy', splits[0]['item'].visual.numpy())
    out = run('--root', str(root), '--seeds', '1', '--epochs', '3', '--only',
              'LightGCN, BPR', '--runs', str(tmp_path / 'runs'))
    rows = re.findall(rf'^\| ((?:PyG )?LightGCN, BPR) \| 1 '
                      rf'\| ({NUMBER} \| {NUMBER} \| {NUMBER}) \|', out, re.M)
    assert [name for name, _ in rows] == ['PyG LightGCN, BPR', 'LightGCN, BPR']
    assert rows[0][1] == rows[1][1]
