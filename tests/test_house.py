"""Rules of the house: who may import whom, what stays out of the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = 'torch_promptmm'
ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / PACKAGE).rglob('*.py'))

# A room may import itself and the rooms named here, nothing above. `data` and
# `datasets` stand at the side. Any other module directly in the package, such
# as `checks.py`, is a foundation: all may import it, it imports no room.
MAY_IMPORT = {
    'nn': set(),
    'data': set(),
    'datasets': {'data'},
    'loss': {'nn'},
    'loader': {'nn'},
    'ranking': {'nn'},
    'models': {'nn', 'loss', 'loader', 'data'},
}
for _room in ['evaluate', 'train', 'distill', 'serve', 'distiller', 'cli']:
    # Each of these may import all that stand before it.
    MAY_IMPORT[_room] = set(MAY_IMPORT)

OPTIONAL = {
    'faiss',
    'matplotlib',
    'onnx',
    'onnxruntime',
    'pandas',
    'pyarrow',
    'pyg_lib',
    'sentence_transformers',
    'torch_cluster',
    'torch_scatter',
    'torch_sparse',
}

MAX_LINES = 400
MAX_FUNCTION = 80  # Its docstring is not counted.


class Import(NamedTuple):
    name: str  # absolute and dotted, down to the name that is imported
    line: int


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def imports_of(
    nodes: Iterator[ast.AST],
    package: str,
) -> Iterator[Import]:
    """Every import among `nodes`; `package` is what a dot stands for."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level > 0:
                above = package.split('.')
                above = above[:len(above) - node.level + 1]
                base = '.'.join([*above, base] if base else above)
            for alias in node.names:
                yield Import(f'{base}.{alias.name}', node.lineno)


def imports_in(path: Path) -> Iterator[Import]:
    name = module_name(path)
    is_package = path.name == '__init__.py'
    package = name if is_package else name.rpartition('.')[0]
    # Those inside functions count too: hidden is not forbidden enough.
    yield from imports_of(ast.walk(ast.parse(path.read_text('utf-8'))), package)


def executed_on_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run when the module is imported: not in a function, and not
    under ``if TYPE_CHECKING``.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.dump(node.test):
            for other in node.orelse:
                yield other
                yield from executed_on_import(other)
            continue
        yield node
        yield from executed_on_import(node)


def room_of(dotted: str) -> str | None:
    """The room that an absolute name lies in; None outside the package."""
    parts = dotted.split('.')
    if parts[0] != PACKAGE:
        return None
    if len(parts) == 1 or parts[1].startswith('__'):
        return ''  # the front door itself, `__version__`
    here = ROOT / PACKAGE / parts[1]
    if here.is_dir() or here.with_suffix('.py').is_file():
        return parts[1]
    return 'distiller'  # a name of the front door: it stands on everything


def rooms_imported(path: Path) -> Iterator[tuple[str, Import]]:
    for imported in imports_in(path):
        room = room_of(imported.name)
        if room:
            yield room, imported


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def report(title: str, lines: list[str]) -> str:
    return '\n  '.join([title, *lines])


def test_there_is_something_to_check() -> None:
    assert SOURCES


def test_imports_go_one_way() -> None:
    wrong = []
    for path in SOURCES:
        room = room_of(module_name(path))
        if not room:  # the front door imports what it likes
            continue
        allowed = {room, *MAY_IMPORT.get(room, set())}
        for other, imported in rooms_imported(path):
            if other in MAY_IMPORT and other not in allowed:
                wrong.append(f'{relative(path)}:{imported.line} '
                             f'({room}) imports {imported.name} ({other})')
    assert not wrong, report('A lower room imports an upper one:', wrong)


def test_no_two_rooms_import_each_other() -> None:
    seen: dict[tuple[str, str], str] = {}
    for path in SOURCES:
        room = room_of(module_name(path))
        for other, imported in rooms_imported(path):
            if room and room != other:
                where = f'{relative(path)}:{imported.line}'
                seen.setdefault((room, other), where)
    wrong = [
        f'{a} and {b}: {where}, {seen[b, a]}'
        for (a, b), where in sorted(seen.items())
        if a < b and (b, a) in seen
    ]
    assert not wrong, report('Rooms that import each other:', wrong)


def test_no_optional_import_at_module_level() -> None:
    wrong = []
    for path in SOURCES:
        tree = ast.parse(path.read_text('utf-8'))
        for imported in imports_of(executed_on_import(tree), PACKAGE):
            if imported.name.split('.')[0] in OPTIONAL:
                wrong.append(
                    f'{relative(path)}:{imported.line} {imported.name}')
    assert not wrong, report(
        'Optional packages are imported where they are used, or probed with '
        'importlib.util.find_spec:', wrong)


WITHOUT_OPTIONAL = """
import sys

# An import of these fails, and a look for them finds nothing.
sys.modules.update(dict.fromkeys({optional!r}))
import {package}
"""

BROUGHT_IN = """
import sys
import sklearn.decomposition, torch_geometric.nn, torchmetrics  # the core
before = {{name.partition('.')[0] for name in sys.modules}}
import {package}
after = {{name.partition('.')[0] for name in sys.modules}}
print(*sorted((after - before) & {optional!r}))
"""


def run_python(program: str) -> str:
    code = program.format(optional=OPTIONAL, package=PACKAGE)
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_imports_where_no_optional_package_is_installed() -> None:
    run_python(WITHOUT_OPTIONAL)


def test_import_brings_in_no_optional_package() -> None:
    # What PyG itself imports, torch_sparse say, is none of our doing.
    assert run_python(BROUGHT_IN) == ''


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text('utf-8').splitlines())
               for path in SOURCES}
    wrong = [f'{relative(path)}: {length}'
             for path, length in lengths.items() if length > MAX_LINES]
    assert not wrong, report(f'Longer than {MAX_LINES} lines:', wrong)


def code_lines(function: ast.FunctionDef) -> int:
    """The lines of a function without those of its docstring."""
    length = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function, clean=False) is None:
        return length
    docstring = function.body[0]
    return length - (docstring.end_lineno - docstring.lineno + 1)


def test_functions_are_short() -> None:
    wrong = [
        f'{relative(path)}:{node.lineno} {node.name}: {code_lines(node)}'
        for path in SOURCES for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        and code_lines(node) > MAX_FUNCTION
    ]
    assert not wrong, report(f'Longer than {MAX_FUNCTION} lines:', wrong)


FORBIDDEN = {
    'a pickle runs whatever its author put in': r'\bpickle\.loads?\b',
    'the same, through torch': r'weights_only\s*=\s*False',
    'the same, through numpy': r'allow_pickle\s*=\s*True',
    'one device only': r'\.cuda\(\)',
}


@pytest.mark.parametrize('why', FORBIDDEN)
def test_no_forbidden_call(why: str) -> None:
    wrong = [
        f'{relative(path)}:{number} {line.strip()}'
        for path in SOURCES
        for number, line in enumerate(path.read_text('utf-8').splitlines(), 1)
        if re.search(FORBIDDEN[why], line)
    ]
    assert not wrong, report(f'{why}:', wrong)


def text_files() -> Iterator[Path]:
    """What belongs to the repository; ignored folders are left out."""
    kinds = {'.py', '.md', '.rst', '.txt', '.toml', '.in'}
    names = {'.gitignore', 'LICENSE', 'Makefile', 'run'}
    folders = ['.ci', PACKAGE, 'benchmarks', 'docs', 'examples', 'tests']
    found = list(ROOT.iterdir())
    for folder in folders:
        found += (ROOT / folder).rglob('*')
    for path in sorted(found):
        built = {'_build', '__pycache__'} & set(path.parts)
        wanted = path.suffix in kinds or path.name in names
        if path.is_file() and wanted and not built:
            yield path


def test_no_path_of_one_machine() -> None:
    homes = '|'.join(['home', 'root', 'work', 'tmp', 'Users', 'farm'])
    pattern = re.compile(rf'(^|[^\w.])/({homes})/\w')
    wrong = [
        f'{relative(path)}:{number} {line.strip()}'
        for path in text_files()
        for number, line in enumerate(path.read_text('utf-8').splitlines(), 1)
        if pattern.search(line)
    ]
    assert not wrong, report('Paths of one machine:', wrong)
