"""The commands of "Command line" run, in the order of the page."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip('jsonargparse')
pytest.importorskip('docstring_parser')
pytest.importorskip('pandas')

from torch_promptmm.cli import main  # noqa: E402
from torch_promptmm.cli.main import COMMANDS  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
COMMAND = re.compile(r'^   \$ promptmm (.*)$', re.M)


def make_shop(folder: Path) -> None:
    spec = importlib.util.spec_from_file_location(
        'custom_data', ROOT / 'examples/custom_data.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.make_shop(folder)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:.*(repeated|masked)')
def test_commands_of_the_page(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    make_shop(tmp_path)
    ran = []
    for line in COMMAND.findall((ROOT / 'docs/cli.rst').read_text('utf-8')):
        words, _, to = line.partition(' > ')
        argv = shlex.split(words)
        ran.append(argv[0])
        if argv[0] == 'serve':  # It never ends; see tests/serve.
            continue
        try:
            code = main(argv)
        except SystemExit as error:
            code = error.code
        out, err = capsys.readouterr()
        assert code == 0, (line, err)
        if to:
            Path(to).write_text(out)
        elif '--json' in argv:
            assert json.loads(out.splitlines()[0])
    assert set(ran) == set(COMMANDS)
    assert {x.name for x in tmp_path.iterdir()} == {
        'orders.csv', 'features', 'model', 'other', 'run.yaml', 'lists.csv',
        'vectors', 'small'}
