"""What all tables of accuracy share: a run, kept as soon as it is done."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from torch_promptmm.data import held_out, read_graph
from torch_promptmm.datasets import InteractionFolder, SyntheticMultimodal
from torch_promptmm.evaluate import evaluate_embeddings
from torch_promptmm.files import atomic_path
from torch_promptmm.train import History

Splits = tuple[HeteroData, HeteroData, HeteroData]

METRICS = ('recall@20', 'ndcg@20', 'recall@50', 'ndcg@50')


def load_splits(source: dict[str, Any], seed: int) -> Splits:
    """The three graphs; a planted set is another one for each seed."""
    if source['root'] is not None:
        train, val, test = InteractionFolder(source['root'])
    else:
        train, val, test = SyntheticMultimodal.preset(source['planted'],
                                                      seed=seed)
    return train, val, test


class Keyed(Protocol):
    """A row of a table: the runs of a key are its runs."""
    @property
    def name(self) -> str:
        ...

    @property
    def key(self) -> str:
        ...


class Trained(NamedTuple):
    """What a run leaves behind."""
    record: dict[str, Any]
    user: Tensor
    item: Tensor
    parameters: int


class SeedRuns:
    """All runs of one seed; a subclass says how a row is trained."""
    def __init__(self, splits: Splits, fit: dict[str, Any], runs: Path,
                 seed: int) -> None:
        self.train, self.val, self.test = splits
        # Threads are set where the process starts.
        self.fit = {'seed': seed, 'progress': False, 'threads': None, **fit}
        self.runs, self.seed = runs, seed

    def path(self, row: Keyed, suffix: str = 'json') -> Path:
        return self.runs / f'{row.key}.{self.seed}.{suffix}'

    def run(self, row: Any) -> None:
        """Trains and evaluates a row, unless that was done before."""
        if self.path(row).exists():
            return
        start = time.perf_counter()
        out = self.trained(row)
        record = {
            **out.record, 'parameters': out.parameters,
            'seconds': time.perf_counter() - start,
            **self._evaluate(row, out.user, out.item)
        }
        with atomic_path(self.path(row)) as temporary:
            temporary.write_text(json.dumps(record))

    def trained(self, row: Any) -> Trained:
        raise NotImplementedError

    def _evaluate(self, row: Keyed, user: Tensor,
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
