r"""Columns of interactions from text files, Parquet files and data frames."""

from __future__ import annotations

import codecs
import os
import os.path as osp
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .csv_scan import (
    BROKEN,
    diagnose,
    first_row,
    open_bytes,
    raise_broken,
    rows_of,
    shorten,
)
from .extras import import_extra

Column = str | int
PARQUET = ('.parquet', '.pq')
SEPARATORS = {'.csv': ',', '.tsv': '\t', '.inter': '\t', '.tab': '\t'}
PACKED = ('.gz', '.bz2', '.xz')
BOMS = {codecs.BOM_UTF16_LE: 'utf-16', codecs.BOM_UTF16_BE: 'utf-16'}


@dataclass
class Table:
    r"""Columns of one source, each a pyarrow array.

    Args:
        columns (Dict[str, Any]): One :class:`pyarrow.ChunkedArray` a role
            (``user``, ``item``, ``rating``, ``time``).
        names (Dict[str, str]): How the source calls them.
        where (str): How an error calls the source.
        is_text (bool): If everything in the source was text.
        locate (callable): From a role and a predicate on the text of a value
            to the place of the first such value.
    """
    columns: dict[str, Any]
    names: dict[str, str]
    where: str
    is_text: bool
    locate: Callable[[str, Callable[[str], bool]], str] = field(
        default=lambda role, wanted: '')


@dataclass
class TextFormat:
    r"""How a text file is to be taken apart.

    Args:
        sep (str, optional): The separator of fields; from the name of the
            file if :obj:`None`.
        encoding (str): The encoding.
        header (bool): If the first line names the columns.
        quote (str, optional): The character around quoted fields.
        decimal (str): The decimal point.
    """
    sep: str | None = None
    encoding: str = 'utf-8'
    header: bool = True
    quote: str | None = '"'
    decimal: str = '.'


def read_table(
    source: Any,
    wanted: dict[str, Column],
    text: TextFormat,
) -> Table:
    r"""Reads the wanted columns of a file or a data frame.

    Args:
        source (str or pandas.DataFrame): The file, or what it would hold.
        wanted (Dict[str, str or int]): The column of each role.
        text (TextFormat): How to read text files.
    """
    if hasattr(source, 'columns') and hasattr(source, '__getitem__'):
        return _read_frame(source, wanted)
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"'source' must be the path of a file or a pandas "
                        f"DataFrame (got {type(source).__name__})")
    path = osp.expanduser(os.fspath(source))
    if not osp.exists(path):
        raise FileNotFoundError(f"'source' names {path}, which does not "
                                f"exist")
    if osp.isdir(path) or path.endswith(PARQUET):
        return _read_parquet(path, wanted)
    if osp.getsize(path) == 0:
        raise ValueError(f'{path}: the file is empty')
    return _read_text(path, wanted, text)


def separator_of(path: str) -> str | None:
    r"""The separator that the name of a file stands for."""
    base = path
    for suffix in PACKED:
        base = base.removesuffix(suffix)
    return SEPARATORS.get(osp.splitext(base)[1])


# Private ######################################################################


def _find(names: list[str], column: Column, role: str, where: str) -> str:
    r"""The full name of a column; ``user_id`` finds ``user_id:token``."""
    if isinstance(column, int) and not isinstance(column, bool):
        if not 0 <= column < len(names):
            raise ValueError(f"'{role}' is column {column}, but {where} has "
                             f"{len(names)} columns")
        return names[column]
    found = [x for x in names if x == column]
    found = found or [x for x in names if x.partition(':')[0] == column]
    if not found:
        raise ValueError(f"'{role}' names the column {column!r}, which "
                         f"{where} does not have; it has {names}")
    if len(found) > 1:
        raise ValueError(f'{where} has the column {column!r} '
                         f'{len(found)} times; rename one of them')
    return found[0]


def _read_frame(frame: Any, wanted: dict[str, Column]) -> Table:
    pa = import_extra('pyarrow', 'tables', 'Reading a DataFrame')
    import_extra('pandas', 'tables', 'Reading a DataFrame')
    names = [str(x) for x in frame.columns]
    columns = {}
    for role, column in wanted.items():
        name = _find(names, column, role, 'the DataFrame')
        series = frame.iloc[:, names.index(name)]
        try:
            array = pa.array(series, from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError,
                OverflowError):
            array = series  # Mixed types, which pandas can factorise still.
        columns[role] = (array if array is series
                         or isinstance(array, pa.ChunkedArray)
                         else pa.chunked_array([array]))
    found = {k: _find(names, v, k, '') for k, v in wanted.items()}

    def locate(role: str, test: Callable[[str], bool]) -> str:
        values = frame.iloc[:, names.index(found[role])]
        for i, value in enumerate(values.astype(str)):
            if test(value):
                return f'the DataFrame, row {i} (got {shorten(value)})'
        return 'the DataFrame'

    return Table(columns, found, 'the DataFrame', False, locate)


def _read_parquet(path: str, wanted: dict[str, Column]) -> Table:
    pa = import_extra('pyarrow', 'tables', 'Reading Parquet')
    dataset = import_extra('pyarrow.dataset', 'tables', 'Reading Parquet')
    try:
        parts = dataset.dataset(path, format='parquet')
        names = list(parts.schema.names)
        found = {k: _find(names, v, k, path) for k, v in wanted.items()}
        table = parts.to_table(columns=list(dict.fromkeys(found.values())))
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        raise ValueError(f'{path}: no whole Parquet file ({error}); fetch or '
                         f'write it again') from error

    def locate(role: str, test: Callable[[str], bool]) -> str:
        for i, value in enumerate(table[found[role]].to_pylist()):
            if test(str(value)):
                return f'{path}, row {i} (got {shorten(value)})'
        return path

    columns = {role: table[name] for role, name in found.items()}
    return Table(columns, found, path, False, locate)


def _read_text(path: str, wanted: dict[str, Column], text: TextFormat) -> Table:
    pa = import_extra('pyarrow', 'tables', 'Reading a table')
    csv = import_extra('pyarrow.csv', 'tables', 'Reading a table')
    sep = text.sep or separator_of(path)
    encoding = _encoding(path, text.encoding)
    if sep is None:
        raise ValueError(f"'sep' must be given for {path}, whose name does "
                         f"not tell the separator (known are "
                         f"{', '.join(SEPARATORS)})")
    if len(sep) != 1:
        raise ValueError(f"'sep' must be one character (got {sep!r}); "
                         f"replace it in the file first")

    line, head = next(rows_of(path, sep, encoding, text.quote), (0, []))
    if not head:
        raise ValueError(f'{path}: there is nothing but empty lines')
    head = [x.strip() for x in head]
    if not text.header:
        head = [f'f{i}' for i in range(len(head))]
    found = {k: _find(head, v, k, path) for k, v in wanted.items()}

    # Ids stay text, whatever they look like.
    number = _number_type(path, sep, encoding, text, head, found)
    types = {}
    for role, name in found.items():
        is_id = role in ('user', 'item')
        types[name] = pa.string() if is_id else number[role]
    convert = csv.ConvertOptions(
        column_types=types, include_columns=list(types),
        strings_can_be_null=False, decimal_point=text.decimal)

    def read(newlines: bool) -> Any:
        raw: Any = path
        if path.endswith('.xz'):
            raw = open_bytes(path)
        return csv.read_csv(
            raw,
            csv.ReadOptions(column_names=head, encoding=encoding,
                            skip_rows=line if text.header else 0),
            csv.ParseOptions(delimiter=sep, newlines_in_values=newlines,
                             quote_char=text.quote or False),
            convert)

    try:
        try:
            table = read(newlines=False)
        except pa.ArrowInvalid:  # Maybe a quoted line break.
            table = read(newlines=True)
    except (pa.ArrowException, *BROKEN, UnicodeError) as error:
        _explain(path, sep, encoding, text, head, found, error)

    def locate(role: str, test: Callable[[str], bool]) -> str:
        column = head.index(found[role])
        hit = first_row(path, sep, encoding, lambda row: test(row[column]),
                        text.header, text.quote)
        if hit is None:
            return path
        return f'{path}, line {hit[0]} (got {shorten(hit[1][column])})'

    columns = {role: table[name] for role, name in found.items()}
    return Table(columns, found, path, True, locate)


def _encoding(path: str, encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
    except LookupError as error:
        raise ValueError(f"'encoding' names {encoding!r}, which Python does "
                         f"not know") from error
    try:
        with open_bytes(path) as f:
            start = f.read(4)
    except BROKEN as error:
        raise_broken(path, error)
    if start.startswith(codecs.BOM_UTF8) and name == 'utf-8':
        return 'utf-8-sig'
    return BOMS.get(start[:2], name) if name.startswith('utf') else name


def _number_type(
    path: str,
    sep: str,
    encoding: str,
    text: TextFormat,
    head: list[str],
    found: dict[str, str],
) -> dict[str, Any]:
    r"""Ratings are numbers; times are if the first one is."""
    pa = import_extra('pyarrow', 'tables', 'Reading a table')
    out = {'rating': pa.float64(), 'time': pa.float64()}
    if 'time' in found:
        column = head.index(found['time'])
        first = first_row(
            path, sep, encoding,
            lambda row: len(row) > column and not _is_missing(row[column]),
            text.header, text.quote)
        if first is not None and not is_number(first[1][column]):
            out['time'] = pa.string()
    return out


def is_number(value: str) -> bool:
    r"""If a text is a number."""
    try:
        float(value)
    except ValueError:
        return False
    return '_' not in value


def _is_missing(value: str) -> bool:
    return value.strip().lower() in (
        '', 'na', 'n/a', 'nan', 'null', 'none', '#n/a', '-nan')


def _explain(
    path: str,
    sep: str,
    encoding: str,
    text: TextFormat,
    head: list[str],
    found: dict[str, str],
    error: BaseException,
) -> None:
    r"""Raises the error of a text file with its line."""
    if isinstance(error, UnicodeError) or 'UTF8' in str(error):
        error = ValueError(str(error))
    for role in ('rating', 'time'):
        if role not in found:
            continue
        column = head.index(found[role])

        def bad(row: list[str], column: int = column) -> bool:
            return (len(row) == len(head) and not _is_missing(row[column])
                    and not is_number(
                        row[column].replace(text.decimal, '.')))

        if 'conversion error' in str(error):
            hit = first_row(path, sep, encoding, bad, text.header,
                            text.quote)
            if hit is not None:
                value = hit[1][column]
                hint = ''
                if ',' in value and text.decimal == '.':
                    hint = " (for a decimal comma pass decimal=',')"
                raise ValueError(
                    f'{path}, line {hit[0]}: the {role} {shorten(value)} is '
                    f'no number{hint}; correct it, or leave it empty to have '
                    f'the row left out') from error
    diagnose(path, sep, encoding, error, text.quote)
