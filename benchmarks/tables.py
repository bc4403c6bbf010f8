"""The table of accuracy, of the runs that are done."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _markdown import markdown
from _seed_runs import METRICS
from rows import NO_PROMPT, ModelRow
from scipy.stats import ttest_rel

Record = dict[str, Any]
Recalls = dict[int, np.ndarray]  # Of each user, for a seed.

HEADER = ['model', 'seeds', 'validation R@20', 'test R@20', 'N@20', 'R@50',
          'N@50', 'cold R@20', 'cold-only R@20', 'against', 'difference', 'p',
          'epoch', 's per epoch', 'parameters']


class Results:
    """What is kept of the runs of some rows."""
    def __init__(self, rows: Sequence[Any], runs: Path,
                 seeds: Iterable[int]) -> None:
        self.records: dict[str, list[Record]] = {}
        self.recalls: dict[str, Recalls] = {}
        seeds = list(seeds)
        for row in rows:
            files = {s: runs / f'{row.key}.{s}.json' for s in seeds}
            files = {s: path for s, path in files.items() if path.exists()}
            if files:
                self.records[row.name] = [
                    json.loads(path.read_text()) for path in files.values()
                ]
                self.recalls[row.name] = {
                    s: np.load(path.with_suffix('.npy'))
                    for s, path in files.items()
                }
        self.rows = [row for row in rows if row.name in self.records]

    def cells(self, row: ModelRow) -> list[str]:
        """A line of the table."""
        got = self.records[row.name]
        return [
            row.name, str(len(got)), spread(got, 'val'),
            spread(got, 'recall@20'),
            *(mean(got, name) for name in METRICS[1:]), mean(got, 'cold'),
            mean(got, 'cold_only'), *self.compare(row.name, row.against),
            f"{np.median([x['best_epoch'] for x in got]):.0f}",
            f"{np.median([x['epoch_seconds'] for x in got]):.2f}",
            f"{got[0]['parameters']:,}"
        ]

    def compare(self, name: str, other: str) -> list[str]:
        """The difference to another row and its p-value, as cells."""
        seeds, gap, p = self.difference(name, other)
        if not seeds:
            return ['', '', '']
        return [f'{other} ({seeds} seeds)', f'{gap:+.4f}',
                '' if p is None else f'{p:.2g}']

    def difference(self, name: str,
                   other: str) -> tuple[int, float, float | None]:
        """The number of seeds that two rows share, their difference over
        these, and the p-value of a paired test over users of the
        seed-averaged difference."""
        mine, its = self.recalls[name], self.recalls.get(other, {})
        seeds = sorted(mine.keys() & its.keys())
        if not seeds:
            return 0, 0.0, None
        a, b = [[x[s] for s in seeds] for x in (mine, its)]
        gap = float(np.mean([x.mean() for x in a]) -
                    np.mean([x.mean() for x in b]))
        if len({x.shape for x in a + b}) > 1:  # A planted set has its own.
            return len(seeds), gap, None
        a_mean, b_mean = np.mean(a, axis=0), np.mean(b, axis=0)
        if np.array_equal(a_mean, b_mean):
            return len(seeds), gap, 1.0
        return len(seeds), gap, float(ttest_rel(a_mean, b_mean).pvalue)

    def notes(self) -> Iterator[tuple[str, list[str]]]:
        """What stands below the table: a heading and its lines."""
        yield ("Norm of the prompt's part over that of the features' own "
               'part after stage 1', [
                   f'{row.name}: {ratios(self.records[row.name])}'
                   for row in self.rows if row.model == 'teacher'
                   and row.build != NO_PROMPT
                   and 'prompt_ratio' in self.records[row.name][0]
               ])
        kept = {row.features: self.records[row.name][0].get('kept')
                for row in self.rows}
        for features, share in kept.items():
            if share:
                yield (f'Variance that {features} keep',
                       [f'{name} {value:.3f}' for name, value in
                        share.items()])
        yield ('Test R@20 of the teacher after stage 2 has tuned its prompt', [
            f"{row.name}: {mean(self.records[row.name], 'teacher_after')}"
            for row in self.rows if row.model == 'student'
            and 'tune_prompt' not in row.change and row.build != NO_PROMPT
        ])


def table(rows: list[ModelRow], runs: Path, seeds: Iterable[int]) -> str:
    """All runs that are done, in Markdown."""
    results = Results(rows, runs, seeds)
    text = markdown(HEADER, map(results.cells, results.rows))
    for head, lines in results.notes():
        if lines:
            text += f'\n\n{head}:\n\n' + '\n'.join(f'- {x}' for x in lines)
    return text


def mean(records: list[Record], name: str) -> str:
    values = [x[name] for x in records if name in x]
    return f'{np.mean(values):.4f}' if values else ''


def spread(records: list[Record], name: str) -> str:
    values = [x[name] for x in records]
    if len(values) == 1:
        return f'{values[0]:.4f}'
    return f'{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}'


def ratios(records: list[Record]) -> str:
    return ', '.join(
        f"{name} {np.mean([x['prompt_ratio'][name] for x in records]):.2f}"
        for name in records[0]['prompt_ratio'])


def holm(values: dict[str, float]) -> dict[str, float]:
    """Holm's correction of several p-values."""
    out, largest = {}, 0.0
    for number, (name, p) in enumerate(sorted(values.items(),
                                              key=lambda pair: pair[1])):
        largest = max(largest, min(1.0, p * (len(values) - number)))
        out[name] = largest
    return out
