from __future__ import annotations

import torch
from torch import Tensor

from torch_promptmm.checks import check_float
from torch_promptmm.loss.ranking import (
    check_scores,
    check_valid,
    masked_mean,
    with_positive,
)


class ListwiseKD(torch.nn.Module):
    r"""The plain list-wise distillation,

    .. math::
        \mathcal{L} = \frac{\tau^2}{B} \sum_b \textrm{KL} \left(
        \textrm{softmax}(\mathbf{t}_b / \tau) \, \| \,
        \textrm{softmax}(\mathbf{s}_b / \tau) \right),

    which :class:`DisentangledListKD` takes apart.

    Args:
        temperature (float, optional): :math:`\tau`. (default: :obj:`1.0`)

    Shapes:
        - **input:** scores of student and teacher :math:`(B, K)`, the
          positive in column 0
        - **output:** a scalar
    """
    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = check_float('temperature', temperature,
                                       exclusive=True)

    def forward(self, student_scores: Tensor, teacher_scores: Tensor,
                mask: Tensor | None = None) -> Tensor:
        r"""Runs the forward pass.

        Args:
            student_scores (torch.Tensor): The student's scores
                :math:`(B, K)`.
            teacher_scores (torch.Tensor): The teacher's scores
                :math:`(B, K)`.
            mask (torch.Tensor, optional): True where an item is valid
                :math:`(B, K)`. A row without a valid negative adds nothing.
                (default: :obj:`None`)
        """
        check_scores('student_scores', student_scores, teacher_scores)
        s = student_scores / self.temperature
        t = teacher_scores / self.temperature
        rows = None
        if mask is not None:
            check_valid(mask, student_scores)
            mask = with_positive(mask)
            rows = mask[:, 1:].any(dim=1)
        value = _kl(_filled(t, mask), _filled(s, mask), mask)
        return self.temperature**2 * masked_mean(value, rows)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(temperature={self.temperature})'


class DisentangledListKD(torch.nn.Module):
    r"""The disentangled list-wise distillation of `"PromptMM: Multi-Modal
    Knowledge Distillation for Recommendation with Prompt-Tuning"
    <https://arxiv.org/abs/2402.17188>`_ (Eq. 6 to 10) in its sound form,

    .. math::
        \mathcal{L}_{\textrm{ListKD}} = \frac{\tau^2}{B} \sum_b \alpha \,
        \textrm{KL}(\mathbf{b}^{\mathcal{T}} \| \mathbf{b}^{\mathcal{S}}) +
        \beta_b \, \textrm{KL}(\mathbf{q}^{\mathcal{T}} \|
        \mathbf{q}^{\mathcal{S}}),

    where :math:`\mathbf{b} = [y_1, 1 - y_1]` is the probability of the
    positive among all :math:`K` items and of all the others together, and
    :math:`\mathbf{q}` the softmax over the :math:`K - 1` negatives alone.
    With :math:`\beta_b = 1 - b^{+\mathcal{T}}` and :math:`\alpha = 1` this
    is exactly the plain KL divergence.

    Args:
        temperature (float, optional): :math:`\tau`. (default: :obj:`1.0`)
        alpha (float, optional): The weight of the first part.
            (default: :obj:`1.0`)
        beta (float, optional): The weight of the second part; :obj:`None`
            is the natural one, :math:`1 - b^{+\mathcal{T}}` of each row.
            (default: :obj:`None`)

    Shapes:
        - **input:** scores of student and teacher :math:`(B, K)`, the
          positive in column 0
        - **output:** a scalar
    """
    def __init__(self, temperature: float = 1.0, alpha: float = 1.0,
                 beta: float | None = None) -> None:
        super().__init__()
        self.temperature = check_float('temperature', temperature,
                                       exclusive=True)
        self.alpha = check_float('alpha', alpha)
        self.beta = None if beta is None else check_float('beta', beta)

    def forward(self, student_scores: Tensor, teacher_scores: Tensor,
                mask: Tensor | None = None) -> Tensor:
        r"""Runs the forward pass.

        Args:
            student_scores (torch.Tensor): The student's scores
                :math:`(B, K)`.
            teacher_scores (torch.Tensor): The teacher's scores
                :math:`(B, K)`.
            mask (torch.Tensor, optional): True where an item is valid
                :math:`(B, K)`. A row without a valid negative adds nothing.
                (default: :obj:`None`)
        """
        check_scores('student_scores', student_scores, teacher_scores)
        if student_scores.size(1) < 2:  # No row has a negative.
            return (student_scores.sum() + teacher_scores.sum()) * 0.0
        rows = None
        if mask is not None:
            check_valid(mask, student_scores)
            mask = mask[:, 1:]
            rows = mask.any(dim=1)
        s = student_scores / self.temperature
        t = teacher_scores / self.temperature
        s_pos, s_neg = s[:, 0], _filled(s[:, 1:], mask)
        t_pos, t_neg = t[:, 0], _filled(t[:, 1:], mask)
        s_all, t_all = s_neg.logsumexp(dim=1), t_neg.logsumexp(dim=1)
        # b = sigmoid(positive - logsumexp of the negatives), in logs:
        s_gap, t_gap = s_pos - s_all, t_pos - t_all
        log_sigmoid = torch.nn.functional.logsigmoid
        b_pos, b_neg = t_gap.sigmoid(), (-t_gap).sigmoid()
        first = (b_pos * (log_sigmoid(t_gap) - log_sigmoid(s_gap)) + b_neg *
                 (log_sigmoid(-t_gap) - log_sigmoid(-s_gap)))
        second = _kl(t_neg, s_neg, mask)
        beta = b_neg if self.beta is None else self.beta
        value = self.alpha * first + beta * second
        return self.temperature**2 * masked_mean(value, rows)

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}(temperature={self.temperature}, '
                f'alpha={self.alpha}, beta={self.beta})')


def _filled(scores: Tensor, mask: Tensor | None) -> Tensor:
    r"""Takes all weight from what is masked. Rows without anything valid,
    which are left out in the end, are zero, so that no gradient is NaN."""
    if mask is None:
        return scores
    filled = scores.masked_fill(~mask, float('-inf'))
    return filled.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)


def _kl(t: Tensor, s: Tensor, mask: Tensor | None) -> Tensor:
    r"""KL divergence between the softmaxes of each row."""
    log_p, log_q = t.log_softmax(dim=1), s.log_softmax(dim=1)
    if mask is None:
        return (log_p.exp() * (log_p - log_q)).sum(dim=1)
    # The difference of two infinities is no number.
    gap = log_p.masked_fill(~mask, 0.0) - log_q.masked_fill(~mask, 0.0)
    return (log_p.exp() * gap).sum(dim=1)
