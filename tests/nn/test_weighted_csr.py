"""Values with gradients, against dense products in double precision."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from allocations import Largest
from torch.testing import assert_close

from torch_promptmm.nn.csr import CSRMatrix, compress
from torch_promptmm.nn.weighted_csr import (
    edge_softmax,
    normalize_edges,
    scale_edges,
    sddmm,
    spmm,
    sum_edges,
)

N, M = 5, 7
# Row 3 and columns 0 and 6 are isolated; (1, 2) is there twice.
ROW = torch.tensor([1, 0, 4, 1, 2, 0, 1, 2, 4, 4])
COL = torch.tensor([2, 1, 5, 2, 3, 4, 1, 2, 1, 3])
EMPTY = torch.empty(0, dtype=torch.long)
FORMS = {'edges': (ROW, COL), 'empty': (EMPTY, EMPTY)}


def matrix(form: str = 'edges', shape: tuple[int, int] = (N, M),
           device: torch.device | None = None) -> CSRMatrix:
    row, col = FORMS[form]
    # Its own values are not to be looked at.
    value = torch.full((row.numel(), ), float('nan'))
    out = compress(row, col, value, *shape)
    return out if device is None else out.to(device, torch.float)


def pairs(a: CSRMatrix) -> tuple[np.ndarray, np.ndarray]:
    crow, col = a.crow.cpu().numpy(), a.col.cpu().numpy()
    row = [i for i in range(len(crow) - 1) for _ in range(crow[i + 1] -
                                                          crow[i])]
    return np.array(row, dtype=int), col


def dense(a: CSRMatrix, value: torch.Tensor) -> np.ndarray:
    out = np.zeros(a.shape)
    np.add.at(out, pairs(a), value.detach().cpu().double().numpy())
    return out


def random(*shape: int, dtype: torch.dtype = torch.double,
           device: torch.device | None = None) -> torch.Tensor:
    x = torch.randn(*shape, dtype=torch.double)
    return x.to(device, dtype).requires_grad_()


def test_rows_and_transpose() -> None:
    a = matrix()
    row, col = pairs(a)
    assert a.row.tolist() == row.tolist()
    value = torch.randn(a.nnz)
    assert np.array_equal(
        dense(a.t, value[a.order]), dense(a, value).T)
    assert a.t is a.t and a.t.shape == (M, N)
    other = copy.deepcopy(a)
    assert not {'t', 'order', 'row'} & vars(other).keys()


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('dtype', [torch.float, torch.double])
@pytest.mark.parametrize('channels', [1, 3, 64])
def test_products_equal_the_dense_ones(form: str, dtype: torch.dtype,
                                       channels: int,
                                       device: torch.device) -> None:
    a = matrix(form, device=device)
    row, col = pairs(a)
    value = random(a.nnz, dtype=dtype, device=device)
    left = random(N, channels, dtype=dtype, device=device)
    right = random(M, channels, dtype=dtype, device=device)
    x, y = (t.detach().cpu().double().numpy() for t in (left, right))
    tolerance = dict(rtol=1e-12, atol=1e-12) if dtype == torch.double else (
        dict(rtol=1e-5, atol=1e-5))

    def check(have: torch.Tensor, want: np.ndarray) -> None:
        assert have.dtype == dtype and have.device == left.device
        assert_close(have.cpu().double(), torch.from_numpy(want), **tolerance)

    check(spmm(a, value, right), dense(a, value) @ y)
    check(spmm(a, value, left, transpose=True), dense(a, value).T @ x)
    check(sddmm(a, left, right), (x @ y.T)[row, col])
    # Gradients: of values the dot products, of rows the transpose product.
    g_user, g_item = torch.randn_like(left), torch.randn_like(right)
    gu, gi = g_user.cpu().double().numpy(), g_item.cpu().double().numpy()
    have = torch.autograd.grad(spmm(a, value, right), (value, right), g_user)
    check(have[0], (gu @ y.T)[row, col])
    check(have[1], dense(a, value).T @ gu)
    have = torch.autograd.grad(spmm(a, value, left, True), (value, left),
                               g_item)
    check(have[0], (x @ gi.T)[row, col])
    check(have[1], dense(a, value) @ gi)


@pytest.mark.parametrize('form', FORMS)
def test_gradients_of_two_orders(form: str) -> None:
    a = matrix(form)
    value, left, right = random(a.nnz), random(N, 3), random(M, 3)
    for function, inputs in [
        (lambda v, x: spmm(a, v, x), (value, right)),
        (lambda v, x: spmm(a, v, x, transpose=True), (value, left)),
        (lambda x, y: sddmm(a, x, y), (left, right)),
    ]:
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)
    for function in [
        lambda v: edge_softmax(a, v),
        lambda v: edge_softmax(a, v, dim=0),
        lambda v: sum_edges(a, v),
        lambda v: sum_edges(a, v, dim=0),
    ]:
        assert torch.autograd.gradcheck(function, (value, ))
    positive = (value.detach().exp()).requires_grad_()
    for method in ('sym', 'mean'):
        assert torch.autograd.gradcheck(
            lambda v, m=method: normalize_edges(a, v, m), (positive, ))


def test_only_what_is_wanted_gets_a_gradient() -> None:
    a = matrix()
    value, x = random(a.nnz), random(M, 2)
    spmm(a, value.detach(), x).sum().backward()  # An expanded gradient.
    assert value.grad is None
    assert_close(x.grad, torch.from_numpy(dense(a, value).sum(
        axis=0)).view(-1, 1).expand(M, 2))
    spmm(a, value, x.detach()).sum().backward()
    assert value.grad is not None


@pytest.mark.parametrize('dim', [0, 1])
def test_softmax(dim: int, device: torch.device) -> None:
    a = matrix(device=device)
    row, col = pairs(a)
    score = torch.randn(a.nnz, device=device)
    score[3] = 300.0  # Its exponential is infinite.
    out = edge_softmax(a, score, dim).cpu().double().numpy()
    index = row if dim == 1 else col
    want = np.zeros(a.nnz)
    s = score.cpu().double().numpy()
    for i in set(index):
        part = np.exp(s[index == i] - s[index == i].max())
        want[index == i] = part / part.sum()
    assert np.allclose(out, want, atol=1e-6)
    assert edge_softmax(matrix('empty'), torch.empty(0), dim).numel() == 0


def test_sums_and_scales() -> None:
    a = matrix()
    value, r, c = torch.randn(a.nnz), torch.randn(N), torch.randn(M)
    full = dense(a, value)
    assert np.allclose(sum_edges(a, value), full.sum(axis=1), atol=1e-6)
    assert np.allclose(sum_edges(a, value, 0), full.sum(axis=0), atol=1e-6)
    out = dense(a, scale_edges(a, value, r, c))
    want = np.diag(r.double()) @ full @ np.diag(c.double())
    assert np.allclose(out, want, atol=1e-6)
    assert torch.equal(scale_edges(a, value), value)


def test_normalised() -> None:
    a = matrix()
    value = torch.rand(a.nnz) + 0.1
    full = dense(a, value)
    r, c = full.sum(axis=1), full.sum(axis=0)
    with np.errstate(divide='ignore'):
        left, right = (np.where(x > 0, x**-0.5, 0) for x in (r, c))
        mean = np.where(r > 0, 1 / r, 0)
    out = normalize_edges(a, value)
    assert np.allclose(dense(a, out), np.diag(left) @ full @ np.diag(right))
    out = normalize_edges(a, value, 'mean')
    assert np.allclose(dense(a, out), np.diag(mean) @ full)
    square = compress(ROW, COL, value, M, M)
    full = dense(square, value)
    r = full.sum(axis=1)
    with np.errstate(divide='ignore'):
        left = np.diag(np.where(r > 0, r**-0.5, 0))
    out = normalize_edges(square, value, 'rows')
    assert np.allclose(dense(square, out), left @ full @ left)


def test_a_sum_that_is_not_positive_gives_zeros() -> None:
    row, col = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    a = compress(row, col, torch.ones(4), 2, 2)
    value = torch.tensor([1.0, -1.0, -0.5, 2.0], requires_grad=True)
    out = normalize_edges(a, value, 'mean')
    assert_close(out, torch.tensor([0.0, 0.0, -1 / 3, 4 / 3]))
    for method in ('sym', 'rows', 'mean'):
        out = normalize_edges(a, value, method)
        grad, = torch.autograd.grad(out.square().sum(), value)
        assert out.isfinite().all() and grad.isfinite().all()


def test_no_row_for_each_edge() -> None:
    num, channels = 40000, 64
    row, col = torch.randint(300, (num, )), torch.randint(200, (num, ))
    a = compress(row, col, torch.ones(num), 300, 200)
    value = torch.randn(num, requires_grad=True)
    left = torch.randn(300, channels, requires_grad=True)
    right = torch.randn(200, channels, requires_grad=True)
    _ = a.t.tensor, a.tensor
    with Largest() as largest:
        score = sddmm(a, left, right) + value
        out = spmm(a, edge_softmax(a, score), right)
        (out.square().sum() + spmm(a, score, left, True).sum()).backward()
    assert largest.numel <= 2 * num, largest.shape
    assert value.grad.abs().sum() > 0


def test_autocast_and_half_precision() -> None:
    a = matrix()
    value, x = random(a.nnz, dtype=torch.float), random(M, 4)
    want = spmm(a, value, x.float())
    half = x.bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        out = spmm(a, value, half)
        dots = sddmm(a, out.bfloat16(), half)
    assert out.dtype == dots.dtype == torch.float
    assert_close(out, want, atol=0.05, rtol=0.05)
    out.sum().backward()
    assert x.grad is not None and value.grad is not None


def test_torch_has_no_gradient_for_duplicates() -> None:
    # Why there is a kernel of our own: if this fails, torch has learnt it.
    a = matrix()
    value = torch.randn(a.nnz, requires_grad=True)
    tensor = torch.sparse_csr_tensor(a.crow, a.col, value, a.shape)
    with pytest.raises(RuntimeError, match='invalid gradient'):
        (tensor @ torch.randn(M, 2)).sum().backward()


def test_bad_input() -> None:
    a = matrix()
    value, left, right = torch.ones(a.nnz), torch.ones(N, 2), torch.ones(M, 2)
    for call, message in [
        (lambda: spmm(a, value[1:], right), "'value' must have one number"),
        (lambda: spmm(a, value, left), r"'x' must be of shape \[7, channels"),
        (lambda: spmm(a, value, right, True), r"'x' must be of shape \[5"),
        (lambda: sddmm(a, right, right), "'left' must be of shape"),
        (lambda: sddmm(a, left, left), "'right' must be of shape"),
        (lambda: sddmm(a, left, right[:, :1]), 'of one width'),
        (lambda: edge_softmax(a, value[1:]), "'score' must have one number"),
        (lambda: edge_softmax(a, value, 2), "'dim'"),
        (lambda: normalize_edges(a, value, 'max'), "'method'"),
        (lambda: normalize_edges(a, value, 'rows'), 'not square'),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_more_entries_than_places() -> None:
    # Each of 2 x 2 places three times.
    matrix = CSRMatrix(torch.tensor([0, 6, 12]), torch.tensor([0, 1] * 6),
                       torch.zeros(12), 2)
    a, b = torch.randn(2, 2, 3, dtype=torch.double).requires_grad_().unbind()
    out = sddmm(matrix, a, b)
    torch.testing.assert_close(out.view(2, 3, 2),
                               (a @ b.t()).unsqueeze(1).expand(2, 3, 2))
    assert torch.autograd.gradcheck(lambda *x: sddmm(matrix, *x), (
        a.detach().requires_grad_(), b.detach().requires_grad_()))
