"""Products with raw features, in row blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from torch_promptmm.nn import features as module
from torch_promptmm.nn.features import (
    column_statistics,
    features_matmul,
    features_t_matmul,
    masked_rows,
)

DTYPES = [torch.half, torch.bfloat16, torch.float, torch.double]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, '_BLOCK_SIZE', 16)


def random(dtype: torch.dtype = torch.float) -> Tensor:
    return torch.randn(10, 5).to(dtype)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('like', [torch.float, torch.double])
def test_products(dtype: torch.dtype, like: torch.dtype) -> None:
    x = random(dtype)
    weight = torch.randn(5, 3, dtype=like, requires_grad=True)
    y = torch.randn(10, 3, dtype=like, requires_grad=True)
    out, out_t = features_matmul(x, weight), features_t_matmul(x, y)
    assert out.dtype == out_t.dtype == like
    dense = x.to(like)
    for have, want, at in ((out, dense @ weight, weight),
                           (out_t, y.t() @ dense, y)):
        seed = torch.randn_like(want)
        torch.testing.assert_close(have, want)
        torch.testing.assert_close(*[
            torch.autograd.grad(z, at, seed)[0] for z in (have, want)
        ])


@pytest.mark.parametrize('dtype', DTYPES[:3])
@pytest.mark.parametrize('backward_inside', [False, True])
def test_autocast(monkeypatch, dtype: torch.dtype,
                  backward_inside: bool) -> None:
    """Features in autocast's type are multiplied in it, others exactly."""
    types, matmul = [], module.matmul
    monkeypatch.setattr(module, 'matmul', lambda a, b: (
        types.append((a.dtype, b.dtype)), matmul(a, b))[1])
    x = random(dtype)
    weight, y = torch.randn(5, 3), torch.randn(10, 3)
    for function, at, want in (
            (features_matmul, weight, lambda a, z: a @ z),
            (features_t_matmul, y, lambda a, z: z.T @ a)):
        at = at.clone().requires_grad_()
        types.clear()
        with torch.autocast('cpu', torch.bfloat16):
            out = function(x, at)
            if backward_inside:
                out.sum().backward()
        if not backward_inside:
            out.sum().backward()
        assert out.dtype == at.grad.dtype == torch.float
        exact = dtype != torch.bfloat16
        assert set(types) == {2 * (torch.float if exact else dtype, )}
        wide = at.detach().double().requires_grad_()
        double = want(x.double(), wide)
        double.sum().backward()
        close = dict(rtol=1e-5, atol=1e-5) if exact else dict(rtol=2e-2,
                                                              atol=5e-2)
        torch.testing.assert_close(out.double(), double, **close)
        torch.testing.assert_close(at.grad.double(), wide.grad, **close)


def test_devices_without_autocast() -> None:
    x, weight = torch.empty(3, 4, device='meta'), torch.empty(4, 2,
                                                              device='meta')
    assert features_matmul(x, weight).shape == (3, 2)
    assert features_t_matmul(x, weight.new_empty(3, 2)).shape == (2, 4)


def test_second_derivatives() -> None:
    x = random()  # Is cast: the blockwise road.
    weight = torch.randn(5, 3, dtype=torch.double, requires_grad=True)
    y = torch.randn(10, 3, dtype=torch.double, requires_grad=True)
    for function, at in ((features_matmul, weight), (features_t_matmul, y)):
        def run(z: Tensor, function=function) -> Tensor:
            return function(x, z).square()

        assert torch.autograd.gradcheck(run, at)
        assert torch.autograd.gradgradcheck(run, at)


def test_features_that_are_trained() -> None:
    x = torch.randn(10, 5, dtype=torch.double, requires_grad=True)
    weight = torch.randn(5, 3, dtype=torch.double, requires_grad=True)
    y = torch.randn(10, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(features_matmul, (x, weight))
    assert torch.autograd.gradcheck(features_t_matmul, (x, y))


def test_memory_mapped_features(tmp_path) -> None:
    array = np.random.randn(10, 5).astype(np.float16)
    np.save(tmp_path / 'x.npy', array)
    mapped = np.load(tmp_path / 'x.npy', mmap_mode='r+')
    x = torch.from_numpy(mapped)
    weight = torch.randn(5, 3)
    torch.testing.assert_close(features_matmul(x, weight),
                               torch.from_numpy(array).float() @ weight)


def test_features_stay_on_their_device(device: torch.device) -> None:
    x = random()
    weight = torch.randn(5, 3, device=device, requires_grad=True)
    out = features_matmul(x, weight)
    assert out.device.type == device.type
    assert x.device.type == 'cpu'
    out.sum().backward()
    assert weight.grad.device.type == device.type


def test_masked_rows() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    mask = torch.tensor([True, False, True])
    out = masked_rows(x, mask)
    assert torch.equal(out, x * mask.view(-1, 1))
    assert masked_rows(x, None) is x
    with pytest.raises(ValueError, match=r'boolean tensor of shape \[3\]'):
        masked_rows(x, mask[:1])
    with pytest.raises(ValueError, match='boolean tensor'):
        masked_rows(x, mask.float())


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('masked', [False, True])
def test_column_statistics(dtype: torch.dtype, masked: bool) -> None:
    x = (3 * torch.randn(40, 5) + 50).to(dtype)
    mask = torch.rand(40) < 0.6 if masked else None
    want = x.double().numpy()
    want = want if mask is None else want[mask.numpy()]
    mean, scale = column_statistics(x, mask)
    assert mean.dtype == scale.dtype == torch.float
    np.testing.assert_allclose(mean, want.mean(0), rtol=1e-6)
    np.testing.assert_allclose(scale, 1 / want.std(0), rtol=1e-5)


def test_column_statistics_where_means_are_far_away() -> None:
    x = torch.randn(200, 3, dtype=torch.double) + 1e6
    mean, scale = column_statistics(x, like=torch.empty(0).double())
    np.testing.assert_allclose(mean, x.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(scale, 1 / x.numpy().std(0), rtol=1e-6)


def test_column_statistics_of_half_precision_modules() -> None:
    x = 300 * torch.randn(100, 3)  # Squares are beyond half precision.
    mean, scale = column_statistics(x, like=torch.empty(0).half())
    assert scale.dtype == torch.half
    np.testing.assert_allclose(scale.float(), 1 / x.numpy().std(0),
                               rtol=1e-2)


def test_constant_columns_have_no_scale() -> None:
    x = torch.randn(10, 3)
    x[:, 1] = 0.1  # No binary fraction.
    mean, scale = column_statistics(x)
    assert scale[1] == 0
    assert (scale[[0, 2]] > 0).all()


def test_no_row_at_all() -> None:
    x = random()
    mean, scale = column_statistics(x, torch.zeros(10, dtype=torch.bool))
    assert (mean == 0).all()
    assert (scale == 0).all()
    with pytest.raises(ValueError, match='boolean tensor'):
        column_statistics(x, torch.ones(9, dtype=torch.bool))
