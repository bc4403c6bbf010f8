"""What a step, an evaluation and a whole training cost, against peers.

    python benchmarks/speed.py                  # the whole table
    python benchmarks/speed.py --quick          # under a minute, a small graph
    python benchmarks/speed.py --device cuda --output table.md

The graph has the size of the paper's Electronics, with a long tail. Whatever
is compared alternates in one process; a ratio is taken in each round, and the
table shows their median and quartiles. Ours runs inside of `kept_memory()`,
as in `train`; PyG's LightGCN runs as its users run it, and once more with the
memory kept for it too.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch  # noqa: E402
from _pyg_steps import PyGStep, pyg_evaluate  # noqa: E402
from _timing import (  # noqa: E402
    Row,
    markdown,
    ms,
    number,
    paired,
    use_cpu_clock,
)
from torch import Tensor  # noqa: E402

from torch_promptmm import PromptMMDistiller  # noqa: E402
from torch_promptmm.data import from_interactions  # noqa: E402
from torch_promptmm.datasets import SyntheticMultimodal  # noqa: E402
from torch_promptmm.evaluate import evaluate_embeddings  # noqa: E402
from torch_promptmm.loader import InteractionLoader  # noqa: E402
from torch_promptmm.nn import (  # noqa: E402
    LightGCNStudent,
    MultimodalTeacher,
    PromptedReduction,
    PropagatedFeatures,
    SoftPrompt,
    UserItemGraph,
)
from torch_promptmm.nn.dense import matmul  # noqa: E402
from torch_promptmm.train import (  # noqa: E402
    RankingObjective,
    RankingTask,
    Task,
)

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
        self._features: dict[str, Tensor] | None = None

    @property
    def features(self) -> dict[str, Tensor]:
        if self._features is None:
            self._features = random_features(self.num_items, self.widths)
        return self._features

    def student(self) -> LightGCNStudent:
        return LightGCNStudent(self.num_users, self.num_items,
                               CHANNELS).to(self.device)

    def plain_task(self, objective: RankingObjective) -> RankingTask:
        return RankingTask(self.student(), self.graph, self.edge_index,
                           objective=objective, l2=1e-3)

    def distiller(self, **kwargs: Any) -> PromptMMDistiller:
        """With a random prompt: principal components take their time and
        change nothing here."""
        normalize = kwargs.pop('normalize', 'size')
        prompt = SoftPrompt(torch.randn(self.num_items, CHANNELS))
        teacher = MultimodalTeacher(self.num_users, self.num_items,
                                    self.widths, CHANNELS, prompt=prompt,
                                    normalize=normalize)
        teacher.set_features(self.features)
        return PromptMMDistiller(teacher, self.student(), prompt, **kwargs)

    @property
    def data(self) -> Any:
        return from_interactions(self.edge_index.cpu(), self.features,
                                 self.num_users, self.num_items)


class Step:
    """A training step as `torch_promptmm.train.train` makes it."""
    def __init__(self, task: Task, batch_size: int = BATCH) -> None:
        self.task = task
        self.loader = InteractionLoader(
            task.positives, task.known, task.graph.num_users,
            task.graph.num_items, batch_size, task.batch_spec, task.device)
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


# The rows of the table ######################################################


def student_rows(bench: Bench) -> Iterator[Row]:
    target = 5.0 if bench.device.type == 'cuda' else (
        20.0 if bench.threads == 1 else 15.0)
    for batch_size in (BATCH, 4 * BATCH):
        steps: dict[str, Callable[[], object]] = {
            'ours': Step(bench.plain_task(RankingObjective('bpr')),
                         batch_size),
            'plain': PyGStep(bench.edge_index, bench.num_users,
                             bench.num_items, batch_size),
        }
        if batch_size == BATCH:
            steps['best'] = PyGStep(bench.edge_index, bench.num_users,
                                    bench.num_items, batch_size, best=True)
            if bench.device.type == 'cpu':
                steps['plain, kept'] = steps['plain']
                steps['best, kept'] = steps['best']
        times = paired(steps, bench.repeats, {'ours': 5}, ('plain', 'best'))
        what = f'student, one BPR step of {batch_size}'
        note = f'{ms(times["ours"])} against '
        yield Row(what, 'PyG LightGCN, edge_index, Adam',
                  times['plain'] / times['ours'], target,
                  note=note + ms(times['plain']))
        if 'best' in times:
            yield Row(what, 'PyG LightGCN, normalised CSR, fused Adam',
                      times['best'] / times['ours'],
                      4.0 if bench.threads == 1 else None,
                      note=note + ms(times['best']))
        for name, against in (('plain', 'edge_index, Adam'),
                              ('best', 'normalised CSR, fused Adam')):
            if f'{name}, kept' in times:
                yield Row(what, f'PyG LightGCN, {against}, in kept_memory()',
                          times[f'{name}, kept'] / times['ours'],
                          note=note + ms(times[f'{name}, kept']))


def distillation_rows(bench: Bench) -> Iterator[Row]:
    for name, normalize, share, kwargs in [
        ('10 own items a list', 'size', 0.045, {'setting': 'faithful'}),
        ('512 shared negatives', 'size', 0.045, {}),
        ('512 shared negatives, normalize=row', 'row', 0.11, {}),
    ]:
        distiller = bench.distiller(normalize=normalize,
                                    **{**kwargs, **ALL_TERMS})
        task = distiller.prepare(bench.data, 'student', bench.device)
        distiller.train()
        full, plain = Step(task), Step(bench.plain_task(distiller.objective))
        times = paired({
            'full': full,
            'plain': plain,
            'pyg': PyGStep(bench.edge_index, bench.num_users,
                           bench.num_items, BATCH),
        }, bench.repeats, {'full': 2, 'plain': 2}, ('pyg', ))
        what = f'distillation, one whole step, {name}'
        against = 'PyG LightGCN, edge_index, Adam'
        note = (f'{ms(times["full"])}, plain step of ours '
                f'{ms(times["plain"])}, PyG {ms(times["pyg"])}')
        if normalize == 'size':
            yield Row(what, against, times['pyg'] / times['full'], 10.0,
                      note=note)
        yield Row(f'{what}, minus the plain step', against,
                  (times['full'] - times['plain']) / times['pyg'], share,
                  False, note)
        yield Row(what, 'our own plain step', times['full'] / times['plain'])
        times = paired({'sample': full.sample, 'full': full},
                       max(bench.repeats, 5), {'sample': 3})
        if normalize == 'size':
            yield Row(f'sampling, {name}', 'the step that it feeds',
                      times['sample'] / times['full'], 0.05, False,
                      ms(times['sample']))
        del distiller, task, full, plain
        gc.collect()


def sampling_rows(bench: Bench) -> Iterator[Row]:
    for loss in ('bpr', 'softmax'):
        step = Step(bench.plain_task(RankingObjective(loss)))
        times = paired({'sample': step.sample, 'step': step},
                       max(bench.repeats, 5), {'sample': 3})
        yield Row(f'sampling, plain {loss} step', 'the step that it feeds',
                  times['sample'] / times['step'], 0.05, False,
                  ms(times['sample']))


def teacher_rows(bench: Bench) -> Iterator[Row]:
    distiller = bench.distiller(setting='faithful')
    task = distiller.prepare(bench.data, 'teacher', bench.device)
    distiller.train()
    plain = Step(bench.plain_task(distiller.objective))
    features = bench.features.values()
    weights = [torch.randn(x.size(1), CHANNELS) for x in features]
    grad = torch.randn(bench.num_items, CHANNELS)

    def bare() -> None:
        for x, weight in zip(features, weights, strict=True):
            torch.mm(x, weight)
            torch.mm(x.t(), grad)
        plain()

    step = Step(task)

    def propagated() -> None:
        task.model.propagated = tables
        step()
        task.model.propagated = None

    tables = PropagatedFeatures(task.model, task.graph)
    times = paired({
        'teacher': step,
        'bare': bare,
        'propagated': propagated,
    }, bench.repeats)
    size = sum(x.nbytes for x in features) / 2**20
    yield Row('teacher, one step of stage 1',
              "X W and X'G of all modalities plus one plain step",
              times['teacher'] / times['bare'], 1.2, False,
              f'{ms(times["teacher"])} against {ms(times["bare"])}; reads '
              f'{number(2 * size)} MiB of features a step')
    yield Row('the same with propagated features in half precision',
              "X W and X'G of all modalities plus one plain step",
              times['propagated'] / times['bare'], 0.5, False,
              ms(times['propagated']))


def reduction_rows(bench: Bench) -> Iterator[Row]:
    prompt = torch.randn(bench.num_items, CHANNELS, requires_grad=True)
    x = bench.features['visual']
    reduction = PromptedReduction(x.size(1), CHANNELS)

    times = paired({
        'ours': lambda: cheap_reduction(x, prompt, reduction),
        'naive': lambda: naive_reduction(x, prompt, reduction),
    }, bench.repeats)
    yield Row('prompted reduction, forward and backward',
              'Eq. 4 in the order of the print',
              times['naive'] / times['ours'], 4.0,
              note=f'{ms(times["ours"])} against {ms(times["naive"])}')
    have, want = (bench.probe(f'reduction {name}')['bytes']
                  for name in ('cheap', 'naive'))
    yield Row('prompted reduction, peak memory above the features',
              'Eq. 4 in the order of the print', torch.tensor([have / want]),
              1 / 3, False,
              f'{number(have / 2**20)} against {number(want / 2**20)} MiB')


def cheap_reduction(x: Tensor, prompt: Tensor,
                    reduction: PromptedReduction) -> None:
    reduction(x, prompt).sum().backward()


def naive_reduction(x: Tensor, prompt: Tensor,
                    reduction: PromptedReduction) -> None:
    feature = prompt @ (prompt.t() @ x) / x.size(0)
    out = (x + feature) @ reduction.weight + reduction.bias
    out.sum().backward()


def evaluation_rows(bench: Bench) -> Iterator[Row]:
    user = torch.randn(bench.num_users, CHANNELS, device=bench.device)
    item = torch.randn(bench.num_items, CHANNELS, device=bench.device)
    chunk = max(1, 2**24 // bench.num_items)
    small = max(16, 2**21 // bench.num_items)

    def bare(size: int) -> None:
        for part in user.split(size):
            (part @ item.t()).topk(50, dim=1)

    def product() -> None:
        for part in user.split(small):
            matmul(part, item.t())

    times = paired({
        'ours': lambda: evaluate_embeddings(user, item, bench.held_out,
                                            bench.known, (20, 50)),
        'bare': lambda: bare(chunk),
        'small': lambda: bare(small),
        'product': product,
        'pyg': lambda: pyg_evaluate(user, item, bench.known, bench.held_out),
    }, max(bench.repeats // 2, 1), plain=('ours', 'bare', 'small', 'pyg'))
    what = 'all-ranking evaluation of all users, top 50'
    yield Row(what, 'bare product and topk, chunks of 64 MiB',
              times['ours'] / times['bare'], 1.3, False,
              f'{ms(times["ours"])} against {ms(times["bare"])}')
    yield Row(what, 'bare product and topk, chunks of 8 MiB',
              times['ours'] / times['small'], 1.3, False,
              f'against {ms(times["small"])}')
    floor = times['pyg'] / times['product']
    yield Row(what, "the loop of PyG's examples/lightgcn.py",
              times['pyg'] / times['ours'], 5.0,
              note=f'{ms(times["pyg"])}; the matrix product alone, '
              f'{ms(times["product"])}, is '
              f'{number(float(floor.median()))}x as fast')


def memory_rows(bench: Bench) -> Iterator[Row]:
    out = bench.probe('fit')
    table = 4 * CHANNELS * (bench.num_users + bench.num_items)
    yield Row('peak memory of from_data and fit, above packages and features',
              '12 tables of (U + I) d floats',
              torch.tensor([out['bytes'] / (12 * table)]), 1.5, False,
              f'{number(out["bytes"] / 2**20)} MiB')
    out = bench.probe('mapped')
    yield Row('anonymous memory of from_data and stage 1, features mapped '
              'from a file', '12 tables of (U + I) d floats',
              torch.tensor([out['bytes'] / (12 * table)]), None, False,
              f'{number(out["bytes"] / 2**20)} MiB beside a file of '
              f'{number(out["file"] / 2**20)}; a step reads '
              f'{number(out["read"] / 2**20)} MiB')


def growth_rows(bench: Bench) -> Iterator[Row]:
    """An epoch has as many steps at each size: its batches grow along."""
    sizes = (1, 2) if bench.args.quick else (1, 2, 4, 8, 16)
    first = None
    for size in sizes:
        out = bench.probe(f'growth {size}')
        if first is None:
            first = out
            continue
        epoch = torch.tensor(out['step']) / torch.tensor(first['step']) / size
        product = torch.tensor(out['product']).median() / torch.tensor(
            first['product']).median() / size
        yield Row(
            f'epoch time at {size}x users, items and interactions',
            f'{size}x, times what the sparse product itself loses',
            epoch / product, 1.2, False,
            f'{number(float(epoch.median()))} of linear, the product '
            f'{number(float(product))}; a step '
            f'{ms(torch.tensor(out["step"]))}, {out["edges"]} interactions')


GROUPS = {
    'student': student_rows,
    'distillation': distillation_rows,
    'sampling': sampling_rows,
    'teacher': teacher_rows,
    'reduction': reduction_rows,
    'evaluation': evaluation_rows,
    'memory': memory_rows,
    'growth': growth_rows,
}

# Where the time of a step goes ##############################################


def profile(bench: Bench) -> str:
    """The parts of a plain BPR step against the bytes that they move."""
    step = Step(bench.plain_task(RankingObjective('bpr')))
    graph, model = bench.graph, step.task.model
    x_user = model.user_embedding.weight.detach()
    x_item = model.item_embedding.weight.detach()
    batch = step.sample()
    user = batch.user.unique()
    item = torch.cat([batch.positive, batch.negative.view(-1)]).unique()
    few = graph.user_item.select_rows(user), graph.item_user.select_rows(item)
    name = torch.full((bench.num_items, ), item.numel(), dtype=torch.int32,
                      device=bench.device)
    name[item] = torch.arange(item.numel(), dtype=torch.int32,
                              device=bench.device)
    grad = torch.randn(item.numel() + 1, CHANNELS, device=bench.device)
    grad[-1] = 0
    row, table = 4 * CHANNELS, x_user.nbytes + x_item.nbytes
    copy = torch.empty_like(x_user)
    step()

    def forward() -> None:
        step.task(batch)

    def both() -> None:
        step.optimizer.zero_grad(set_to_none=True)
        step.task(batch)[0].backward()

    edges = graph.num_edges
    parts: dict[str, tuple[Callable[[], object], float]] = {
        'whole step': (step, 0),
        'sampling': (step.sample, 0),
        'forward': (forward, 0),
        'forward and backward': (both, 0),
        'AdamW, fused': (step.optimizer.step, 7 * table),
        'R x, all users': (lambda: graph.user_item.matmul(x_item),
                           edges * (row + 8) + x_user.nbytes),
        "R' x, all items": (lambda: graph.item_user.matmul(x_user),
                            edges * (row + 8) + x_item.nbytes),
        'R x, users of the batch': (lambda: few[0].matmul(x_item),
                                    few[0].nnz * (row + 8)),
        "R' x, items of the batch": (lambda: few[1].matmul(x_user),
                                     few[1].nnz * (row + 8)),
        'finding the rows of the items': (
            lambda: graph.item_user.select_rows(item), few[1].nnz * 16),
        'R g, g zero outside of the batch': (
            lambda: graph.user_item.rename_cols(
                name, item.numel() + 1).matmul(grad),
            few[1].nnz * row + edges * 16 + x_user.nbytes),
        'adding a table to a table': (lambda: copy.add_(x_user),
                                      3 * x_user.nbytes),
        'copying a table': (lambda: copy.copy_(x_user), 2 * x_user.nbytes),
    }
    times = paired({name: part[0] for name, part in parts.items()},
                   3 * bench.repeats)
    lines = ['| part of a BPR step of 2048 | time | moves | at |',
             '| --- | --- | --- | --- |']
    for name_, (_, size) in parts.items():
        median = float(times[name_].double().median())
        moved = f'{number(size / 1e6)} MB' if size else ''
        rate = f'{number(size / median / 1e9)} GB/s' if size else ''
        lines.append(f'| {name_} | {number(1e3 * median)} ms | {moved} | '
                     f'{rate} |')
    share = [100 * matrix.nnz / edges for matrix in few]
    return '\n'.join(lines) + (
        f'\n\nThe rows of the batch hold {number(share[0])} % (users) and '
        f'{number(share[1])} % (items) of the interactions.')


# What needs a process of its own ############################################


def _probe(self: Bench, what: str) -> dict[str, Any]:
    command = [
        sys.executable, __file__, '--probe', what, '--threads',
        str(self.threads), '--scale', str(self.scale), '--repeats',
        str(self.repeats)
    ] + ['--quick'] * self.args.quick + ['--clock', self.args.clock]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return json.loads(out.stdout.splitlines()[-1])


Bench.probe = _probe  # type: ignore[attr-defined]


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
        return globals()[f'probe_{what}'](Bench(args, args.threads[0]),
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


# The command ################################################################


def machine(args: argparse.Namespace) -> str:
    name = platform.processor() or platform.machine()
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith('model name'):
                name = line.partition(':')[2].strip()
                break
    if args.device.startswith('cuda'):
        name = torch.cuda.get_device_name(args.device)
    return (f'{name}, {os.cpu_count()} cores, load '
            f'{os.getloadavg()[0]:.1f}; torch {torch.__version__}; '
            f'{time.strftime("%Y-%m-%d %H:%M")}')


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add('--device', default='cpu', help='cpu or cuda (default: cpu)')
    add('--threads', type=int, nargs='+', default=None,
        help='numbers of threads (default: 1, then all)')
    add('--scale', type=float, default=None,
        help='users, items and interactions, 1 is Electronics (default: 1)')
    add('--repeats', type=int, default=None, help='rounds (default: 9)')
    add('--quick', action='store_true',
        help='a small graph and few rounds, to see that it works')
    add('--clock', choices=['wall', 'cpu'], default='wall',
        help='cpu: the time of this process alone, where others share the\n'
        'machine; with one thread only (default: wall)')
    add('--only', nargs='+', choices=[*GROUPS, 'profile'],
        default=[*GROUPS, 'profile'],
        help='parts of the table (default: all)')
    add('--output', help='also write the table to this file')
    add('--probe', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.scale is None:
        args.scale = 0.02 if args.quick else 1.0
    if args.repeats is None:
        args.repeats = 2 if args.quick else 9
    if args.threads is None:
        args.threads = [1]
        if not args.quick and args.device == 'cpu':
            args.threads += [os.cpu_count() or 1] * (os.cpu_count() != 1)
    if args.clock == 'cpu':
        use_cpu_clock()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads[0])

    if args.probe:
        print(json.dumps(probe(args.probe, args)))
        return
    text = [f'Machine: {machine(args)}; scale {args.scale}; '
            f'{args.clock} clock.']
    print(text[0], flush=True)
    for threads in args.threads:
        torch.set_num_threads(threads)
        rows: list[Row] = []
        bench = Bench(args, threads)
        parts = profile(bench) if 'profile' in args.only else ''
        for name in args.only:
            if name == 'profile':
                continue
            if threads != args.threads[0] and name in ('memory',
                                                       'growth'):
                continue
            if bench.device.type != 'cpu' and name in (
                    'teacher', 'reduction', 'memory', 'growth'):
                continue
            for row in GROUPS[name](bench):
                rows.append(row)
                print(' | '.join(row.cells()), flush=True)
        reached = [row.reached for row in rows if row.reached is not None]
        text += [
            f'### {args.device}, {threads} thread{"s" * (threads != 1)}: '
            f'{sum(reached)} of {len(reached)} reached',
            markdown(rows)
        ] + [parts] * bool(parts)
        if args.output:
            Path(args.output).write_text('\n\n'.join(text) + '\n')
    print('\n' + '\n\n'.join(text[1:]))


if __name__ == '__main__':
    main()
