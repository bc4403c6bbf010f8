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

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from _bench import (
    ALL_TERMS,
    BATCH,
    CHANNELS,
    Bench,
    Step,
    cheap_reduction,
    naive_reduction,
    parse,
)
from _markdown import machine, markdown
from _timing import (
    HEADER,
    Row,
    ms,
    number,
    paired,
)
from peers import PyGStep, pyg_evaluate

from torch_promptmm.evaluate import evaluate_embeddings
from torch_promptmm.nn import PromptedReduction
from torch_promptmm.nn.dense import FixedProduct
from torch_promptmm.train import RankingObjective

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
        task = distiller.prepare(bench.data(), 'student', bench.device)
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
    task = distiller.prepare(bench.data(), 'teacher', bench.device)
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
    other = bench.distiller(setting='faithful')
    propagated = Step(other.prepare(bench.data(), 'teacher', bench.device))
    propagated.task.model.cache_features(propagated.task.graph)
    other.train()
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


def evaluation_rows(bench: Bench) -> Iterator[Row]:
    user = torch.randn(bench.num_users, CHANNELS, device=bench.device)
    item = torch.randn(bench.num_items, CHANNELS, device=bench.device)
    chunk = max(1, 2**24 // bench.num_items)
    small = max(16, 2**21 // bench.num_items)

    def bare(size: int) -> None:
        for part in user.split(size):
            (part @ item.t()).topk(50, dim=1)

    def product() -> None:
        fixed = FixedProduct(item, small)
        for part in user.split(small):
            fixed(part)

    times = paired({
        'ours': lambda: evaluate_embeddings(user, item, bench.held_out,
                                            bench.known, 50),
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


# The command ################################################################


def main() -> None:
    cores = os.cpu_count() or 1
    args = parse(__doc__, [*GROUPS, 'profile'], [1] + [cores] * (cores > 1))
    text = [f'Machine: {machine(args.device)}; scale {args.scale}; '
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
            markdown(HEADER, [row.cells() for row in rows])
        ] + [parts] * bool(parts)
        if args.output:
            Path(args.output).write_text('\n\n'.join(text) + '\n')
    print('\n' + '\n\n'.join(text[1:]))


if __name__ == '__main__':
    main()
