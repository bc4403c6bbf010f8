"""The graph that the benchmarks run on, and a training step on it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from _timing import use_cpu_clock
from torch import Tensor
from torch_geometric.data import HeteroData

from torch_promptmm import PromptMMDistiller
from torch_promptmm.data import from_interactions
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.models import LightGCN, MultimodalTeacher
from torch_promptmm.nn import PromptedReduction, SoftPrompt, UserItemGraph
from torch_promptmm.train import RankingObjective, RankingTask, Task

EDGE = ('user', 'interacts', 'item')
CHANNELS, BATCH = 64, 2048
WIDTHS = {'visual': 4096, 'textual': 1024}
# All terms at once; the values do not matter for the time.
ALL_TERMS = {
    'pair_weight': 2.0,
    'list_weight': 0.1,
    'emb_weight': 0.1,
    'fused_list_weight': 3.0,
    'fused_emb_weight': 0.5,
}


class Bench:
    """The graph, and how often things are measured."""
    def __init__(self, args: argparse.Namespace, threads: int) -> None:
        self.args, self.threads = args, threads
        self.device = torch.device(args.device)
        self.repeats, self.scale = args.repeats, args.scale
        splits = SyntheticMultimodal.preset(
            'electronics', args.scale, features={'visual': 1})
        train, val, test = (each[EDGE] for each in splits)
        self.num_users = splits[0]['user'].num_nodes
        self.num_items = splits[0]['item'].num_nodes
        self.known = train.edge_index.to(self.device)
        self.edge_index = torch.cat([
            train.edge_index, val.edge_label_index, test.edge_label_index
        ], dim=1).to(self.device)
        # Each user is ranked: one more positive for those without any.
        user = torch.arange(self.num_users)
        user = user[~torch.isin(user, test.edge_label_index[0])]
        extra = torch.stack([user, torch.randint(self.num_items, user.shape)])
        self.held_out = torch.cat([test.edge_label_index, extra],
                                  dim=1).to(self.device)
        self.graph = UserItemGraph(self.edge_index, self.num_users,
                                   self.num_items)
        self.widths = {'visual': 64, 'textual': 32} if args.quick else WIDTHS

    @cached_property
    def features(self) -> dict[str, Tensor]:
        return random_features(self.num_items, self.widths)

    def student(self) -> LightGCN:
        return LightGCN(self.num_users, self.num_items,
                        CHANNELS).to(self.device)

    def plain_task(self, objective: RankingObjective) -> RankingTask:
        return RankingTask(self.student(), self.graph, self.edge_index,
                           objective=objective, l2=1e-3)

    def distiller(self, features: dict[str, Tensor] | None = None,
                  **kwargs: Any) -> PromptMMDistiller:
        """With a random prompt: principal components take their time and
        change nothing here."""
        features = self.features if features is None else features
        widths = {name: x.size(1) for name, x in features.items()}
        normalize = kwargs.pop('normalize', 'size')
        prompt = SoftPrompt(torch.randn(self.num_items, CHANNELS))
        teacher = MultimodalTeacher(self.num_users, self.num_items, widths,
                                    CHANNELS, prompt=prompt,
                                    normalize=normalize)
        teacher.set_features(features)
        return PromptMMDistiller(teacher, self.student(), prompt, **kwargs)

    def data(self, features: dict[str, Tensor] | None = None) -> HeteroData:
        return from_interactions(
            self.edge_index.cpu(),
            self.features if features is None else features,
            self.num_users, self.num_items)

    def probe(self, what: str) -> dict[str, Any]:
        """What needs a process of its own, see `_probes.py`."""
        options = {
            'threads': self.threads, 'scale': self.scale,
            'repeats': self.repeats, 'quick': self.args.quick,
            'clock': self.args.clock, 'device': 'cpu',
        }
        probes = Path(__file__).with_name('_probes.py')
        out = subprocess.run(
            [sys.executable, str(probes), what, json.dumps(options)],
            check=True, stdout=subprocess.PIPE)
        return json.loads(out.stdout.splitlines()[-1])


class Step:
    """A training step as `torch_promptmm.train.train` makes it."""
    def __init__(self, task: Task, batch_size: int = BATCH) -> None:
        self.task = task
        self.loader = task.loader(batch_size)
        self.optimizer = torch.optim.AdamW(task.parameter_groups(), lr=1e-3,
                                           weight_decay=0.0, fused=True)
        self._batches: Iterator[Any] = iter(())

    def sample(self) -> Any:
        batch = next(self._batches, None)
        if batch is None:
            self._batches = iter(self.loader)
            batch = next(self._batches)
        return batch

    def __call__(self) -> None:
        batch = self.sample()
        self.optimizer.zero_grad(set_to_none=True)
        total, _ = self.task(batch)
        total.backward()
        self.optimizer.step()


def random_features(num_items: int,
                    widths: dict[str, int]) -> dict[str, Tensor]:
    return {
        name: torch.randn(num_items, width)
        for name, width in widths.items()
    }


def cheap_reduction(x: Tensor, prompt: Tensor,
                    reduction: PromptedReduction) -> None:
    reduction(x, prompt).sum().backward()


def naive_reduction(x: Tensor, prompt: Tensor,
                    reduction: PromptedReduction) -> None:
    feature = prompt @ (prompt.t() @ x) / x.size(0)
    out = (x + feature) @ reduction.weight + reduction.bias
    out.sum().backward()


def parse(doc: str | None, groups: Iterable[str],
          threads: list[int]) -> argparse.Namespace:
    """The options that benchmarks on this graph have in common."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add('--device', default='cpu', help='cpu or cuda (default: cpu)')
    add('--threads', type=int, nargs='+', default=None,
        help=f'numbers of threads (default: {threads}; --quick: 1)')
    add('--scale', type=float, default=None,
        help='users, items and interactions, 1 is Electronics (default: 1)')
    add('--repeats', type=int, default=None, help='rounds (default: 9)')
    add('--quick', action='store_true',
        help='a small graph and few rounds, to see that it works')
    add('--clock', choices=['wall', 'cpu'], default='wall',
        help='cpu: the time of this process alone, where others share the\n'
        'machine; with one thread only (default: wall)')
    add('--only', nargs='+', choices=[*groups], default=[*groups],
        help='parts of the table (default: all)')
    add('--output', help='also write the table to this file')
    args = parser.parse_args()
    if args.scale is None:
        args.scale = 0.02 if args.quick else 1.0
    if args.repeats is None:
        args.repeats = 2 if args.quick else 9
    if args.threads is None:
        small = args.quick or args.device != 'cpu'
        args.threads = [1] if small else threads
    if args.clock == 'cpu':
        use_cpu_clock()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads[0])
    return args
