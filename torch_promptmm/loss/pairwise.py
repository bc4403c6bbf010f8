from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_promptmm.checks import check_float
from torch_promptmm.loss.masked import masked_mean
from torch_promptmm.loss.score import check_floats, check_one_shape


class PairwiseKD(torch.nn.Module):
    r"""The pair-wise ranking distillation of `"PromptMM: Multi-Modal
    Knowledge Distillation for Recommendation with Prompt-Tuning"
    <https://arxiv.org/abs/2402.17188>`_ (Eq. 5) in its sound form, the
    Bernoulli KL divergence between the teacher's and the student's
    preference,

    .. math::
        \mathcal{L}_{\textrm{PairKD}} = \frac{\tau^2}{B} \sum_b
        \textrm{KL} \left( \sigma(t_b / \tau) \, \| \, \sigma(s_b / \tau)
        \right).

    As printed, log-sigmoids stand for probabilities and the sign pushes the
    student away from its teacher.

    Args:
        temperature (float, optional): :math:`\tau`. (default: :obj:`1.0`)

    Shapes:
        - **input:** margins (positive minus negative score) of student and
          teacher :math:`(B)`, or of several negatives :math:`(B, N)`
        - **output:** a scalar
    """
    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = check_float('temperature', temperature,
                                       exclusive=True)

    def forward(self, student_margin: Tensor, teacher_margin: Tensor,
                mask: Tensor | None = None) -> Tensor:
        r"""Runs the forward pass.

        Args:
            student_margin (torch.Tensor): The student's margins.
            teacher_margin (torch.Tensor): The teacher's margins.
            mask (torch.Tensor, optional): True where the negative is valid.
                (default: :obj:`None`)
        """
        check_floats('student_margin', student_margin)
        check_floats('teacher_margin', teacher_margin)
        check_one_shape('student_margin', student_margin, 'teacher_margin',
                        teacher_margin)
        s = student_margin / self.temperature
        t = teacher_margin / self.temperature
        # p (log p - log q) + (1 - p) (log(1 - p) - log(1 - q)), where
        # log sigmoid(x) - log sigmoid(-x) = x:
        value = (torch.sigmoid(t) * (t - s) + F.logsigmoid(-t) -
                 F.logsigmoid(-s))
        return self.temperature**2 * masked_mean(value, mask)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(temperature={self.temperature})'
