from __future__ import annotations

import pytest
import torch

from torch_promptmm import PromptMMDistiller
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.seeding import seeded

CPU = torch.device('cpu')


def test_a_seed_repeats_and_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    draws = []
    for seed in (1, 1, 2, -1):
        with seeded(seed, CPU):
            draws.append(torch.rand(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    # The stream of torch.manual_seed.
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), draws[0])


def test_an_error_leaves_it_alone_too() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), seeded(1, CPU):
        torch.rand(3)
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), before)


def test_none_draws_from_the_global_generator() -> None:
    torch.manual_seed(3)
    want = torch.rand(3), torch.rand(3)
    torch.manual_seed(3)
    with seeded(None, CPU):
        assert torch.equal(torch.rand(3), want[0])
    assert torch.equal(torch.rand(3), want[1])


@pytest.mark.parametrize('seed, error', [
    (1.0, TypeError), ('1', TypeError), (True, TypeError),
    (2**64, ValueError), (-2**63 - 1, ValueError)])
def test_what_is_no_seed(seed, error) -> None:
    with pytest.raises(error, match="'seed'"), seeded(seed, CPU):
        pass


def test_no_other_device_is_seeded(monkeypatch) -> None:
    """torch.manual_seed seeds every device, now or once it is there."""
    seen = []
    for name in ('manual_seed', 'manual_seed_all'):
        monkeypatch.setattr(torch.cuda, name, seen.append)
    with seeded(1, CPU):
        pass
    PromptMMDistiller.from_data(SyntheticMultimodal.blocks()[0],
                                hidden_channels=4, seed=0)
    assert seen == []
    torch.manual_seed(1)
    assert seen  # So this test can fail.


@pytest.mark.cuda
def test_cuda_generators() -> None:
    if not torch.cuda.is_available():
        pytest.skip('needs a CUDA device: torch.cuda.is_available() is False')
    cuda = torch.device('cuda')
    torch.cuda.manual_seed(5)
    before = torch.cuda.get_rng_state()
    draws = []
    for _ in range(2):
        with seeded(1, cuda):
            draws.append(torch.rand(3, device=cuda))
    with seeded(1, CPU):
        torch.rand(3)
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(torch.cuda.get_rng_state(), before)
