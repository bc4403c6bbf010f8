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
from _seed_runs import METRICS
from comparison import Comparison, compared
from study import (
    TEACHER,
    StudyRow,
    dataset_name,
    distilled_rows,
    finish,
    options,
    report,
    run_all,
    runs_of,
    system_row,
)
from systems import SYSTEMS, resolve
from tables import spread
from tune import best_of

HEADER = ['system', 'seeds', 'validation R@20', 'R@20', 'N@20', 'R@50',
          'N@50', 'parameters', 's per epoch', 'epoch', 's to the best',
          'R@20 of {} less it', 'p (Holm)']


def rows_of(args: argparse.Namespace, dataset: str) -> list[StudyRow]:
    """Systems in the order of the paper, then teachers and students."""
    tuned = best_of(args.tuned, dataset_name(dataset))
    systems, missing = resolve(args.systems)
    print('\n'.join(missing), flush=True)
    rows = [system_row(system, args, tuned) for system in systems]
    return rows + distilled_rows(args.students, args, tuned)


def cells(found: Comparison, name: str) -> list[str]:
    """A line of the table."""
    got = found.records[name]
    seconds = np.mean([x['best_seconds'] + x.get('teacher_seconds', 0.0)
                       for x in got])
    return [
        name, str(len(got)), spread(got, 'val'),
        *(spread(got, metric) for metric in METRICS),
        f"{got[0]['parameters']:,}",
        f"{np.median([x['epoch_seconds'] for x in got]):.3g}",
        f"{np.median([x['best_epoch'] for x in got]):.0f}",
        f'{seconds:.3g}', *found.gap_cells(name),
    ]


def best_other(found: Comparison) -> str:
    """A line on the best system, the best on test, which is the hardest."""
    systems = [x for x in found.gaps if found.rows[x].kind == 'system']
    if not systems:
        return ''
    best = max(systems, key=found.test)
    gap, p = found.gap_cells(best)
    p = p if not p or p.startswith('<') else f'= {p}'
    return (f'The best other system is {best} (R@20 {found.test(best):.4f}): '
            f'{found.reference} {gap}' + (f', p {p}' if p else '') + '.')


def table(rows: Sequence[StudyRow], runs: Path, seeds: Iterable[int],
          against: str | None = None) -> str:
    text, found = compared(HEADER, cells, rows, runs, seeds, against)
    notes = [best_other(found)]
    if any(row.kind == 'student' for row in found.rows.values()):
        notes.append('The seconds to the best epoch of a student are with '
                     'those of its teachers.')
    return '\n\n'.join([text, *filter(None, notes)])


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
        names = [row.name for row in rows]
        if args.against not in (None, *names):
            parser.error(f'no row is called {args.against!r}; there are '
                         f'{", ".join(names)}')
        run_all(args, dataset, rows)
        texts.append(f'### {dataset_name(dataset)}\n\n' + table(
            rows, runs_of(args, dataset), range(args.seeds), args.against))
    report(args, __file__, '\n\n'.join(texts), systems=args.systems,
           students=args.students,
           tuned=[Path(x).name for x in args.tuned])


if __name__ == '__main__':
    main()
