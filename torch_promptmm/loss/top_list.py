from __future__ import annotations

import math

import torch
from torch import Tensor

from torch_promptmm.checks import check_bool, check_float
from torch_promptmm.loss.masked import check_valid, masked_mean
from torch_promptmm.loss.score import check_floats, check_one_shape


class TopListKD(torch.nn.Module):
    r"""The distillation of a teacher's top items,

    .. math::
        \mathcal{L} = - \frac{1}{B} \sum_b \sum_{j=1}^{n} p_{bj} \log
        \frac{\exp(s_{bj})}{\sum_{k=1}^{n} \exp(s_{bk}) + e^{c}
        \sum_{k=1}^{K} \exp(s'_{bk})}, \qquad
        \mathbf{p}_b = \textrm{softmax}(\mathbf{t}_b / \tau),

    where :math:`\mathbf{t}_b` and :math:`\mathbf{s}_b` are the scores of
    teacher and student for the teacher's top :math:`n` items of a user, and
    :math:`\mathbf{s}'_b` those of the student for :math:`K` items drawn
    uniformly, of which those count that the user does not know and that are
    not in its list. With :math:`c = \log(|\mathcal{I}| / K)` their sum stands
    for that over all items outside the list, as in `"On Using Very Large
    Target Vocabulary for Neural Machine Translation"
    <https://arxiv.org/abs/1412.2007>`_: the teacher's list is taken as the
    whole of its softmax, the student's softmax is over the catalogue.

    The student's scores are taken as they are: those of unit rows are to be
    divided by a temperature.

    Args:
        temperature (float, optional): :math:`\tau` of the teacher.
            (default: :obj:`1.0`)
        divergence (bool, optional): Subtract the entropy of the target. It
            matters where the teacher's scores have a gradient: a cross
            entropy alone would sharpen them without an end.
            (default: :obj:`False`)

    Shapes:
        - **input:** the student's scores :math:`(B, n)` and :math:`(B, K)`,
          the teacher's :math:`(B, n)`
        - **output:** a scalar
    """
    def __init__(self, temperature: float = 1.0,
                 divergence: bool = False) -> None:
        super().__init__()
        self.divergence = check_bool('divergence', divergence)
        self.temperature = check_float('temperature', temperature,
                                       exclusive=True)

    def forward(
        self,
        student_top: Tensor,
        student_uniform: Tensor,
        teacher_top: Tensor,
        uniform_mask: Tensor | None = None,
        log_correction: float = 0.0,
    ) -> Tensor:
        r"""Runs the forward pass.

        Args:
            student_top (torch.Tensor): The student's scores of the top items
                :math:`(B, n)`.
            student_uniform (torch.Tensor): The student's scores of the
                uniform items :math:`(B, K)`.
            teacher_top (torch.Tensor): The teacher's scores of the top items
                :math:`(B, n)`, :math:`-\infty` where a list is shorter. A
                row without an item adds nothing.
            uniform_mask (torch.Tensor, optional): True where a uniform item
                counts :math:`(B, K)`. (default: :obj:`None`)
            log_correction (float, optional): :math:`c`.
                (default: :obj:`0.0`)
        """
        check_floats('student_top', student_top, dim=2)
        check_floats('student_uniform', student_uniform, dim=2)
        check_floats('teacher_top', teacher_top, dim=2)
        check_one_shape('student_top', student_top, 'teacher_top',
                        teacher_top)
        if student_uniform.size(0) != student_top.size(0):
            raise ValueError(f"'student_uniform' must have a row for each of "
                             f"'student_top' (got shapes "
                             f"{list(student_uniform.shape)} and "
                             f"{list(student_top.shape)})")
        if uniform_mask is not None:
            check_valid(uniform_mask, student_uniform)
        check_float('log_correction', log_correction, -math.inf)

        # Scores may be in half precision.
        wide = torch.promote_types(student_top.dtype, torch.float)
        top, uniform = student_top.to(wide), student_uniform.to(wide)
        valid = ~teacher_top.isneginf()
        some = valid.any(dim=1)
        target = torch.where(some.view(-1, 1), teacher_top.to(wide), 0.0)
        target = target / self.temperature
        log_target = target.log_softmax(dim=1) if self.divergence else None
        target = target.softmax(dim=1)

        # Where nothing is valid, plain zeros: infinities have no gradient.
        inside = torch.where(valid, top, -math.inf)
        outside = uniform + log_correction
        if uniform_mask is not None:
            outside = torch.where(uniform_mask, outside, -math.inf)
        logits = torch.cat([inside, outside], dim=1)
        logits = torch.where(some.view(-1, 1), logits, 0.0)
        matched = (target * torch.where(valid, top, 0.0)).sum(dim=1)
        if log_target is not None:
            log_target = torch.where(valid, log_target, 0.0)
            matched = matched - (target * log_target).sum(dim=1)
        return masked_mean(logits.logsumexp(dim=1) - matched, some)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(temperature={self.temperature})'
