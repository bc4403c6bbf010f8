"""Accuracy of teacher, student and LightGCN, and what each part is worth.

    python benchmarks/accuracy.py --root FOLDER --seeds 5
    python benchmarks/accuracy.py --planted wide --seeds 5

Each run (a row of the table and a seed) is kept under ``--runs`` as soon as
it is done; the command resumes where it stopped, and several may work on one
folder. Epochs are chosen on validation, test is read once, at the end. Rows
are in `rows.py`, a run is in `run.py`, the table in `tables.py`.
"""

from __future__ import annotations

import argparse
import math
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from _markdown import write_output
from rows import PARTS, groups_of, rows_of
from run import work
from tables import table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--root', help='a folder for InteractionFolder')
    source.add_argument('--planted', choices=('small', 'wide', 'tiktok'),
                        help='a preset of SyntheticMultimodal')
    parser.add_argument('--seeds', type=int, default=5)
    parser.add_argument('--ablation-seeds', type=int, default=5,
                        help='seeds of the rows that leave a part out')
    parser.add_argument('--epochs', type=int, default=200)
    parser.add_argument('--patience', type=int, default=20)
    parser.add_argument('--min-epochs', type=int, default=0)
    parser.add_argument('--jobs', type=int, default=1,
                        help='processes at a time, of one thread each')
    parser.add_argument('--only', default='', help='rows that contain this')
    parser.add_argument('--runs', help='where runs are kept')
    parser.add_argument('--table-only', action='store_true',
                        help='print what is done already')
    parser.add_argument('--output', help='a Markdown file for the table')
    args = parser.parse_args()

    name = args.planted or Path(args.root).resolve().name
    runs = Path(args.runs or f'runs/accuracy-{name}')
    runs.mkdir(parents=True, exist_ok=True)
    rows = [r for r in rows_of(args.planted is not None) if args.only in r.name]
    seeds = list(range(args.seeds))
    where = {'root': args.root, 'planted': args.planted}
    fit = {'epochs': args.epochs, 'patience': args.patience,
           'min_epochs': args.min_epochs}
    jobs = [(where, fit, str(runs), seed, group)
            for turn in sorted({row.turn for row in rows}) for seed in seeds
            for group in groups_of(rows) if group[0].turn == turn
            and (turn <= PARTS or seed < args.ablation_seeds)
            and not args.table_only]
    threads = max(1, math.floor((os.cpu_count() or 1) / args.jobs))
    with ProcessPoolExecutor(args.jobs, get_context('spawn')) as pool:
        futures = [pool.submit(work, *job, threads) for job in jobs]
        for number, future in enumerate(as_completed(futures), 1):
            print(f'[{number}/{len(futures)}] {future.result()}', flush=True)
    text = table(rows, runs, seeds)
    print('\n' + text)
    if args.output:
        shown = f'python benchmarks/accuracy.py --seeds {args.seeds}' + (
            f' --planted {args.planted}'
            if args.planted else f' --root .../{name}')
        write_output(args.output, shown, text)


if __name__ == '__main__':
    main()
