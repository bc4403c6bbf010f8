from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from torch import Tensor

from torch_promptmm.loss import PairwiseKD


def margins(*shape: int) -> tuple[Tensor, Tensor]:
    return tuple((2 * torch.randn(shape, dtype=torch.double)
                  ).requires_grad_() for _ in range(2))


def naive(student: Tensor, teacher: Tensor, temperature: float,
          mask: Tensor | None = None) -> float:
    values = []
    if mask is None:
        mask = torch.ones_like(student, dtype=torch.bool)
    for s, t in zip(student[mask].tolist(), teacher[mask].tolist(),
                    strict=True):
        p = reference.sigmoid(t / temperature)
        q = reference.sigmoid(s / temperature)
        values.append(reference.kl([p, 1 - p], [q, 1 - q]))
    return temperature**2 * float(np.mean(values))


@pytest.mark.parametrize('temperature', [0.3, 1.0, 5.0])
@pytest.mark.parametrize('shape', [(7, ), (7, 3)])
@pytest.mark.parametrize('masked', [False, True])
def test_equals_numpy(temperature: float, shape, masked: bool) -> None:
    student, teacher = margins(*shape)
    mask = None
    if masked:
        mask = torch.rand(shape) < 0.5
        mask.view(-1)[0] = True
    value = PairwiseKD(temperature)(student, teacher, mask)
    assert float(value.detach()) == pytest.approx(
        naive(student, teacher, temperature, mask))


def test_gradcheck() -> None:
    mask = torch.tensor([True, False, True, True])
    assert torch.autograd.gradcheck(PairwiseKD(0.5), margins(4))
    assert torch.autograd.gradcheck(
        lambda s, t: PairwiseKD(0.5)(s, t, mask), margins(4))


def test_pulls_the_student_to_the_teacher() -> None:
    student, teacher = margins(9)
    loss = PairwiseKD()
    grad, = torch.autograd.grad(loss(student, teacher), student)
    assert (grad.sign() == (student - teacher).sign()).all()
    assert abs(float(loss(teacher, teacher).detach())) < 1e-12


@pytest.mark.parametrize('dtype', [torch.double, torch.float, torch.bfloat16])
def test_extreme_margins(dtype: torch.dtype) -> None:
    big = torch.tensor([1e4, -1e4, 1e4, -1e4, 0.0, 1e30], dtype=dtype)
    student = big.clone().requires_grad_()
    teacher = (-big).requires_grad_()
    value = PairwiseKD()(student, teacher)
    assert value.isfinite()
    for grad in torch.autograd.grad(value, (student, teacher)):
        assert grad.isfinite().all()
    same = PairwiseKD()(student, student.detach())
    assert same == 0


def test_nothing_counts() -> None:
    student, teacher = margins(3)
    for args in ((student, teacher, torch.zeros(3, dtype=torch.bool)),
                 (student[:0], teacher[:0])):
        value = PairwiseKD()(*args)
        assert float(value.detach()) == 0.0
        grad, = torch.autograd.grad(value, student)
        assert (grad == 0).all()


def test_module() -> None:
    assert str(PairwiseKD(0.5)) == 'PairwiseKD(temperature=0.5)'
    for bad in (0.0, -1.0, float('nan'), float('inf')):
        with pytest.raises(ValueError, match="'temperature'"):
            PairwiseKD(bad)
    with pytest.raises(TypeError, match="'temperature'"):
        PairwiseKD('1')
    with pytest.raises(ValueError, match=r'of one shape .got \[3\] and \[4'):
        PairwiseKD()(torch.randn(3), torch.randn(4))
    x = torch.randn(3)
    for args, name in (((x.long(), x), 'student_margin'),
                       ((x, torch.ones(3).bool()), 'teacher_margin'),
                       ((x.long(), x.long()), 'student_margin')):
        with pytest.raises(ValueError, match=f"'{name}' must be a floating-"):
            PairwiseKD()(*args)
    for args, name in (((x.tolist(), x), 'student_margin'),
                       ((x, x.numpy()), 'teacher_margin'),
                       ((x.tolist(), x.tolist()), 'student_margin'),
                       ((x, x, [True, True, False]), 'mask')):
        with pytest.raises(TypeError, match=f"'{name}' must be a torch.Ten"):
            PairwiseKD()(*args)
    with pytest.raises(ValueError, match="'mask' must be a boolean tensor"):
        PairwiseKD()(torch.randn(3, 2), torch.randn(3, 2),
                     torch.ones(3).bool())
