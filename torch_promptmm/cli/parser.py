r"""What the commands have in common: parsers, tables, ids, output."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from torch_promptmm.files import atomic_path
from torch_promptmm.ids import IdMap

try:
    from docstring_parser import parse as _  # noqa: F401, the help needs it.
    from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace
except ImportError as error:
    raise ImportError(f"The command line needs '{error.name}', which is not "
                      f"installed; run 'pip install torch_promptmm[cli]'"
                      ) from error

MARKUP = re.compile(r':\w+:`~?([^`<]*?)(?:\s*<[^`]*>)?`|``?([^`]+)``?')
# That of a docstring, before the one that the parser adds.
DEFAULT = re.compile(
    r'\s*\(default: [^()]*(?:\([^()]*\)[^()]*)*\)(?=.*\()', re.S)
#: Of `read_interactions`, what a command line can say.
TABLE = ('user', 'item', 'rating', 'time', 'min_rating', 'sep', 'encoding',
         'header', 'quote', 'decimal', 'time_unit', 'time_format', 'id_type')


class Help(DefaultHelpFormatter):
    r"""Help from docstrings, without their markup."""
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text

    def _expand_help(self, action: Any) -> str:
        text = super()._expand_help(action)
        text = MARKUP.sub(lambda x: x[1] or x[2], text).replace('\\', '')
        told = text.removesuffix(', default: null)')
        # Where it is no value, the docstring says what it comes from.
        return f'{told})' if told != text and '(default: ' in told and (
            '(default: None)' not in told) else DEFAULT.sub('', text)


def parse(name: str, command: Any, words: list[str]) -> Namespace:
    r"""Parses the words of a command; wrong ones end the process with 2."""
    about = inspect.cleandoc(command.__doc__)
    parser = ArgumentParser(
        prog=f'promptmm {name}', formatter_class=Help, print_config=None,
        usage=f'promptmm {name} {command.USAGE}',
        description=about, epilog=f'examples:\n{command.EXAMPLES}')
    parser.add_argument('--config', action='config',
                        help='A YAML file with any of these options.')
    command.add_arguments(parser)
    parser.add_argument('--json', action='store_true',
                        help='Print the result as JSON.')
    parser.add_argument('--debug', action='store_true',
                        help='Show where an error came from.')
    adapt = getattr(command, 'set_defaults', None)
    if adapt is not None:
        adapt(parser, parser.parse_args(words, defaults=False))
    return parser.parse_args(words)


def add_table(parser: ArgumentParser) -> None:
    r"""Adds a table of interactions, and how it is read."""
    from torch_promptmm.data import read_interactions
    parser.add_argument('table', type=str,
                        help='The interactions: CSV, TSV, Parquet, .inter.')
    add_from(parser, read_interactions, TABLE)


def add_from(parser: ArgumentParser, function: Any,
             names: tuple[str, ...]) -> None:
    r"""Adds some of a function's arguments, with its help and defaults."""
    skip: set[str | int] = {*inspect.signature(function).parameters}
    parser.add_function_arguments(function, skip=skip - {*names})


def read_table(args: Namespace, **kwargs: Any) -> Any:
    r"""Reads the table that :func:`add_table` has asked for."""
    from torch_promptmm.data import read_interactions
    given = {name: args[name] for name in TABLE}
    if not given['header']:  # Columns go by number.
        for name in ('user', 'item', 'rating', 'time'):
            if str(given[name]).isdecimal():
                given[name] = int(given[name])
    return read_interactions(args.table, **given, **kwargs)


def add_model(parser: ArgumentParser) -> None:
    r"""Adds a saved model."""
    parser.add_argument('model', type=str,
                        help='The directory of a saved model.')


def add_out(parser: ArgumentParser, text: str, required: bool) -> None:
    r"""Adds where to write."""
    parser.add_argument('--out', type=str, required=required, help=text)
    parser.add_argument('--force', action='store_true',
                        help='Replace what is there.')


def check_out(args: Namespace) -> Path:
    r"""Returns where to write, if nothing is there that may not be
    replaced."""
    path = Path(args.out)
    if (path.exists() or path.is_symlink()) and not args.force:
        raise ValueError(f"'--out' {args.out!r} exists; --force replaces it")
    return path


def ids_of(known: IdMap | None, texts: Iterable[str], size: int,
           what: str) -> list[Any]:
    r"""The ids that texts stand for: integers where the model's are, rows
    where it has none."""
    if known is not None and known.kind == 'str':
        out: list[Any] = list(texts)
    else:
        try:
            out = [int(text) for text in texts]
        except ValueError as error:
            raise ValueError(f'the {what}s of this model are integers '
                             f'({error})') from error
    ids: Any = range(size) if known is None else known
    lost = [x for x in out if x not in ids]
    if lost:
        raise ValueError(f'{len(lost)} unknown {what}s, such as {lost[0]!r}')
    return out


def read_lines(path: str) -> list[str]:
    r"""The lines of a file, or of the standard input (:obj:`"-"`), that are
    not empty."""
    text = sys.stdin.read() if path == '-' else Path(path).read_text('utf-8')
    return [line.strip() for line in text.splitlines() if line.strip()]


@contextmanager
def output(path: Path | None) -> Iterator[TextIO]:
    r"""Yields a file that is whole or not there, or standard output."""
    if path is None:
        yield sys.stdout
        return
    with atomic_path(path) as temporary:
        with open(temporary, 'w', encoding='utf-8', newline='') as file:
            yield file


def lines(result: dict[str, Any]) -> str:
    r"""A result as text, a line each."""
    flat: dict[str, Any] = {}
    for name, value in result.items():
        if isinstance(value, dict):
            flat.update({f'{name}.{k}': v for k, v in value.items()})
        else:
            flat[name] = value
    width = max(map(len, flat), default=0)
    return '\n'.join(
        f'{name:<{width}}  {value:.4f}' if isinstance(value, float) else
        f'{name:<{width}}  {value}' for name, value in flat.items())
