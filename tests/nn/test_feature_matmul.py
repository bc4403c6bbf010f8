"""Products with raw features, in row blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from torch_promptmm.nn import feature_matmul as module
from torch_promptmm.nn.feature_matmul import (
    features_matmul,
    features_t_matmul,
    row_slices,
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


@pytest.mark.parametrize('shape, sizes', [
    ((10, 5), [3, 3, 3, 1]), ((4, 4), [4]), ((3, 40), [1, 1, 1]),
    ((0, 5), []), ((5, 0), [5])])
def test_row_slices(shape, sizes: list[int]) -> None:
    x = torch.arange(shape[0]).view(-1, 1).expand(shape)
    blocks = [x[rows] for rows in row_slices(x)]
    assert [block.size(0) for block in blocks] == sizes
    assert torch.equal(torch.cat([x[:0], *blocks]), x)
