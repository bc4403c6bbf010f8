r"""The divergence of two ranking lists, in closed form."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from torch_promptmm.loss.score_lists import ScoreLists


def list_divergence(student: ScoreLists, teacher: ScoreLists, alpha: float,
                    beta: float | None) -> Tensor:
    r"""Returns :math:`\alpha \, \textrm{KL}(\mathbf{b}^{\mathcal{T}} \|
    \mathbf{b}^{\mathcal{S}}) + \beta_b \, \textrm{KL}
    (\mathbf{q}^{\mathcal{T}} \| \mathbf{q}^{\mathcal{S}})` of each row
    :math:`(B)`, see :class:`DisentangledListKD`.

    The gradient is taken in closed form, in five passes over the scores
    where automatic differentiation needs about thirty.
    """
    return _Divergence.apply(student.positive, student.negative,
                             teacher.positive, teacher.negative,
                             *student.softmax, *teacher.softmax, alpha, beta)


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, s_pos: Tensor, s_neg: Tensor, t_pos: Tensor,
                t_neg: Tensor, s_soft: Tensor, s_all: Tensor, t_soft: Tensor,
                t_all: Tensor, alpha: float, beta: float | None) -> Tensor:
        gap = t_neg - s_neg
        mean_gap = (t_soft * gap).sum(dim=1)
        second = mean_gap - t_all + s_all
        # b = sigmoid(positive - logsumexp of the negatives), in logs:
        s_gap, t_gap = s_pos - s_all, t_pos - t_all
        b_pos, b_neg = t_gap.sigmoid(), (-t_gap).sigmoid()
        first = (b_pos * (F.logsigmoid(t_gap) - F.logsigmoid(s_gap)) + b_neg *
                 (F.logsigmoid(-t_gap) - F.logsigmoid(-s_gap)))
        weight = b_neg if beta is None else torch.full_like(b_neg, beta)
        # Derivatives by s_gap and t_gap, the latter also through beta.
        by_s = alpha * (s_gap.sigmoid() - b_pos)
        by_t = alpha * (t_gap - s_gap)
        if beta is None:
            by_t = by_t - second
        ctx.save_for_backward(s_soft, t_soft, gap, mean_gap, weight, by_s,
                              b_pos * b_neg * by_t)
        return alpha * first + weight * second

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        s_soft, t_soft, gap, mean_gap, weight, by_s, by_t = ctx.saved_tensors
        scale = (grad * weight).view(-1, 1)
        s_pos = s_neg = t_pos = t_neg = None
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            s_pos = grad * by_s
            s_neg = (scale - s_pos.view(-1, 1)) * s_soft
            s_neg.addcmul_(t_soft, scale, value=-1.0)
        if ctx.needs_input_grad[2] or ctx.needs_input_grad[3]:
            t_pos = grad * by_t
            shift = (grad * weight * mean_gap + t_pos).view(-1, 1)
            t_neg = torch.addcmul(-shift, gap, scale).mul_(t_soft)
        return (s_pos, s_neg, t_pos, t_neg, None, None, None, None, None,
                None)
