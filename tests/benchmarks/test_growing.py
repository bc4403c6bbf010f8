"""A table of what a student learns later, from a short run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


def test_table(script: Callable[[str], ModuleType], tiny: Path,
               tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / 'table.md'
    script('growing').main(['--datasets', str(tiny), '--quick', '--setting',
                            'content', '--output', str(path)])
    out = capsys.readouterr().out
    number = r'\d\.\d{4}'
    for name, beside in [
        ('new interactions', 'trained on everything'),
        ('new users, folded in', 'the same users, trained'),
    ]:
        assert re.search(rf'^\| {name} \| {number} \| {beside} \| {number} '
                         rf'\| \d+\.\d{{3}} \|', out, re.M), name
    assert 'update: ' in out and 'known ' in out
    assert path.read_text().startswith('`growing.py --datasets')
