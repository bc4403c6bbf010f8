from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from torch import Tensor

from torch_promptmm.loss import DisentangledListKD, ListwiseKD

ROWS, LENGTH = 6, 5


def scores(scale: float = 3.0) -> tuple[Tensor, Tensor]:
    return tuple((scale * torch.randn(ROWS, LENGTH, dtype=torch.double)
                  ).requires_grad_() for _ in range(2))


def some_mask() -> Tensor:
    mask = torch.rand(ROWS, LENGTH) < 0.6
    mask[:, 0] = True
    mask[1, 1:] = False  # A user who knows every negative.
    mask[2, 2] = mask[0, 3] = True
    return mask


def naive(student: Tensor, teacher: Tensor, mask: Tensor | None = None,
          temperature: float = 1.0, alpha: float = 1.0,
          beta: float | None = None) -> float:
    """Eq. 6 to 10 in numpy, one row at a time, probabilities and all."""
    values = []
    for row in range(len(student)):
        kept = (np.ones(student.size(1), bool) if mask is None else
                mask[row].numpy().copy())
        kept[0] = True
        if kept.sum() < 2:
            continue
        y_s, y_t = (reference.softmax(x[row].detach().numpy()[kept] /
                                      temperature)
                    for x in (student, teacher))
        b_s, b_t = (np.array([y[0], 1 - y[0]]) for y in (y_s, y_t))
        q_s, q_t = (y[1:] / y[1:].sum() for y in (y_s, y_t))
        weight = 1 - y_t[0] if beta is None else beta
        values.append(alpha * reference.kl(b_t, b_s) +
                      weight * reference.kl(q_t, q_s))
    return temperature**2 * float(np.mean(values)) if values else 0.0


@pytest.mark.parametrize('temperature', [0.3, 1.0, 4.0])
@pytest.mark.parametrize('alpha', [0.0, 1.0, 0.5])
@pytest.mark.parametrize('beta', [None, 0.0, 2.0])
@pytest.mark.parametrize('masked', [False, True])
def test_equals_numpy(temperature: float, alpha: float, beta: float | None,
                      masked: bool) -> None:
    student, teacher = scores()
    mask = some_mask() if masked else None
    loss = DisentangledListKD(temperature, alpha, beta)
    assert float(loss(student, teacher, mask).detach()) == pytest.approx(
        naive(student, teacher, mask, temperature, alpha, beta))


@pytest.mark.parametrize('temperature', [0.2, 1.0, 3.0])
@pytest.mark.parametrize('masked', [False, True])
def test_natural_weights_give_the_plain_divergence(temperature: float,
                                                   masked: bool) -> None:
    student, teacher = scores()
    mask = some_mask() if masked else None
    values, grads = [], []
    for loss in (DisentangledListKD(temperature), ListwiseKD(temperature)):
        value = loss(student, teacher, mask)
        values.append(value)
        grads.append(torch.autograd.grad(value, (student, teacher)))
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*grads)


def test_the_plain_divergence_equals_torch() -> None:
    student, teacher = scores()
    want = 0.25 * torch.nn.functional.kl_div(
        (student / 0.5).log_softmax(1), (teacher / 0.5).log_softmax(1),
        reduction='batchmean', log_target=True)
    torch.testing.assert_close(ListwiseKD(0.5)(student, teacher), want)


@pytest.mark.parametrize('make', [
    DisentangledListKD, lambda: DisentangledListKD(0.5, 0.3, 2.0), ListwiseKD])
def test_gradcheck(make) -> None:
    loss, mask = make(), some_mask()
    assert torch.autograd.gradcheck(loss, scores())
    assert torch.autograd.gradcheck(lambda s, t: loss(s, t, mask), scores())


@pytest.mark.parametrize('make', [
    DisentangledListKD, ListwiseKD,
    lambda: DisentangledListKD(alpha=0.5, beta=1.0)])
def test_the_minimum_is_the_teacher(make) -> None:
    loss = make()
    student, teacher = scores()
    value = loss(teacher, teacher)
    assert abs(float(value.detach())) < 1e-12
    assert float(loss(student, teacher).detach()) > 0
    # A step along the gradient brings the student nearer: the printed sign
    # of Eq. 10 would push it away.
    grad, = torch.autograd.grad(loss(student, teacher), student)
    assert loss(student - 0.1 * grad, teacher) < loss(student, teacher)
    # What counts are differences.
    torch.testing.assert_close(loss(student + 7.0, teacher - 3.0),
                               loss(student, teacher))


@pytest.mark.parametrize('make', [
    DisentangledListKD, lambda: DisentangledListKD(0.1, 1.0, 2.0), ListwiseKD])
def test_masked_entries_have_no_weight(make) -> None:
    loss, mask = make(), some_mask()
    student, teacher = scores()
    value = loss(student, teacher, mask)
    for garbage in (1e30, -1e30, float('inf'), float('nan')):
        spoilt = [torch.where(mask, x, garbage).detach().requires_grad_()
                  for x in (student, teacher)]
        same = loss(*spoilt, mask)
        torch.testing.assert_close(same, value)
        for grad, want in zip(torch.autograd.grad(same, spoilt),
                              torch.autograd.grad(value, (student, teacher),
                                                  retain_graph=True),
                              strict=True):
            torch.testing.assert_close(grad, want)
            assert (grad[~mask] == 0).all()
    # A row of its own is the mean of those that count.
    rows = mask[:, 1:].any(1)
    torch.testing.assert_close(
        loss(student[rows], teacher[rows], mask[rows]), value)
    # Column 0 counts, whatever the mask says of it.
    other = mask.clone()
    other[:, 0] = False
    torch.testing.assert_close(loss(student, teacher, other), value)
    assert not other[:, 0].any()


@pytest.mark.parametrize('make', [
    DisentangledListKD, lambda: DisentangledListKD(beta=2.0), ListwiseKD])
@pytest.mark.parametrize('dtype, size', [
    (torch.half, 1e3), (torch.bfloat16, 1e3), (torch.bfloat16, 1e20),
    (torch.float, 1e4), (torch.float, 1e20), (torch.double, 1e20)])
@pytest.mark.parametrize('masked', [False, True])
def test_extreme_scores(make, dtype: torch.dtype, size: float,
                        masked: bool) -> None:
    loss = make()
    mask = some_mask() if masked else None
    signs = torch.randn(2, ROWS, LENGTH).sign()
    student, teacher = ((size * x).to(dtype).requires_grad_() for x in signs)
    value = loss(student, teacher, mask)
    assert value.isfinite()
    assert value >= 0
    for grad in torch.autograd.grad(value, (student, teacher)):
        assert grad.isfinite().all()


@pytest.mark.parametrize('make', [DisentangledListKD, ListwiseKD])
def test_no_row_counts(make) -> None:
    student, teacher = scores()
    nothing = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
    for args in ((student, teacher, nothing),
                 (student[:0], teacher[:0])):
        value = make()(*args)
        assert float(value.detach()) == 0.0
        for grad in torch.autograd.grad(value, (student, teacher)):
            assert (grad == 0).all()


def test_representation() -> None:
    assert str(ListwiseKD(0.5)) == 'ListwiseKD(temperature=0.5)'
    assert str(DisentangledListKD()) == (
        'DisentangledListKD(temperature=1.0, alpha=1.0, beta=None)')


@pytest.mark.parametrize('match, make', [
    ("'temperature'", lambda: DisentangledListKD(0.0)),
    ("'temperature'", lambda: ListwiseKD(-1.0)),
    ("'alpha'", lambda: DisentangledListKD(alpha=-1.0)),
    ("'beta'", lambda: DisentangledListKD(beta=float('inf'))),
    (r'of one shape .got \[3, 4\] and \[3, 5\]',
     lambda: ListwiseKD()(torch.randn(3, 4), torch.randn(3, 5))),
    ("'student_scores' must be a 2-dimensional floating-point",
     lambda: ListwiseKD()(torch.ones(3, 4).long(), torch.randn(3, 4))),
    ("'teacher_scores' must be a 2-dimensional floating-point",
     lambda: DisentangledListKD()(torch.randn(3, 4),
                                  torch.ones(3, 4).long())),
    ('2-dimensional', lambda: DisentangledListKD()(torch.randn(3),
                                                   torch.randn(3))),
    (r"'mask' must be a boolean tensor of shape \[3, 4\]",
     lambda: DisentangledListKD()(torch.randn(3, 4), torch.randn(3, 4),
                                  torch.ones(3, 3).bool())),
    (r"'mask' must be a boolean tensor of shape \[3, 4\]",
     lambda: ListwiseKD()(torch.randn(3, 4), torch.randn(3, 4),
                          torch.ones(3, 4))),
])
def test_bad_input(match: str, make) -> None:
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize('make', [DisentangledListKD, ListwiseKD])
@pytest.mark.parametrize('length', [0, 1])
def test_a_list_needs_a_negative(make, length: int) -> None:
    for mask in (None, torch.ones(3, length).bool()):
        with pytest.raises(ValueError, match=rf'at least 2 columns, the '
                           rf'positive and a negative .got shape '
                           rf'\[3, {length}\]'):
            make()(torch.randn(3, length), torch.randn(3, length), mask)
    assert make()(torch.randn(3, 2), torch.randn(3, 2)).isfinite()


@pytest.mark.parametrize('make', [DisentangledListKD, ListwiseKD])
@pytest.mark.parametrize('name, args', [
    ('student_scores', ([[1.0, 2.0]], torch.randn(1, 2))),
    ('teacher_scores', (torch.randn(1, 2), np.ones((1, 2)))),
    ('mask', (torch.randn(1, 2), torch.randn(1, 2), [[True, True]])),
])
def test_only_tensors(make, name: str, args) -> None:
    with pytest.raises(TypeError, match=f"'{name}' must be a torch.Tensor"):
        make()(*args)


@pytest.mark.parametrize('masked', [False, True])
def test_on_device(device: torch.device, masked: bool) -> None:
    """Masks are filled in one way on a CPU and in another elsewhere: both
    are compared with numpy.
    """
    student, teacher = scores()
    mask = some_mask() if masked else None
    there = [None if x is None else x.detach().to(device).requires_grad_(
        x.is_floating_point()) for x in (student, teacher, mask)]
    value = DisentangledListKD(0.5, 0.3)(*there)
    assert value.device.type == device.type
    assert float(value.detach()) == pytest.approx(
        naive(student, teacher, mask, 0.5, 0.3))
    for x, grad in zip((student, teacher),
                       torch.autograd.grad(value, there[:2]), strict=True):
        assert grad.device.type == device.type
        assert grad.shape == x.shape
        assert grad.isfinite().all()
