"""A seeded block leaves every global generator as it was."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from torch_promptmm import PromptMMDistiller
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.seeding import seeded

CPU = torch.device('cpu')


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> list[torch.Generator]:
    """The generators of two CUDA devices, which are not there."""
    generators = [torch.Generator().manual_seed(i) for i in (10, 11)]
    current = [0]

    @contextmanager
    def device(index: torch.device):
        before, current[0] = current[0], index.index
        yield
        current[0] = before

    monkeypatch.setattr(torch.cuda, 'default_generators', generators)
    monkeypatch.setattr(torch.cuda, 'device', device)
    monkeypatch.setattr(torch.cuda, '_is_in_bad_fork', lambda: False)
    for module in (torch.cuda, torch.cuda.random):
        monkeypatch.setattr(module, 'device_count', lambda: 2)
        monkeypatch.setattr(module, 'current_device', lambda: current[0])
        monkeypatch.setattr(module, 'is_initialized', lambda: True)
        monkeypatch.setattr(module, '_lazy_init', lambda: None)
        monkeypatch.setattr(module, '_lazy_call', lambda f, **_: f())
    return generators


def states(generators: list[torch.Generator]) -> list[torch.Tensor]:
    return [x.get_state() for x in (torch.default_generator, *generators)]


def check_same(have: list[torch.Tensor], want: list[torch.Tensor]) -> None:
    for x, y in zip(have, want, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize('seed', [0, -1, 2**63, 2**64 - 1])
def test_on_the_cpu(cuda, seed: int) -> None:
    before, values = states(cuda), []
    for _ in range(2):
        with seeded(seed, CPU):
            check_same(states(cuda)[1:], before[1:])
            values.append(torch.rand(3))
    check_same(states(cuda), before)
    assert torch.equal(*values)


def test_the_values_are_those_of_manual_seed() -> None:
    with seeded(7, CPU):
        have = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(have, torch.rand(3))


def test_on_one_of_two_devices(cuda) -> None:
    before, drawn = states(cuda), []
    for _ in range(2):
        with seeded(7, torch.device('cuda', 1)):
            drawn.append(torch.rand(3, generator=cuda[1]))
            assert torch.equal(cuda[0].get_state(), before[1])
    check_same(states(cuda), before)
    assert torch.equal(*drawn)
    want = torch.rand(3, generator=torch.Generator().manual_seed(7))
    assert torch.equal(drawn[0], want)


def test_an_error_ends_it(cuda) -> None:
    before = states(cuda)
    for device in (CPU, torch.device('cuda', 1)):
        with pytest.raises(KeyError), seeded(7, device):
            raise KeyError
    check_same(states(cuda), before)


def test_cuda_is_not_initialised(monkeypatch) -> None:
    # Where CUDA is not in use, `torch.manual_seed` leaves a call behind that
    # seeds its generators as soon as it is.
    left: list[object] = []
    monkeypatch.setattr(torch.cuda, '_is_in_bad_fork', lambda: False)
    for name in ('_lazy_call', '_lazy_init'):
        monkeypatch.setattr(torch.cuda.random, name, lambda *args, **kwargs:
                            left.append(args))
    with seeded(7, CPU):
        torch.rand(3)
    assert left == []


def test_a_distiller_is_built_with_a_seed(cuda) -> None:
    before = states(cuda)
    data = SyntheticMultimodal.blocks()[0]
    PromptMMDistiller.from_data(data, hidden_channels=4, seed=5)
    check_same(states(cuda), before)
