"""What content is worth: an ensemble as teacher, its lists distilled, beside
noise and shuffled features, no content, and plain compression; and what a
prompt adds to it, tuned in stage 2, frozen, and absent.

    python benchmarks/content.py --root FOLDER --modalities text --seeds 5
    python benchmarks/content.py --root FOLDER --members 4 --seeds 5
    python benchmarks/content.py --planted wide --seeds 5

Members are trained once for each seed; all rows of a seed share them, and
those with a prompt the member that it opens. What is
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
    MultimodalTeacher,
    embed,
)
from torch_promptmm.models.learned_content import FUSION_WEIGHT
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.nn.standard_rows import SCALINGS

BASE, FAIR = 'LightGCN', 'LightGCN with popularity'
SAME = 'LightGCNs, as many'
# The member that learns content, with and without a prompt.
PROMPT: dict[str, Any] = {'prompt': 'pca'}
ABSENT: dict[str, Any] = {'prompt': None}
# What the expert and the ensemble are made of, one left out at a time.
LEFT_OUT: dict[str, dict[str, Any]] = {
    'content not propagated': {'hop': 0.0},
    'features not standardised': {'scaling': 'raw'},
    'one member': {'num_members': 1},
}
AFTER = 'teacher_after'
HEADER = ['model', 'seeds', 'validation R@20', 'test R@20', 'N@20',
          'warm R@20', 'cold R@20', 'against', 'difference', 'p (Holm)',
          'parameters', 'seconds']


def rows_of(quick: bool, several: bool = True) -> list[ModelRow]:
    """The rows, those that matter most first."""
    def row(name: str, model: str, against: str, turn: int, features: str = '',
            build: dict[str, Any] | None = None, **change: Any) -> ModelRow:
        return ModelRow(name, model, 'content', build or {}, change, against,
                        turn, features)

    rows = [
        row(BASE, 'member', '', 0),
        row(FAIR, 'popular', BASE, 0),
        row(SAME, 'teacher', FAIR, 0, 'none'),
        row('teacher', 'teacher', SAME, 0, 'real'),
        row('teacher, compressed to 64', 'compressed', FAIR, 0, 'real'),
        row('student 64', 'student', FAIR, 0, 'real'),
    ]
    absent, student = 'learned content', 'student 64'
    rows += [
        row(f'teacher, {absent}', 'teacher', 'teacher', 0, 'real', ABSENT),
        row('teacher, prompt', 'teacher', f'teacher, {absent}', 0, 'real',
            PROMPT),
        row(f'{student}, {absent}', 'student', student, 0, 'real', ABSENT),
        row(f'{student}, prompt frozen', 'student', f'{student}, {absent}', 0,
            'real', PROMPT, tune_prompt=False),
        row(f'{student}, prompt tuned', 'student', f'{student}, {absent}', 0,
            'real', PROMPT),
    ]
    for turn, features in enumerate(('noise', 'shuffled', 'none'), 1):
        if features != 'none':
            rows.append(row(f'teacher, {features} features', 'teacher',
                            'teacher', turn, features))
        name = ('no content' if features == 'none' else
                f'{features} features')
        rows.append(row(f'student 64, {name}', 'student', 'student 64', turn,
                        features))
        if features == 'noise':
            rows.append(row(f'{student}, {name}, with prompt', 'student',
                            f'{student}, prompt tuned', turn, features,
                            PROMPT))
    rows += [
        row('student 64, random start', 'student', 'student 64', 4, 'real',
            init='random'),
        *(row(f'student {width}', 'student', 'student 64', 5, 'real',
              width=width) for width in (32, 128, 256)),
        *(row(f'student 64, {name}', 'student', 'student 64', 6, 'real', build)
          for name, build in LEFT_OUT.items() if several or
          'num_members' not in build),
        row('student 64, no items but those of lists', 'student',
            'student 64', 6, 'real', uniform_items=1),
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
        if 'prompt' in row.build:
            self.prompted(row.features, row.build['prompt'])
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

    def prompted(self, features: str, prompt: str | None) -> MultimodalTeacher:
        """The member that learns content, out of a file if there is one."""
        name = f'content.{features}.{prompt}.{self.seed}'
        path = self.runs / f'{name}.safetensors'
        if not path.exists():
            start = time.perf_counter()
            distiller = PromptMMDistiller.from_data(
                self.data(features), 64, seed=self.seed, prompt=prompt,
                fusion_weight=FUSION_WEIGHT, propagate_features=True,
                modalities=self.modalities)
            history = distiller.fit_teacher(self.data(features), self.val,
                                            **self.fit)
            note = {'epochs': len(history),
                    'seconds': time.perf_counter() - start}
            print(f'seed {self.seed}: {name} {note}', flush=True)
            with atomic_path(path.with_suffix('.json')) as temporary:
                temporary.write_text(json.dumps(note))
            distiller.save(path)
        # Anew for each row: stage 2 may tune its prompt.
        member = PromptMMDistiller.load(path).teacher
        assert isinstance(member, MultimodalTeacher)
        member.give_features(read_graph(self.data(features),
                                        modalities=self.modalities))
        return member

    def teacher(self, features: str,
                build: dict[str, Any] | None = None) -> tuple[Ensemble, Any]:
        """Members beside content, fused as validation says."""
        data, content, prompted = self.data(features), None, None
        build = build or {}
        num_members = build.get('num_members')
        expert = {k: v for k, v in build.items() if k in ('hop', 'scaling')}
        if features != 'none':
            content = ContentExpert.from_data(data,
                                              modalities=self.modalities,
                                              **expert)
        if 'prompt' in build:
            prompted = self.prompted(features, build['prompt'])
        ensemble = Ensemble(self.members()[:num_members], content,
                            prompted=prompted)
        kind = ''.join(f'.{k}-{v}' for k, v in build.items()
                       if k != 'num_members')
        path = self.runs / (f'fusion.{features}.{num_members}.{self.seed}'
                            f'{kind}.json')
        if path.exists():
            kept = json.loads(path.read_text())
            ensemble.fusion, recall = Fusion(**kept['fusion']), kept['val']
        else:
            fusion, recall = choose_fusion(
                ensemble, self.graph, self.positives, self.val_known,
                # A scaling that a row names stays.
                scalings=() if 'scaling' in build else SCALINGS)
            print(f'seed {self.seed}: {features} {build}: {fusion}, '
                  f'validation R@20 {recall:.4f}', flush=True)
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps({
                    'val': recall, 'fusion': asdict(fusion)}))
        return ensemble, {'val': recall, 'fusion': str(ensemble.fusion)}

    def _member(self, row: ModelRow) -> tuple[Any, ...]:
        model = self.members()[0]
        pair = embed(model, self.graph, 'cosine')
        return {'val': self._validate(pair)}, pair, count(model)

    def _popular(self, row: ModelRow) -> tuple[Any, ...]:
        ensemble, record = self.teacher('none', {'num_members': 1})
        return record, embed(ensemble, self.graph, 'dot'), count(ensemble)

    def _teacher(self, row: ModelRow) -> tuple[Any, ...]:
        ensemble, record = self.teacher(row.features, row.build)
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
        if row.build == PROMPT and distiller.settings.tune_prompt:
            record['teacher_after'] = distiller.evaluate(
                self.test, 20, model='teacher')['recall@20']
        return record, distiller.embeddings(), count(distiller.student)

    @property
    def quiet(self) -> dict[str, Any]:
        return {k: self.fit[k] for k in ('seed', 'progress', 'threads')}

    def distiller(self, row: ModelRow) -> PromptMMDistiller:
        change = dict(row.change)
        width = change.pop('width', 64)
        ensemble, _ = self.teacher(row.features, row.build)
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
    after = [f'- {row.name}: {mean(results.records[row.name], AFTER)}'
             for row in results.rows
             if AFTER in results.records[row.name][0]]
    if after:
        text += ('\n\nTest R@20 of the teacher after stage 2 has tuned its '
                 'prompt:\n\n' + '\n'.join(after))
    fusions = [f"- {row.name}: {results.records[row.name][0]['fusion']}"
               for row in results.rows
               if 'fusion' in results.records[row.name][0]]
    for kind, what in (('members', 'Members'),
                       ('content', 'A member that learns content')):
        notes = [json.loads(path.read_text())
                 for path in sorted(runs.glob(f'{kind}.*.json'))]
        if notes:
            seconds = sum(x['seconds'] for x in notes) / len(notes)
            text += (f'\n\n{what}: {seconds:.0f} s of training a seed. '
                     f'Seconds above are without it.')
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
    parser.add_argument('--only', nargs='*',
                        help='rows that contain any of these (default: all)')
    parser.add_argument('--runs', help='where runs are kept')
    parser.add_argument('--table-only', action='store_true',
                        help='print what is done already')
    parser.add_argument('--output', help='a Markdown file for the table')
    args = parser.parse_args()

    torch.set_num_threads(1)
    name = args.planted or Path(args.root).resolve().name
    runs = Path(args.runs or f'runs/content-{name}')
    runs.mkdir(parents=True, exist_ok=True)
    rows = [r for r in rows_of(args.quick, args.members > 1)
            if any(x in r.name for x in args.only or [''])]
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
