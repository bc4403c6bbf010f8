"""One run of a row of the table of accuracy: training and evaluation."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from peers import PyGLightGCN
from rows import ModelRow
from torch import Tensor
from torch_geometric.data import HeteroData

from torch_promptmm import PromptMMDistiller
from torch_promptmm.data import held_out, read_graph
from torch_promptmm.datasets import InteractionFolder, SyntheticMultimodal
from torch_promptmm.distill import Settings
from torch_promptmm.evaluate import evaluate_embeddings
from torch_promptmm.files import atomic_path
from torch_promptmm.models import LightGCN, RankingModel
from torch_promptmm.serve import Recommender
from torch_promptmm.train import History, fit

Splits = tuple[HeteroData, HeteroData, HeteroData]

METRICS = ('recall@20', 'ndcg@20', 'recall@50', 'ndcg@50')


def in_bfloat16(x: Tensor) -> Tensor:
    return x.bfloat16()


def components(x: Tensor, channels: int = 64) -> Tensor:
    """The leading principal components of the standardised columns."""
    mean, std = x.double().mean(dim=0), x.double().std(dim=0)
    z = (x.double() - mean) / std.clamp(min=1e-12)
    return (z @ torch.linalg.svd(z, full_matrices=False).Vh[:channels].T
            ).float()


# The second one is trained under torch.autocast, of bfloat16.
FEATURES = {'64 components': components, 'bfloat16': in_bfloat16}


def load_splits(source: dict[str, Any], seed: int) -> Splits:
    """The three graphs; a planted set is another one for each seed."""
    if source['root'] is not None:
        train, val, test = InteractionFolder(source['root'])
    else:
        train, val, test = SyntheticMultimodal.preset(source['planted'],
                                                      seed=seed)
    return train, val, test


class Trained(NamedTuple):
    """What a run leaves behind."""
    record: dict[str, Any]
    user: Tensor
    item: Tensor
    parameters: int


class SeedRuns:
    """All runs of one seed."""
    def __init__(self, source: dict[str, Any], fit: dict[str, Any],
                 runs: Path, seed: int) -> None:
        self.train, self.val, self.test = load_splits(source, seed)
        # `work` has set the threads.
        self.fit = {'seed': seed, 'progress': False, 'threads': None, **fit}
        self.runs, self.seed = runs, seed

    def path(self, row: ModelRow, suffix: str = 'json') -> Path:
        return self.runs / f'{row.key}.{self.seed}.{suffix}'

    def run(self, row: ModelRow) -> None:
        """Trains and evaluates a row, unless that was done before."""
        if self.path(row).exists():
            return
        with torch.autocast('cpu', torch.bfloat16,
                            enabled=row.features == 'bfloat16'):
            self._run(row)

    def splits(self, row: ModelRow) -> Splits:
        """The graphs, with features as the row keeps them."""
        def kept(data: HeteroData) -> HeteroData:
            data = copy.copy(data)
            if row.features:
                view = read_graph(data, check_finite=False)
                for name, x in view.features.items():
                    data['item'][name] = FEATURES[row.features](x)
            return data

        return kept(self.train), kept(self.val), kept(self.test)

    def _run(self, row: ModelRow) -> None:
        start = time.perf_counter()
        baseline = row.model in ('pyg', 'lightgcn')
        out = self._baseline(row) if baseline else self._ours(row)
        record = {
            **out.record, 'parameters': out.parameters,
            'seconds': time.perf_counter() - start,
            **self._evaluate(row, out.user, out.item)
        }
        with atomic_path(self.path(row)) as temporary:
            temporary.write_text(json.dumps(record))

    def _evaluate(self, row: ModelRow, user: Tensor,
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

    def _baseline(self, row: ModelRow) -> Trained:
        model: RankingModel
        if row.model == 'pyg':
            model = PyGLightGCN.from_data(self.train, 64, seed=self.seed)
        else:
            model = LightGCN.from_data(self.train, 64, seed=self.seed)
        history = fit(model, self.train, self.val,
                      ranking_loss=Settings.preset(row.setting).ranking_loss,
                      **row.change, **self.fit)
        out = Recommender.from_model(model, self.train)
        return Trained(summary(history), out.user_emb, out.item_emb,
                       count(model))

    def _ours(self, row: ModelRow) -> Trained:
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
            return Trained(record, *distiller.embeddings('teacher'),
                           count(distiller.teacher, distiller.prompt))
        torch.manual_seed(self.seed)
        student = LightGCN(distiller.student.num_users,
                           distiller.student.num_items, 64, 2)
        distiller = PromptMMDistiller(distiller.teacher, student,
                                      setting=row.setting, **row.change)
        history = distiller.fit_student(train, val, **self.fit)
        record = summary(history)
        record['teacher_after'] = distiller.evaluate(
            test, 20, model='teacher')['recall@20']
        return Trained(record, *distiller.embeddings(), count(student))

    def _teacher(
        self,
        row: ModelRow,
        train: HeteroData,
        val: HeteroData,
    ) -> tuple[PromptMMDistiller, dict[str, Any]]:
        """Rows of one build share a teacher, which is kept in a file."""
        name = (f'teacher, {row.setting}, {sorted(row.build.items())}'
                f'{row.features}')
        same = ModelRow(name, 'teacher', row.setting, row.build)
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


def summary(history: History) -> dict[str, Any]:
    best = history[history.best_epoch - 1]
    return {
        'val': best['recall@20'],
        'best_epoch': history.best_epoch,
        'epochs': len(history),
        'epoch_seconds': float(np.median(history.values('time'))),
    }


def count(*modules: torch.nn.Module | None) -> int:
    return sum(p.numel() for module in modules if module is not None
               for p in module.parameters())


def work(source: dict[str, Any], fit: dict[str, Any], runs: str, seed: int,
         rows: list[ModelRow], threads: int) -> str:
    torch.set_num_threads(threads)
    all_runs = SeedRuns(source, fit, Path(runs), seed)
    for row in rows:
        all_runs.run(row)
    return f'seed {seed}: {rows[0].name}' + (
        f' and {len(rows) - 1} more' if len(rows) > 1 else '')
