"""Table 4 from short runs, and what it says of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from printed import table_of, written
from scipy.stats import ttest_rel

Script = Callable[[str], ModuleType]
METRICS = ('recall@20', 'ndcg@20', 'recall@50', 'ndcg@50')


ROWS = {'LightGCN': 'system-LightGCN',
        'PromptMM teacher': 'teacher-default',
        'PromptMM student': 'student-default',
        'PromptMM student (of LightGCN, content)': 'student-content'}


def paths(folder: Path, row: str, suffix: str) -> list[Path]:
    """The files of a row's runs, in the order of their seeds."""
    return sorted(folder.glob(f'{ROWS[row]}-*.{suffix}'),
                  key=lambda path: int(path.suffixes[0][1:]))


def recalls(folder: Path, row: str) -> np.ndarray:
    """Recall of each user, averaged over seeds."""
    return np.mean([np.load(x) for x in paths(folder, row, 'npy')], axis=0)


def test_numbers_are_those_of_the_runs(
        script: Script, quick: list[str], tmp_path: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    main = script('table4').main
    args = [*quick, '--systems', 'LightGCN', '--students', 'default',
            'content:LightGCN', '--output', str(tmp_path / 'out.md')]
    main(args)
    out = capsys.readouterr().out
    rows = table_of(out)
    folder = tmp_path / 'runs/tiny'
    assert set(rows) == {'', *ROWS}
    for row in ROWS:
        got = [json.loads(x.read_text()) for x in paths(folder, row, 'json')]
        assert rows[row][0] == '2' and len(got) == 2
        for cell, name in zip(rows[row][1:6], ('val', *METRICS),
                              strict=True):
            values = [x[name] for x in got]
            assert cell == (f'{np.mean(values):.4f} ± '
                            f'{np.std(values, ddof=1):.4f}')
        assert rows[row][6] == f"{got[0]['parameters']:,}"
    assert rows['LightGCN'][6] == f'{(60 + 50) * 8:,}'

    # The difference to the best student, and its p-value.
    student = max(list(ROWS)[2:],
                  key=lambda row: float(rows[row][1].split()[0]))
    assert rows[''][-2] == f'R@20 of {student} less it'
    assert rows[student][-2:] == ['', '']
    best, other = recalls(folder, student), recalls(folder, 'LightGCN')
    assert rows['LightGCN'][-2] == f'{best.mean() - other.mean():+.4f}'
    raw = {row: ttest_rel(best, recalls(folder, row)).pvalue
           for row in ROWS if row != student}
    for row, p in script('tables').holm(raw).items():
        assert rows[row][-1] == f'{p:.2g}'
    assert 'The best other system is LightGCN' in out
    assert (tmp_path / 'out.md').read_text().startswith(
        '`python benchmarks/table4.py --datasets tiny --seeds 2 --epochs 2')

    # A second call runs nothing, and prints the same.
    kept = written(tmp_path / 'runs')
    main(args[:-2])
    assert written(tmp_path / 'runs') == kept
    again = capsys.readouterr().out
    assert table_of(again) == rows and 'seed 0' not in again

    # What is missing is run again, to the same end.
    lost = next(folder.glob('system-LightGCN-*.1.json'))
    lost.unlink()
    main(args[:-2])
    changed = {x for x, time in written(tmp_path / 'runs').items()
               if kept[x] != time}
    assert {x.name.partition('.')[0] for x in changed} == {
        lost.name.partition('.')[0]}
    again = table_of(capsys.readouterr().out)
    assert again['LightGCN'][:7] == rows['LightGCN'][:7]

    # Other arguments are other runs.
    main([*args[:-2], '--epochs', '1', '--students'])
    assert len(list(folder.glob('system-LightGCN-*.json'))) == 4


def test_a_system_that_fails_is_a_row_that_says_so(
        script: Script, quick: list[str], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    systems = script('systems')
    broken = systems.System('Broken', 'LightGCN', False,
                            build={'num_layers': -1})
    absent = systems.System('Absent', 'NoSuchModel', False)
    monkeypatch.setitem(systems.SYSTEMS, 'Broken', broken)
    monkeypatch.setitem(systems.SYSTEMS, 'Absent', absent)
    main = script('table4').main
    args = [*quick, '--systems', 'Broken', 'Absent', 'LightGCN',
            '--students', 'content:Broken', '--seeds', '1']
    main(args)
    out = capsys.readouterr().out
    assert 'Absent: torch_promptmm.models has no NoSuchModel yet' in out
    rows = table_of(out)
    assert rows['Broken'][:2] == ['0', "failed: ValueError: 'num_layers' must "
                                  'be at least 0 (got -1)']
    assert rows['PromptMM student (of Broken, content)'][1] == (
        'failed: LookupError: Broken has no run of seed 0')
    assert rows['LightGCN'][0] == '1' and 'Absent' not in rows
    note, = (tmp_path / 'runs').rglob('system-Broken-*.0.failed')
    assert 'Traceback' in note.read_text()

    # It is tried again, and the note goes when it works.
    monkeypatch.setattr(
        script('study').StudyRuns, 'build_system',
        lambda self, row: systems.SYSTEMS['LightGCN'].cls.from_data(
            self.train, 8, seed=self.seed))
    main(args)
    rows = table_of(capsys.readouterr().out)
    assert rows['Broken'][1:7] == rows['LightGCN'][1:7]
    assert not list((tmp_path / 'runs').rglob('*.failed'))


def test_several_jobs(script: Script, quick: list[str],
                      capsys: pytest.CaptureFixture[str]) -> None:
    args = [*quick, '--systems', '--students', 'content:LightGCN', '--seeds',
            '1']
    script('table4').main([*args, '--jobs', '2'])
    assert table_of(capsys.readouterr().out)[
        'PromptMM student (of LightGCN, content)'][0] == '1'


def test_weights_that_are_not_all_there_are_found_out(
        script: Script, quick: list[str], tmp_path: Path) -> None:
    """A model that learns something outside of its state_dict is no teacher
    when it is read."""
    from safetensors.torch import load_file, save_file
    study = script('study')
    args = study.finish(study.options('').parse_args(quick))
    row = study.system_row(script('systems').SYSTEMS['LightGCN'], args)
    runs = study.StudyRuns(study.load_dataset(args.datasets[0]), {},
                           study.runs_of(args, args.datasets[0]), 0)
    with pytest.raises(LookupError, match='no run of seed 0'):
        runs.load(row)
    runs.run(row)
    model = runs.load(row)
    path = runs.path(row, 'safetensors')
    weights = load_file(path)
    assert all(weights[k].equal(v) for k, v in model.state_dict().items())
    save_file({'item_embedding.weight': -weights['item_embedding.weight']},
              path, {'val': '0.9'})
    with pytest.raises(RuntimeError, match='not all that it learns'):
        runs.load(row)


@pytest.mark.parametrize('name', ['small', 'TikTok:{}', '{}'])
def test_datasets(script: Script, tiny: Path, name: str) -> None:
    study = script('study')
    if 'TikTok' in name:
        with pytest.raises((FileNotFoundError, ValueError, OSError)):
            study.load_dataset(name.format(tiny / 'nothing'))
        return
    train, val, test = study.load_dataset(name.format(tiny))
    assert train['user'].num_nodes == (600 if name == 'small' else 60)
