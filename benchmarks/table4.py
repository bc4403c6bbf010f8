"""Table 4 of the paper: every system, the teacher and the student, side by
side under one protocol.

    python benchmarks/table4.py --datasets FOLDER FOLDER --seeds 5
    python benchmarks/table4.py --datasets small --quick
    python benchmarks/table4.py --datasets FOLDER --tuned tune.jsonl

Repeats: Recall and NDCG at 20 and 50 of all systems on several datasets, and
the p-value against the best other one. Beside the paper's columns there are
the spread over seeds, the number of parameters and the seconds of an epoch
and up to the best one. p-values are of Recall@20, paired over users, of the
difference of means over seeds, with Holm's correction over the table; every
system is compared, not the best one alone. Epochs are chosen on validation,
test is read once.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from _markdown import markdown
from _seed_runs import METRICS
from study import (
    TEACHER,
    StudyRow,
    dataset_name,
    distilled_rows,
    failures,
    finish,
    options,
    report,
    run_all,
    runs_of,
    system_row,
)
from systems import SYSTEMS, resolve
from tables import Results, holm, spread
from tune import best_of

HEADER = ['system', 'seeds', 'validation R@20', 'R@20', 'N@20', 'R@50',
          'N@50', 'parameters', 's per epoch', 'epoch', 's to the best',
          'R@20 of {}', 'p (Holm)']


def rows_of(args: argparse.Namespace, dataset: str) -> list[StudyRow]:
    """Systems in the order of the paper, then teachers and students."""
    tuned = best_of(args.tuned, dataset_name(dataset))
    systems, missing = resolve(args.systems)
    print('\n'.join(missing), flush=True)
    rows = [system_row(system, args, tuned) for system in systems]
    return rows + distilled_rows(args.students, args, tuned)


class Comparison:
    """The rows of a table beside one of them, the reference.

    Args:
        rows: All rows.
        runs: Where their runs are.
        seeds: Their seeds.
        against: The name of the reference (default: the student that is best
            on validation, else the best row on validation).
    """
    def __init__(self, rows: Sequence[StudyRow], runs: Path,
                 seeds: Iterable[int], against: str | None = None) -> None:
        self.results = Results(rows, runs, seeds)
        self.records = self.results.records
        self.rows = {row.name: row for row in self.results.rows}
        if against is not None and against not in self.rows:
            raise SystemExit(f'No row with a run is called {against!r}; '
                             f'there are {", ".join(self.rows)}')
        students = [x for x, row in self.rows.items()
                    if row.kind == 'student']
        self.reference = against or max(students or self.rows,
                                        key=self.validation, default='')
        self.gaps = {name: self.results.difference(self.reference, name)
                     for name in self.rows if name != self.reference}
        self.corrected = holm({name: p for name, (_, _, p)
                               in self.gaps.items() if p is not None})

    def validation(self, name: str) -> float:
        return float(np.mean([x['val'] for x in self.records[name]]))

    def test(self, name: str) -> float:
        return float(np.mean([x['recall@20'] for x in self.records[name]]))

    def cells(self, name: str) -> list[str]:
        got = self.records[name]
        seeds, gap, _ = self.gaps.get(name, (0, 0.0, None))
        p = self.corrected.get(name)
        seconds = np.mean([x['best_seconds'] + x.get('teacher_seconds', 0.0)
                           for x in got])
        return [
            name, str(len(got)), spread(got, 'val'),
            *(spread(got, metric) for metric in METRICS),
            f"{got[0]['parameters']:,}",
            f"{np.median([x['epoch_seconds'] for x in got]):.3g}",
            f"{np.median([x['best_epoch'] for x in got]):.0f}",
            f'{seconds:.3g}', f'{gap:+.4f}' if seeds else '',
            '' if p is None else f'{p:.2g}',
        ]

    def best_other(self) -> str:
        """A line on the best row beside the reference and the teachers that
        it may be a student of; the best on test, which is the hardest."""
        others = [x for x in self.gaps if self.rows[x].kind == 'system']
        if not others:
            return ''
        best = max(others, key=self.test)
        p = self.corrected.get(best)
        return (f'The best other system is {best} (R@20 '
                f'{self.test(best):.4f}): {self.reference} '
                f'{self.gaps[best][1]:+.4f}' +
                ('' if p is None else f', p = {p:.2g}') + '.')


def table(rows: Sequence[StudyRow], runs: Path, seeds: Iterable[int],
          against: str | None = None) -> str:
    """All runs that are done, in Markdown, and what failed."""
    seeds = list(seeds)
    found = Comparison(rows, runs, seeds, against)
    failed = failures(rows, runs, seeds)
    lines = []
    for row in rows:
        if row.name in found.rows:
            lines.append(found.cells(row.name))
        elif row.name in failed:
            lines.append([row.name, '0', f'failed: {failed[row.name]}',
                          *[''] * (len(HEADER) - 3)])
    header = [x.format(found.reference) + ' less it' if '{}' in x else x
              for x in HEADER]
    notes = [found.best_other()] + [
        f'{name}: a seed failed: {message}'
        for name, message in failed.items() if name in found.rows]
    if any(row.kind == 'student' for row in found.rows.values()):
        notes.append('The seconds to the best epoch of a student are with '
                     'those of its teachers.')
    return '\n\n'.join([markdown(header, lines), *filter(None, notes)])


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    add = parser.add_argument
    add('--systems', nargs='*', metavar='NAME',
        help=f'(default: all: {", ".join(SYSTEMS)})')
    add('--students', nargs='*', default=['default'],
        metavar='SETTING[:SYSTEM+SYSTEM]',
        help='settings of students, of teachers of our own or of systems\n'
        '(default: default)')
    add('--against', help=f'the row to compare with, such as "{TEACHER}"\n'
        '(default: the best student on validation)')
    add('--tuned', nargs='+', default=[], metavar='FILE',
        help='traces of tune.py; the best values in them are used')
    args = finish(parser.parse_args(argv))
    for path in args.tuned:
        if not Path(path).exists():
            parser.error(f'there is no trace {path!r}')
    texts = []
    for dataset in args.datasets:
        rows = rows_of(args, dataset)
        run_all(args, dataset, rows)
        texts.append(f'### {dataset_name(dataset)}\n\n' + table(
            rows, runs_of(args, dataset), range(args.seeds), args.against))
    report(args, __file__, '\n\n'.join(texts), systems=args.systems,
           students=args.students,
           tuned=[Path(x).name for x in args.tuned])


if __name__ == '__main__':
    main()
