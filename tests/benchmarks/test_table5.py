"""Table 5 from short runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from printed import table_of, written

Script = Callable[[str], ModuleType]


def test_each_part_is_left_out(script: Script, quick: list[str],
                               tmp_path: Path,
                               capsys: pytest.CaptureFixture[str]) -> None:
    table5 = script('table5')
    args = [*quick, '--seeds', '1', '--prompts', 'graph']
    table5.main(args)
    rows = table_of(capsys.readouterr().out)
    full = 'PromptMM student (faithful)'
    assert list(rows) == [
        '', full, 'w/o Prompt', 'w/o PairKD', 'w/o ListKD',
        'w/o disentangling', 'w/o EmbKD', 'prompt not tuned', 'prompt: graph']
    assert rows[''][-3] == f'{full} less it'

    # Each is what it says.
    parsed = script('study').finish(script('study').options('').parse_args(
        args[:-2]))
    parsed.setting, parsed.change, parsed.prompts = 'faithful', [], ['graph']
    made = {row.name: row for row in table5.rows_of(parsed)}
    same = made[full].teachers[0].key
    for name, key, value in (
            ('w/o PairKD', 'pair_weight', 0.0),
            ('w/o ListKD', 'list_weight', 0.0),
            ('w/o disentangling', 'disentangle', False),
            ('w/o EmbKD', 'emb_weight', 0.0),
            ('prompt not tuned', 'tune_prompt', False)):
        assert made[name].build == {key: value}
        assert made[name].teachers[0].key == same
    for name, prompt in (('w/o Prompt', None), ('prompt: graph', 'graph')):
        teacher, = made[name].teachers
        assert teacher.build == {'prompt': prompt} and made[name].build == {}

    # The numbers are those of the runs.
    folder = tmp_path / 'runs/tiny'
    recall = {name: np.load(folder / f'{row.key}.0.npy').mean()
              for name, row in made.items()}
    for name in list(made)[1:]:
        assert rows[name][2] == f'{recall[name]:.4f}'
        assert rows[name][4] == f'{recall[full] - recall[name]:+.4f}'
    # The plain divergence is the disentangled one with natural weights.
    assert rows['w/o disentangling'][1:4] == rows[full][1:4]

    kept = written(tmp_path)
    table5.main(args)
    assert table_of(capsys.readouterr().out) == rows
    assert written(tmp_path) == kept


def test_a_part_that_is_not_there_has_no_row(script: Script) -> None:
    table5, study = script('table5'), script('study')
    args = study.finish(study.options('').parse_args(['--root', 'x']))
    args.setting, args.prompts = 'default', []
    args.change = [table5.setting_value('beta=2.5')]
    rows = table5.rows_of(args)
    assert [row.name for row in rows] == [
        'PromptMM student', 'w/o Prompt', 'w/o disentangling', 'w/o EmbKD',
        'w/o fused terms', 'prompt not tuned']
    assert all(row.build['beta'] == 2.5 for row in rows)
