"""How long reading interactions takes, and how much memory.

    python benchmarks/data.py                      # 10 million interactions
    python benchmarks/data.py --size 1000000 --kinds csv
    python benchmarks/data.py --size 3000000 --before ../checkout --repeats 5

Each figure is of a process of its own; the readers take turns. Beside ours
stands what pandas takes to read the same columns of the same file and do
nothing with them ("pandas"), or to number the ids as well ("numbered"), and,
with `--before`, what another checkout of this repository takes ("before").
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings

import numpy as np

COLUMNS = ['user', 'item', 'rating', 'time']


def make_table(folder: str, size: int, kinds: list[str]) -> None:
    """Interactions with text ids: a million users, 300,000 items, some of
    them far more popular than others, in the order of their times."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    rng = np.random.default_rng(0)
    num_users, num_items = max(size // 10, 10), max(size * 3 // 100, 10)
    user = (rng.random(size)**1.5 * num_users).astype(np.int32)
    item = (rng.random(size)**2.5 * num_items).astype(np.int32)
    names = [pa.array([f'A{i:012X}' for i in range(num_users)]),
             pa.array([f'B{i:09X}' for i in range(num_items)])]
    table = pa.table({
        'user': names[0].take(pa.array(user)),
        'item': names[1].take(pa.array(item)),
        'rating': rng.integers(1, 6, size).astype(np.float32),
        'time': np.sort(rng.integers(1_000_000_000, 1_400_000_000, size)),
    })
    if 'csv' in kinds:
        pa.csv.write_csv(table, os.path.join(folder, 'table.csv'))
    if 'parquet' in kinds:
        pa.parquet.write_table(table, os.path.join(folder, 'table.parquet'))


def read(reader: str, path: str) -> None:
    """Prints the seconds, those of the processor (of all its cores), and the
    peak of memory, in MiB, of one reading."""
    if reader in ('pandas', 'numbered'):
        import pandas as pd
        start, cpu = time.perf_counter(), time.process_time()
        table = (pd.read_csv(path, usecols=COLUMNS) if path.endswith('.csv')
                 else pd.read_parquet(path, columns=COLUMNS))
        if reader == 'numbered':
            table['user'].factorize(), table['item'].factorize()
        count = len(table)
    else:
        from torch_promptmm.data import read_interactions
        start, cpu = time.perf_counter(), time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # Some pairs are drawn twice.
            data = read_interactions(path, rating='rating', time='time')
        count = data.num_edges
    seconds = time.perf_counter() - start
    cpu = time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(seconds, cpu, peak, count)


def measure(
    reader: str,
    path: str,
    root: str,
) -> tuple[float, float, float, int]:
    done = subprocess.run(
        [sys.executable, __file__, '--reader', reader, '--path', path],
        capture_output=True, text=True, check=True,
        env={**os.environ, 'PYTHONPATH': root})
    seconds, cpu, peak, count = done.stdout.split()
    return float(seconds), float(cpu), float(peak), int(count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--size', type=int, default=10_000_000)
    parser.add_argument('--kinds', nargs='*', default=['parquet', 'csv'])
    parser.add_argument('--repeats', type=int, default=2)
    parser.add_argument('--before', help='the folder of another checkout')
    parser.add_argument('--reader', help=argparse.SUPPRESS)
    parser.add_argument('--path', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.reader is not None:
        read(args.reader, args.path)
        return
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    roots = dict.fromkeys(['pandas', 'numbered', 'ours'], here)
    if args.before:
        roots['before'] = os.path.abspath(args.before)
    with tempfile.TemporaryDirectory() as folder:
        make_table(folder, args.size, args.kinds)
        print(f'{args.size:,} interactions; the best of {args.repeats} runs; '
              f'peak memory is of the whole process, imports included')
        print(f'{"file":8} {"MB":>6} {"reader":8} {"s":>7} {"CPU s":>7} '
              f'{"CPU / pandas":>13} {"MiB":>7} {"interactions":>13}')
        for kind in args.kinds:
            path = os.path.join(folder, f'table.{kind}')
            runs: dict = {reader: [] for reader in roots}
            for _ in range(args.repeats):
                for reader, root in roots.items():
                    runs[reader].append(measure(reader, path, root))
            base = min(x[1] for x in runs['pandas'])
            for reader, found in runs.items():
                seconds, cpu = (min(x[i] for x in found) for i in (0, 1))
                print(f'{kind:8} {os.path.getsize(path) / 1e6:6.0f} '
                      f'{reader:8} {seconds:7.2f} {cpu:7.2f} '
                      f'{cpu / base:13.1f} {max(x[2] for x in found):7.0f} '
                      f'{found[0][3]:13,}', flush=True)
            if args.before:
                ratio = np.divide([x[1] for x in runs['ours']],
                                  [x[1] for x in runs['before']])
                print(f'{kind}: CPU time, ours / before, round by round: '
                      f'{np.median(ratio):.2f} ({ratio.min():.2f} to '
                      f'{ratio.max():.2f})')


if __name__ == '__main__':
    main()
