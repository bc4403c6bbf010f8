"""Table 7 from short runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from printed import table_of, written

from torch_promptmm.data import read_graph

Script = Callable[[str], ModuleType]


def pairs(data: object) -> set[tuple[int, int]]:
    return set(map(tuple, read_graph(data).edge_index.t().tolist()))


def test_what_is_new(script: Script, tiny: Path) -> None:
    """A share of the training interactions is gone where a model trains and
    validates, and known where test is ranked; nothing else changes."""
    full = script('study').load_dataset(str(tiny))
    old = script('table7').without_new(full, 0.25)
    every = pairs(full[0])
    assert pairs(old[0]) < every
    assert len(pairs(old[0])) == len(every) - int(0.25 * len(every))
    assert pairs(old[1]) == pairs(old[0])
    assert pairs(old[2]) == every and pairs(full[0]) == every
    for a, b in zip(full[1:], old[1:], strict=True):
        assert torch.equal(a['user', 'item'].edge_label_index,
                           b['user', 'item'].edge_label_index)
    assert old[0]['item'].visual is full[0]['item'].visual


@pytest.mark.parametrize('setting', ['default', 'content'])
def test_numbers_are_those_of_the_runs(
        script: Script, quick: list[str], tmp_path: Path, setting: str,
        capsys: pytest.CaptureFixture[str]) -> None:
    main = script('table7').main
    args = [*quick, '--against', 'LightGCN', 'LATTICE', '--new', '0.2',
            '--setting', setting]
    main(args)
    out = capsys.readouterr().out
    rows = table_of(out)
    student = 'PromptMM student' + (
        ' (content)' if setting == 'content' else '')
    assert [student, 'LightGCN'] == list(rows)[1:3]
    folder = tmp_path / 'runs/tiny/without-0.2'
    recalls = {}
    for name, what in ((student, f'student-{setting}'),
                       ('LightGCN', 'system-LightGCN')):
        got = [json.loads(x.read_text())
               for x in sorted(folder.glob(f'{what}-*.updated-3.*.json'))]
        values = [x['recall@20'] for x in got]
        assert len(got) == 2 and rows[name][3] == (
            f'{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}')
        before = [json.loads(x.read_text())['recall@20'] for x in
                  folder.glob(f'{what}-*.json') if 'updated' not in x.name]
        assert rows[name][1] == f'{np.mean(before):.4f}'
        assert rows[name][5] == f"{np.median([x['ms'] for x in got]):,.1f}"
        recalls[name] = np.mean([
            np.load(x) for x in folder.glob(f'{what}-*.updated-3.*.npy')])
        # Training changes what propagation alone had left.
        assert [x['unchanged_ndcg'] for x in got] != [
            x['ndcg@20'] for x in got]
        assert all(x['ms'] > x['unchanged_ms'] > 0.0 for x in got)
    gap = recalls[student] - recalls['LightGCN']
    assert f'{student} less LightGCN: R@20 {gap:+.4f}' in out

    kept = written(folder)
    main(args)
    assert table_of(capsys.readouterr().out) == rows
    assert written(folder) == kept


def test_a_system_that_fails(script: Script, quick: list[str],
                             monkeypatch: pytest.MonkeyPatch,
                             capsys: pytest.CaptureFixture[str]) -> None:
    systems = script('systems')
    monkeypatch.setitem(systems.SYSTEMS, 'Broken', systems.System(
        'Broken', 'LightGCN', False, build={'num_layers': -1}))
    script('table7').main([*quick, '--against', 'Broken', '--seeds', '1'])
    rows = table_of(capsys.readouterr().out)
    assert rows['Broken'][1].startswith("failed: ValueError: 'num_layers'")
    assert rows['PromptMM student'][0] == '1'
