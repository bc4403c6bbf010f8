"""Figures 3, 4 and 5 from short runs: each writes a PNG, and the numbers
under it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from printed import table_of, written

Script = Callable[[str], ModuleType]


def is_png(path: Path) -> bool:
    return path.read_bytes()[:8] == b'\x89PNG\r\n\x1a\n'


def test_figure3(script: Script, quick: list[str], tmp_path: Path,
                 capsys: pytest.CaptureFixture[str]) -> None:
    main, figures = script('figure3').main, tmp_path / 'figures'
    args = [*quick, '--items', '30', '--figures', str(figures)]
    main(args)
    rows = table_of(capsys.readouterr().out)
    assert list(rows) == ['', 'raw features', 'reduced, no prompt',
                          'reduced, prompt']
    assert is_png(figures / 'figure3-tiny.png')
    kept = written(tmp_path / 'runs')
    saved, = [json.loads(x.read_text()) for x in kept
              if x.name.startswith('figure3')]
    for name, picture in saved.items():
        assert rows[name][1] == 'textual 30, visual 30'
        assert rows[name][2] == f'{picture["mixing"]:.3f}'
        assert np.isfinite(list(picture['points'].values())).all()
    main(args)
    assert table_of(capsys.readouterr().out) == rows
    assert written(tmp_path / 'runs') == kept


def test_rows_are_those_that_the_teacher_propagates(script: Script,
                                                    tiny: Path) -> None:
    """Eq. 4, with the prompt's part from all items, and only in the rows of
    the sample."""
    import torch

    from torch_promptmm import PromptMMDistiller
    figure3 = script('figure3')
    train = script('study').load_dataset(str(tiny))[0]
    teacher = PromptMMDistiller.from_data(
        train, 8, seed=0, setting='faithful', dropout=0.5).teacher
    view = script('torch_promptmm.data').read_graph(train)
    items = {name: torch.tensor([3, 7]) for name in view.features}
    got = figure3.reduced_rows(teacher, view, items)
    prompt = teacher.prompt().double().detach()
    for name, x in view.features.items():
        reduction = teacher.reduction(name)
        x = x.double()
        std = x.std(dim=0, correction=0)
        y = (x - x.mean(dim=0)) / std @ reduction.weight.double()
        part = prompt @ (prompt.t() @ y) / x.size(0)
        want = y + reduction.prompt_weight * part + reduction.bias.double()
        assert np.allclose(got[name], want[items[name]].detach(), atol=1e-4)


def test_mixing(script: Script) -> None:
    mixing = script('figure3').mixing
    generator = np.random.default_rng(0)
    one, two = generator.normal(size=(2, 300, 4))
    assert mixing({'a': one, 'b': two}) == pytest.approx(1.0, abs=0.05)
    assert mixing({'a': one, 'b': two + 100.0}) == 0.0
    # Neighbours are of the other one only: n of 2n - 1 are.
    far = 100.0 * np.arange(20.0)[:, None]
    assert mixing({'a': far, 'b': far + 1.0}, 1) == pytest.approx(39 / 20)


def test_figure4(script: Script, quick: list[str], tmp_path: Path,
                 capsys: pytest.CaptureFixture[str]) -> None:
    main, figures = script('figure4').main, tmp_path / 'figures'
    args = [*quick, '--figures', str(figures), '--only', 'L', 'dropout',
            'lambda2']
    main(args)
    out = capsys.readouterr().out
    lines = [[cell.strip() for cell in x.strip('|').split('|')]
             for x in out.splitlines() if x.startswith(('| L', '| d', '| l'))]
    assert [x[:3] for x in lines] == [
        ['L', '1', '2'], ['L', '2', '2'], ['dropout', '0', '2'],
        ['dropout', '0.2', '2'], ['lambda2', '0', '2'],
        ['lambda2', '0.01', '2']]
    assert is_png(figures / 'figure4-tiny.png')
    # λ2 is not the teacher's, and its runs are those of the defaults.
    assert lines[1][5:] == lines[4][5:] == lines[5][5:] != lines[0][5:]
    folder = tmp_path / 'runs/tiny'
    students = list(folder.glob('student-faithful-*.json'))
    usual = script('figure4').usual('faithful')
    shared = 1 + (usual['dropout'] in (0.0, 0.2))
    assert len(students) == 2 * (6 - shared + 1)
    values = {f"{json.loads(x.read_text())['recall@20']:.4f}"
              for x in students}
    assert len(values) > 1

    kept = written(folder)
    main(args)
    assert lines[0][0] in capsys.readouterr().out
    assert written(folder) == kept


def test_every_sweep_is_of_arguments(script: Script) -> None:
    figure4 = script('figure4')
    usual = figure4.usual('faithful')
    for sweep in figure4.SWEEPS.values():
        for name in (sweep.of_teacher, sweep.of_student):
            assert name in ('', 'hidden_channels', *usual)


def test_figure5(script: Script, quick: list[str], tmp_path: Path,
                 capsys: pytest.CaptureFixture[str]) -> None:
    main, figures = script('figure5').main, tmp_path / 'figures'
    args = [*quick, '--figures', str(figures), '--systems', 'LightGCN',
            'NGCF', '--epochs', '4']
    main(args)
    rows = table_of(capsys.readouterr().out)
    assert {'PromptMM teacher (faithful)', 'PromptMM student (faithful)',
            'LightGCN'} <= set(rows)
    assert is_png(figures / 'figure5-tiny.png')
    got = [json.loads(x.read_text()) for x in
           (tmp_path / 'runs/tiny').glob('system-LightGCN-*.json')]
    best = [max(x['curves']['recall@20']) for x in got]
    assert rows['LightGCN'][4] == f'{np.mean(best):.4f}'
    assert [len(x['curves']['loss']) for x in got] == [4, 4]
    kept = written(tmp_path / 'runs')
    main(args)
    assert table_of(capsys.readouterr().out) == rows
    assert written(tmp_path / 'runs') == kept


def test_curves_end_where_the_shortest_does(script: Script) -> None:
    curve = script('figure5').curve
    records = [{'curves': {'loss': [2.0, 1.0, 0.5], 'recall@20': [1, 2, 3]}},
               {'curves': {'loss': [4.0, 1.0], 'recall@20': [5, 6]}}]
    assert curve(records, 'loss').tolist() == [[1.0, 0.5], [1.0, 0.25]]
    assert curve(records, 'recall@20').tolist() == [[1, 2], [5, 6]]
