r"""The scores of ranking lists, masked, over a temperature."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from torch_promptmm.loss.masked import check_valid, masked_mean


class ListMask:
    r"""Which negatives of ranking lists are valid.

    Few are not (those that a user knows), so on a CPU they are written one
    by one instead of by a pass over all scores.

    Args:
        mask (torch.Tensor): True where a negative is valid :math:`(B, N)`.
    """
    def __init__(self, mask: Tensor) -> None:
        self.mask = mask
        if mask.device.type == 'cpu':
            self.invalid = mask.logical_not().view(-1).nonzero().view(-1)
            row = self.invalid // max(mask.size(1), 1)
            count = torch.bincount(row, minlength=mask.size(0))
            self.rows = count < mask.size(1)
        else:
            self.rows = mask.any(dim=1)

    def fill(self, scores: Tensor) -> Tensor:
        r"""Takes all weight from invalid entries of scores :math:`(B, N)`,
        which may be overwritten; their gradient is zero in any case."""
        check_valid(self.mask, scores)
        # Finite: the difference of two infinities is no number.
        never = torch.finfo(scores.dtype).min / 2
        if self.mask.device.type != 'cpu':
            return scores.masked_fill(~self.mask, never)
        scores = scores.contiguous()
        if self.invalid.numel() > 0:  # Past autograd: no copy, back or forth.
            scores.detach().view(-1).index_fill_(0, self.invalid, never)
        return scores


class ScoreLists:
    r"""The scores of ranking lists, divided by a temperature. What several
    losses need of them is computed once.

    Args:
        positive (torch.Tensor): Scores of the positives :math:`(B)`.
        negative (torch.Tensor): Scores of the negatives :math:`(B, N)`,
            which are overwritten where they are invalid.
        mask (ListMask, optional): Which negatives are valid.
            (default: :obj:`None`, all)
    """
    def __init__(self, positive: Tensor, negative: Tensor,
                 mask: ListMask | None = None) -> None:
        if negative.dtype in (torch.half, torch.bfloat16):
            positive, negative = positive.float(), negative.float()
        self.positive, self.mask = positive, mask
        self.negative = negative if mask is None else mask.fill(negative)

    @classmethod
    def from_scores(cls, scores: Tensor, temperature: float,
                    mask: ListMask | None = None) -> ScoreLists:
        r"""Takes scores :math:`(B, K)` with the positive in column 0."""
        scores = scores / temperature
        return cls(scores[:, 0], scores[:, 1:], mask)

    @cached_property
    def softmax(self) -> tuple[Tensor, Tensor]:
        r"""The softmax over the negatives :math:`(B, N)` and the logarithm
        of its denominator :math:`(B)`, without a gradient."""
        negative = self.negative.detach()
        weight = negative.softmax(dim=1)
        return weight, negative.amax(dim=1) - weight.amax(dim=1).log()

    def logsumexp(self) -> Tensor:
        r"""The logarithm of the sum over the negatives :math:`(B)`."""
        return _LogSumExp.apply(self.negative, *self.softmax)

    def mean(self, values: Tensor) -> Tensor:
        r"""The mean over rows that have a valid negative."""
        return masked_mean(values, None if self.mask is None else
                           self.mask.rows)


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, weight: Tensor,
                value: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        weight, = ctx.saved_tensors
        return grad.view(-1, 1) * weight, None, None
