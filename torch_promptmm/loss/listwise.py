from __future__ import annotations

import torch
from torch import Tensor

from torch_promptmm.checks import check_float
from torch_promptmm.loss.list_divergence import list_divergence
from torch_promptmm.loss.masked import check_valid
from torch_promptmm.loss.score import check_floats, check_one_shape
from torch_promptmm.loss.score_lists import ListMask, ScoreLists


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
          positive in column 0, :math:`K \geq 2`
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
        return _divergence(self, student_scores, teacher_scores, mask)

    def of_lists(self, student: ScoreLists, teacher: ScoreLists) -> Tensor:
        r"""The same of lists whose scores are over the temperature
        already."""
        value = list_divergence(student, teacher, 1.0, None)
        return self.temperature**2 * student.mean(value)

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
          positive in column 0, :math:`K \geq 2`
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
        return _divergence(self, student_scores, teacher_scores, mask)

    def of_lists(self, student: ScoreLists, teacher: ScoreLists) -> Tensor:
        r"""The same of lists whose scores are over the temperature
        already."""
        value = list_divergence(student, teacher, self.alpha, self.beta)
        return self.temperature**2 * student.mean(value)

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}(temperature={self.temperature}, '
                f'alpha={self.alpha}, beta={self.beta})')


def _divergence(loss: ListwiseKD | DisentangledListKD, student: Tensor,
                teacher: Tensor, mask: Tensor | None) -> Tensor:
    check_floats('student_scores', student, dim=2)
    check_floats('teacher_scores', teacher, dim=2)
    check_one_shape('student_scores', student, 'teacher_scores', teacher)
    if student.size(1) < 2:
        raise ValueError(f"'student_scores' must have at least 2 columns, "
                         f"the positive and a negative (got shape "
                         f"{list(student.shape)})")
    if mask is not None:
        check_valid(mask, student)
    valid = None if mask is None else ListMask(mask[:, 1:].contiguous())
    return loss.of_lists(
        ScoreLists.from_scores(student, loss.temperature, valid),
        ScoreLists.from_scores(teacher, loss.temperature, valid))
