from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import torch

from torch_promptmm.loss import TopListKD

B, N, K = 6, 4, 5


def scores() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    top, uniform, teacher = (
        3 * torch.randn(B, n, dtype=torch.double) for n in (N, K, N))
    return top.requires_grad_(), uniform.requires_grad_(), teacher


def some_mask() -> torch.Tensor:
    mask = torch.rand(B, K) < 0.6
    mask[1] = False  # Nothing is left outside this list.
    mask[0, 2], mask[2, 3] = False, True
    return mask


def shorter(teacher: torch.Tensor) -> torch.Tensor:
    """Lists that end, one of which is empty."""
    teacher = teacher.clone()
    teacher[1, 2:] = teacher[3] = teacher[4, 1:] = -torch.inf
    return teacher


def naive(top: torch.Tensor, uniform: torch.Tensor, teacher: torch.Tensor,
          mask: torch.Tensor | None, correction: float,
          temperature: float) -> float:
    values = []
    for row in range(len(top)):
        s, u, t = (x[row].detach().numpy() for x in (top, uniform, teacher))
        kept = np.isfinite(t)
        if not kept.any():
            continue
        p = reference.softmax(t[kept] / temperature)
        u = u if mask is None else u[mask[row].numpy()]
        total = np.exp(s[kept]).sum() + np.exp(correction) * np.exp(u).sum()
        values.append(-(p * np.log(np.exp(s[kept]) / total)).sum())
    return float(np.mean(values)) if values else 0.0


@pytest.mark.parametrize('temperature', [0.3, 1.0, 4.0])
@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('ends', [False, True])
@pytest.mark.parametrize('correction', [0.0, 2.5])
def test_equals_numpy(temperature: float, masked: bool, ends: bool,
                      correction: float) -> None:
    top, uniform, teacher = scores()
    teacher = shorter(teacher) if ends else teacher
    mask = some_mask() if masked else None
    out = TopListKD(temperature)(top, uniform, teacher, mask, correction)
    assert out.dim() == 0
    assert float(out.detach()) == pytest.approx(
        naive(top, uniform, teacher, mask, correction, temperature))


@pytest.mark.parametrize('masked', [False, True])
def test_gradients(masked: bool) -> None:
    top, uniform, teacher = scores()
    teacher = teacher.requires_grad_()
    ends, mask = shorter(teacher), some_mask() if masked else None

    def loss(top: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        return TopListKD(0.7)(top, uniform, ends.detach(), mask, 1.5)

    assert torch.autograd.gradcheck(loss, (top, uniform))
    value = TopListKD(0.7)(top, uniform, ends, mask, 1.5)
    for grad in torch.autograd.grad(value, (top, uniform, teacher)):
        assert grad.isfinite().all() and grad.abs().sum() > 0
        assert grad[3].abs().sum() == 0  # The empty list.


def test_gradient_is_the_difference_of_probabilities() -> None:
    top, uniform, teacher = scores()
    TopListKD()(top, uniform, teacher).backward()
    q = torch.cat([top, uniform], 1).detach().softmax(1)
    p = torch.cat([teacher.softmax(1), torch.zeros(B, K)], 1)
    torch.testing.assert_close(torch.cat([top.grad, uniform.grad], 1),
                               (q - p) / B)


def test_without_uniform_items_the_best_is_the_teacher() -> None:
    _, _, teacher = scores()
    none = teacher.new_empty(B, 0)
    loss = TopListKD(0.5)
    best = (teacher / 0.5).requires_grad_()
    value = loss(best, none, teacher)
    p = (teacher / 0.5).softmax(1)
    assert float(value.detach()) == pytest.approx(
        float(-(p * p.log()).sum(1).mean()))
    grad, = torch.autograd.grad(value, best)
    assert grad.abs().max() < 1e-12


@pytest.mark.parametrize('masked', [False, True])
def test_divergence(masked: bool) -> None:
    top, uniform, teacher = scores()
    ends, mask = shorter(teacher), some_mask() if masked else None
    loss = TopListKD(0.7, divergence=True)
    entropy = []
    for row in (x[x.isfinite()].numpy() for x in ends):
        if row.size > 0:
            p = reference.softmax(row / 0.7)
            entropy.append(-(p * np.log(p)).sum())
    value = loss(top, uniform, ends, mask, 1.5)
    assert float(value.detach()) == pytest.approx(
        naive(top, uniform, ends, mask, 1.5, 0.7) - np.mean(entropy))
    # The student's gradient is as without it; the teacher's is another one.
    plain = TopListKD(0.7)(top, uniform, ends, mask, 1.5)
    for a, b in zip(torch.autograd.grad(value, (top, uniform)),
                    torch.autograd.grad(plain, (top, uniform)), strict=True):
        torch.testing.assert_close(a, b)

    def of_teacher(x: torch.Tensor) -> torch.Tensor:
        return loss(top.detach(), uniform.detach(),
                    torch.where(ends.isneginf(), ends, x), mask, 1.5)

    assert torch.autograd.gradcheck(of_teacher, teacher.requires_grad_())


def test_divergence_is_zero_where_both_agree() -> None:
    _, _, teacher = scores()
    teacher.requires_grad_()
    value = TopListKD(0.5, divergence=True)(
        teacher.detach() / 0.5, teacher.new_empty(B, 0), teacher)
    assert abs(value.item()) < 1e-12
    assert torch.autograd.grad(value, teacher)[0].abs().max() < 1e-12
    with pytest.raises(TypeError, match="'divergence' must be"):
        TopListKD(divergence=1)  # type: ignore[arg-type]


def test_nothing_valid_is_zero() -> None:
    top, uniform, teacher = scores()
    value = TopListKD()(top, uniform, teacher - torch.inf,
                        torch.zeros(B, K, dtype=torch.bool))
    assert float(value.detach()) == 0.0
    for grad in torch.autograd.grad(value, (top, uniform)):
        assert grad.abs().sum() == 0


def test_large_and_narrow_scores() -> None:
    top, uniform, teacher = (1000 * x.detach().half() for x in scores())
    top = top.requires_grad_()
    value = TopListKD(0.1)(top, uniform, teacher, some_mask(), 3.0)
    assert value.dtype == torch.float and value.isfinite()
    assert torch.autograd.grad(value, top)[0].isfinite().all()


@pytest.mark.parametrize('changed, error, message', [
    ({'student_top': 3}, TypeError, "'student_top' must be a torch.Tensor"),
    ({'student_top': torch.ones(B, N).long()}, ValueError, "'student_top'"),
    ({'student_uniform': torch.ones(K)}, ValueError, 'a 2-dimensional'),
    ({'teacher_top': torch.ones(B, N + 1)}, ValueError, 'of one shape'),
    ({'student_uniform': torch.ones(B + 1, K)}, ValueError,
     "'student_uniform' must have a row"),
    ({'uniform_mask': torch.ones(B, K)}, ValueError, "'mask' must be"),
    ({'uniform_mask': [True]}, TypeError, "'mask' must be"),
    ({'log_correction': torch.inf}, ValueError, "'log_correction'"),
    ({'log_correction': 'x'}, TypeError, "'log_correction'"),
])
def test_bad_input(changed: dict[str, Any], error: type[Exception],
                   message: str) -> None:
    kwargs: dict[str, Any] = {
        'student_top': torch.ones(B, N), 'student_uniform': torch.ones(B, K),
        'teacher_top': torch.ones(B, N), **changed}
    with pytest.raises(error, match=message):
        TopListKD()(**kwargs)


def test_bad_temperature_and_repr() -> None:
    with pytest.raises(ValueError, match="'temperature'"):
        TopListKD(0.0)
    assert str(TopListKD(0.5)) == 'TopListKD(temperature=0.5)'
