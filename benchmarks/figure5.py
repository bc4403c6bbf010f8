"""Figure 5 of the paper: how training converges.

    python benchmarks/figure5.py --datasets FOLDER --seeds 3
    python benchmarks/figure5.py --datasets FOLDER --systems LATTICE
    python benchmarks/figure5.py --datasets small --quick

Repeats: the loss, Recall@20 and NDCG@20 of each epoch, of teacher and
student; ``--systems`` adds others. Metrics are of validation, losses are of
different sums and only their shape compares: each is shown over its first
value. Lines are means over the seeds, up to the epoch that all of them
reached, bands are between the lowest and the highest; a ring is the epoch that
was chosen (the mean over seeds).

Needs the extra ``plot``: ``pip install torch_promptmm[plot]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _markdown import markdown
from _plot import panels, save, style
from study import (
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
from systems import resolve
from tables import Results

CURVES = {'loss': 'loss / loss of the first epoch',
          'recall@20': 'validation Recall@20',
          'ndcg@20': 'validation NDCG@20'}
HEADER = ['model', 'seeds', 'epochs', 'chosen', '90 % of its best R@20 after',
          'best validation R@20', 'N@20 there', 's to the best']


def curve(records: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    """One row a seed, as far as all of them reach."""
    values = [x['curves'][name] for x in records]
    length = min(map(len, values))
    out = np.array([x[:length] for x in values])
    return out / np.abs(out[:, :1]) if name == 'loss' else out


def draw(results: Results, every: int, path: Path) -> None:
    figure, axes = panels(len(CURVES), 3, 3.0)
    for axis, (name, label) in zip(axes, CURVES.items(), strict=True):
        for number, row in enumerate(results.rows):
            records, look = results.records[row.name], style(number)
            found = curve(records, name)
            step = 1 if name == 'loss' else every
            x = step * np.arange(1, found.shape[1] + 1)
            mean, look = found.mean(axis=0), {**look, 'marker': ''}
            axis.plot(x, mean, label=row.name, linewidth=1.4, **look)
            if len(found) > 1:
                axis.fill_between(x, found.min(axis=0), found.max(axis=0),
                                  color=look['color'], alpha=0.2,
                                  linewidth=0)
            best = min(np.mean([r['best_epoch'] for r in records]), x[-1])
            axis.plot([best], [np.interp(best, x, mean)], 'o', ms=6,
                      mfc='none', mec=look['color'])
        axis.set_xlabel('epoch')
        axis.set_ylabel(label)
    save(figure, path)


def lines_of(results: Results, every: int) -> list[list[str]]:
    out = []
    for row in results.rows:
        records = results.records[row.name]
        recalls = [np.array(x['curves']['recall@20']) for x in records]
        best = [int(x.argmax()) for x in recalls]
        fast = [every * (int((x >= 0.9 * x.max()).argmax()) + 1)
                for x in recalls]
        there = [x['curves']['ndcg@20'][b]
                 for x, b in zip(records, best, strict=True)]
        out.append([
            row.name, str(len(records)),
            f"{np.mean([x['epochs'] for x in records]):.0f}",
            f"{np.mean([x['best_epoch'] for x in records]):.0f}",
            f'{np.mean(fast):.0f}',
            f'{np.mean([x.max() for x in recalls]):.4f}',
            f'{np.mean(there):.4f}',
            f"{np.mean([x['best_seconds'] for x in records]):.3g}"])
    return out


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__, seeds=3)
    add = parser.add_argument
    add('--students', nargs='*', default=['faithful'],
        choices=['default', 'faithful'], metavar='SETTING',
        help='settings of teacher and student (default: faithful)')
    add('--systems', nargs='*', default=[], metavar='NAME',
        help='(default: none)')
    add('--figures', default='runs/figures', help='where PNGs are written')
    args = finish(parser.parse_args(argv))
    texts = []
    for dataset in args.datasets:
        systems, missing = resolve(args.systems)
        print('\n'.join(missing), flush=True)
        rows = distilled_rows(args.students, args) + [
            system_row(x, args) for x in systems]
        run_all(args, dataset, rows)
        name, seeds = dataset_name(dataset), range(args.seeds)
        results = Results(rows, runs_of(args, dataset), seeds)
        draw(results, args.eval_every,
             Path(args.figures) / f'figure5-{name}.png')
        failed = failures(rows, runs_of(args, dataset), seeds)
        texts.append('\n\n'.join([
            f'### {name}', markdown(HEADER, lines_of(results,
                                                     args.eval_every)),
            *(f'{row} failed: {why}' for row, why in failed.items())]))
    report(args, __file__, '\n\n'.join(texts), students=args.students,
           systems=args.systems)


if __name__ == '__main__':
    main()
