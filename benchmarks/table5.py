"""Table 5 of the paper: what each part of the student is worth.

    python benchmarks/table5.py --datasets FOLDER --seeds 5
    python benchmarks/table5.py --datasets FOLDER --setting default
    python benchmarks/table5.py --datasets small --quick

Repeats: the student without prompt (neither teacher nor student has one),
without PairKD, ListKD and disentangling, Recall@20 and NDCG@20. Beside the
paper's rows there are those without EmbKD, with a prompt that is not tuned in
stage 2, and, by ``--prompts``, with other prompts. A part that a setting does
not have has no row: under ``default`` there are neither PairKD nor ListKD of
modalities, but the fused terms. With its natural weights the disentangled
loss *is* the plain one, and the row says +0.0000; ``--change beta=2`` gives
it others. p-values are of Recall@20, paired over users, with Holm's
correction over the table. Epochs are chosen on validation, test is read once.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from comparison import Comparison, compared
from rows import LEFT_OUT
from study import (
    StudyRow,
    dataset_name,
    finish,
    options,
    report,
    run_all,
    runs_of,
    student_row,
    teacher_row,
)
from tables import spread

from torch_promptmm.distill import Settings

HEADER = ['variant', 'seeds', 'validation R@20', 'R@20', 'N@20',
          '{} less it', 'p (Holm)', 'epoch']


def rows_of(args: argparse.Namespace) -> list[StudyRow]:
    """The student, then without each part that it has."""
    change = dict(args.change)

    def row(name: str | None, build: dict[str, Any] | None = None,
            **more: Any) -> StudyRow:
        teacher = teacher_row(args.setting, args, name=(
            f'teacher, {name}' if build else None), **(build or {}))
        return student_row(args.setting, [teacher], args, name=name,
                           **{**change, **more})

    full = Settings.preset(args.setting, **change)
    rows = [row(None), row('w/o Prompt', {'prompt': None})]
    rows += [row(f'w/o {part}', **values) for part, values in LEFT_OUT.items()
             if any(getattr(full, k) != v for k, v in values.items())]
    rows.append(row('prompt not tuned', tune_prompt=False))
    return rows + [row(f'prompt: {method}', {'prompt': method})
                   for method in args.prompts]


def cells(found: Comparison, name: str) -> list[str]:
    got = found.records[name]
    return [name, str(len(got)),
            *(spread(got, x) for x in ('val', 'recall@20', 'ndcg@20')),
            *found.gap_cells(name),
            f"{np.median([x['best_epoch'] for x in got]):.0f}"]


def setting_value(text: str) -> tuple[str, Any]:
    """``NAME=VALUE``, the value as JSON."""
    name, _, value = text.partition('=')
    return name, json.loads(value)


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    add = parser.add_argument
    add('--setting', default='faithful', choices=['faithful', 'default'],
        help='(default: faithful)')
    add('--change', nargs='+', default=[], type=setting_value,
        metavar='NAME=VALUE', help='settings of all students, as JSON')
    add('--prompts', nargs='+', default=[], metavar='METHOD',
        help='rows of other prompts, such as graph')
    args = finish(parser.parse_args(argv))
    texts = []
    for dataset in args.datasets:
        rows = rows_of(args)
        run_all(args, dataset, rows)
        text, _ = compared(HEADER, cells, rows, runs_of(args, dataset),
                           range(args.seeds), rows[0].name)
        texts.append(f'### {dataset_name(dataset)}\n\n{text}')
    report(args, __file__, '\n\n'.join(texts), setting=args.setting,
           change=[f'{k}={json.dumps(v)}' for k, v in args.change],
           prompts=args.prompts)


if __name__ == '__main__':
    main()
