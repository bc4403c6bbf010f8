"""One run of a row of the table of accuracy: training and evaluation."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from _seed_runs import (
    SeedRuns,
    Splits,
    Trained,
    count,
    load_splits,
    summary,
)
from peers import PyGLightGCN
from rows import ModelRow
from torch import Tensor
from torch_geometric.data import HeteroData

from torch_promptmm import PromptMMDistiller
from torch_promptmm.data import read_graph
from torch_promptmm.distill import Settings
from torch_promptmm.files import atomic_path
from torch_promptmm.models import LightGCN, RankingModel
from torch_promptmm.serve import Recommender
from torch_promptmm.train import fit


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


class AccuracyRuns(SeedRuns):
    """All runs of one seed of the table of accuracy."""
    def trained(self, row: ModelRow) -> Trained:
        baseline = row.model in ('pyg', 'lightgcn')
        with torch.autocast('cpu', torch.bfloat16,
                            enabled=row.features == 'bfloat16'):
            return self._baseline(row) if baseline else self._ours(row)

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


def work(source: dict[str, Any], fit: dict[str, Any], runs: str, seed: int,
         rows: list[ModelRow], threads: int) -> str:
    torch.set_num_threads(threads)
    all_runs = AccuracyRuns(load_splits(source, seed), fit, Path(runs), seed)
    for row in rows:
        all_runs.run(row)
    return f'seed {seed}: {rows[0].name}' + (
        f' and {len(rows) - 1} more' if len(rows) > 1 else '')
