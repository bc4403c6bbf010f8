from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import torch
from allocations import Largest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from torch_promptmm.loss import InfoNCE, SampledSoftmaxLoss


def random(*shape: int) -> Tensor:
    return (2 * torch.randn(shape, dtype=torch.double)).requires_grad_()


def naive(a: Tensor, b: Tensor, temperature: float, normalize: bool,
          ids: tuple[Tensor, ...] = ()) -> float:
    x, y = a.detach().numpy(), b.detach().numpy()
    if normalize:
        x, y = reference.unit_rows(x), reference.unit_rows(y)
    values = []
    for i in range(len(x)):
        kept = [k for k in range(len(y)) if k == i or not any(
            int(index[k]) == int(index[i]) for index in ids)]
        share = reference.softmax(
            np.array([x[i] @ y[k] for k in kept]) / temperature)
        values.append(-np.log(share[kept.index(i)]))
    return float(np.mean(values))


IDS = {
    'none': (),
    'users': (torch.tensor([4, 1, 4, 4, 2, 1]), ),
    'pairs': (torch.tensor([4, 1, 4, 3, 2, 1]),
              torch.tensor([7, 7, 8, 9, 9, 0])),
    'distinct': (torch.arange(6), ),
    'all the same': (torch.zeros(6).long(), ),
}


@pytest.mark.parametrize('temperature', [0.2, 1.0, 3.0])
@pytest.mark.parametrize('normalize', [True, False])
@pytest.mark.parametrize('ids', IDS)
def test_equals_numpy(temperature: float, normalize: bool, ids: str) -> None:
    a, b = random(6, 4), random(6, 4)
    loss = InfoNCE(temperature, normalize)
    there = naive(a, b, temperature, normalize, IDS[ids])
    back = naive(b, a, temperature, normalize, IDS[ids])
    value = float(loss(a, b, *IDS[ids]).detach())
    assert value == pytest.approx(there, abs=1e-12)
    both = InfoNCE(temperature, normalize, symmetric=True)
    value = float(both(a, b, *IDS[ids]).detach())
    assert value == pytest.approx((there + back) / 2, abs=1e-12)


@pytest.mark.parametrize('normalize', [True, False])
@pytest.mark.parametrize('symmetric', [True, False])
@pytest.mark.parametrize('ids', IDS)
def test_gradcheck(normalize: bool, symmetric: bool, ids: str) -> None:
    loss = InfoNCE(0.7, normalize, symmetric)
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, *IDS[ids]),
                                    (random(6, 4), random(6, 4)))


@pytest.mark.parametrize('normalize', [True, False])
def test_a_table_is_searched(normalize: bool) -> None:
    a, table = random(5, 4), random(9, 4)
    index = torch.tensor([8, 0, 3, 3, 1])
    loss = InfoNCE(0.3, normalize)
    x, y = (reference.unit_rows(v.detach().numpy()) if normalize else
            v.detach().numpy() for v in (a, table))
    want = np.mean([-np.log(reference.softmax(x[i] @ y.T / 0.3)[int(j)])
                    for i, j in enumerate(index)])
    value = loss.of_table(a, table, index)
    assert float(value.detach()) == pytest.approx(float(want), abs=1e-12)
    assert torch.autograd.gradcheck(
        lambda a, table: loss.of_table(a, table, index), (a, table))
    # A table of just these rows, each once.
    assert_close(loss.of_table(a, table[:5], torch.arange(5)),
                 loss(a, table[:5]))


def test_known_answers() -> None:
    eye = torch.eye(2, dtype=torch.double)
    assert float(InfoNCE()(eye, eye)) == pytest.approx(
        math.log1p(math.exp(-5)), abs=1e-12)
    assert float(InfoNCE()(eye, eye)) == pytest.approx(.0067, abs=5e-5)
    # One item twice in the batch.
    twice = eye[[0, 0]]
    assert float(InfoNCE()(twice, twice)) == pytest.approx(math.log(2))
    assert float(InfoNCE()(twice, twice, torch.tensor([3, 3]))) == 0.0


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12),
       st.floats(0.05, 5.0), st.integers(0, 2**31))
def test_any_ids(ids: list[int], temperature: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(len(ids), 3, dtype=torch.double, generator=generator)
            for _ in range(2))
    index = torch.tensor(ids)
    loss = InfoNCE(temperature)
    value = loss(a, b, index)
    assert float(value) == pytest.approx(
        naive(a, b, temperature, True, (index, )), abs=1e-9)
    assert 0 <= value <= loss(a, b) + 1e-12  # Negatives only add.
    # Names do not matter, nor does the order of rows.
    perm = torch.randperm(len(ids), generator=generator)
    assert_close(loss(a[perm], b[perm], 7 * index[perm] + 3), value)
    # Each row's own column is the first one of a sampled softmax.
    scores = (a @ b.t()).double()
    first = torch.stack([torch.cat([scores[i, i:i + 1], scores[i, :i],
                                    scores[i, i + 1:]])
                         for i in range(len(ids))])
    if len(ids) > 1:
        assert_close(InfoNCE(temperature, normalize=False)(a, b),
                     SampledSoftmaxLoss(temperature)(first))


@pytest.mark.parametrize('size', [200.0, 1e30])
def test_extreme_rows(size: float) -> None:
    a, b = ((size * torch.randn(5, 3).sign()).requires_grad_()
            for _ in range(2))
    for normalize in (True, False):
        if size > 1e9 and not normalize:
            continue  # Products are out of range by themselves.
        value = InfoNCE(normalize=normalize)(a, b, IDS['users'][0][:5])
        assert value.isfinite()
        for grad in torch.autograd.grad(value, (a, b)):
            assert grad.isfinite().all()


def test_zero_rows_have_a_zero_gradient() -> None:
    a, b = random(4, 3), random(4, 3)
    with torch.no_grad():
        a[1] = b[2] = 0.0
    grads = torch.autograd.grad(InfoNCE()(a, b), (a, b))
    assert (grads[0][1] == 0).all() and (grads[1][2] == 0).all()
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    a, b = torch.randn(6, 4).to(dtype), torch.randn(6, 4).to(dtype)
    value = InfoNCE()(256 * a, b, IDS['users'][0])
    assert value.dtype == torch.float
    assert_close(value, InfoNCE()(a.float(), b.float(), IDS['users'][0]))
    with torch.autocast('cpu', torch.bfloat16):
        assert InfoNCE()(a.float(), b.float()).dtype == torch.float


def test_nothing_counts() -> None:
    a, b, none = random(4, 3), random(4, 3), torch.zeros(0).long()
    for value in (InfoNCE()(a[:0], b[:0]), InfoNCE()(a[:0], b[:0], none),
                  InfoNCE().of_table(a[:0], b, none),
                  InfoNCE(symmetric=True)(a[:1], b[:1])):
        assert float(value.detach()) == 0.0
        for grad in torch.autograd.grad(value, (a, b)):
            assert (grad == 0).all()


def test_no_more_than_the_products() -> None:
    a, table = torch.randn(20, 8), torch.randn(3000, 8)
    index = torch.arange(20)
    with Largest(a, table) as largest:
        InfoNCE().of_table(a.requires_grad_(), table, index).backward()
    assert largest.numel == 20 * 3000


def test_on_device(device: torch.device) -> None:
    a, b, index = torch.randn(6, 4), torch.randn(6, 4), IDS['users'][0]
    loss = InfoNCE(symmetric=True)
    value = loss(a.to(device), b.to(device), index.to(device))
    assert_close(value.cpu(), loss(a, b, index))


def test_module() -> None:
    assert str(InfoNCE(0.5)) == ('InfoNCE(temperature=0.5, normalize=True, '
                                 'symmetric=False)')
    for bad in (0.0, -1.0, float('nan')):
        with pytest.raises(ValueError, match="'temperature'"):
            InfoNCE(bad)
    for name in ('normalize', 'symmetric'):
        with pytest.raises(TypeError, match=f"'{name}' must be True or"):
            InfoNCE(**{name: 1})


@pytest.mark.parametrize('args, error, message', [
    (([1.0], torch.randn(1, 2)), TypeError, "'anchor' must be a torch.Tens"),
    ((torch.randn(2), torch.randn(2)), ValueError, "'anchor' must be a two"),
    ((torch.randn(2, 2), torch.randn(2, 2).long()), ValueError,
     "'positive' must be a two"),
    ((torch.randn(2, 2), torch.randn(3, 2)), ValueError,
     "'anchor' and 'positive' must be of one shape"),
    ((torch.randn(2, 2), torch.randn(2, 2), [0, 1]), TypeError,
     "'ids' must be a torch.Tensor"),
    ((torch.randn(2, 2), torch.randn(2, 2), torch.arange(3)), ValueError,
     "'ids' must hold an integer for each of the 2 rows .got shape .3."),
    ((torch.randn(2, 2), torch.randn(2, 2), torch.randn(2)), ValueError,
     "'ids' must hold an integer"),
])
def test_bad_input(args, error, message: str) -> None:
    with pytest.raises(error, match=message):
        InfoNCE()(*args)


@pytest.mark.parametrize('index, message', [
    ([0, 5], "'index' has node id 5, but there are 5 nodes"),
    ([-1, 0], "'index' has node id -1"),
    ([0], "'index' must hold an integer for each of the 2 rows"),
])
def test_bad_table(index: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InfoNCE().of_table(torch.randn(2, 3), torch.randn(5, 3),
                           torch.tensor(index))
    with pytest.raises(ValueError, match="'table' must have 3 columns"):
        InfoNCE().of_table(torch.randn(2, 3), torch.randn(5, 4),
                           torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="'symmetric' must be False"):
        InfoNCE(symmetric=True).of_table(
            torch.randn(2, 3), torch.randn(5, 3), torch.tensor([0, 1]))
