"""Rules of the house: who may import whom, what stays out of the code."""

from __future__ import annotations

import ast
import importlib
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
    'docstring_parser',
    'duckdb',
    'faiss',
    'fastapi',
    'httpx',
    'huggingface_hub',
    'jsonargparse',
    'matplotlib',
    'onnx',
    'onnxruntime',
    'onnxscript',
    'pandas',
    'prometheus_client',
    'pyarrow',
    'pydantic',
    'pyg_lib',
    'sentence_transformers',
    'starlette',
    'torch_cluster',
    'torch_scatter',
    'torch_sparse',
    'uvicorn',
}
# What is nothing without its extra: imported only by who asks for it.
BEHIND_AN_EXTRA = {'serve/app.py', 'serve/http.py', 'cli/parser.py'}

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
        if relative(path).removeprefix(f'{PACKAGE}/') in BEHIND_AN_EXTRA:
            continue
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
import {package}.distiller, {package}.datasets
"""

BROUGHT_IN = """
import sys
import sklearn.decomposition, torch_geometric.nn, torchmetrics  # the core
before = {{name.partition('.')[0] for name in sys.modules}}
import {package}.distiller, {package}.datasets
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


WITHOUT_PYG = """
import sys, time

# An import of these fails.
heavy = ['torch_geometric', 'sklearn', 'pandas', 'torchmetrics', 'scipy']
sys.modules.update(dict.fromkeys(heavy))
import torch
before, start = set(sys.modules), time.process_time()
import {package}.serve
from {package}.ids import IdMap
seconds = time.process_time() - start
assert not any(name.partition('.')[0] in heavy
               for name in set(sys.modules) - before)
rec = {package}.serve.Recommender(torch.eye(2), torch.eye(2), ids=dict(
    user=IdMap(['a', 'b']), item=IdMap(['x', 'y'])))
assert rec.recommend(['b'], 1, raw=True)[0] == [['y']]
print(seconds)
"""


def test_serving_imports_no_pyg() -> None:
    # Two tenths of a second of the two that are allowed.
    assert float(run_python(WITHOUT_PYG)) < 2.0


@pytest.mark.parametrize('room', ['', 'nn', 'serve'])
def test_what_is_imported_late_is_what_mypy_sees(room: str) -> None:
    path = ROOT / PACKAGE / room / '__init__.py'
    tree = ast.parse(path.read_text('utf-8'))
    block = next(x for x in tree.body if isinstance(x, ast.If))
    seen = {alias.name: node.module for node in block.body
            for alias in node.names}
    module = importlib.import_module(f'{PACKAGE}.{room}'.rstrip('.'))
    assert module._FILES == seen
    for name in [*module.__all__, *seen]:
        assert getattr(module, name).__module__.startswith(PACKAGE)
        assert name in dir(module)


def test_rooms_are_attributes() -> None:
    assert run_python('import {package} as x; print(*(getattr(x, y).__name__ '
                      'for y in x._ROOMS))').split() == [
        f'{PACKAGE}.{room}' for room in importlib.import_module(
            PACKAGE)._ROOMS]


def test_imports_where_no_optional_package_is_installed() -> None:
    run_python(WITHOUT_OPTIONAL)


def test_import_brings_in_no_optional_package() -> None:
    # What PyG itself imports, torch_sparse say, is none of our doing.
    assert run_python(BROUGHT_IN) == ''


def test_no_two_files_import_each_other() -> None:
    """No circle of files, of any length; under TYPE_CHECKING and in a
    function it would be one as well. What the front of a room collects of
    its own files, and names that moved (`_moved.py`), are none.
    """
    files = {module_name(path): path for path in SOURCES}
    edges: dict[str, set[str]] = {}
    for name, path in files.items():
        found = set()
        for imported in imports_in(path):
            parent = imported.name.rpartition('.')[0]
            found |= {imported.name, parent} & files.keys()
        above = {name.rsplit('.', i)[0] for i in range(name.count('.') + 1)}
        edges[name] = found - {name} - above
    order: list[str] = []
    left = dict(edges)
    while free := [name for name, to in left.items()
                   if not to & left.keys()]:
        order += free
        for name in free:
            del left[name]
    assert len(order) + len(left) == len(files)
    assert not left, report('Files in a circle, or above one:', sorted(left))


def own_front(path: Path) -> Iterator[Import]:
    package = module_name(path).rpartition('.')[0]
    for imported in imports_in(path):
        if imported.name.rpartition('.')[0] == package and (
                imported.name not in map(module_name, SOURCES)):
            yield imported


def test_no_file_imports_the_front_of_its_own_room() -> None:
    wrong = [f'{relative(path)}:{imported.line} {imported.name}'
             for path in SOURCES
             if path.name != '__init__.py' and path.parent != ROOT / PACKAGE
             for imported in own_front(path)]
    assert not wrong, report('Imported from the room that they are in:',
                             wrong)


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From `def` to the end, without the docstring, which says what the
    arguments are.
    """
    lines = node.end_lineno - node.lineno + 1
    if ast.get_docstring(node, clean=False) is not None:
        lines -= node.body[0].end_lineno - node.body[0].lineno + 1
    return lines


def test_functions_are_short() -> None:
    long = {
        f'{relative(path)} {node.name}': code_lines(node)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text('utf-8')))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and code_lines(node) > MAX_FUNCTION
    }
    wrong = [f'{name}: {lines}' for name, lines in long.items()]
    assert not wrong, report(f'Longer than {MAX_FUNCTION} lines:', wrong)


def test_code_lines() -> None:
    tree = ast.parse('def f(a,\n      b):\n    """One.\n\n    Two.'
                     '\n    """\n    return a\n')
    assert code_lines(tree.body[0]) == 3


# DESIGN, section 2, and where the names were before the rooms were cut anew.
PUBLIC = {
    '': ['PromptMMDistiller'],
    'nn': ['ConstantTables', 'ItemFeatures', 'LightGCNConv',
           'LightGCNStudent', 'MultimodalConv', 'MultimodalTeacher',
           'PromptTables', 'PromptedReduction', 'PropagatedFeatures',
           'SoftPrompt', 'TeacherOutput', 'UserItemGraph'],
    'models': ['LightGCN', 'LightGCNStudent', 'MF', 'ModelOutput',
               'MultimodalTeacher', 'NGCF', 'RankingModel', 'TeacherOutput',
               'VBPR'],
    'loss': ['BPRLoss', 'DisentangledListKD', 'PairwiseKD',
             'SampledSoftmaxLoss', 'ScaledCosineError'],
    'data': ['from_interactions', 'read_interactions'],
    'datasets': ['InteractionFolder', 'SyntheticMultimodal'],
    'evaluate': ['evaluate', 'evaluate_embeddings'],
    'train': ['DistillationTask', 'RankingObjective', 'RankingTask',
              'Settings', 'Task', 'fit', 'train'],
    'distill': ['DistillationTask', 'Settings'],
    'serve': ['Recommender', 'load_student', 'recommend', 'save_student'],
}
METHODS = ['from_data', 'fit', 'fit_teacher', 'fit_student', 'evaluate',
           'recommend', 'predict', 'embeddings', 'save', 'load', 'prepare',
           'teacher_loss', 'student_loss', 'forward', 'reset_parameters',
           'recommender']


@pytest.mark.parametrize('room', PUBLIC)
def test_public_names(room: str) -> None:
    module = importlib.import_module(f'{PACKAGE}.{room}'.rstrip('.'))
    for name in PUBLIC[room]:
        assert callable(getattr(module, name)), name


def test_one_class_under_several_names() -> None:
    from torch_promptmm import PromptMMDistiller, distill, models, nn, train
    assert nn.LightGCNStudent is models.LightGCNStudent is models.LightGCN
    assert nn.MultimodalTeacher is models.MultimodalTeacher
    assert nn.TeacherOutput is models.TeacherOutput is models.ModelOutput
    assert train.DistillationTask is distill.DistillationTask
    assert nn.PromptTables is distill.PromptTables
    for name in METHODS:
        assert callable(getattr(PromptMMDistiller, name)), name
    for module in (nn, train):
        with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
            module.Nothing  # noqa: B018


def test_the_distiller_is_a_module_and_nothing_else() -> None:
    import torch

    from torch_promptmm import PromptMMDistiller
    assert PromptMMDistiller.__bases__ == (torch.nn.Module, )


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text('utf-8').splitlines())
               for path in SOURCES}
    wrong = [f'{relative(path)}: {length}'
             for path, length in lengths.items() if length > MAX_LINES]
    assert not wrong, report(f'Longer than {MAX_LINES} lines:', wrong)


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
