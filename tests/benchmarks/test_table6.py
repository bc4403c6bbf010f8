"""Table 6 from short measurements."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from printed import table_of, written

Script = Callable[[str], ModuleType]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith('linux'),
                    reason='memory is measured through /proc')
def test_numbers_are_those_of_the_measurements(
        script: Script, quick: list[str], tmp_path: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    main = script('table6').main
    args = [*quick, '--systems', 'LightGCN', '--repeats', '1']
    main(args)
    rows = table_of(capsys.readouterr().out)
    assert list(rows) == ['', 'PromptMM teacher', 'LightGCN',
                          'PromptMM student']
    student, teacher = (60 + 50) * 8, (60 + 50) * 8 + (6 + 5 + 2) * 8 + 72
    raw = 50 * (6 + 5)
    for name, own, constants in (
            ('PromptMM teacher', teacher, raw), ('LightGCN', student, 0),
            ('PromptMM student', student, 0)):
        cells = rows[name]
        assert cells[5] == f'{own:,}' and cells[7] == f'{own + constants:,}'
        if own != teacher:
            assert cells[6] == f'{own / teacher:.1%}'
            assert cells[8] == f'{student / (teacher + raw):.1%}'
    folder = tmp_path / 'runs/tiny'
    file, = folder.glob('system-LightGCN-*.serving.0.json')
    got, number = json.loads(file.read_text()), script('_timing').number
    assert rows['LightGCN'][2:4] == [number(1e3 * got['embed']),
                                     number(1e3 * got['rank'])]
    assert got['bytes'] > 0 and got['embed'] > 0.0

    kept = written(folder)
    main(args)
    assert table_of(capsys.readouterr().out) == rows
    assert written(folder) == kept


def test_medians(script: Script, tmp_path: Path) -> None:
    """Of all rounds, of one row and one part; what is not measured on a
    system stays empty."""
    table6, row = script('table6'), script('study').StudyRow('x', 'system',
                                                             'LightGCN')
    for number, value in enumerate((5.0, 1.0, 2.0)):
        for part, factor in (('training', 1.0), ('serving', 100.0)):
            path = tmp_path / f'{row.key}.{part}.{number}.json'
            path.write_text(json.dumps({'seconds': factor * value,
                                        'bytes': None}))
    assert table6.median(tmp_path, row, 'training') == {'seconds': 2.0,
                                                        'bytes': None}
    assert table6.median(tmp_path, row, 'serving')['seconds'] == 200.0
    assert table6.mebibytes(None) == '' and table6.mebibytes(2**21) == (
        '2.0 MiB')


def test_a_system_that_fails(script: Script, quick: list[str], tmp_path: Path,
                             monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: another one does not have the broken system."""
    table6, systems = script('table6'), script('systems')
    study = script('study')
    monkeypatch.setitem(systems.SYSTEMS, 'Broken', systems.System(
        'Broken', 'LightGCN', False, build={'num_layers': -1}))
    args = study.finish(study.options('').parse_args(quick))
    row = study.system_row(systems.SYSTEMS['Broken'], args)
    teacher = study.teacher_row('default', args)
    data = args.datasets[0]
    for part in (table6.TRAINING, table6.SERVING):
        line = table6.measure(data, None, str(study.runs_of(args, data)), 0,
                              part, row, 1)
        assert "failed: ValueError: 'num_layers' must be" in line
    text = table6.table([teacher, row], study.runs_of(args, data), 1)
    assert table_of(text)['Broken'][0].startswith('failed: ValueError')
