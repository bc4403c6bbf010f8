"""What README and docs show is run as it stands."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from torch_promptmm import models
from torch_promptmm.models import RankingModel

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r'^```python\n(.*?)^```$', re.M | re.S)
DIRECTIVE = re.compile(
    r'^\.\. code-block:: python\n((?:[ ]{3,}.*\n|[ ]*\n)+)', re.M)
# The blocks of a page are one program: each may use what stands before it.
PAGES = ['README.md', 'docs/index.rst', 'docs/quickstart.rst',
         'docs/content.rst', 'docs/systems.rst', 'docs/ablations.rst',
         'docs/add_a_model.rst',
         'docs/serve.rst', 'docs/grow.rst']


def program(page: str) -> str:
    """The Python blocks of a page, at the lines on which they stand there, so
    that a traceback shows the place."""
    text = (ROOT / page).read_text('utf-8')
    lines = [''] * (text.count('\n') + 1)
    pattern = FENCE if page.endswith('.md') else DIRECTIVE
    for match in pattern.finditer(text):
        first = text.count('\n', 0, match.start(1))
        block = textwrap.dedent(match[1]).splitlines()
        lines[first:first + len(block)] = block
    return '\n'.join(lines)


@pytest.mark.parametrize('page', PAGES)
def test_code_runs(page: str, tmp_path: Path,
                   monkeypatch: pytest.MonkeyPatch) -> None:
    source = program(page)
    assert source.strip(), f'{page} has no Python block'
    monkeypatch.chdir(tmp_path)
    exec(compile(source, str(ROOT / page), 'exec'), {'__name__': '__main__'})


def test_twenty_lines() -> None:
    block = FENCE.search((ROOT / 'README.md').read_text('utf-8'))
    assert block is not None
    assert len(block[1].splitlines()) <= 20


def test_a_model_from_nothing_is_short() -> None:
    """With its training, its evaluation and its use as a teacher."""
    lines = [x for x in program('docs/add_a_model.rst').splitlines() if x]
    last = next(i for i, x in enumerate(lines) if 'distiller.evaluate' in x)
    assert len(lines[:last + 1]) < 60
    for text in ('fit(mf,', 'evaluate(mf,', 'teacher=mf'):
        assert any(text in x for x in lines[:last + 1]), text


def test_every_system_has_its_row() -> None:
    """A model of the package is on the page of systems, or is none."""
    text = (ROOT / 'docs/systems.rst').read_text('utf-8')
    named = set(re.findall(r'`~torch_promptmm\.models\.(\w+)`', text))
    public = {cls.__name__ for cls in map(vars(models).get, models.__all__)
              if isinstance(cls, type) and issubclass(cls, RankingModel)}
    assert public - {'RankingModel', 'ForeignModel'} <= named
    assert named <= set(models.__all__)


def test_readme_names_what_is_there() -> None:
    """Make targets and files that it mentions exist."""
    text = (ROOT / 'README.md').read_text('utf-8')
    makefile = (ROOT / 'Makefile').read_text('utf-8')
    for target in re.findall(r'`make (\w+)|^make (\w+)', text, re.M):
        name = ''.join(target)
        assert re.search(rf'^{name}:', makefile, re.M), name
    # What is built, and what long runs leave, need not be there.
    for path in re.findall(r'`(examples/[\w./]+)`|\]\((docs/[\w.]+)', text):
        assert (ROOT / ''.join(path)).exists(), path
