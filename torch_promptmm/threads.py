r"""How many threads share the work."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from torch_promptmm.checks import check_int

# Elements that pay for one more thread.
_SHARE = 2**24
# A number of threads that the user chose before Python started.
_CHOSEN = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')


def num_threads(threads: int | str | None, work: int) -> int:
    r"""Returns how many threads :obj:`work` is given.

    The threads of an operation wait for the slowest one. A processor that
    something else uses makes that one late, in each of the hundreds of
    operations of a step, and the others spin meanwhile: beside one busy
    process, two threads on two processors take more than twice as long as
    one (``benchmarks/threads.py``), and far more where there are several.
    Hence :obj:`"auto"` leaves one processor free:

    .. math::
        \min \left( T, \; \max(P - 1, 1), \; 1 + \lfloor w / 2^{24} \rfloor
        \right)

    for :math:`w` elements of work, :math:`P` processors and the :math:`T`
    threads that torch has. Where :obj:`OMP_NUM_THREADS` or
    :obj:`MKL_NUM_THREADS` is set, it is :math:`T`.

    Args:
        threads (int or str): A number; :obj:`"auto"`; or :obj:`None` for
            :func:`torch.get_num_threads`.
        work (int): The elements :math:`w` that are read.
    """
    have = torch.get_num_threads()
    if threads is None:
        return have
    if threads != 'auto':
        if isinstance(threads, str):
            raise ValueError(f"'threads' must be 'auto', a number or None "
                             f"(got {threads!r})")
        return check_int('threads', threads, 1)
    if any(os.environ.get(name) for name in _CHOSEN):
        return have
    return min(have, max(_num_processors() - 1, 1), 1 + work // _SHARE)


@contextmanager
def use_threads(threads: int | str | None, work: int) -> Iterator[int]:
    r"""Runs a block with :func:`num_threads` threads, and gives torch back
    the number it had.

    Args:
        threads (int or str): See :func:`num_threads`.
        work (int): See :func:`num_threads`.

    Yields:
        The number of threads.
    """
    number, before = num_threads(threads, work), torch.get_num_threads()
    if number == before:
        yield number
        return
    torch.set_num_threads(number)
    try:
        yield number
    finally:
        torch.set_num_threads(before)


def step_work(task: Any, batch_size: int) -> int:
    r"""Returns about how many elements a training step reads: all
    parameters and features, and a row of the largest table for each
    interaction of the graph, both ways, and of the batch.

    Args:
        task (Task): What is trained, with its :obj:`graph`.
        batch_size (int): Interactions in a batch.
    """
    parameters = list(task.parameters())
    largest = max((p for p in parameters if p.dim() == 2),
                  key=torch.numel, default=None)
    width = 1 if largest is None else largest.size(1)
    read = {id(x): x.numel() for x in (*parameters, *_features(task))}
    edges = 2 * task.graph.num_edges  # There and back.
    return sum(read.values()) + width * (edges + batch_size)


def _features(module: torch.nn.Module) -> Iterator[Tensor]:
    for part in module.modules():
        held = getattr(part, 'features', None)
        if isinstance(held, Mapping):
            yield from (x for x in held.values() if isinstance(x, Tensor))


def _num_processors() -> int:
    if hasattr(os, 'sched_getaffinity'):  # Those that this process may use.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
