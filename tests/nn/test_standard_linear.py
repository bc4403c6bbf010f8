from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from torch_promptmm.nn import PromptedReduction, StandardLinear


def features() -> torch.Tensor:
    return torch.randn(30, 4, dtype=torch.double) * 7.0 + 100.0


def test_equals_what_it_says() -> None:
    x, mask = features(), torch.arange(30) % 4 != 1
    linear = StandardLinear(4, 3).double()
    assert_close(linear(x), x @ linear.weight)
    assert not linear.has_statistics
    linear.fit_statistics(x, mask)
    assert linear.has_statistics
    rows = x.numpy()[mask.numpy()]
    y = (x.numpy() - rows.mean(0)) / rows.std(0)
    y[~mask.numpy()] = 0.0
    wanted = torch.from_numpy(y @ linear.weight.detach().numpy())
    assert_close(linear(x, mask), wanted, rtol=0, atol=1e-10)
    some = torch.tensor([5, 0, 5])
    assert_close(linear(x[some], mask[some]), wanted[some])


def test_bias() -> None:
    x, mask = features(), torch.arange(30) % 4 != 1
    linear = StandardLinear(4, 3, bias=True).double()
    linear.fit_statistics(x, mask)
    assert (linear.bias == 0).all()
    with torch.no_grad():
        linear.bias.normal_()
    assert_close(linear(x, mask), linear.reduce(x, mask) + linear.bias)
    assert torch.equal(linear(x, mask)[1], linear.bias)
    assert str(linear) == 'StandardLinear(4, 3, bias=True)'


def test_features_as_they_are() -> None:
    x = features()
    linear = StandardLinear(4, 3).double()
    linear.fit_statistics(x)
    linear.fit_statistics(x, standardize=False)  # Nothing is left of it.
    assert linear.has_statistics
    assert_close(linear(x), x @ linear.weight)


@pytest.mark.parametrize('standardize', [True, False])
def test_a_reduction_without_a_prompt(standardize: bool) -> None:
    x = features().float()
    linear, reduction = StandardLinear(4, 3, True), PromptedReduction(4, 3)
    for each in (linear, reduction):
        each.fit_statistics(x, standardize=standardize)
    with torch.no_grad():
        reduction.bias.normal_()
        linear.weight.copy_(reduction.weight)
        linear.bias.copy_(reduction.bias)
    assert torch.equal(linear(x), reduction(x))


def test_gradients_and_state() -> None:
    x = features()
    linear, other = (StandardLinear(4, 3).double() for _ in range(2))
    linear.fit_statistics(x)
    assert torch.autograd.gradcheck(
        lambda weight: torch.func.functional_call(
            linear, {'weight': weight}, (x, )), linear.weight)
    other.load_state_dict(linear.state_dict())
    assert other.has_statistics
    assert torch.equal(other(x), linear(x))
    assert [name for name, _ in linear.named_parameters()] == ['weight']
    assert str(linear) == 'StandardLinear(4, 3, bias=False)'


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="'x' must have 4 columns"):
        StandardLinear(4, 3)(torch.randn(2, 5))
    with pytest.raises(ValueError, match="'in_channels' must be at least 1"):
        StandardLinear(0, 3)
    with pytest.raises(TypeError, match="'bias' must be"):
        StandardLinear(4, 3, 1)
