"""`examples/custom_data.py` runs as a user runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def run(cwd: Path, *args: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / 'examples/custom_data.py'), *args],
        cwd=cwd,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_from_a_table_to_recommendations(tmp_path: Path) -> None:
    rng = np.random.RandomState(0)
    lines = ['who;what']
    for user in range(30):
        for item in rng.permutation(25)[:8]:
            lines.append(f'U-{user:03d};0{item}-Ä')
    (tmp_path / 'orders.tsv').write_text(
        '\n'.join(lines).replace(';', '\t'), encoding='utf-8')
    features = tmp_path / 'features'
    features.mkdir()
    np.save(features / 'visual.npy', rng.random_sample((24, 5)))
    (features / 'visual_ids.txt').write_text(
        '\n'.join(f'0{i}-Ä' for i in range(24)), encoding='utf-8')

    done = run(tmp_path, '--table', 'orders.tsv', '--features', 'features',
               '--user', 'who', '--item', 'what', '--epochs', '2', '--k', '4',
               '--ask', 'U-007', 'U-029')
    assert done.returncode == 0, done.stderr
    found = re.findall(r'^(U-\d+): (.*)$', done.stdout, re.M)
    assert [x[0] for x in found] == ['U-007', 'U-029']
    for _, items in found:
        names = items.split(', ')
        assert len(set(names)) == 4
        assert all(re.fullmatch(r'0\d+-Ä', x) for x in names)
    assert re.search(r'^recall@20: [01]\.\d{4}$', done.stdout, re.M)
    assert "1 of 25 items have no 'visual' feature" in done.stdout


def test_table_without_features(tmp_path: Path) -> None:
    done = run(tmp_path, '--table', 'orders.csv')
    assert done.returncode == 2
    assert '--table and --features go together' in done.stderr
