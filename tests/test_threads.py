"""How many threads share the work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torch_promptmm import PromptMMDistiller, threads
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.nn import LightGCNStudent, UserItemGraph
from torch_promptmm.threads import num_threads, step_work, use_threads
from torch_promptmm.train import RankingTask, train

EDGES = torch.tensor([[0, 1, 1], [1, 0, 2]])


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """A machine of as many processors, on which torch has as many threads.
    """
    def make(processors: int, have: int) -> list[int]:
        now = [have]
        monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
        monkeypatch.delenv('MKL_NUM_THREADS', raising=False)
        monkeypatch.setattr(threads, '_num_processors', lambda: processors)
        monkeypatch.setattr(torch, 'get_num_threads', lambda: now[-1])
        monkeypatch.setattr(torch, 'set_num_threads', now.append)
        return now

    return make


@pytest.mark.parametrize('processors, have, work, want', [
    (2, 2, 2**40, 1),  # One is left free.
    (1, 1, 2**40, 1),
    (8, 8, 2**40, 7),
    (8, 4, 2**40, 4),  # No more than torch has.
    (8, 8, 0, 1),
    (8, 8, 2**24 - 1, 1),  # Small work has one.
    (8, 8, 2**24, 2),
    (8, 8, 3 * 2**24, 4),
])
def test_auto(machine, processors: int, have: int, work: int,
              want: int) -> None:
    machine(processors, have)
    assert num_threads('auto', work) == want
    assert num_threads(None, work) == have
    assert num_threads(5, work) == 5


@pytest.mark.parametrize('name', ['OMP_NUM_THREADS', 'MKL_NUM_THREADS'])
def test_a_number_from_the_environment_stays(machine, monkeypatch,
                                             name: str) -> None:
    machine(8, 6)
    monkeypatch.setenv(name, '6')
    assert num_threads('auto', 0) == 6
    assert num_threads(2, 0) == 2


def test_torch_has_its_number_again(machine) -> None:
    now = machine(8, 8)
    with use_threads('auto', 2**25) as number:
        assert number == now[-1] == 3
        with use_threads(2, 0):
            assert now[-1] == 2
        assert now[-1] == 3
    assert now[-1] == 8
    with pytest.raises(KeyError), use_threads(1, 0):
        raise KeyError
    assert now[-1] == 8
    calls = len(now)
    for same in (None, 8):
        with use_threads(same, 0) as number:
            assert number == 8
    assert len(now) == calls  # Nothing to do.


@pytest.mark.parametrize('bad, error', [
    ('many', ValueError), (0, ValueError), (-1, ValueError),
    (1.5, TypeError), (True, TypeError),
])
def test_bad_numbers(bad: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="'threads'"):
        num_threads(bad, 0)


def lightgcn() -> RankingTask:
    return RankingTask(LightGCNStudent(2, 3, 4), UserItemGraph(EDGES, 2, 3),
                       EDGES)


def test_work_of_a_lightgcn() -> None:
    # Five rows of parameters, three edges both ways, and the batch.
    assert step_work(lightgcn(), 10) == 4 * (5 + 2 * 3 + 10)


def test_work_of_a_teacher() -> None:
    train_data = SyntheticMultimodal.blocks()[0]
    distiller = PromptMMDistiller.from_data(train_data, hidden_channels=4)
    teacher, student = (
        distiller.prepare(train_data, stage) for stage in ('teacher',
                                                           'student'))
    features = sum(x.numel() for x in distiller.teacher.features.values())
    assert features > 0
    work = step_work(teacher, 10)
    parameters = sum(p.numel() for p in teacher.parameters())
    edges = teacher.graph.num_edges
    assert work == features + parameters + 4 * (2 * edges + 10)
    assert step_work(student, 10) < work


def test_a_run_has_them(machine) -> None:
    now = machine(8, 8)
    seen = []
    for given in ('auto', 3, None):
        train(lightgcn(), epochs=1, progress=False, threads=given,
              callback=lambda _: seen.append(now[-1]))
        assert now[-1] == 8
    assert seen == [1, 3, 8]
    with pytest.raises(ValueError, match="'threads'"):
        train(lightgcn(), epochs=1, progress=False, threads=0)


SCRIPT = """
import torch
from torch_promptmm.threads import use_threads
torch.set_num_threads(2)
with use_threads(1, 0):
    inside = torch.get_num_threads()
print(inside, torch.get_num_threads())
"""


def test_torch_itself() -> None:
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, '-c', SCRIPT], check=True,
                          capture_output=True, text=True,
                          env={**os.environ, 'PYTHONPATH': str(root)})
    assert done.stdout.split() == ['1', '2']
