r"""Ranking losses: one positive against sampled negatives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_promptmm.checks import check_float
from torch_promptmm.loss.masked import check_valid, masked_mean
from torch_promptmm.loss.score import check_floats
from torch_promptmm.loss.score_lists import ScoreLists


class BPRLoss(torch.nn.Module):
    r"""The Bayesian personalised ranking loss of `"BPR: Bayesian
    Personalized Ranking from Implicit Feedback"
    <https://arxiv.org/abs/1205.2618>`_ (Eq. 13 of PromptMM, without its
    regularisation),

    .. math::
        \mathcal{L} = - \frac{1}{B} \sum_{b} \log \sigma \left( s_b^+ -
        s_b^- \right).

    Shapes:
        - **input:** margins :math:`(B, *)` of positive over negative scores
        - **output:** a scalar
    """
    def forward(self, margin: Tensor, mask: Tensor | None = None) -> Tensor:
        r"""Runs the forward pass.

        Args:
            margin (torch.Tensor): Positive minus negative scores.
            mask (torch.Tensor, optional): True where the negative is valid.
                (default: :obj:`None`)
        """
        check_floats('margin', margin)
        return masked_mean(F.softplus(-margin), mask)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}()'


class SampledSoftmaxLoss(torch.nn.Module):
    r"""The sampled softmax loss: cross-entropy of the positive, column 0,
    among sampled items,

    .. math::
        \mathcal{L} = - \frac{1}{B} \sum_b \log \frac{\exp(s_{b1} / \tau)}
        {\sum_{k} \exp(s_{bk} / \tau)}.

    Args:
        temperature (float, optional): :math:`\tau`. (default: :obj:`0.2`)

    Shapes:
        - **input:** scores :math:`(B, K)`
        - **output:** a scalar
    """
    def __init__(self, temperature: float = 0.2) -> None:
        super().__init__()
        self.temperature = check_float('temperature', temperature,
                                       exclusive=True)

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        r"""Runs the forward pass.

        Args:
            scores (torch.Tensor): Scores :math:`(B, K)`, the positive
                first.
            mask (torch.Tensor, optional): True where an item is valid
                :math:`(B, K)`. A row without a valid negative adds nothing.
                (default: :obj:`None`)
        """
        check_floats('scores', scores, dim=2)
        if scores.size(1) == 0:
            raise ValueError(f"'scores' must have the positive in column 0 "
                             f"(got shape {list(scores.shape)})")
        logits = scores / self.temperature
        if mask is None:
            value = torch.logsumexp(logits, dim=1) - logits[:, 0]
            return masked_mean(value, None)
        check_valid(mask, scores)
        mask = with_positive(mask)
        logits = logits.masked_fill(~mask, float('-inf'))
        value = torch.logsumexp(logits, dim=1) - logits[:, 0]
        return masked_mean(value, mask[:, 1:].any(dim=1))

    def of_lists(self, lists: ScoreLists) -> Tensor:
        r"""The same of lists whose scores are over the temperature
        already."""
        return lists.mean(F.softplus(lists.logsumexp() - lists.positive))

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(temperature={self.temperature})'


def with_positive(mask: Tensor) -> Tensor:
    r"""The same mask with the positive always valid."""
    mask = mask.clone()
    mask[:, :1] = True
    return mask
