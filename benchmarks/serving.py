"""Answers of a recommender: how fast, and what types and indices cost.

Prints Markdown. Tables of users and items are planted: a vector is that of
its group, scaled by how popular the item is, with noise. One thread unless
said; what is compared is timed in turn.

    python benchmarks/serving.py
    python benchmarks/serving.py --quick --only user batch
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from _markdown import machine, markdown, write_output
from torch import Tensor

from torch_promptmm.serve import Recommender

K = 20
SIZES = (41_691, 21_479, 353_000)  # Electronics of the paper.
HEADER = ('what', 'of', 'value', 'target')
Row = tuple[str, str, str, str]


def planted(num_users: int, num_items: int, num_edges: int,
            channels: int = 64, groups: int = 200) -> Recommender:
    """Users and items of groups; each user knows some of the best items of
    his own."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    center = normal(groups, channels)
    user = torch.randint(groups, (num_users, ), generator=generator)
    item = torch.randint(groups, (num_items, ), generator=generator)
    size = torch.rand(num_items, 1, generator=generator) + 0.5
    user_emb = center[user] + 0.7 * normal(num_users, channels)
    item_emb = (center[item] + 0.7 * normal(num_items, channels)) * size
    known = torch.stack([
        torch.randint(num_users, (num_edges, ), generator=generator),
        torch.randint(num_items, (num_edges, ), generator=generator),
    ])
    return Recommender(user_emb, item_emb, known.unique(dim=1))


def each(function: Callable[[int], object], times: int) -> np.ndarray:
    """Milliseconds of calls, one after the other."""
    out = []
    for number in range(times):
        start = time.perf_counter()
        function(number)
        out.append(1000 * (time.perf_counter() - start))
    return np.array(out)


def in_turn(functions: dict[str, Callable[[], object]],
            rounds: int) -> dict[str, float]:
    """Seconds of each, the median of rounds in which they alternate."""
    out: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            out[name].append(time.perf_counter() - start)
    return {name: float(np.median(x[1:])) for name, x in out.items()}


def overlap(found: Tensor, wanted: Tensor) -> float:
    """The share of the wanted items that were found."""
    hits = (found.unsqueeze(2) == wanted.unsqueeze(1)).any(dim=1)
    return float(hits.double().mean())


def one_user(args: argparse.Namespace, rec: Recommender) -> Iterator[Row]:
    users = torch.randint(rec.num_users, (args.calls, )).tolist()
    for dtype in ('float32', 'float16', 'int8'):
        small = rec if dtype == 'float32' else rec.to_dtype(dtype)
        each(lambda n, rec=small: rec.recommend(users[n], K), 20)
        took = each(lambda n, rec=small: rec.recommend(users[n], K),
                    len(users))
        yield ('one user, exact, known left out', dtype,
               f'median {np.median(took):.3f} ms, 99 % '
               f'{np.quantile(took, 0.99):.3f} ms',
               '1 ms, 3 ms' if dtype == 'float32' else '')


def batches(args: argparse.Namespace, rec: Recommender) -> Iterator[Row]:
    users = torch.arange(min(args.users, rec.num_users))
    functions: dict[str, Callable[[], object]] = {
        'ours': lambda: rec.recommend(users, K),
        'one by one': lambda: [rec.recommend(x, K) for x in users[:200]],
    }
    if find_spec('implicit') is not None:
        from implicit.cpu.topk import topk
        from scipy.sparse import csr_matrix
        known = csr_matrix(
            (np.ones(rec.known.size(1), np.float32), rec.known.numpy()),
            shape=(rec.num_users, rec.num_items))[users.numpy()]
        item, user = rec.item_emb.numpy(), rec.user_emb[users].numpy()

        def peer() -> tuple[np.ndarray, np.ndarray]:
            return topk(item, user, K, filter_query_items=known,
                        num_threads=1)

        functions['implicit'] = peer
        same = overlap(torch.from_numpy(peer()[0]).long(),
                       rec.recommend(users, K)[0])
        yield 'same items', 'implicit.cpu.topk', f'{same:.4f}', '1'
    took = in_turn(functions, args.rounds)
    rate = len(users) / took['ours']
    yield f'{len(users):,} users at once', 'users a second', f'{rate:,.0f}', ''
    one = min(len(users), 200) / took['one by one']
    yield 'one by one', 'users a second', f'{one:,.0f}', ''
    if 'implicit' in took:
        yield ('at once', 'implicit.cpu.topk',
               f"{took['implicit'] / took['ours']:.2f} times its rate", '1')


def types(args: argparse.Namespace, rec: Recommender) -> Iterator[Row]:
    users = torch.arange(min(args.users, rec.num_users))
    wanted, _ = rec.recommend(users, K)
    for dtype in ('float16', 'int8'):
        small = rec.to_dtype(dtype)
        size = sum(x.nbytes for x in (small.user_emb, small.item_emb)) / 1e6
        found, _ = small.recommend(users, K)
        yield (f'items of the exact top {K} lost', dtype,
               f'{1 - overlap(found, wanted):.2%} ({size:.1f} MB)', '')


def large(args: argparse.Namespace, _: Recommender) -> Iterator[Row]:
    rec = planted(2000, args.items, 20_000, groups=2000)
    users = torch.arange(min(200, args.calls))
    wanted, _ = rec.recommend(users, K)
    exact = np.median(each(lambda n: rec.recommend(int(users[n]), K),
                           len(users)))
    yield f'{args.items:,} items', 'exact', f'{exact:.2f} ms a user', ''
    for kind in args.indices:
        start = time.perf_counter()
        index = rec.with_index(kind)
        built = time.perf_counter() - start
        found, _ = index.recommend(users, K)
        took = np.median(each(lambda n, rec=index: rec.recommend(
            int(users[n]), K), len(users)))
        yield (f'{args.items:,} items', kind,
               f'{took:.2f} ms a user, {exact / took:.1f} times as fast, '
               f'Recall@{K} of exact {overlap(found, wanted):.4f}, built in '
               f'{built:.0f} s', '10 times, 0.95')


GROUPS = {'user': one_user, 'batch': batches, 'types': types, 'large': large}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add('--threads', type=int, default=1, help='threads (default: 1)')
    add('--calls', type=int, default=2000, help='single users (default: 2000)')
    add('--users', type=int, default=8192, help='of a batch (default: 8192)')
    add('--items', type=int, default=1_000_000, help='of the large catalogue')
    add('--rounds', type=int, default=5, help='of what is compared')
    add('--indices', nargs='*', default=['faiss-ivf', 'faiss-hnsw'],
        help='of the large catalogue (default: faiss-ivf faiss-hnsw)')
    add('--quick', action='store_true', help='small, to see that it works')
    add('--only', nargs='+', choices=[*GROUPS], default=[*GROUPS],
        help='parts (default: all)')
    add('--output', help='also write the table to this file')
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    sizes = SIZES
    if args.quick:
        sizes, args.items = (500, 400, 3000), 5000
        args.calls, args.users, args.rounds = 40, 200, 1
    rec = planted(*sizes)
    rows = [row for name in args.only for row in GROUPS[name](args, rec)]
    text = markdown(HEADER, rows)
    print(f'{machine()}\n\n{text}')
    if args.output:
        write_output(args.output, Path(__file__).name, text)


if __name__ == '__main__':
    main()
