"""What a busy neighbour costs: a training step of the demo by threads, alone
and beside a process that does nothing but run.

    python benchmarks/threads.py                  # 1 thread, then all
    OMP_WAIT_POLICY=passive python benchmarks/threads.py --threads 2
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from _markdown import machine
from torch.optim.optimizer import register_optimizer_step_post_hook

from torch_promptmm import PromptMMDistiller
from torch_promptmm.datasets import SyntheticMultimodal


class Enough(Exception):
    """As many steps as are wanted have been taken."""


@contextmanager
def neighbour(busy: bool) -> Iterator[None]:
    """A process that never waits, if `busy`."""
    if not busy:
        yield
        return
    process = subprocess.Popen([sys.executable, '-c', 'while True: pass'])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def step_times(fit: Callable[[], Any], args: argparse.Namespace) -> list[float]:
    """Seconds of each step of a training, but for the first ones."""
    ends: list[float] = []

    def after_step(*_: Any) -> None:
        ends.append(time.perf_counter())
        if len(ends) > args.steps or (len(ends) > 3 and
                                      ends[-1] - ends[0] > args.seconds):
            raise Enough

    hook = register_optimizer_step_post_hook(after_step)
    try:
        fit()
    except Enough:
        pass
    finally:
        hook.remove()
    return [after - before for before, after in pairwise(ends)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--threads', type=int, nargs='+',
        default=sorted({1, torch.get_num_threads()}))
    add('--scale', type=float, default=0.1, help='of Electronics')
    add('--steps', type=int, default=60, help='at most')
    add('--seconds', type=float, default=10.0, help='at most, for each row')
    args = parser.parse_args()
    train, *_ = SyntheticMultimodal.preset('electronics', scale=args.scale)
    policy = os.environ.get('OMP_WAIT_POLICY', 'not set')
    print(f'{machine()}; OMP_WAIT_POLICY {policy}\n')
    print('| model | threads | neighbour | steps | median | mean |\n'
          '| --- | --- | --- | --- | --- | --- |')
    for busy in (False, True):
        for threads in args.threads:
            distiller = PromptMMDistiller.from_data(train, seed=0,
                                                    setting='faithful')
            for model in ('teacher', 'student'):
                fit = getattr(distiller, f'fit_{model}')
                with neighbour(busy):
                    times = step_times(
                        lambda fit=fit, threads=threads: fit(
                            train, threads=threads, progress=False), args)
                print(f'| {model} | {threads} | {"busy" if busy else "none"} '
                      f'| {len(times)} | {1e3 * statistics.median(times):.1f} '
                      f'ms | {1e3 * statistics.mean(times):.1f} ms |',
                      flush=True)


if __name__ == '__main__':
    main()
