"""What content is worth: an ensemble as teacher, its lists distilled, beside
noise and shuffled features, no content, and plain compression.

    python benchmarks/content.py --root FOLDER --modalities text --seeds 5
    python benchmarks/content.py --root FOLDER --members 4 --seeds 5

Members are trained once for each seed; all rows of a seed share them. What is
chosen (epochs, fusion) is chosen on validation, test is read once. Each run
is kept under ``--runs`` as soon as it is done; the command resumes where it
stopped. p-values are of a paired test over users of the seed-averaged
difference to the row named, with Holm's correction over the table.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from _markdown import markdown, write_output
from _seed_runs import SeedRuns, Trained, count, load_splits
from rows import ModelRow
from safetensors.torch import load_file, save_file
from tables import Results, holm, mean, spread
from torch_geometric.data import HeteroData

from torch_promptmm import PromptMMDistiller
from torch_promptmm.data import held_out, read_graph
from torch_promptmm.data.contract import known_interactions
from torch_promptmm.distill import choose_fusion
from torch_promptmm.evaluate import evaluate_embeddings
from torch_promptmm.files import atomic_path
from torch_promptmm.models import (
    ContentExpert,
    Ensemble,
    Fusion,
    LightGCN,
    embed,
)
from torch_promptmm.nn import UserItemGraph

BASE, FAIR = 'LightGCN', 'LightGCN with popularity'
SAME = 'LightGCNs, as many'
HEADER = ['model', 'seeds', 'validation R@20', 'test R@20', 'N@20',
          'warm R@20', 'cold R@20', 'against', 'difference', 'p (Holm)',
          'parameters', 'seconds']


def rows_of(quick: bool) -> list[ModelRow]:
    """The rows, those that matter most first."""
    def row(name: str, model: str, against: str, turn: int, features: str = '',
            **change: Any) -> ModelRow:
        return ModelRow(name, model, 'content', {}, change, against, turn,
                        features)

    rows = [
        row(BASE, 'member', '', 0),
        row(FAIR, 'popular', BASE, 0),
        row(SAME, 'teacher', FAIR, 0, 'none'),
        row('teacher', 'teacher', SAME, 0, 'real'),
        row('teacher, compressed to 64', 'compressed', FAIR, 0, 'real'),
        row('student 64', 'student', FAIR, 0, 'real'),
    ]
    for turn, features in enumerate(('noise', 'shuffled', 'none'), 1):
        if features != 'none':
            rows.append(row(f'teacher, {features} features', 'teacher',
                            'teacher', turn, features))
        name = ('no content' if features == 'none' else
                f'{features} features')
        rows.append(row(f'student 64, {name}', 'student', 'student 64', turn,
                        features))
    rows += [
        row('student 64, random start', 'student', 'student 64', 4, 'real',
            init='random'),
        *(row(f'student {width}', 'student', 'student 64', 5, 'real',
              width=width) for width in (32, 128, 256)),
    ]
    return [row for row in rows if row.turn == 0] if quick else rows


class ContentRuns(SeedRuns):
    """All runs of one seed: they share members."""
    def __init__(self, args: argparse.Namespace, runs: Path,
                 seed: int) -> None:
        options = {'epochs': args.epochs, 'patience': args.patience,
                   'eval_every': args.eval_every}
        source = {'root': args.root, 'planted': args.planted}
        super().__init__(load_splits(source, seed), options, runs, seed)
        self.num_members, self.modalities = args.members, args.modalities
        view = read_graph(self.train, modalities=args.modalities)
        self.view, self.known = view, known_interactions(view)
        self.graph = UserItemGraph(view.edge_index, view.num_users,
                                   view.num_items)
        val = read_graph(self.val, check_finite=False)
        self.positives, self.val_known = held_out(val), val.edge_index

    def run(self, row: ModelRow) -> None:
        self.members()  # Not in the time of the first row.
        super().run(row)

    def trained(self, row: ModelRow) -> Trained:
        record, pair, parameters = getattr(self, f'_{row.model}')(row)
        return Trained(record, *pair, parameters)

    def members(self) -> list[LightGCN]:
        """The trained LightGCNs, out of a file if there is one."""
        path = self.runs / f'members.{self.seed}.safetensors'
        empty = Ensemble.from_data(
            self.train, 64, num_members=self.num_members, use_content=False,
            modalities=self.modalities, seed=self.seed)
        distiller = PromptMMDistiller.from_data(
            self.train, teacher=empty, setting='content', seed=self.seed)
        if path.exists():
            empty.load_state_dict(load_file(path))
            return list(empty.members)
        start = time.perf_counter()
        history = distiller.fit_teacher(self.train, self.val, **self.fit)
        note = {'epochs': len(history),
                'seconds': time.perf_counter() - start}
        print(f'seed {self.seed}: members {note}', flush=True)
        with atomic_path(path.with_suffix('.json')) as temporary:
            temporary.write_text(json.dumps(note))
        with atomic_path(path) as temporary:
            save_file(empty.state_dict(), temporary)
        return list(empty.members)

    def data(self, features: str) -> HeteroData:
        """The training graph with features of a kind."""
        generator = torch.Generator().manual_seed(self.seed)
        data = copy.copy(self.train)
        for name, x in self.view.features.items():
            order = torch.randperm(x.size(0), generator=generator)
            if features == 'noise':
                data['item'][name] = torch.randn(x.shape, generator=generator)
            elif features == 'shuffled':
                data['item'][name] = x[order]
                if name in self.view.masks:
                    data['item'][f'{name}_mask'] = self.view.masks[name][order]
        return data

    def teacher(self, features: str,
                num_members: int | None = None) -> tuple[Ensemble, Any]:
        """Members beside content, fused as validation says."""
        data, content = self.data(features), None
        if features != 'none':
            content = ContentExpert.from_data(data,
                                              modalities=self.modalities)
        ensemble = Ensemble(self.members()[:num_members], content)
        path = self.runs / f'fusion.{features}.{num_members}.{self.seed}.json'
        if path.exists():
            kept = json.loads(path.read_text())
            ensemble.fusion, recall = Fusion(**kept['fusion']), kept['val']
        else:
            fusion, recall = choose_fusion(ensemble, self.graph,
                                           self.positives, self.val_known)
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps({
                    'val': recall, 'fusion': asdict(fusion)}))
        return ensemble, {'val': recall, 'fusion': str(ensemble.fusion)}

    def _member(self, row: ModelRow) -> tuple[Any, ...]:
        model = self.members()[0]
        pair = embed(model, self.graph, 'cosine')
        return {'val': self._validate(pair)}, pair, count(model)

    def _popular(self, row: ModelRow) -> tuple[Any, ...]:
        ensemble, record = self.teacher('none', 1)
        return record, embed(ensemble, self.graph, 'dot'), count(ensemble)

    def _teacher(self, row: ModelRow) -> tuple[Any, ...]:
        ensemble, record = self.teacher(row.features)
        pair = embed(ensemble, self.graph, 'dot')
        return record, pair, sum(x.numel() for x in pair)

    def _compressed(self, row: ModelRow) -> tuple[Any, ...]:
        distiller = self.distiller(row)
        distiller.fit_student(self.data(row.features), None, epochs=0,
                              **self.quiet)
        pair = distiller.embeddings()
        return {'val': self._validate(pair)}, pair, count(distiller.student)

    def _student(self, row: ModelRow) -> tuple[Any, ...]:
        distiller = self.distiller(row)
        history = distiller.fit_student(self.data(row.features), self.val,
                                        **self.quiet)
        best = history[history.best_epoch - 1]
        record = {'val': best['recall@20'], 'best_epoch': history.best_epoch,
                  'epoch_seconds': best['time']}
        return record, distiller.embeddings(), count(distiller.student)

    @property
    def quiet(self) -> dict[str, Any]:
        return {k: self.fit[k] for k in ('seed', 'progress', 'threads')}

    def distiller(self, row: ModelRow) -> PromptMMDistiller:
        change = dict(row.change)
        width = change.pop('width', 64)
        ensemble, _ = self.teacher(row.features)
        return PromptMMDistiller.from_data(
            self.data(row.features), width, teacher=ensemble, seed=self.seed,
            setting='content', modalities=self.modalities, **change)

    def _validate(self, pair: Any) -> float:
        return evaluate_embeddings(*pair, self.positives, self.val_known,
                                   20)['recall@20']


def table(rows: list[ModelRow], runs: Path, seeds: range) -> str:
    results = Results(rows, runs, seeds)
    against = {row.name: results.compare(row.name, row.against)
               for row in results.rows}
    corrected = holm({name: float(x[2]) for name, x in against.items()
                      if x[2]})
    lines = []
    for row in results.rows:
        got = results.records[row.name]
        other, gap, _ = against[row.name]
        p = f'{corrected[row.name]:.2g}' if row.name in corrected else ''
        lines.append([
            row.name, str(len(got)), spread(got, 'val'),
            spread(got, 'recall@20'), mean(got, 'ndcg@20'), mean(got, 'warm'),
            mean(got, 'cold'), other, gap, p, f"{got[0]['parameters']:,}",
            f"{sum(x['seconds'] for x in got) / len(got):.0f}"])
    text = markdown(HEADER, lines)
    fusions = [f"- {row.name}: {results.records[row.name][0]['fusion']}"
               for row in results.rows
               if 'fusion' in results.records[row.name][0]]
    notes = [json.loads(path.read_text())
             for path in sorted(runs.glob('members.*.json'))]
    if notes:
        seconds = sum(x['seconds'] for x in notes) / len(notes)
        text += (f'\n\nMembers: {seconds:.0f} s of training a seed, with the '
                 f'choice of their fusion. Seconds above are without it.')
    return text + '\n\nFusion of the first seed:\n\n' + '\n'.join(fusions)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--root', help='a folder for InteractionFolder')
    source.add_argument('--planted', choices=('small', 'wide', 'tiktok'),
                        help='a preset of SyntheticMultimodal')
    parser.add_argument('--modalities', nargs='*', help='(default: all)')
    parser.add_argument('--members', type=int, default=1)
    parser.add_argument('--seeds', type=int, default=5)
    parser.add_argument('--epochs', type=int, default=100)
    parser.add_argument('--patience', type=int, default=16)
    parser.add_argument('--eval-every', type=int, default=2)
    parser.add_argument('--quick', action='store_true',
                        help='leave out the controls')
    parser.add_argument('--only', default='', help='rows that contain this')
    parser.add_argument('--runs', help='where runs are kept')
    parser.add_argument('--table-only', action='store_true',
                        help='print what is done already')
    parser.add_argument('--output', help='a Markdown file for the table')
    args = parser.parse_args()

    torch.set_num_threads(1)
    name = args.planted or Path(args.root).resolve().name
    runs = Path(args.runs or f'runs/content-{name}')
    runs.mkdir(parents=True, exist_ok=True)
    rows = [r for r in rows_of(args.quick) if args.only in r.name]
    for turn in sorted({row.turn for row in rows}):
        for seed in () if args.table_only else range(args.seeds):
            left = [row for row in rows if row.turn == turn and not (
                runs / f'{row.key}.{seed}.json').exists()]
            if left:
                bench = ContentRuns(args, runs, seed)
                for row in left:
                    bench.run(row)
                    print(f'seed {seed}: {row.name}', flush=True)
    text = table(rows, runs, range(args.seeds))
    print('\n' + text)
    if args.output:
        shown = f'python benchmarks/content.py --members {args.members}' + (
            f' --seeds {args.seeds}') + (
            f' --planted {args.planted}' if args.planted else
            f' --root .../{name}') + (
            f" --modalities {' '.join(args.modalities)}"
            if args.modalities else '')
        write_output(args.output, shown, text)


if __name__ == '__main__':
    main()
