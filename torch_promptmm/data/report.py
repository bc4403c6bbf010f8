from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from typing import Any

MAX_SHOWN = 80  # Characters of the input in an error.
logger = logging.getLogger('torch_promptmm')


class Report:
    r"""What was left out of, or repaired in, data on its way in.

    A graph carries it as :obj:`data.report`. Repairs of input that is not as
    it should be are warned of as well; what was asked for, such as a filter,
    is only noted (and logged at level ``INFO``).

    .. code-block:: python

        data = read_interactions('ratings.csv', min_rating=4)
        print(data.report)

    Args:
        notes (Iterable[Tuple[int, str]], optional): How often what happened.
            (default: :obj:`()`)
    """
    def __init__(self, notes: Iterable[tuple[int, str]] = ()) -> None:
        self.notes = [(int(count), str(text)) for count, text in notes]

    def note(self, count: int, text: str) -> None:
        r"""Keeps what was done on request, unless it never happened."""
        if count > 0:
            self.notes.append((int(count), text))
            logger.info('%d %s', count, text)

    def repair(self, count: int, text: str, stacklevel: int = 3) -> None:
        r"""Keeps and warns of a repair, unless it never happened."""
        if count > 0:
            self.notes.append((int(count), text))
            warnings.warn(f'{count} {text}', stacklevel=stacklevel)

    def count(self, text: str) -> int:
        r"""How often something happened whose description has ``text`` in
        it.
        """
        return sum(count for count, note in self.notes if text in note)

    def __add__(self, other: Report) -> Report:
        return Report([*self.notes, *other.notes])

    def __len__(self) -> int:
        return len(self.notes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Report) and self.notes == other.notes

    def __str__(self) -> str:
        lines = [f'{count:,} {text}' for count, text in self.notes]
        return '; '.join(lines) or 'nothing was left out or repaired'

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({len(self)})'


def report_of(data: Any) -> Report:
    r"""A copy of the report that a graph carries, empty if it has none."""
    report = getattr(data, 'report', None) if 'report' in data else None
    return Report(report.notes if isinstance(report, Report) else ())


def shorten(value: object) -> str:
    r"""A piece of the input as it is shown in an error."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN - 3] + '...'
