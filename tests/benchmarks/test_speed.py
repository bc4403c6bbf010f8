"""`--quick`: every row is there, with a finite number."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


def run(script: str, *args: str) -> str:
    path = str(BENCHMARKS / script)
    out = subprocess.run([sys.executable, path, '--quick', *args],
                         check=True, capture_output=True, text=True,
                         env={**os.environ, 'OMP_NUM_THREADS': '1',
                              'PYTHONPATH': str(BENCHMARKS.parent)})
    return out.stdout


def table(text: str) -> list[list[str]]:
    # The first table; where the time goes stands in a second one.
    lines = text.splitlines()
    start = next(i for i, x in enumerate(lines) if x.startswith('| what'))
    rows = itertools.takewhile(lambda x: x.startswith('|'), lines[start + 2:])
    return [[cell.strip() for cell in x.strip('|').split('|')] for x in rows]


@pytest.mark.skipif(not sys.platform.startswith('linux'),
                    reason='memory is measured through /proc')
def test_every_row_has_a_finite_number(tmp_path: Path) -> None:
    path = tmp_path / 'table.md'
    rows = table(run('speed.py', '--scale', '0.01', '--output', str(path)))
    assert table(path.read_text()) == rows
    for row in rows:
        assert math.isfinite(float(row[2].removesuffix('x')))
        assert row[5] in (('yes', 'no') if row[4] else ('', ))
    whats = [row[0] for row in rows]
    for what in ('student, one BPR step of 2048',
                 'student, one BPR step of 8192', 'distillation',
                 'sampling', 'teacher', 'prompted reduction, forward',
                 'prompted reduction, peak', 'all-ranking evaluation',
                 'peak memory', 'anonymous memory', 'epoch time at 2x'):
        assert any(each.startswith(what) for each in whats), what


def test_every_lead_has_a_finite_number(tmp_path: Path) -> None:
    path = tmp_path / 'table.md'
    # Not torch.compile: it needs a compiler, and a minute.
    groups = ['library', 'order', 'sparse', 'features']
    rows = table(run('leads.py', '--scale', '0.01', '--only', *groups,
                     '--output', str(path)))
    assert table(path.read_text()) == rows
    for row in rows:
        assert math.isfinite(float(row[2].removesuffix('x')))
    whats = [row[0] for row in rows]
    for what in ('plain BPR step, torch.autocast', 'distillation step, dense',
                 'teacher step, dense', 'evaluation of all users',
                 'plain BPR step, users and items by degree', 'R x as sums',
                 'teacher step, features: half'):
        assert any(each.startswith(what) for each in whats), what
