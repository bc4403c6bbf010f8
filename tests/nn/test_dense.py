from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torch_promptmm.nn import dense, use_onednn
from torch_promptmm.nn._backends import onednn as backend


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The products that oneDNN makes, of any size, on any processor."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip('this build of torch has no oneDNN')
    calls, linear = [], backend.linear
    monkeypatch.delenv('TORCH_PROMPTMM_ONEDNN', raising=False)
    monkeypatch.setattr(backend, 'is_faster', lambda: True)
    monkeypatch.setattr(dense, '_SMALLEST', 0)
    monkeypatch.setattr(dense, '_WIDE_ENOUGH', 0)
    monkeypatch.setattr(backend, 'linear', lambda x, weight:
                        (calls.append(1), linear(x, weight))[1])
    return calls


def leaf(rows: int, cols: int, layout: str = 'rows') -> Tensor:
    x = torch.randn(rows, cols)
    if layout == 'columns':
        x = x.t().contiguous().t()
    elif layout == 'gaps':
        x = torch.randn(rows, 2 * cols)[:, ::2]
    return x.requires_grad_()


def float64(*tensors: Tensor) -> list[np.ndarray]:
    return [x.detach().double().numpy() for x in tensors]


@pytest.mark.parametrize('a_layout', ['rows', 'columns', 'gaps'])
@pytest.mark.parametrize('b_layout', ['rows', 'columns', 'gaps'])
@pytest.mark.parametrize('shape', [(40, 30, 20), (50, 3, 4), (1, 7, 9),
                                   (5, 1, 6), (8, 90, 1)])
def test_equals_float64(onednn, a_layout: str, b_layout: str,
                        shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    a, b = leaf(m, k, a_layout), leaf(k, n, b_layout)
    grad = torch.randn(m, n)
    out = dense.matmul(a, b)
    assert onednn == [1]
    assert out.is_contiguous()
    grads = torch.autograd.grad(out, (a, b), grad)
    assert len(onednn) == 3
    x, y, g = float64(a, b, grad)
    for value, want in zip((out, *grads), (x @ y, g @ y.T, x.T @ g),
                           strict=True):
        np.testing.assert_allclose(value.detach(), want, atol=2e-5)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 70))
@settings(max_examples=50, deadline=None)
def test_any_shape(m: int, k: int, n: int) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip('this build of torch has no oneDNN')
    a, b = torch.randn(m, k), torch.randn(k, n)
    value = dense._MatMul.apply(a, b)
    x, y = float64(a, b)
    np.testing.assert_allclose(value, x @ y, atol=5e-5)


@pytest.mark.parametrize('gaps', [False, True])
def test_second_derivative(onednn, gaps: bool) -> None:
    def derive(matmul, x: Tensor, b: Tensor,
               dtype: torch.dtype) -> list[Tensor]:
        x, b = (z.to(dtype).requires_grad_() for z in (x, b))
        a = x[:, :5] if gaps else x
        first, = torch.autograd.grad(matmul(a, b).square().sum(), b,
                                     create_graph=True)
        return list(torch.autograd.grad(first.square().sum(), (x, b)))

    x, b = torch.randn(6, 10 if gaps else 5), torch.randn(5, 4)
    want = derive(torch.matmul, x, b, torch.double)
    got = derive(dense.matmul, x, b, torch.float)
    assert onednn
    for value, exact in zip(got, want, strict=True):
        torch.testing.assert_close(value.double(), exact, rtol=1e-4,
                                   atol=1e-2)


def test_what_it_keeps_must_not_change(onednn) -> None:
    a, b = leaf(6, 5, 'gaps').detach(), leaf(5, 4)
    out = dense.matmul(a, b)
    a.zero_()
    with pytest.raises(RuntimeError, match='modified by an inplace'):
        out.sum().backward()


def test_the_result_may_be_changed(onednn) -> None:
    for n in (1, 3):
        a, b = leaf(9, 4, 'columns'), leaf(4, n)
        dense.matmul(a, b).add_(1).sum().backward()
        np.testing.assert_allclose(b.grad, float64(a)[0].sum(0)[:, None]
                                   .repeat(n, 1), atol=1e-5)


def test_torch_func_and_forward_mode(onednn) -> None:
    a, b, t = torch.randn(6, 5), torch.randn(5, 4), torch.randn(5, 4)
    grad = torch.func.grad(lambda z: dense.matmul(a, z).square().sum())(b)
    torch.testing.assert_close(grad, 2 * a.t() @ (a @ b))
    out, tangent = torch.func.jvp(lambda z: dense.matmul(a, z), (b, ), (t, ))
    torch.testing.assert_close(out, a @ b)
    torch.testing.assert_close(tangent, a @ t)
    assert onednn


@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16, torch.double])
def test_other_types_stay_with_torch(onednn, dtype: torch.dtype) -> None:
    a, b = leaf(4, 3).to(dtype), leaf(3, 5).to(dtype)
    assert torch.equal(dense.matmul(a, b), a @ b)
    assert not onednn


def test_empty(onednn) -> None:
    assert dense.matmul(torch.empty(0, 3), torch.randn(3, 4)).shape == (0, 4)
    assert dense.matmul(torch.randn(2, 3), torch.empty(3, 0)).shape == (2, 0)
    assert (dense.matmul(torch.empty(2, 0), torch.empty(0, 4)) == 0).all()


def test_autocast_has_its_type(onednn) -> None:
    with torch.autocast('cpu', torch.bfloat16):
        assert dense.matmul(leaf(4, 3), leaf(3, 5)).dtype == torch.bfloat16
    assert not onednn


def test_a_block_turns_it_off(onednn) -> None:
    a, b = leaf(4, 3), leaf(3, 5)
    with use_onednn(False):
        assert torch.equal(dense.matmul(a, b), a @ b)
        assert dense.FixedProduct(b.t(), 4)._packed is None
        with use_onednn():
            dense.matmul(a, b)
        assert len(onednn) == 1
        dense.matmul(a, b)
    assert len(onednn) == 1
    dense.matmul(a, b)
    assert len(onednn) == 2


def test_a_block_that_fails_is_over(onednn) -> None:
    with pytest.raises(KeyError), use_onednn(False):
        raise KeyError
    dense.matmul(leaf(4, 3), leaf(3, 5))
    assert onednn
    with pytest.raises(TypeError, match="'enabled' must be True or False"):
        with use_onednn('no'):
            pass


@pytest.mark.parametrize('value, on', [('0', False), ('1', True)])
def test_the_environment_turns_it_off(onednn, monkeypatch, value: str,
                                      on: bool) -> None:
    monkeypatch.setenv('TORCH_PROMPTMM_ONEDNN', value)
    dense.matmul(leaf(4, 3), leaf(3, 5))
    assert bool(onednn) is on


def test_torch_turns_it_off(onednn) -> None:
    with torch.backends.mkldnn.flags(enabled=False):
        dense.matmul(leaf(4, 3), leaf(3, 5))
    assert not onednn
    dense.matmul(leaf(4, 3), leaf(3, 5))
    assert onednn


def test_small_products_stay_with_torch(onednn, monkeypatch) -> None:
    monkeypatch.setattr(dense, '_SMALLEST', 4 * 3 * 5 + 1)
    dense.matmul(leaf(4, 3), leaf(3, 5))
    assert not onednn
    dense.matmul(leaf(4, 3), leaf(3, 6))
    assert onednn


def test_a_copy_must_pay(onednn, monkeypatch) -> None:
    monkeypatch.setattr(dense, '_WIDE_ENOUGH', 6)
    dense.matmul(leaf(5, 9, 'columns'), leaf(9, 5))
    assert not onednn
    dense.matmul(leaf(5, 9, 'columns'), leaf(9, 6))
    dense.matmul(leaf(5, 9), leaf(9, 5))
    assert len(onednn) == 2


def test_large_gaps_are_not_copied(onednn, monkeypatch) -> None:
    monkeypatch.setattr(dense, '_LARGEST_COPY', 11)
    a, b = leaf(4, 3, 'gaps'), leaf(3, 5)
    torch.testing.assert_close(dense.matmul(a, b), a @ b)
    assert not onednn


@pytest.mark.parametrize('num_rows', [1, 7, 40])
@pytest.mark.parametrize('layout', ['rows', 'columns', 'gaps'])
def test_fixed_product(onednn, num_rows: int, layout: str) -> None:
    weight = leaf(30, 16, layout)
    product = dense.FixedProduct(weight, num_rows)
    assert product._packed is not None
    for rows in (1, num_rows, num_rows + 3, 0):
        x = leaf(rows, 16)
        out = product(x)
        assert not out.requires_grad
        a, b = float64(x, weight)
        np.testing.assert_allclose(out, a @ b.T, atol=2e-5)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.double])
def test_fixed_product_of_other_types(onednn, dtype: torch.dtype) -> None:
    weight, x = leaf(30, 16).to(dtype), leaf(5, 16).to(dtype)
    product = dense.FixedProduct(weight, 5)
    assert torch.equal(product(x), x @ weight.t())
    assert not onednn


def test_fixed_product_where_onednn_fails(monkeypatch, onednn) -> None:
    weight, x = torch.randn(30, 16), torch.randn(5, 16)
    packed = dense.FixedProduct(weight, 5)

    class Fails:
        @staticmethod
        def _linear_pointwise(*args: object) -> Tensor:
            raise RuntimeError('could not create a primitive')

    monkeypatch.setattr(torch.ops, 'mkldnn', Fails)
    for product in (packed, dense.FixedProduct(weight, 5)):
        torch.testing.assert_close(product(x), x @ weight.t())


def test_shapes_that_do_not_fit(onednn) -> None:
    with pytest.raises(RuntimeError, match='4x3 and 4x5'):
        dense.matmul(leaf(4, 3), leaf(4, 5))
