"""Tables 8 and 9: parameters by name and shape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from printed import table_of

Script = Callable[[str], ModuleType]


def test_sizes_of_the_paper(script: Script, tmp_path: Path,
                            capsys: pytest.CaptureFixture[str]) -> None:
    """Table 9's student has 4,042,880 parameters; its teacher, without raw
    features and normalisation, what ours has without the prompt."""
    script('table8').main(['--sizes', '41691', '21479', 'image=4096',
                           'text=768', '--output', str(tmp_path / 'out.md')])
    text = capsys.readouterr().out
    teacher, student = text.split('#### ')[1:3]
    rows = table_of(student)
    assert rows['user_embedding.weight'] == ['[41691, 64]', '2,668,224']
    assert rows['item_embedding.weight'] == ['[21479, 64]', '1,374,656']
    assert rows['**all**'][1].startswith('**4,042,880** (')
    rows = table_of(teacher)
    paper = 108_828_288 - 87_977_984 - 16_495_872 - 128
    assert rows['**all**'][1] == f'**{paper + 64 * 64 + 64:,}**'
    assert rows['reductions.modality_image.weight'] == ['[4096, 64]', '262,144']
    assert 'The raw features are 104,473,856 constants.' in text
    assert (tmp_path / 'out.md').read_text().startswith(
        '`python benchmarks/table8.py --sizes 41691 21479 image=4096 '
        'text=768 --hidden-channels 64`, commit ')


def test_a_dataset_and_a_system_that_fails(
        script: Script, tiny: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    systems, models = script('systems'), script('torch_promptmm.models')

    class Broken(models.LightGCN):
        def __init__(self, *args: object) -> None:
            raise RuntimeError('It does not work')

    monkeypatch.setattr(models, 'Broken', Broken, raising=False)
    monkeypatch.setitem(systems.SYSTEMS, 'Broken',
                        systems.System('Broken', 'Broken', False))
    script('table8').main(['--root', str(tiny), '--hidden-channels', '8',
                           '--modalities', 'visual', '--systems', 'Broken',
                           'LightGCN'])
    text = capsys.readouterr().out
    assert '### tiny' in text and '#### Broken\n\nfailed: It does not' in text
    last = table_of(text.split('#### ')[-1])
    assert last['**all**'][1].startswith(f'**{110 * 8:,}** (')
    assert 'The raw features are 300 constants.' in text


def test_what_is_missing(script: Script) -> None:
    with pytest.raises(SystemExit):
        script('table8').main(['--sizes', '5'])
