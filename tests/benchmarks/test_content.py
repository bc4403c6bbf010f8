"""A table of what content is worth, from a short run and what it left."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / 'benchmarks'
NUMBER = r'0\.\d{4}'
ROWS = ['LightGCN', 'LightGCN with popularity', 'LightGCNs, as many',
        'teacher', 'teacher, compressed to 64', 'student 64',
        'teacher, learned content', 'teacher, prompt',
        'student 64, learned content', 'student 64, prompt frozen',
        'student 64, prompt tuned']


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
    assert '- teacher, prompt: Fusion(weights={' in table
    assert re.search(rf'tuned its prompt:\n\n- student 64, prompt tuned: '
                     rf'{NUMBER}\n', table)
    assert 'A member that learns content: ' in table
    # What was chosen is said when it is chosen.
    assert "seed 0: real {'prompt': 'pca'}: Fusion(weights={" in out

    # What is missing is run again, the rest is not.
    kept = {x: x.stat().st_mtime_ns for x in runs.iterdir()}
    lost, = [x for x in kept if x.name == 'student-64.0.json']
    record = lost.read_text()
    lost.unlink()
    out = run('--runs', str(runs))
    assert out.count('seed 0: ') == 1 and 'seed 0: student 64' in out
    drop = re.compile(r'"(epoch_)?seconds": [^,}]*')
    assert drop.sub('', lost.read_text()) == drop.sub('', record)
    for x, time in kept.items():
        assert x.stem == lost.stem or x.stat().st_mtime_ns == time


def test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from content import rows_of

    rows = {row.name: row for row in rows_of(False)}
    assert len(rows) == len(rows_of(False)) == len(
        {row.key for row in rows.values()})
    for row in rows.values():  # And what it is compared with comes before.
        assert not row.against or rows[row.against].turn <= row.turn
    quick = [row.name for row in rows_of(True)]
    assert quick == ROWS
    # Each ingredient left out.
    for name in ('no content', 'noise features', 'shuffled features',
                 'noise features, with prompt', 'random start', 'one member',
                 'learned content', 'content not propagated',
                 'features not standardised',
                 'no items but those of lists'):
        assert f'student 64, {name}' in rows, name
    assert 'student 64, one member' not in {
        row.name for row in rows_of(False, several=False)}
