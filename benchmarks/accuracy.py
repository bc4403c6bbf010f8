r"""Accuracy of teacher, student and LightGCN, and what each part is worth.

    python benchmarks/accuracy.py --root FOLDER --seeds 5
    python benchmarks/accuracy.py --planted wide --seeds 5

Each run (a row of the table and a seed) is kept under ``--runs`` as soon as
it is done; the command resumes where it stopped, and several may work on one
folder. Epochs are chosen on validation, test is read once, at the end.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import platform
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import PyGLightGCN
from torch import Tensor
from torch_geometric.data import HeteroData

from torch_promptmm import PromptMMDistiller
from torch_promptmm.data import held_out, read_graph
from torch_promptmm.datasets import InteractionFolder, SyntheticMultimodal
from torch_promptmm.evaluate import evaluate_embeddings
from torch_promptmm.files import atomic_path
from torch_promptmm.nn import LightGCNStudent, UserItemGraph
from torch_promptmm.train import RankingTask, Settings, train

METRICS = ('recall@20', 'ndcg@20', 'recall@50', 'ndcg@50')


@dataclass(frozen=True)
class Row:
    r"""A row of the table: how a model is made and trained."""
    name: str
    model: str  # 'pyg', 'lightgcn', 'teacher' or 'student'
    setting: str
    build: dict[str, Any] = field(default_factory=dict)  # from_data
    change: dict[str, Any] = field(default_factory=dict)  # stage 2
    against: str = ''  # The row of the paired test.
    turn: int = 0  # Rows of an early turn are run first, for all seeds.
    features: str = ''  # How features are kept: a key of FEATURES.

    @property
    def key(self) -> str:
        return ''.join(c if c.isalnum() else '-' for c in self.name)


def in_bfloat16(x: Tensor) -> Tensor:
    return x.bfloat16()


def components(x: Tensor, channels: int = 64) -> Tensor:
    r"""The leading principal components of the standardised columns."""
    mean, std = x.double().mean(dim=0), x.double().std(dim=0)
    z = (x.double() - mean) / std.clamp(min=1e-12)
    return (z @ torch.linalg.svd(z, full_matrices=False).Vh[:channels].T
            ).float()


# The second one is trained under torch.autocast, of bfloat16.
FEATURES = {'64 components': components, 'bfloat16': in_bfloat16}


def rows_of(planted: bool) -> list[Row]:
    r"""The rows of the table, baselines first."""
    bpr, soft = 'LightGCN, BPR', 'LightGCN, softmax'
    rows = [
        Row('PyG LightGCN, BPR', 'pyg', 'faithful', against=bpr),
        Row(bpr, 'lightgcn', 'faithful'),
        Row(soft, 'lightgcn', 'default', against=bpr),
        Row('LightGCN, softmax, 1,024 negatives, temperature 0.25', 'lightgcn',
            'default', change={'num_negatives': 1024, 'temperature': 0.25},
            against=soft, turn=1),
    ]
    if planted:
        rows = rows[1:]
    for setting, base in (('default', soft), ('faithful', bpr)):
        student = f'student, {setting}'
        absent = {'prompt': None}
        rows += [
            Row(f'teacher, {setting}', 'teacher', setting, against=base),
            Row(f'teacher, {setting}, no prompt', 'teacher', setting, absent,
                against=f'teacher, {setting}', turn=1),
            Row(student, 'student', setting, against=base),
            Row(f'{student}, prompt frozen', 'student', setting, {},
                {'tune_prompt': False}, student, turn=1),
            Row(f'{student}, no prompt', 'student', setting, absent, {},
                student, turn=1),
        ]
        if planted:
            graph = {'prompt': 'graph', 'prompt_weight': 10.0}
            rows.append(
                Row(f'{student}, prompt from the graph, λ1 = 10', 'student',
                    setting, graph, {}, student, turn=1))
            continue
        if setting == 'default':
            wide = {'teacher_channels': 128}
            rows += [
                Row('teacher of 128 channels, default', 'teacher', setting,
                    wide, against=f'teacher, {setting}', turn=3),
                Row('student of a teacher of 128 channels, default',
                    'student', setting, wide, {}, student, turn=3),
            ]
        settings = Settings.preset(setting)
        parts = {
            'PairKD': {'pair_weight': 0.0},
            'ListKD': {'list_weight': 0.0},
            'disentangling': {'disentangle': False},
            'EmbKD': {'emb_weight': 0.0},
            'fused terms': {'fused_list_weight': 0.0, 'fused_emb_weight': 0.0},
        }
        for part, change in parts.items():
            if any(getattr(settings, k) != v for k, v in change.items()):
                rows.append(Row(f'{student}, no {part}', 'student', setting,
                                {}, change, student, turn=2))
    if not planted:
        rows += [
            Row(f'{model}, default, {name}', model, 'default', build, {},
                f'{model}, default', turn=4, features=features)
            for name, build, features in (
                ('features propagated once', {'propagate_features': True},
                 ''),
                ('features rotated to 64 components', {}, '64 components'),
                ('features and autocast in bfloat16', {}, 'bfloat16'))
            for model in ('teacher', 'student')
        ]
    return rows


def load_splits(source: dict[str, Any], seed: int) -> Any:
    r"""The three graphs; a planted set is another one for each seed."""
    if source['root'] is not None:
        return InteractionFolder(source['root'])
    return SyntheticMultimodal.preset(source['planted'], seed=seed)


class Bench:
    r"""All runs of one seed that need the same teacher."""
    def __init__(self, source: dict[str, Any], fit: dict[str, Any],
                 runs: Path, seed: int) -> None:
        self.train, self.val, self.test = load_splits(source, seed)
        self.fit = {'seed': seed, 'progress': False, **fit}
        self.runs, self.seed = runs, seed

    def path(self, row: Row, suffix: str = 'json') -> Path:
        return self.runs / f'{row.key}.{self.seed}.{suffix}'

    def run(self, row: Row) -> None:
        r"""Trains and evaluates a row, unless that was done before."""
        if self.path(row).exists():
            return
        with torch.autocast('cpu', torch.bfloat16,
                            enabled=row.features == 'bfloat16'):
            self._run(row)

    def splits(self, row: Row) -> tuple[HeteroData, HeteroData, HeteroData]:
        r"""The graphs, with features as the row keeps them."""
        out = []
        for data in (self.train, self.val, self.test):
            data = copy.copy(data)
            if row.features:
                view = read_graph(data, check_finite=False)
                for name, x in view.features.items():
                    data['item'][name] = FEATURES[row.features](x)
            out.append(data)
        return tuple(out)  # type: ignore[return-value]

    def _run(self, row: Row) -> None:
        start = time.perf_counter()
        if row.model in ('pyg', 'lightgcn'):
            record, user, item, parameters = self._baseline(row)
        else:
            record, user, item, parameters = self._ours(row)
        record['parameters'] = parameters
        record['seconds'] = time.perf_counter() - start
        record.update(self._evaluate(row, user, item))
        with atomic_path(self.path(row)) as temporary:
            temporary.write_text(json.dumps(record))

    def _evaluate(self, row: Row, user: Tensor,
                  item: Tensor) -> dict[str, float]:
        view = read_graph(self.test, check_finite=False)
        positives, known = held_out(view), view.edge_index
        values = evaluate_embeddings(user, item, positives, known, (20, 50),
                                     per_user=True)
        out = {name: float(values[name].mean()) for name in METRICS}
        with atomic_path(self.path(row, 'npy')) as temporary:
            with open(temporary, 'wb') as file:
                np.save(file, values['recall@20'].cpu().numpy())
        cold = torch.ones(view.num_items, dtype=torch.bool)
        cold[known[1]] = False
        for name, part in (('cold', cold[positives[1]]),
                           ('warm', ~cold[positives[1]])):
            if part.any():
                out[name] = evaluate_embeddings(user, item,
                                                positives[:, part], known,
                                                (20, ))['recall@20']
        if cold[positives[1]].any() and int(cold.sum()) >= 100:
            renumbered = cold.cumsum(0) - 1
            user_id, item_id = positives[:, cold[positives[1]]]
            out['cold_only'] = evaluate_embeddings(
                user, item[cold], torch.stack([user_id, renumbered[item_id]]),
                None, (20, ))['recall@20']
        return out

    def _baseline(self, row: Row) -> Any:
        settings = Settings.preset(row.setting, **row.change)
        view = read_graph(self.train, check_finite=False)
        sizes = view.num_users, view.num_items
        graph = UserItemGraph(view.edge_index, *sizes)
        torch.manual_seed(self.seed)
        model: torch.nn.Module
        if row.model == 'pyg':
            model = PyGLightGCN(view.edge_index, *sizes, 64, 2)
        else:
            model = LightGCNStudent(*sizes, 64, 2)
        task = RankingTask(model, graph, view.edge_index, None,
                           settings.objective(), settings.ego_l2)
        val = read_graph(self.val, check_finite=False)
        positives = held_out(val)

        def validate() -> dict[str, float]:
            return evaluate_embeddings(*task.embeddings(), positives,
                                       val.edge_index, (20, ))

        history = train(task, lr=settings.learning_rate,
                        batch_size=settings.batch_size, validate=validate,
                        name=row.name, **self.fit)
        return (summary(history), *task.embeddings(), count(model))

    def _ours(self, row: Row) -> Any:
        train, val, test = self.splits(row)
        distiller, record = self._teacher(row, train, val)
        if row.features == '64 components':
            full = read_graph(self.train, check_finite=False).features
            few = read_graph(train, check_finite=False).features
            # Standardised columns have variance 1 each.
            record['kept'] = {
                name: float(few[name].var(dim=0).sum()) / x.size(1)
                for name, x in full.items()
            }
        if row.model == 'teacher':
            return (record, *distiller.embeddings('teacher'),
                    count(distiller.teacher) + count(distiller.prompt))
        torch.manual_seed(self.seed)
        student = LightGCNStudent(distiller.student.num_users,
                                  distiller.student.num_items, 64, 2)
        distiller = PromptMMDistiller(distiller.teacher, student,
                                      setting=row.setting, **row.change)
        history = distiller.fit_student(train, val, **self.fit)
        record = summary(history)
        record['teacher_after'] = distiller.evaluate(
            test, 20, model='teacher')['recall@20']
        return record, *distiller.embeddings(), count(student)

    def _teacher(self, row: Row, train: HeteroData, val: HeteroData) -> Any:
        name = (f'teacher, {row.setting}, {sorted(row.build.items())}'
                f'{row.features}')
        same = Row(name, 'teacher', row.setting, row.build)
        path, notes = self.path(same, 'safetensors'), self.path(same, 'txt')
        if path.exists() and notes.exists():
            return PromptMMDistiller.load(path), json.loads(notes.read_text())
        distiller = PromptMMDistiller.from_data(train, 64, seed=self.seed,
                                                setting=row.setting,
                                                **row.build)
        history = distiller.fit_teacher(train, val, **self.fit)
        record = summary(history)
        ratio = distiller.teacher.prompt_ratio()  # type: ignore
        record['prompt_ratio'] = ratio
        distiller.save(path)
        with atomic_path(notes) as temporary:
            temporary.write_text(json.dumps(record))
        return distiller, record


def summary(history: Any) -> dict[str, Any]:
    best = history[history.best_epoch - 1]
    return {
        'val': best['recall@20'],
        'best_epoch': history.best_epoch,
        'epochs': len(history),
        'epoch_seconds': float(np.median(history.values('time'))),
    }


def count(module: Any) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())


def work(source: dict[str, Any], fit: dict[str, Any], runs: str, seed: int,
         rows: list[Row], threads: int) -> str:
    torch.set_num_threads(threads)
    bench = Bench(source, fit, Path(runs), seed)
    for row in rows:
        bench.run(row)
    return f'seed {seed}: {rows[0].name}' + (
        f' and {len(rows) - 1} more' if len(rows) > 1 else '')


def groups_of(rows: list[Row]) -> list[list[Row]]:
    r"""Rows that share a teacher, and are run in the same turn, belong
    together; those of an early turn come first."""
    out: dict[tuple[int, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.turn):
        shared = row.model in ('teacher', 'student')
        key = f'{row.setting} {sorted(row.build.items())} {row.features}'
        key = key if shared else row.name
        out.setdefault((row.turn, key), []).append(row)
    return list(out.values())


def table(rows: list[Row], runs: Path, seeds: list[int]) -> str:
    r"""The table of all runs that are done, in Markdown."""
    records: dict[str, list[dict[str, Any]]] = {}
    recalls: dict[str, dict[int, np.ndarray]] = {}
    for row in rows:
        done = [s for s in seeds if (runs / f'{row.key}.{s}.json').exists()]
        if done:
            records[row.name] = [
                json.loads((runs / f'{row.key}.{s}.json').read_text())
                for s in done
            ]
            recalls[row.name] = {
                s: np.load(runs / f'{row.key}.{s}.npy') for s in done
            }
    head = ('| model | seeds | validation R@20 | test R@20 | N@20 | R@50 | '
            'N@50 | cold R@20 | cold-only R@20 | against | difference | p | '
            'epoch | s per epoch | parameters |')
    lines = [head, '|---' * 15 + '|']
    for row in rows:
        if row.name not in records:
            continue
        got = records[row.name]
        cells = [row.name, str(len(got)), spread(got, 'val')]
        cells += [spread(got, 'recall@20')]
        cells += [mean(got, name) for name in METRICS[1:]]
        cells += [mean(got, 'cold'), mean(got, 'cold_only')]
        cells += compare(recalls, row.name, row.against)
        cells += [f"{np.median([x['best_epoch'] for x in got]):.0f}",
                  f"{np.median([x['epoch_seconds'] for x in got]):.2f}",
                  f"{got[0]['parameters']:,}"]
        lines.append('| ' + ' | '.join(cells) + ' |')
    ratios = [
        f'- {row.name}: ' + ', '.join(
            f"{name} {np.mean([x['prompt_ratio'][name] for x in got]):.2f}"
            for name in got[0]['prompt_ratio'])
        for row in rows if row.model == 'teacher'
        and (got := records.get(row.name)) and 'prompt_ratio' in got[0]
        and 'no prompt' not in row.name
    ]
    drift = [
        f"- {row.name}: {mean(got, 'teacher_after')}" for row in rows
        if row.model == 'student' and (got := records.get(row.name))
        and 'tune_prompt' not in row.change and row.build != {'prompt': None}
    ]
    text = '\n'.join(lines)
    if ratios:
        text += ("\n\nNorm of the prompt's part over that of the features' "
                 "own part after stage 1:\n\n" + '\n'.join(ratios))
    for row in rows:
        for record in records.get(row.name, [])[:1]:
            if 'kept' in record:
                text += f'\n\nVariance that {row.features} keep: ' + ', '.join(
                    f'{name} {value:.3f}'
                    for name, value in record['kept'].items())
                break
    if drift:
        text += ('\n\nTest R@20 of the teacher after stage 2 has tuned its '
                 'prompt:\n\n' + '\n'.join(drift))
    return text


def compare(recalls: dict[str, dict[int, np.ndarray]], name: str,
            other: str) -> list[str]:
    r"""The difference to another row over the seeds that both have, and the
    p-value of a paired test over users of the seed-averaged difference."""
    from scipy.stats import ttest_rel

    seeds = sorted(recalls[name].keys() & recalls.get(other, {}).keys())
    if not seeds:
        return ['', '', '']
    a, b = [[recalls[x][s] for s in seeds] for x in (name, other)]
    gap = np.mean([x.mean() for x in a]) - np.mean([x.mean() for x in b])
    p = ''
    if len({x.shape for x in a + b}) == 1:  # A planted set has its own users.
        a_mean, b_mean = np.mean(a, axis=0), np.mean(b, axis=0)
        same = np.array_equal(a_mean, b_mean)
        p = '1' if same else f'{ttest_rel(a_mean, b_mean).pvalue:.2g}'
    return [f'{other} ({len(seeds)} seeds)', f'{gap:+.4f}', p]


def mean(records: list[dict[str, Any]], name: str) -> str:
    values = [x[name] for x in records if name in x]
    return f'{np.mean(values):.4f}' if values else ''


def spread(records: list[dict[str, Any]], name: str) -> str:
    values = [x[name] for x in records]
    if len(values) == 1:
        return f'{values[0]:.4f}'
    return f'{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}'


def provenance(command: str) -> str:
    def git(*args: str) -> str:
        here = Path(__file__).parent
        out = subprocess.run(['git', *args], capture_output=True, text=True,
                             cwd=here, check=False)
        return out.stdout.strip()

    commit = git('rev-parse', '--short', 'HEAD') or 'unknown'
    if git('status', '--porcelain', '--', '../torch_promptmm'):
        commit += ' (with changes)'
    return (f"`{command}`, commit {commit}, {time.strftime('%Y-%m-%d')}, "
            f"{platform.machine()} with {os.cpu_count()} cores, torch "
            f"{torch.__version__}")


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
            for turn in range(5) for seed in seeds
            for group in groups_of(rows) if group[0].turn == turn
            and (turn < 2 or seed < args.ablation_seeds)
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
        with atomic_path(args.output) as temporary:
            temporary.write_text(f'{provenance(shown)}\n\n{text}\n')


if __name__ == '__main__':
    main()
