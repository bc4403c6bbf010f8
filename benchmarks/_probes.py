"""Measurements that need a process of their own: memory and growth.

    python benchmarks/_probes.py WHAT OPTIONS

prints a line of JSON; `speed.py` runs it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

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

from torch_promptmm import PromptMMDistiller
from torch_promptmm.nn import (
    LightGCNStudent,
    PromptedReduction,
    UserItemGraph,
)
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


def few_steps(bench: Bench, num: int = 4) -> Any:
    """A training graph with a few batches of supervision."""
    data = bench.data
    index = torch.randperm(bench.edge_index.size(1))[:num * BATCH]
    data[EDGE].edge_label_index = bench.edge_index[:, index]
    return data


def probe(what: str, args: argparse.Namespace) -> dict[str, Any]:
    what, _, detail = what.partition(' ')
    if what == 'growth':
        return probe_growth(int(detail), args)
    with tempfile.TemporaryDirectory() as folder:
        return globals()[f'probe_{what}'](Bench(args, args.threads),
                                          detail or folder)


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


def probe_fit(bench: Bench, _: str) -> dict[str, Any]:
    data = few_steps(bench)
    val = few_steps(bench)
    val[EDGE].edge_index = bench.known
    val[EDGE].edge_label_index = bench.held_out
    del bench.edge_index, bench.graph
    with PeakMemory() as memory:
        distiller = PromptMMDistiller.from_data(data, CHANNELS)
        distiller.fit(data, val, epochs=1, progress=False)
    return {'bytes': memory.bytes}


def probe_mapped(bench: Bench, folder: str) -> dict[str, Any]:
    import numpy as np
    features = {}
    for name, width in bench.widths.items():
        path = os.path.join(folder, f'{name}.npy')
        out = np.lib.format.open_memmap(path, 'w+', np.float16,
                                        (bench.num_items, width))
        for start in range(0, bench.num_items, 1024):
            block = out[start:start + 1024]
            block[:] = torch.randn(block.shape).half().numpy()
        out.flush()
        del out
        mapped = np.load(path, mmap_mode='c')
        features[name] = torch.from_numpy(mapped)
    bench._features = features
    file = sum(x.nbytes for x in features.values())
    data = few_steps(bench, 2)
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


def probe_growth(size: int, args: argparse.Namespace) -> dict[str, Any]:
    num_users, num_items, num_edges = (
        max(1, round(number * args.scale * size))
        for number in (41691, 21479, 359165))
    edge_index = long_tail(num_users, num_items, num_edges)
    graph = UserItemGraph(edge_index, num_users, num_items)
    student = LightGCNStudent(num_users, num_items, CHANNELS)
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
