"""Table 7 of the paper: new interactions arrive, and the student is fine-tuned
on them, beside LATTICE treated the same way.

    python benchmarks/table7.py --datasets FOLDER --seeds 5
    python benchmarks/table7.py --datasets FOLDER --against LATTICE FREEDOM
    python benchmarks/table7.py --datasets small --quick

Repeats: Recall@20, NDCG@20 and milliseconds of a model that is fine-tuned
with a few new interactions. The paper does not say which ones are new, nor
how long it trains. Here ``--new`` of the training interactions, the same for
all models and seeds, are held back: each model is trained without them (its
epoch chosen on validation), then all interactions are there and it goes on
from its present weights for ``--update-epochs`` epochs on old and new ones,
with its own loss and learning rate. The student is fine-tuned alone, without
its teacher. *Before* is the model without the new interactions, *unchanged*
the same weights propagated over all of them, *updated* the fine-tuned ones;
milliseconds are of the update with the best 20 items of all users. All rank
the same items: none that the user has, old or new. Test is read at the end.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _markdown import markdown
from _seed_runs import Splits, Trained, count
from study import (
    StudyRow,
    StudyRuns,
    attempt,
    dataset_name,
    failures,
    finish,
    load_dataset,
    options,
    report,
    runs_of,
    student_row,
    system_row,
    teacher_row,
)
from systems import resolve
from tables import Results, mean, spread
from torch_geometric.data import HeteroData
from tqdm.auto import tqdm

from torch_promptmm.data import read_graph
from torch_promptmm.distill import Settings
from torch_promptmm.serve import Recommender
from torch_promptmm.train import fit

HEADER = ['model', 'seeds', 'before R@20', 'unchanged R@20', 'R@20', 'N@20',
          'ms', 'ms unchanged', 'parameters']


@dataclass(frozen=True)
class UpdateRow:
    """The update of a trained row."""
    base: StudyRow
    epochs: int

    @property
    def name(self) -> str:
        return self.base.name

    @property
    def key(self) -> str:
        return f'{self.base.key}.updated-{self.epochs}'


def without_new(splits: Splits, share: float) -> Splits:
    """The graphs before a share of the training interactions is there; what
    test ranks is as it was."""
    train, val, test = splits
    view = read_graph(train, check_finite=False)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(view.edge_index.size(1), generator=generator)
    kept = order[int(share * order.numel()):].sort().values
    old = view.edge_index[:, kept]

    def replaced(data: HeteroData) -> HeteroData:
        out = copy.copy(data)
        out[view.edge_type].edge_index = old
        return out

    return replaced(train), replaced(val), test


class UpdateRuns(StudyRuns):
    """Updates of the runs without the new interactions."""
    def __init__(self, before: StudyRuns, full: HeteroData) -> None:
        super().__init__((full, before.val, before.test), {}, before.runs,
                         before.seed)
        self.before, self.fit = before, before.fit

    def trained(self, row: UpdateRow) -> Trained:
        base = row.base
        model = self.before.load(base)
        old = json.loads(self.before.path(base).read_text())
        start = time.perf_counter()
        unchanged = self._recommend(model)
        waited = time.perf_counter() - start
        kept = self._evaluate(row, unchanged.user_emb, unchanged.item_emb)
        model = self.before.load(base)  # As it was, with its features.
        start = time.perf_counter()
        fit(model, self.train, None, **self._options(row))
        out = self._recommend(model)
        return Trained({
            'before': old['recall@20'], 'before_ndcg': old['ndcg@20'],
            'unchanged': kept['recall@20'],
            'unchanged_ndcg': kept['ndcg@20'],
            'ms': 1e3 * (time.perf_counter() - start),
            'unchanged_ms': 1e3 * waited,
        }, out.user_emb, out.item_emb, count(model))

    def _recommend(self, model: torch.nn.Module) -> Recommender:
        out = Recommender.from_model(model, self.train)
        out.recommend(torch.arange(out.num_users), 20)
        return out

    def _options(self, row: UpdateRow) -> dict[str, Any]:
        """How the row was trained, for the epochs of an update."""
        options = dict(row.base.fit)
        if row.base.kind == 'student':
            settings = Settings.preset(row.base.what, **row.base.build)
            options = asdict(settings)
            options = {k: options[k] for k in (
                'ranking_loss', 'score', 'temperature', 'num_negatives',
                'batch_size')}
            options |= {'lr': settings.learning_rate, 'l2': settings.ego_l2}
        for name in ('patience', 'eval_every'):
            options.pop(name, None)
        return {**self.fit, **options, 'epochs': row.epochs}


def run_dataset(args: argparse.Namespace, dataset: str, runs: Path,
                rows: Sequence[UpdateRow]) -> None:
    jobs = [(seed, row) for seed in range(args.seeds) for row in rows]
    left = [] if args.table_only else [
        (seed, row) for seed, row in jobs
        if not (runs / f'{row.key}.{seed}.json').exists()]
    if not left:
        return
    full = load_dataset(dataset)
    old = without_new(full, args.new)
    options = {} if args.device is None else {'device': args.device}
    with tqdm(total=len(jobs), initial=len(jobs) - len(left), unit='run',
              desc=dataset_name(dataset), dynamic_ncols=True) as bar:
        for seed, row in left:
            bar.set_postfix_str(f'{row.name}, seed {seed}')
            before = StudyRuns(old, options, runs, seed)
            for each in (*row.base.teachers, row.base):
                attempt(before, each)
            tqdm.write(attempt(UpdateRuns(before, full[0]), row))
            bar.update()


def table(rows: Sequence[UpdateRow], runs: Path, seeds: range) -> str:
    results, lines = Results(rows, runs, seeds), []
    failed = {**failures(rows, runs, seeds),
              **failures([row.base for row in rows], runs, seeds)}
    for row in rows:
        got = results.records.get(row.name)
        if got:
            lines.append([
                row.name, str(len(got)), mean(got, 'before'),
                mean(got, 'unchanged'), spread(got, 'recall@20'),
                spread(got, 'ndcg@20'),
                *(f'{np.median([x[name] for x in got]):,.1f}'
                  for name in ('ms', 'unchanged_ms')),
                f"{got[0]['parameters']:,}"])
        elif row.name in failed:
            lines.append([row.name, '0', f'failed: {failed[row.name]}',
                          *[''] * (len(HEADER) - 3)])
    text = markdown(HEADER, lines)
    first, *others = [row.name for row in results.rows] or ['']
    for other in others:
        _, gap, p = results.difference(first, other)
        ms = [np.median([x['ms'] for x in results.records[name]])
              for name in (first, other)]
        text += (f'\n\n{first} less {other}: R@20 {gap:+.4f}' +
                 ('' if p is None else f', p = {p:.2g} (paired over users)') +
                 f'; {ms[1] / ms[0]:.1f} times as fast.')
    return text


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    add = parser.add_argument
    add('--against', nargs='+', default=['LATTICE'], metavar='NAME',
        help='systems that are updated beside it (default: LATTICE)')
    add('--setting', default='default',
        choices=['default', 'faithful', 'content'],
        help='of teacher and student (default: default)')
    add('--new', type=float, default=0.1,
        help='the share of training interactions that arrive (default: 0.1)')
    add('--update-epochs', type=int, default=3,
        help='of old and new interactions (default: 3)')
    args = finish(parser.parse_args(argv))
    texts = []
    for dataset in args.datasets:
        systems, missing = resolve(args.against)
        print('\n'.join(missing), flush=True)
        student = student_row(args.setting,
                              [teacher_row(args.setting, args)], args)
        rows = [UpdateRow(base, args.update_epochs) for base in (
            student, *(system_row(x, args) for x in systems))]
        runs = runs_of(args, dataset) / f'without-{args.new:g}'
        runs.mkdir(exist_ok=True)
        run_dataset(args, dataset, runs, rows)
        texts.append(f'### {dataset_name(dataset)}\n\n' +
                     table(rows, runs, range(args.seeds)))
    report(args, __file__, '\n\n'.join(texts), against=args.against,
           setting=args.setting, new=args.new,
           **{'update-epochs': args.update_epochs})


if __name__ == '__main__':
    main()
