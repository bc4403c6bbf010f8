"""Freed memory is kept inside of the block."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from torch_promptmm.nn import LightGCNStudent, UserItemGraph
from torch_promptmm.train import RankingTask, kept_memory, memory, train
from torch_promptmm.train.memory import release_memory

SCRIPT = """
import resource
import torch
from torch_promptmm.train import kept_memory


def faults(num):  # Page faults of making and freeing 64 MiB a few times.
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(num):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start


with kept_memory():
    with kept_memory():
        faults(2)
    # As soon as the heap has found its form.
    print(min(faults(1) for _ in range(8)))
print(faults(1))
"""


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='glibc')
def test_memory_is_not_faulted_in_anew() -> None:
    # In a process of its own: where an allocation has failed before, as some
    # tests want it, glibc takes the thread to an arena that keeps nothing so
    # large.
    done = subprocess.run([sys.executable, '-c', SCRIPT], check=True,
                          capture_output=True, text=True)
    inside, outside = map(int, done.stdout.split())
    assert inside < 2**10 < outside  # Of 2**14 pages.


def test_it_ends_with_an_error() -> None:
    with pytest.raises(KeyError), kept_memory():
        raise KeyError
    with kept_memory():
        assert float(torch.ones(3).sum()) == 3


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """What is asked of the C library."""
    out: list[tuple[int, ...]] = []
    monkeypatch.setattr(memory, '_mallopt', lambda: lambda *args:
                        out.append(args))
    monkeypatch.setattr(memory, '_trim', lambda: out.append(()))
    return out


def test_on_unless_it_is_turned_off(calls) -> None:
    with kept_memory():
        during = list(calls)
        release_memory()
        assert calls == [*during, ()]
    assert during and calls[-1] == () and len(calls) > len(during) + 2
    calls.clear()
    release_memory()  # Nothing is kept.
    assert calls == []


def test_an_argument_turns_it_off(calls) -> None:
    with kept_memory(enabled=False):
        release_memory()
    assert calls == []


def test_the_environment_turns_it_off(calls, monkeypatch) -> None:
    monkeypatch.setenv('TORCH_PROMPTMM_KEEP_MEMORY', '0')
    with kept_memory():
        release_memory()
    assert calls == []


def test_off_inside_of_on(calls) -> None:
    with kept_memory():
        during = list(calls)
        with kept_memory(enabled=False):
            pass
        assert calls == during


@pytest.mark.parametrize('keep_memory', [True, False])
def test_an_argument_of_training(calls, keep_memory: bool) -> None:
    edges = torch.tensor([[0, 1], [1, 0]])
    task = RankingTask(LightGCNStudent(2, 3, 2), UserItemGraph(edges, 2, 3),
                       edges)
    train(task, epochs=2, progress=False, keep_memory=keep_memory,
          validate=lambda: {'recall@20': 0.5})
    assert bool(calls) is keep_memory
    with pytest.raises(TypeError, match="'keep_memory' must be True or False"):
        train(task, epochs=1, keep_memory='no')
