r"""McAuley's raw files, read record by record."""

from __future__ import annotations

import ast
import json
import re
from array import array
from collections.abc import Container, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from torch_promptmm.data.ids import IdMap
from torch_promptmm.data.packed import BROKEN, open_packed, raise_broken
from torch_promptmm.data.report import Report, shorten

MAX_LINE = 1 << 24
ASIN = re.compile(rb"""['"]asin['"]\s*:\s*['"]([^'"\\]{1,64})['"]""")
ASIN_BYTES = 10
IMAGE_CHANNELS = 4096
RECORDS_AT_A_TIME = 256


def lines_of(path: str) -> Iterator[tuple[int, bytes]]:
    r"""The lines of a file that are not empty, unpacked if it is a
    :obj:`.gz`, with their numbers from 1."""
    with open_packed(Path(path)) as f:
        for number in count(1):
            try:
                line = f.readline(MAX_LINE)
            except BROKEN as error:
                raise_broken(f'{path}, after line {number - 1}', error)
            if not line:
                return
            if len(line) == MAX_LINE:
                raise ValueError(f'{path}, line {number}: longer than '
                                 f'{MAX_LINE:,} bytes, which no record is')
            if number == 1:
                line = line.removeprefix(b'\xef\xbb\xbf')
            line = line.strip()
            if line:
                yield number, line


def parse_record(line: bytes, where: str, text: str = 'strict') -> dict:
    r"""One record: JSON or, as in the older files, a Python literal. Literals
    are parsed, never evaluated. :obj:`text` is what to do with bytes that are
    not UTF-8, as for :meth:`bytes.decode`."""
    try:
        content = line.decode('utf-8', text)
    except UnicodeDecodeError as error:
        raise ValueError(f'{where}: not UTF-8 ({error.reason} at byte '
                         f'{error.start + 1}); convert the file') from error
    try:
        out = json.loads(content)
    except (ValueError, RecursionError):
        try:
            out = ast.literal_eval(content)
        except (ValueError, SyntaxError, TypeError, MemoryError,
                RecursionError) as error:
            raise ValueError(f'{where}: neither JSON nor a Python literal; '
                             f'is the record cut off? (got '
                             f'{shorten(content)})') from error
    if not isinstance(out, dict):
        raise ValueError(f'{where}: a record must be an object (got '
                         f'{type(out).__name__})')
    return out


def read_reviews(path: str) -> tuple[list[Any], list[IdMap]]:
    r"""The reviews of a file like :obj:`reviews_Electronics_5.json.gz` as
    numbered rows: users, items, ratings, times (NaN and ``-1`` where
    missing), and the ids of both."""
    ids: list[dict[str, int]] = [{}, {}]
    rows: list[array[Any]] = [array('q'), array('q'), array('d'), array('d')]
    for number, line in lines_of(path):
        where = f'{path}, line {number}'
        record = parse_record(line, where)
        for end, key in enumerate(('reviewerID', 'asin')):
            value = record.get(key)
            if value is None or value == '':
                rows[end].append(-1)
            elif not isinstance(value, str):
                raise ValueError(f"{where}: '{key}' must be text (got "
                                 f"{shorten(value)})")
            else:
                rows[end].append(
                    ids[end].setdefault(value.strip(), len(ids[end])))
        for column, key in ((2, 'overall'), (3, 'unixReviewTime')):
            value = record.get(key)
            try:
                rows[column].append(float('nan') if value is None
                                    else float(value))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{where}: '{key}' must be a number (got "
                                 f"{shorten(value)})") from error
    if not rows[0]:
        raise ValueError(f'{path}: holds no review')
    out = [np.frombuffer(x, x.typecode) for x in rows]
    return out, [IdMap(x) for x in ids]


def read_texts(path: str, wanted: Container[str],
               report: Report) -> dict[str, str]:
    r"""Title, brand, categories and description of the wanted items, as one
    text each, from a file like :obj:`meta_Electronics.json.gz`; items without
    any are left out."""
    out: dict[str, str] = {}
    seen: set[str] = set()
    repeated = undecodable = 0
    for number, line in lines_of(path):
        found = ASIN.search(line)
        if found and found[1].decode('latin1') not in wanted:
            continue  # Most are, and parsing a literal takes its time.
        record = parse_record(line, f'{path}, line {number}', 'replace')
        asin = record.get('asin')
        if not isinstance(asin, str) or asin not in wanted:
            continue
        if asin in seen:
            repeated += 1
            continue
        seen.add(asin)
        text = item_text(record)
        undecodable += '\ufffd' in text
        if text:
            out[asin] = text
    report.repair(repeated, f'records of {path} repeat an item and were left '
                            f'out')
    report.repair(undecodable, f'texts of {path} had bytes that are not UTF-8, '
                               f'which were replaced')
    return out


def item_text(record: dict[str, Any]) -> str:
    r"""What the paper encodes of an item, from a record of 2014 or of 2018:
    title, description, categories and brand; missing ones are left out."""
    parts: list[str] = []
    for key in ('title', 'brand', 'categories', 'category', 'description'):
        _gather(record.get(key), parts)
    return ' '.join(' '.join(parts).split())


def read_images(path: str, items: IdMap, out: np.ndarray | None,
                report: Report) -> np.ndarray:
    r"""Copies the features of the wanted items out of a file of records, 10
    bytes of id and 4,096 floats each, of which only a few are in memory.

    They go into :obj:`out` :math:`[I, 4096]`, such as a memory map, or are
    only looked for. Returns which items were found :math:`[I]`."""
    kind = np.dtype([('asin', f'S{ASIN_BYTES}'),
                     ('x', '<f4', IMAGE_CHANNELS)])
    size = Path(path).stat().st_size
    if size % kind.itemsize:
        raise ValueError(
            f'{path}: cut off in record {size // kind.itemsize + 1}, at byte '
            f'{size:,} (a record has {kind.itemsize:,} bytes); fetch it again')
    if size == 0:
        raise ValueError(f'{path}: the file is empty')
    found = np.zeros(len(items), dtype=bool)
    repeated = broken = 0
    with open(path, 'rb') as f:
        while len(block := np.fromfile(f, kind, RECORDS_AT_A_TIME)):
            asins = [x.decode('latin1').strip() for x in block['asin'].tolist()]
            rows = items.encode(asins, unknown='mark').numpy()
            for at in np.flatnonzero(rows >= 0):
                row = rows[at]
                if found[row]:
                    repeated += 1
                elif not np.isfinite(block['x'][at]).all():
                    broken += 1
                else:
                    found[row] = True
                    if out is not None:
                        out[row] = block['x'][at]
    if out is not None:
        report.repair(repeated, f'records of {path} repeat an item and were '
                                f'left out')
        report.repair(broken, f'records of {path} have NaN or infinite '
                              f'entries and count as missing')
    return found


def _gather(value: Any, out: list[str], depth: int = 0) -> None:
    if isinstance(value, str):
        out.append(value)
    elif isinstance(value, (list, tuple)) and depth < 4:
        for part in value:
            _gather(part, out, depth + 1)
