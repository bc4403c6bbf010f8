from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from torch_promptmm.loss import ScaledCosineError


def embeddings() -> tuple[Tensor, Tensor]:
    return tuple((3 * torch.randn(6, 4, dtype=torch.double)).requires_grad_()
                 for _ in range(2))


def naive(student: Tensor, teacher: Tensor, gamma: float,
          mask: Tensor | None = None) -> float:
    values = []
    for i, (e, f) in enumerate(zip(student.detach().numpy(),
                                   teacher.detach().numpy(), strict=True)):
        if mask is None or mask[i]:
            norms = np.linalg.norm(e) * np.linalg.norm(f)
            cosine = e @ f / norms if norms > 0 else 0.0
            values.append((1 - cosine)**gamma)
    return float(np.mean(values))


@pytest.mark.parametrize('gamma', [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize('masked', [False, True])
def test_equals_numpy(gamma: float, masked: bool) -> None:
    student, teacher = embeddings()
    mask = torch.tensor([1, 1, 0, 0, 1, 0]).bool() if masked else None
    loss = ScaledCosineError(gamma)
    assert float(loss(student, teacher, mask).detach()) == pytest.approx(
        naive(student, teacher, gamma, mask))
    with torch.no_grad():
        student[1] = teacher[4] = 0.0  # Their cosine is 0, their error 1.
    assert float(loss(student, teacher, mask).detach()) == pytest.approx(
        naive(student, teacher, gamma, mask))


@pytest.mark.parametrize('gamma', [1.0, 1.5, 2.0])
def test_gradcheck(gamma: float) -> None:
    loss = ScaledCosineError(gamma)
    mask = torch.tensor([1, 1, 0, 0, 1, 0]).bool()
    assert torch.autograd.gradcheck(loss, embeddings())
    assert torch.autograd.gradcheck(lambda s, t: loss(s, t, mask),
                                    embeddings())


def test_zero_rows_have_a_zero_gradient() -> None:
    student, teacher = (x.float().detach() for x in embeddings())
    student[0] = teacher[3] = 0.0
    student.requires_grad_()
    teacher.requires_grad_()
    grads = torch.autograd.grad(ScaledCosineError()(student, teacher),
                                (student, teacher))
    for grad in grads:
        assert (grad[[0, 3]] == 0).all()
        assert grad.isfinite().all()
        assert grad.abs().max() < 10


@pytest.mark.parametrize('gamma', [1.0, 1.3, 2.5])
@pytest.mark.parametrize('dtype', [torch.float, torch.bfloat16, torch.half])
def test_rounding_gives_no_nan(gamma: float, dtype: torch.dtype) -> None:
    student = torch.randn(2000, 7).to(dtype).requires_grad_()
    teacher = 3 * student.detach()  # Cosines of one, and a little more.
    value = ScaledCosineError(gamma)(student, teacher)
    assert 0 <= value < 1e-2
    grad, = torch.autograd.grad(value, student)
    assert grad.isfinite().all()


def test_pulls_the_student_to_the_teacher() -> None:
    student, teacher = embeddings()
    loss = ScaledCosineError()
    grad, = torch.autograd.grad(loss(student, teacher), student)
    assert loss(student - 0.1 * grad, teacher) < loss(student, teacher)


def test_no_row_counts() -> None:
    student, teacher = embeddings()
    for args in ((student, teacher, torch.zeros(6, dtype=torch.bool)),
                 (student[:0], teacher[:0])):
        value = ScaledCosineError(1.0)(*args)
        assert float(value.detach()) == 0.0
        grad, = torch.autograd.grad(value, student)
        assert (grad == 0).all()


def test_module() -> None:
    assert str(ScaledCosineError()) == 'ScaledCosineError(gamma=2.0)'
    for bad in (0.9, float('nan'), float('inf'), -2):
        with pytest.raises(ValueError, match="'gamma'"):
            ScaledCosineError(bad)
    loss = ScaledCosineError()
    x = torch.randn(3, 2)
    with pytest.raises(ValueError, match=r'of one shape .got \[3, 2\] and '):
        loss(x, torch.randn(3, 4))
    for args, name in (((torch.randn(3), torch.randn(3)), 'student'),
                       ((x.long(), x), 'student'), ((x, x.long()), 'teacher')):
        with pytest.raises(ValueError, match=f"'{name}' must be a two-dim"):
            loss(*args)
    for args, name in (((x.tolist(), x), 'student'), ((x, None), 'teacher'),
                       ((x, x, [True, True, False]), 'mask')):
        with pytest.raises(TypeError, match=f"'{name}' must be a torch.Ten"):
            loss(*args)
    with pytest.raises(ValueError, match="'mask' must be a boolean tensor"):
        loss(torch.randn(3, 2), torch.randn(3, 2), torch.ones(1).bool())
