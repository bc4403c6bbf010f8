"""A search is seeded, goes on where it stopped, and reads no test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from printed import table_of

Script = Callable[[str], ModuleType]


def trials(path: Path) -> list[dict]:
    out = [json.loads(x) for x in path.read_text().splitlines()]
    for trial in out:
        assert trial.pop('seconds') > 0.0
    return out


def test_a_search_that_goes_on_is_the_one_that_never_stopped(
        script: Script, quick: list[str], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    tune, table4 = script('tune'), script('table4')
    args = [*quick, '--systems', 'LightGCN', '--students', 'default',
            '--trials', '4', '--epochs', '1']
    whole = tmp_path / 'whole.jsonl'

    def no_test(*args: object) -> None:
        raise AssertionError('test was read')

    with monkeypatch.context() as patch:
        patch.setattr(script('_seed_runs').SeedRuns, '_evaluate', no_test)
        tune.main([*args, '--trace', str(whole)])
    got = trials(whole)
    assert [x['system'] for x in got] == (
        ['LightGCN'] * 4 + ['PromptMM teacher'] * 2 +
        ['PromptMM student'] * 2)
    assert not [x for x in got if 'error' in x]
    assert got[0]['params'] == {}  # Its defaults.
    assert len({json.dumps(x['params']) for x in got[:4]}) == 4

    part = tmp_path / 'part.jsonl'
    lines = whole.read_text().splitlines(keepends=True)
    part.write_text(''.join(lines[:2]) + lines[2][:40])  # Killed here.
    tune.main([*args, '--trace', str(part)])
    assert trials(part) == got
    before = part.read_text()
    tune.main([*args, '--trace', str(part)])
    assert part.read_text() == before
    with pytest.raises(SystemExit, match='another budget'):
        tune.main([*args, '--trace', str(part), '--epochs', '2'])

    # The table takes the best trial.
    best = max(got[:4], key=lambda x: x['value'])
    found = tune.best_of([part], 'tiny')['LightGCN']
    assert found == {'model': {k[6:]: v for k, v in best['params'].items()
                               if k.startswith('model.')},
                     'fit': {k[4:]: v for k, v in best['params'].items()
                             if k.startswith('fit.')}}
    assert tune.best_of([part], 'other') == {}
    capsys.readouterr()
    table4.main([*quick, '--systems', 'LightGCN', '--students', '--epochs',
                 '1', '--seeds', '1', '--tuned', str(part)])
    rows = table_of(capsys.readouterr().out)
    assert rows['LightGCN'][1] == f"{best['value']:.4f}"


def test_a_trial_that_fails_counts(script: Script, quick: list[str],
                                   tmp_path: Path,
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    systems, path = script('systems'), tmp_path / 'trace.jsonl'
    space = {'model.num_layers': systems.Choice((-1, ))}
    monkeypatch.setitem(systems.SYSTEMS, 'LightGCN', systems.System(
        'LightGCN', 'LightGCN', False, space))
    script('tune').main([*quick, '--systems', 'LightGCN', '--students',
                         '--trials', '3', '--trace', str(path)])
    first, *others = trials(path)
    assert first['value'] > 0.0
    for trial in others:
        assert trial['value'] is None
        assert trial['error'].startswith("ValueError: 'num_layers'")
    assert script('tune').best_of([path], 'tiny')['LightGCN']['model'] == {}


def test_conditions(script: Script) -> None:
    """The temperature is searched where there is a softmax only, and past
    trials count."""
    tune, systems = script('tune'), script('systems')
    past = [{'params': {}, 'value': 0.1}]
    seen = set()
    for number in range(12):
        params = tune.next_params(systems.RANKING, 0, 'x', past)
        assert params == tune.next_params(systems.RANKING, 0, 'x', past)
        loss = params['fit.ranking_loss']
        seen.add(loss)
        assert ('fit.temperature' in params) == (loss == 'softmax')
        assert 1e-4 <= params['fit.lr'] <= 3e-2
        past.append({'params': params, 'value': 0.01 * number})
    assert seen == {'bpr', 'softmax'}
    assert tune.next_params(systems.RANKING, 0, 'y', past) != (
        tune.next_params(systems.RANKING, 0, 'x', past))
    assert tune.next_params(systems.RANKING, 1, 'x', past) != (
        tune.next_params(systems.RANKING, 0, 'x', past))


def test_several_jobs(script: Script, quick: list[str],
                      tmp_path: Path) -> None:
    path = tmp_path / 'trace.jsonl'
    script('tune').main([*quick, '--systems', 'LightGCN', '--students',
                         'content', '--trials', '2', '--jobs', '2', '--trace',
                         str(path)])
    assert sorted(x['system'] for x in trials(path)) == [
        'LightGCN', 'LightGCN', 'PromptMM student (content)',
        'PromptMM teacher (content)']
