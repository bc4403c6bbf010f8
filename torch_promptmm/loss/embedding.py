from __future__ import annotations

import torch
from torch import Tensor

from torch_promptmm.checks import check_float, check_matrix
from torch_promptmm.loss.masked import masked_mean
from torch_promptmm.loss.score import check_one_shape
from torch_promptmm.nn.functional import unit_rows


class ScaledCosineError(torch.nn.Module):
    r"""The embedding distillation of `"PromptMM: Multi-Modal Knowledge
    Distillation for Recommendation with Prompt-Tuning"
    <https://arxiv.org/abs/2402.17188>`_ (Eq. 11), the scaled cosine error
    of `"GraphMAE" <https://arxiv.org/abs/2205.10803>`_,

    .. math::
        \mathcal{L}_{\textrm{EmbKD}} = \frac{1}{N} \sum_i \left( 1 -
        \cos(\mathbf{e}_i, \mathbf{f}_i) \right)^{\gamma}.

    A zero row has cosine 0 to everything, and a zero gradient.

    Args:
        gamma (float, optional): :math:`\gamma \geq 1`.
            (default: :obj:`2.0`)

    Shapes:
        - **input:** embeddings of student and teacher :math:`(N, d)`
        - **output:** a scalar
    """
    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = check_float('gamma', gamma, minimum=1.0)

    def forward(self, student: Tensor, teacher: Tensor,
                mask: Tensor | None = None) -> Tensor:
        r"""Runs the forward pass.

        Args:
            student (torch.Tensor): The student's embeddings
                :math:`(N, d)`.
            teacher (torch.Tensor): The teacher's embeddings
                :math:`(N, d)`.
            mask (torch.Tensor, optional): True where a row counts
                :math:`(N)`. (default: :obj:`None`)
        """
        check_matrix('student', student)
        check_matrix('teacher', teacher)
        check_one_shape('student', student, 'teacher', teacher)
        cosine = (unit_rows(student) * unit_rows(teacher)).sum(dim=-1)
        # Rounding can make the error negative, whose power would be NaN.
        error = (1.0 - cosine).clamp(min=0.0)
        return masked_mean(error.pow(self.gamma), mask)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(gamma={self.gamma})'
