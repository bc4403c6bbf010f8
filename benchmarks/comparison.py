"""The rows of a table beside one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from _markdown import markdown
from study import StudyRow, failures
from tables import Results, holm


class Comparison:
    """The rows of a table beside one of them, the reference.

    Args:
        rows: All rows.
        runs: Where their runs are.
        seeds: Their seeds.
        against: The name of the reference (default, or where it has no run:
            the student that is best on validation, else the best row there).
    """
    def __init__(self, rows: Sequence[StudyRow], runs: Path,
                 seeds: Iterable[int], against: str | None = None) -> None:
        self.results = Results(rows, runs, seeds)
        self.records = self.results.records
        self.rows = {row.name: row for row in self.results.rows}
        students = [x for x, row in self.rows.items()
                    if row.kind == 'student']
        self.reference = against if against in self.rows else max(
            students or self.rows, key=self.validation, default='')
        self.gaps = {name: self.results.difference(self.reference, name)
                     for name in self.rows if name != self.reference}
        self.corrected = holm({name: p for name, (_, _, p)
                               in self.gaps.items() if p is not None})

    def validation(self, name: str) -> float:
        return float(np.mean([x['val'] for x in self.records[name]]))

    def test(self, name: str) -> float:
        return float(np.mean([x['recall@20'] for x in self.records[name]]))

    def gap_cells(self, name: str) -> list[str]:
        """What the reference has more than a row, and the p-value."""
        seeds, gap, _ = self.gaps.get(name, (0, 0.0, None))
        p = self.corrected.get(name)
        return [f'{gap:+.4f}' if seeds else '',
                '' if p is None else '< 1e-99' if p < 1e-99 else f'{p:.2g}']


def compared(header: Sequence[str],
             cells: Callable[[Comparison, str], list[str]],
             rows: Sequence[StudyRow], runs: Path, seeds: Iterable[int],
             against: str | None = None) -> tuple[str, Comparison]:
    """All runs that are done, in Markdown, and what failed. In the header
    ``{}`` is the name of the reference."""
    seeds = list(seeds)
    found = Comparison(rows, runs, seeds, against)
    failed = failures(rows, runs, seeds)
    lines = []
    for row in rows:
        if row.name in found.rows:
            lines.append(cells(found, row.name))
        elif row.name in failed:
            lines.append([row.name, '0', f'failed: {failed[row.name]}',
                          *[''] * (len(header) - 3)])
    text = markdown([x.format(found.reference) for x in header], lines)
    for name, message in failed.items():
        if name in found.rows:
            text += f'\n\n{name}: a seed failed: {message}'
    return text, found
