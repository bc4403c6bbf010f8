"""Figure 4 of the paper: what width, depth, dropout and the weights of the
losses do.

    python benchmarks/figure4.py --datasets FOLDER --seeds 3
    python benchmarks/figure4.py --datasets FOLDER --only d L
    python benchmarks/figure4.py --datasets small --quick

Repeats: Recall@20 over the width d and the depth L of teacher and student,
the dropout of the teacher's reduction, the prompt's rate λ1 and the weights
λ2 of PairKD and λ3 of ListKD, on the paper's grids, one changed at a time;
λ4 of EmbKD is added. The paper does not say which split its curves are of;
the figure shows test, mean and standard deviation over seeds, the table
validation beside it: what is chosen is chosen there.

Needs the extra ``plot``: ``pip install torch_promptmm[plot]``.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _markdown import markdown
from _plot import panels, save, style
from study import (
    StudyRow,
    dataset_name,
    failures,
    finish,
    options,
    report,
    run_all,
    runs_of,
    student_row,
    teacher_row,
)
from tables import Results, spread

from torch_promptmm.distill import Settings
from torch_promptmm.nn import PromptedReduction

GRID = (0.0, 1e-2, 1e-1, 1.0, 1e1, 1e2)
HEADER = ['what', 'value', 'seeds', 'student: validation R@20',
          'student: R@20', 'teacher: validation R@20', 'teacher: R@20']


@dataclass(frozen=True)
class Sweep:
    """What is changed.

    Args:
        label: What the axis is called.
        values: The paper's grid.
        of_teacher: The argument of the teacher, if it changes.
        of_student: The argument of the student, if it changes.
    """
    label: str
    values: tuple[Any, ...]
    of_teacher: str = ''
    of_student: str = ''


SWEEPS = {
    'd': Sweep('width d', (16, 32, 64, 128), 'hidden_channels',
               'hidden_channels'),
    'L': Sweep('depth L', (1, 2, 3, 4), 'num_layers', 'num_layers'),
    'dropout': Sweep('dropout of the teacher', (0.0, 0.2, 0.4, 0.6, 0.8),
                     'dropout'),
    'lambda1': Sweep('prompt rate λ1', GRID, 'prompt_weight'),
    'lambda2': Sweep('PairKD, λ2', GRID, '', 'pair_weight'),
    'lambda3': Sweep('ListKD, λ3', GRID, '', 'list_weight'),
    'lambda4': Sweep('EmbKD, λ4', GRID, '', 'emb_weight'),
}


@dataclass(frozen=True)
class Point:
    """Teacher and student of one value."""
    sweep: str
    value: Any
    teacher: StudyRow
    student: StudyRow


def usual(setting: str) -> dict[str, Any]:
    """Defaults, which are not given once more: their runs are those of other
    tables."""
    reduction = inspect.signature(PromptedReduction).parameters
    return {**Settings.preset(setting).to_dict(), 'num_layers': 2,
            **{k: reduction[k].default for k in ('dropout', 'prompt_weight')}}


def points_of(args: argparse.Namespace) -> list[Point]:
    out, defaults = [], usual(args.setting)
    for name in args.only:
        sweep = SWEEPS[name]
        for value in sweep.values[:2] if args.quick else sweep.values:
            of_teacher, of_student = (
                {argument: value} if argument and
                defaults.get(argument) != value else {}
                for argument in (sweep.of_teacher, sweep.of_student))
            teacher = teacher_row(args.setting, args, None,
                                  f'teacher, {name} {value:g}', **of_teacher)
            student = student_row(args.setting, [teacher], args, None,
                                  f'student, {name} {value:g}', **of_student)
            out.append(Point(name, value, teacher, student))
    return out


def draw(points: Sequence[Point], results: Results, path: Path) -> None:
    names = list(dict.fromkeys(point.sweep for point in points))
    figure, axes = panels(len(names))
    for axis, name in zip(axes, names, strict=True):
        own = [x for x in points if x.sweep == name]
        of_teacher = bool(SWEEPS[name].of_teacher)
        for number, (kind, shown) in enumerate((('student', True),
                                                ('teacher', of_teacher))):
            found = [(x, results.records.get(getattr(point, kind).name))
                     for x, point in enumerate(own)]
            got = [(x, [r['recall@20'] for r in records])
                   for x, records in found if records]
            if shown and got:
                axis.errorbar([x + 0.12 * number for x, _ in got],
                              [np.mean(v) for _, v in got],
                              [np.std(v, ddof=1) if len(v) > 1 else 0.0
                               for _, v in got],
                              label=kind, capsize=2, markersize=4,
                              linewidth=1.2, **style(number))
        axis.set_xticks(range(len(own)), [f'{x.value:g}' for x in own])
        axis.set_xlabel(SWEEPS[name].label)
        axis.set_ylabel('Recall@20')
        axis.margins(0.1)
    save(figure, path)


def lines_of(points: Sequence[Point], results: Results,
             failed: dict[str, str]) -> list[list[str]]:
    out = []
    for point in points:
        student, teacher = [results.records.get(x.name) for x in (
            point.student, point.teacher)]
        why = failed.get(point.teacher.name) or failed.get(
            point.student.name, '')
        line = [point.sweep, f'{point.value:g}', str(len(student or []))]
        for got in (student, teacher):
            line += [spread(got, 'val'), spread(got, 'recall@20')] if (
                got) else [f'failed: {why}' if why else '', '']
        out.append(line)
    return out


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__, seeds=3)
    add = parser.add_argument
    add('--setting', default='faithful', choices=['default', 'faithful'],
        help='of teacher and student (default: faithful)')
    add('--only', nargs='+', default=list(SWEEPS), choices=list(SWEEPS),
        metavar='NAME', help=f'(default: all: {", ".join(SWEEPS)})')
    add('--figures', default='runs/figures', help='where PNGs are written')
    args = finish(parser.parse_args(argv))
    texts = []
    for dataset in args.datasets:
        points, name = points_of(args), dataset_name(dataset)
        rows = [row for point in points
                for row in (point.teacher, point.student)]
        run_all(args, dataset, rows)
        runs, seeds = runs_of(args, dataset), range(args.seeds)
        results = Results(rows, runs, seeds)
        draw(points, results, Path(args.figures) / f'figure4-{name}.png')
        texts.append(f'### {name}\n\n' + markdown(HEADER, lines_of(
            points, results, failures(rows, runs, seeds))))
    report(args, __file__, '\n\n'.join(texts), setting=args.setting,
           only=args.only)


if __name__ == '__main__':
    main()
