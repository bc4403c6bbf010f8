"""Measurements that need a process of their own: memory and growth.

    python benchmarks/_probes.py WHAT OPTIONS

prints a line of JSON; `speed.py` runs it.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _bench import (
    BATCH,
    CHANNELS,
    EDGE,
    Bench,
    Step,
    cheap_reduction,
    naive_reduction,
)
from _timing import paired, use_cpu_clock
from torch import Tensor
from torch_geometric.data import HeteroData

from torch_promptmm import PromptMMDistiller
from torch_promptmm.models import LightGCN
from torch_promptmm.nn import PromptedReduction, UserItemGraph
from torch_promptmm.train import RankingObjective, RankingTask


class PeakMemory:
    """How far memory rises above what it is at the start (Linux)."""
    def __init__(self, anonymous: bool = False) -> None:
        self.anonymous = anonymous

    def __enter__(self) -> PeakMemory:
        gc.collect()
        Path('/proc/self/clear_refs').write_text('5')  # Resets the peak.
        self.start, self.mapped = self._read('VmRSS'), self._read('RssFile')
        return self

    def __exit__(self, *args: Any) -> None:
        self.bytes = max(self._read('VmHWM') - self.start, 1)
        if self.anonymous:
            self.bytes -= max(self._read('RssFile') - self.mapped, 0)

    @staticmethod
    def _read(key: str) -> int:
        for line in Path('/proc/self/status').read_text().splitlines():
            if line.startswith(key + ':'):
                return 1024 * int(line.split()[1])
        raise KeyError(key)


def few_steps(bench: Bench, num: int = 4,
              features: dict[str, Tensor] | None = None) -> HeteroData:
    """A training graph with a few batches of supervision."""
    data = bench.data(features)
    index = torch.randperm(bench.edge_index.size(1))[:num * BATCH]
    data[EDGE].edge_label_index = bench.edge_index[:, index]
    return data


def probe_reduction(bench: Bench, order: str) -> dict[str, Any]:
    x = bench.features['visual']
    prompt = torch.randn(bench.num_items, CHANNELS, requires_grad=True)
    reduction = PromptedReduction(x.size(1), CHANNELS)
    small = slice(0, 64)  # Loads the libraries.
    run = cheap_reduction if order == 'cheap' else naive_reduction
    run(x[small], prompt[small], reduction)
    with PeakMemory() as memory:
        run(x, prompt, reduction)
    return {'bytes': memory.bytes}


def probe_fit(bench: Bench) -> dict[str, Any]:
    data = few_steps(bench)
    val = few_steps(bench)
    val[EDGE].edge_index = bench.known
    val[EDGE].edge_label_index = bench.held_out
    del bench.edge_index, bench.graph
    with PeakMemory() as memory:
        distiller = PromptMMDistiller.from_data(data, CHANNELS)
        distiller.fit(data, val, epochs=1, progress=False)
    return {'bytes': memory.bytes}


def probe_mapped(bench: Bench) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return probe_mapped_in(bench, Path(folder))


def probe_mapped_in(bench: Bench, folder: Path) -> dict[str, Any]:
    features = {}
    for name, width in bench.widths.items():
        path = folder / f'{name}.npy'
        out = np.lib.format.open_memmap(path, 'w+', np.float16,
                                        (bench.num_items, width))
        for start in range(0, bench.num_items, 1024):
            block = out[start:start + 1024]
            block[:] = torch.randn(block.shape).half().numpy()
        out.flush()
        del out
        mapped = np.load(path, mmap_mode='c')
        features[name] = torch.from_numpy(mapped)
    file = sum(x.nbytes for x in features.values())
    data = few_steps(bench, 2, features)
    with PeakMemory(anonymous=True) as memory:
        distiller = PromptMMDistiller.from_data(data, CHANNELS)
        distiller.fit_teacher(data, epochs=1, progress=False)
    return {'bytes': memory.bytes, 'file': file, 'read': 2 * file}


def long_tail(num_users: int, num_items: int, num_edges: int) -> Tensor:
    """A random graph with a long tail, cheap at any size."""
    generator = torch.Generator().manual_seed(0)

    def draw(number: int, spread: float, count: int) -> Tensor:
        weight = torch.randn(number, generator=generator) * spread
        cumulative = weight.double().exp().cumsum(0)
        at = torch.rand(count, generator=generator, dtype=torch.double)
        return torch.searchsorted(cumulative, at * cumulative[-1])

    count = int(1.4 * num_edges)
    key = draw(num_users, 0.6, count) * num_items + draw(
        num_items, 1.1, count)
    key = key.unique()
    key = key[torch.randperm(key.numel(), generator=generator)[:num_edges]]
    return torch.stack([key // num_items, key % num_items])


def probe_growth(args: argparse.Namespace, size: int) -> dict[str, Any]:
    num_users, num_items, num_edges = (
        max(1, round(number * args.scale * size))
        for number in (41691, 21479, 359165))
    edge_index = long_tail(num_users, num_items, num_edges)
    graph = UserItemGraph(edge_index, num_users, num_items)
    student = LightGCN(num_users, num_items, CHANNELS)
    task = RankingTask(student, graph, edge_index,
                       objective=RankingObjective('bpr'), l2=1e-3)
    step = Step(task, BATCH * size)
    x_user = student.user_embedding.weight.detach()
    x_item = student.item_embedding.weight.detach()

    def product() -> None:
        graph.user_item.matmul(x_item)
        graph.item_user.matmul(x_user)

    times = paired({'step': step, 'product': product}, max(5, args.repeats))
    return {
        'step': times['step'].tolist(),
        'product': times['product'].tolist(),
        'edges': edge_index.size(1),
    }


def probe(what: str, args: argparse.Namespace) -> dict[str, Any]:
    what, _, detail = what.partition(' ')
    if what == 'growth':  # It has graphs of its own.
        return probe_growth(args, int(detail))
    bench = Bench(args, args.threads)
    if what == 'reduction':
        return probe_reduction(bench, detail)
    return {'fit': probe_fit, 'mapped': probe_mapped}[what](bench)


def main() -> None:
    what, options = sys.argv[1:]
    args = argparse.Namespace(**json.loads(options))
    if args.clock == 'cpu':
        use_cpu_clock()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    print(json.dumps(probe(what, args)))


if __name__ == '__main__':
    main()
