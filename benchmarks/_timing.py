"""Paired timings: everything alternates in one process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_promptmm.train import kept_memory

# Where others share the processors, the time of this process alone.
clock = time.perf_counter


def use_cpu_clock() -> None:
    global clock
    clock = time.process_time


def seconds(function: Callable[[], object], calls: int = 1) -> float:
    """Seconds of one call, the mean of a few."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = clock()
    for _ in range(calls):
        function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (clock() - start) / calls


def paired(
    functions: dict[str, Callable[[], object]],
    repeats: int,
    calls: dict[str, int] | None = None,
    plain: Collection[str] = (),
) -> dict[str, Tensor]:
    """Seconds of each function, one after the other in each round, forwards
    and backwards in turn.

    What is called runs inside of `kept_memory()`, as all that `train` runs,
    and so do peers, except for `plain` ones: these run as their own users
    run them, with torch's defaults. Each gets a call to settle.
    """
    names = list(functions)
    out: dict[str, list[float]] = {name: [] for name in names}
    for number in range(repeats):
        for name in names if number % 2 else reversed(names):
            with nullcontext() if name in plain else kept_memory():
                if name not in plain or number == 0:
                    functions[name]()
                value = seconds(functions[name], (calls or {}).get(name, 1))
            out[name].append(value)
    return {name: torch.tensor(values) for name, values in out.items()}


@dataclass
class Row:
    """One line of the table.

    Args:
        what: What was measured.
        against: What it was compared with.
        ratios: The ratio in each round.
        target: What the ratio should be, None where it is only shown.
        at_least: Whether the target is a lower bound.
        note: Medians, floors, and the like.
    """
    what: str
    against: str
    ratios: Tensor
    target: float | None = None
    at_least: bool = True
    note: str = ''

    @property
    def median(self) -> float:
        return float(self.ratios.double().quantile(0.5))

    @property
    def spread(self) -> tuple[float, float]:
        low, high = self.ratios.double().quantile(
            torch.tensor([0.25, 0.75], dtype=torch.double))
        return float(low), float(high)

    @property
    def reached(self) -> bool | None:
        if self.target is None:
            return None
        if self.at_least:
            return self.median >= self.target
        return self.median <= self.target

    def cells(self) -> list[str]:
        low, high = self.spread
        target = '' if self.target is None else (
            f'{"at least" if self.at_least else "at most"} '
            f'{number(self.target)}x')
        reached = {True: 'yes', False: 'no', None: ''}[self.reached]
        return [self.what, self.against, f'{number(self.median)}x',
                f'{number(low)} to {number(high)}', target, reached,
                self.note]


HEADER = ['what', 'against', 'measured', 'quartiles', 'target', 'reached',
          'note']


def number(value: float) -> str:
    """Three digits."""
    if not math.isfinite(value) or value == 0:
        return str(value)
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f'{value:.{digits}f}'


def ms(values: Tensor) -> str:
    return f'{number(1e3 * float(values.median()))} ms'
