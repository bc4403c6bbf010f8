"""Ways to make a step cheaper: what each is worth, kept or not.

    python benchmarks/leads.py --threads 1
    python benchmarks/leads.py --quick          # a small graph, to try it

The graph is that of `speed.py`, and pairs are timed as there. Below 1x the
way is faster than what it is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from _bench import ALL_TERMS, BATCH, CHANNELS, Bench, Step, parse
from _markdown import machine, markdown
from _timing import HEADER, Row, ms, paired
from torch import Tensor

from torch_promptmm.evaluate import evaluate_embeddings
from torch_promptmm.nn import UserItemGraph, use_onednn
from torch_promptmm.nn.csr import CSRMatrix
from torch_promptmm.train import RankingObjective, RankingTask


def plain_step(bench: Bench) -> Step:
    return Step(bench.plain_task(RankingObjective('bpr')))


def distillation_step(bench: Bench) -> Step:
    distiller = bench.distiller(**ALL_TERMS)
    task = distiller.prepare(bench.data(), 'student', bench.device)
    distiller.train()
    return Step(task)


def teacher_step(bench: Bench,
                 features: dict[str, Tensor] | None = None) -> Step:
    distiller = bench.distiller(features, setting='faithful')
    task = distiller.prepare(bench.data(features), 'teacher', bench.device)
    distiller.train()
    return Step(task)


STEPS: dict[str, Callable[[Bench], Step]] = {
    'plain BPR step': plain_step,
    'distillation step': distillation_step,
    'teacher step': teacher_step,
}


def row(what: str, against: str, way: torch.Tensor,
        usual: torch.Tensor) -> Row:
    return Row(what, against, way / usual,
               note=f'{ms(way)} against {ms(usual)}')


def library_rows(bench: Bench) -> Iterator[Row]:
    """Dense products by oneDNN, and bfloat16 through autocast."""
    for name, make in STEPS.items():
        step = make(bench)

        def mkl(step: Step = step) -> None:
            with use_onednn(False):
                step()

        def half(step: Step = step) -> None:
            with torch.autocast(bench.device.type, torch.bfloat16):
                step()

        times = paired({'step': step, 'mkl': mkl, 'half': half},
                       bench.repeats)
        yield row(f'{name}, dense products as `matmul` chooses',
                  "torch's own products", times['step'], times['mkl'])
        yield row(f'{name}, torch.autocast, bfloat16', 'single precision',
                  times['half'], times['step'])
        del step, mkl, half
    user = torch.randn(bench.num_users, CHANNELS, device=bench.device)
    item = torch.randn(bench.num_items, CHANNELS, device=bench.device)

    def evaluate() -> None:
        evaluate_embeddings(user, item, bench.held_out, bench.known, (20, 50))

    def evaluate_mkl() -> None:
        with use_onednn(False):
            evaluate()

    times = paired({'ours': evaluate, 'mkl': evaluate_mkl},
                   max(bench.repeats // 2, 1))
    yield row('evaluation of all users, as `matmul` chooses',
              "torch's own products", times['ours'], times['mkl'])


def compile_rows(bench: Bench) -> Iterator[Row]:
    """The whole loss under torch.compile, by Inductor."""
    for name, make in STEPS.items():
        step = make(bench)
        loss = torch.compile(step.task)

        def compiled(step: Step = step,
                     loss: Callable[..., object] = loss) -> None:
            batch = step.sample()
            step.optimizer.zero_grad(set_to_none=True)
            loss(batch)[0].backward()  # type: ignore[index]
            step.optimizer.step()

        for _ in range(3):
            compiled()
        times = paired({'step': step, 'compiled': compiled}, bench.repeats)
        yield row(f'{name}, torch.compile', 'as it is', times['compiled'],
                  times['step'])
        torch.compiler.reset()


def order_rows(bench: Bench) -> Iterator[Row]:
    """Numbers of users and items, by degree or by neighbourhood."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    user, item = bench.edge_index.cpu()
    sizes = bench.num_users, bench.num_items

    def step(order: np.ndarray) -> Step:
        rank = np.empty(sum(sizes), dtype=np.int64)
        rank[order] = np.arange(sum(sizes))
        new = [
            torch.from_numpy(rank[at].argsort().argsort())[index]
            for at, index in ((slice(0, sizes[0]), user),
                              (slice(sizes[0], None), item))
        ]
        edge_index = torch.stack(new).to(bench.device)
        task = RankingTask(bench.student(), UserItemGraph(edge_index, *sizes),
                           edge_index, objective=RankingObjective('bpr'),
                           l2=1e-3)
        return Step(task)

    node = torch.cat([user, item + sizes[0]]).numpy()
    other = torch.cat([item + sizes[0], user]).numpy()
    matrix = coo_matrix((np.ones(len(node)), (node, other)),
                        shape=(sum(sizes), sum(sizes))).tocsr()
    times = paired({
        'as it is': plain_step(bench),
        'random': step(np.random.default_rng(0).permutation(sum(sizes))),
        'by degree': step(np.argsort(-np.diff(matrix.indptr),
                                     kind='stable')),
        'by neighbourhood (reverse Cuthill-McKee)': step(
            reverse_cuthill_mckee(matrix, symmetric_mode=True)),
    }, bench.repeats, dict.fromkeys(
        ['as it is', 'random', 'by degree',
         'by neighbourhood (reverse Cuthill-McKee)'], 3))
    usual = times.pop('as it is')
    for name, values in times.items():
        yield row(f'plain BPR step, users and items {name}', 'as they come',
                  values, usual)


def sparse_rows(bench: Bench) -> Iterator[Row]:
    """The sparse product itself."""
    x = bench.student().item_embedding.weight.detach()
    matrix = bench.graph.user_item
    wide = CSRMatrix(matrix.crow.long(), matrix.col.long(), matrix.value,
                     matrix.shape[1])
    times = paired({
        'bags': lambda: matrix.matmul(x),
        'int32': lambda: torch.mm(matrix.tensor, x),
        'int64': lambda: torch.mm(wide.tensor, x),
    }, bench.repeats, {'bags': 20, 'int32': 20, 'int64': 20})
    for name in ('int32', 'int64'):
        yield row('R x as sums of bags', f'torch.sparse CSR, {name} indices',
                  times['bags'], times[name])


def feature_rows(bench: Bench) -> Iterator[Row]:
    """Stage 1: how the features are kept."""
    usual = teacher_step(bench)
    steps: dict[str, Callable[[], object]] = {'single': usual}
    for name, dtype in (('half', torch.half), ('bfloat16', torch.bfloat16)):
        steps[name] = teacher_step(bench, {
            key: x.to(dtype) for key, x in bench.features.items()
        })
    for channels in (64, 256):
        if channels < min(bench.widths.values()):
            steps[f'{channels} components'] = teacher_step(bench, {
                key: x[:, :channels].contiguous()
                for key, x in bench.features.items()
            })
    narrow = steps['bfloat16']

    def autocast() -> None:
        with torch.autocast(bench.device.type, torch.bfloat16):
            narrow()

    steps['bfloat16, torch.autocast'] = autocast
    propagated = teacher_step(bench)
    propagated.task.model.cache_features(propagated.task.graph)
    steps['propagated, half'] = propagated
    times = paired(steps, bench.repeats)
    single = times.pop('single')
    for name, values in times.items():
        yield row(f'teacher step, features: {name}', 'single precision',
                  values, single)


GROUPS = {
    'library': library_rows,
    'compile': compile_rows,
    'order': order_rows,
    'sparse': sparse_rows,
    'features': feature_rows,
}


def main() -> None:
    args = parse(__doc__, GROUPS, [1])
    bench = Bench(args, args.threads[0])
    head = (f'Machine: {machine(args.device)}; scale {args.scale}; '
            f'threads: {args.threads[0]}; '
            f'{args.clock} clock; batches of {BATCH}.')
    print(head, flush=True)
    rows = []
    for name in args.only:
        for each in GROUPS[name](bench):
            rows.append(each)
            print(' | '.join(each.cells()), flush=True)
    # Without targets: there are none.
    keep = [i for i, name in enumerate(HEADER)
            if name not in ('target', 'reached')]
    lines = [[each[i] for i in keep]
             for each in (HEADER, *(row.cells() for row in rows))]
    text = f'{head}\n\n{markdown(lines[0], lines[1:])}\n'
    print('\n' + text)
    if args.output:
        Path(args.output).write_text(text)


if __name__ == '__main__':
    main()
