r"""Columns of interactions from text files, Parquet files and data frames."""

from __future__ import annotations

import codecs
import os
import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch_promptmm.data.extras import csv, datasets, pa
from torch_promptmm.data.packed import (
    BROKEN,
    OPENERS,
    open_packed,
    raise_broken,
)

Column = str | int
PARQUET = ('.parquet', '.pq')
SEPARATORS = {'.csv': ',', '.tsv': '\t', '.inter': '\t', '.tab': '\t'}
BOMS = {
    codecs.BOM_UTF8: 'utf-8',
    codecs.BOM_UTF16_LE: 'utf-16-le',
    codecs.BOM_UTF16_BE: 'utf-16-be',
}
WITHOUT_BOM = {'utf-8-sig': 'utf-8', 'utf-16': 'utf-16-le'}
MISSING = ('', 'na', 'n/a', 'nan', 'null', 'none', '#n/a', '-nan')
TEXTS = ('user', 'item', 'time')  # Roles; others are numbers.
BLOCK_SIZE = 1 << 22  # Bytes; no row may be longer.
END = '\x1a'  # The user of the row that is read after the last one.


@dataclass
class Frame:
    r"""The columns of one source."""
    table: Any  # Of pyarrow, a column for each role.
    where: str  # How an error calls the source.
    is_text: bool = False  # If everything in the source was text.
    first: int = 0  # The number of the first row.

    def place(self, row: int) -> str:
        r"""How an error calls a row. In a text file the first row of all, be
        it the header, is row 1; empty lines do not count.
        """
        return f'{self.where}, row {row + self.first}'


def read_frame(source: Any, wanted: dict[str, Column], **text: Any) -> Frame:
    r"""Reads the wanted columns, by role, of a file, a pandas data frame, or
    anything with :meth:`__arrow_c_stream__`; ``text`` is how to take a text
    file apart, see :class:`_TextFile`.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"'source' names {path}, which does not "
                                    f"exist")
        if path.is_dir() or path.suffix in PARQUET:
            return _read_parquet(path, wanted)
        return _TextFile(path, **text).read(wanted)
    where = f'the {type(source).__name__}'
    if hasattr(source, 'iloc'):  # Columns that nobody wants may hold anything.
        places = _find([str(x) for x in source.columns], wanted, where)
        part = source.iloc[:, list(places.values())]
        try:
            return Frame(pa.Table.from_pandas(
                part.set_axis(list(places), axis=1), preserve_index=False),
                where)
        except (pa.ArrowException, OverflowError) as error:
            raise TypeError(
                f'{where}: a column holds values of several kinds, or of one '
                f'that is no column of Arrow ({error}); ids must be all '
                f'strings or all integers') from error
    if not hasattr(source, '__arrow_c_stream__'):
        raise TypeError(f"'source' must be the path of a file, a DataFrame, "
                        f"or have __arrow_c_stream__ (got "
                        f"{type(source).__name__})")
    table = pa.RecordBatchReader.from_stream(source).read_all()
    places = _find(table.column_names, wanted, where)
    return Frame(table.select(list(places.values())).rename_columns(
        list(places)), where)


def _find(names: list[str], wanted: dict[str, Column],
          where: str) -> dict[str, int]:
    r"""The places of columns; ``user_id`` finds ``user_id:token``."""
    places = {}
    for role, column in wanted.items():
        if isinstance(column, int) and not isinstance(column, bool):
            if not 0 <= column < len(names):
                raise ValueError(f"'{role}' is column {column}, but {where} "
                                 f"has {len(names)} columns")
            places[role] = column
            continue
        found = [i for i, x in enumerate(names) if x == column] or [
            i for i, x in enumerate(names) if x.partition(':')[0] == column]
        if not found:
            raise ValueError(f"'{role}' names the column {column!r}, which "
                             f"{where} does not have; it has {names}")
        if len(found) > 1:
            raise ValueError(f'{where} has the column {column!r} '
                             f'{len(found)} times; rename one of them')
        places[role] = found[0]
    return places


def _read_parquet(path: Path, wanted: dict[str, Column]) -> Frame:
    try:
        parts = datasets.dataset(path, format='parquet')
        names = parts.schema.names
        places = _find(names, wanted, str(path))
        table = parts.to_table(
            columns=list({names[at]: None for at in places.values()}))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f'{path}: no whole Parquet file ({error}); fetch or '
                         f'write it again') from error
    return Frame(pa.table({role: table[names[at]]
                           for role, at in places.items()}), str(path))


class _WithEnd:
    r"""A file of bytes without its byte order mark and with one row more. A
    quote that is never closed swallows that row, which is how it is noticed:
    Arrow takes such a field, which may be all the rest of the file, as if it
    were whole.
    """
    closed = False

    def __init__(self, path: Path, encoding: str, end: str) -> None:
        self.file = open_packed(path)
        self.start = self.file.read(3)
        for mark, name in BOMS.items():
            if self.start.startswith(mark) and encoding.startswith('utf'):
                self.start, encoding = self.start[len(mark):], name
                break
        self.encoding = WITHOUT_BOM.get(encoding, encoding)
        self.end = end.encode(self.encoding)

    def read(self, size: int = -1) -> bytes:
        r"""The next bytes, none after the end."""
        out = self.start + self.file.read(size - len(self.start))
        self.start = b''
        if not out:
            out, self.end = self.end, b''
        return out

    def close(self) -> None:
        r"""Closes the file."""
        self.file.close()
        self.closed = True


@dataclass
class _TextFile:
    r"""A text file of fields."""
    path: Path
    sep: str | None = None  # That of the name of the file.
    encoding: str = 'utf-8'
    header: bool = True
    quote: str | None = '"'
    decimal: str = '.'

    def __post_init__(self) -> None:
        plain = (self.path.with_suffix('') if self.path.suffix in OPENERS
                 else self.path)
        self.sep = self.sep or SEPARATORS.get(plain.suffix)
        if self.sep is None:
            raise ValueError(f"'sep' must be given for {self.path}, whose "
                             f"name does not tell the separator (known are "
                             f"{', '.join(SEPARATORS)})")
        if len(self.sep) != 1:
            raise ValueError(f"'sep' must be one character (got "
                             f"{self.sep!r}); replace it in the file first")
        try:
            self.encoding = codecs.lookup(self.encoding).name
        except LookupError as error:
            raise ValueError(f"'encoding' names {self.encoding!r}, which "
                             f"Python does not know") from error
        if self.path.stat().st_size == 0:
            raise ValueError(f'{self.path}: the file is empty')

    def read(self, wanted: dict[str, Column]) -> Frame:
        r"""The wanted columns."""
        try:
            with ExitStack() as files:
                table = self._read(wanted, files)
        except (pa.ArrowException, UnicodeError) as error:
            hint = 'was the file cut off, or is a quote never closed?'
            if re.search("to double: invalid value '.*,", str(error)):
                hint = "for a decimal comma pass decimal=','"
            elif 'to double' in str(error):
                hint = ('correct the number, or leave it empty to have the '
                        'row left out')
            elif isinstance(error, UnicodeError) or 'UTF8' in str(error):
                hint = ("name its encoding, such as encoding='latin-1' (a "
                        'file in two encodings has to be repaired first)')
            raise ValueError(f'{self.path}: {error}; {hint}') from error
        except BROKEN as error:
            raise_broken(self.path, error)
        return Frame(table, str(self.path), True, 1 + self.header)

    def _read(self, wanted: dict[str, Column], files: ExitStack) -> Any:
        names = self._arrow(csv.open_csv, files).schema.names
        places = _find([x.strip() for x in names], wanted, str(self.path))
        found = {role: names[at] for role, at in places.items()}
        for name in found.values():
            if names.count(name) > 1:
                raise ValueError(f'{self.path} has the column {name!r} '
                                 f'{names.count(name)} times; rename one of '
                                 f'them')
        # Ids stay text, whatever they look like.
        types = {name: pa.string() if role in TEXTS else pa.float64()
                 for role, name in found.items()}
        if 'time' in found and self._has_numbers(found['time'], files):
            types[found['time']] = pa.float64()

        end = ''
        if self.quote:
            row = [''] * len(names)
            row[places['user']] = END
            end = '\n' + str(self.sep).join(row) + '\n'
        table = self._arrow(csv.read_csv, files, types, end)
        table = pa.table({role: table[name] for role, name in found.items()})
        if not end:
            return table
        if table['user'][-1].as_py() != END:
            raise ValueError(f'{self.path}: a quote in the last row, row '
                             f'{table.num_rows + self.header}, is never '
                             f'closed; was the file cut off?')
        return table.slice(0, table.num_rows - 1)

    def _has_numbers(self, name: str, files: ExitStack) -> bool:
        r"""If the first value of a column is a number."""
        for batch in self._arrow(csv.open_csv, files, {name: pa.string()}):
            for value in batch[name].to_pylist():
                if value.strip().lower() not in MISSING:
                    return is_number(value.replace(self.decimal, '.'))
        return True

    def _arrow(self, reader: Any, files: ExitStack,
               types: dict[str, Any] | None = None, end: str = '') -> Any:
        r"""Runs one of Arrow's readers over the file and a last row."""
        file = _WithEnd(self.path, self.encoding, end)
        files.callback(file.close)
        # Without `newlines_in_values` Arrow drops what follows an open quote
        # in a block without a word; with threads it does not name the row.
        return reader(
            file,
            csv.ReadOptions(encoding=file.encoding, block_size=BLOCK_SIZE,
                            use_threads=False,
                            autogenerate_column_names=not self.header),
            csv.ParseOptions(delimiter=self.sep,
                             quote_char=self.quote or False,
                             newlines_in_values=bool(self.quote)),
            csv.ConvertOptions(column_types=types, include_columns=types,
                               strings_can_be_null=False,
                               decimal_point=self.decimal))


def is_number(value: str) -> bool:
    r"""If a text is a number."""
    try:
        float(value)
    except ValueError:
        return False
    return '_' not in value
