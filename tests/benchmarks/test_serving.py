from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / 'benchmarks'


def test_every_part_prints_its_rows(tmp_path: Path) -> None:
    path = tmp_path / 'table.md'
    done = subprocess.run(
        [sys.executable, 'serving.py', '--quick', '--indices',
         '--output', str(path)], cwd=BENCHMARKS, check=True,
        capture_output=True, text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1',
             'PYTHONPATH': str(BENCHMARKS.parent)})
    rows = [[cell.strip() for cell in line.strip('|').split('|')]
            for line in done.stdout.splitlines() if line.startswith('| ')][2:]
    whats = [row[0] for row in rows]
    assert whats.count('one user, exact, known left out') == 3
    for what in ('200 users at once', 'one by one', '5,000 items',
                 'items of the exact top 20 lost'):
        assert what in whats, what
    lost = [float(row[2].partition('%')[0]) for row in rows
            if row[0].endswith('lost')]
    assert lost[0] < 0.5 and lost[1] < 5 and lost[0] < lost[1]
    assert '| 5,000 items | exact |' in path.read_text()
