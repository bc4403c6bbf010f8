"""A table of what content is worth, from a short run and what it left."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / 'benchmarks'
NUMBER = r'0\.\d{4}'
ROWS = ['LightGCN', 'LightGCN with popularity', 'LightGCNs, as many',
        'teacher', 'teacher, compressed to 64', 'student 64']


def run(*args: str) -> str:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / 'content.py'), '--planted', 'small',
         '--seeds', '1', '--epochs', '2', '--quick', *args],
        check=True, capture_output=True, text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)})
    return done.stdout


def test_table_and_resume(tmp_path: Path) -> None:
    runs, path = tmp_path / 'runs', tmp_path / 'table.md'
    out = run('--runs', str(runs), '--output', str(path))
    for row in ROWS:
        assert f'seed 0: {row}\n' in out
        assert re.search(rf'^\| {row} \| 1 \| {NUMBER} \| {NUMBER} \| '
                         rf'{NUMBER} \| {NUMBER} \| {NUMBER} \|', out,
                         re.M), row
    text = path.read_text()
    assert re.match(r'`python benchmarks/content.py --members 1 --seeds 1 '
                    r'--planted small`, commit \w+.*torch \d', text)
    table = text.partition('\n\n')[2].strip()
    assert table in out
    assert '- teacher: Fusion(weights={' in table

    # What is missing is run again, the rest is not.
    kept = {x: x.stat().st_mtime_ns for x in runs.iterdir()}
    lost, = [x for x in kept if x.name.startswith('student-64')
             and x.suffix == '.json']
    record = lost.read_text()
    lost.unlink()
    out = run('--runs', str(runs))
    assert out.count('seed 0: ') == 1 and 'seed 0: student 64' in out
    drop = re.compile(r'"(epoch_)?seconds": [^,}]*')
    assert drop.sub('', lost.read_text()) == drop.sub('', record)
    for x, time in kept.items():
        assert x.stem == lost.stem or x.stat().st_mtime_ns == time
