from __future__ import annotations

import torch
from torch import Tensor

from torch_promptmm.checks import (
    check_bool,
    check_choice,
    check_float,
    check_int,
)
from torch_promptmm.loader import BatchSpec
from torch_promptmm.loss import (
    BPRLoss,
    SampledSoftmaxLoss,
    default_temperature,
)
from torch_promptmm.loss.score import SCORES
from torch_promptmm.train.rows import ScoredRows

RANKING_LOSSES = ('bpr', 'softmax')


class RankingObjective(torch.nn.Module):
    r"""A ranking loss with its score function and its negatives.

    Args:
        ranking_loss (str, optional): :obj:`"softmax"`, the sampled softmax
            over shared uniform negatives, or :obj:`"bpr"`, one negative a
            row. (default: :obj:`"softmax"`)
        score (str, optional): :obj:`"cosine"` or :obj:`"dot"`.
            (default: :obj:`"cosine"` for the softmax, :obj:`"dot"` for BPR)
        temperature (float, optional): Temperature of the softmax.
            (default: 0.2 for cosine, 1.0 for dot scores)
        num_negatives (int, optional): Shared negatives of the softmax.
            (default: :obj:`512`)
        warm_negatives (bool, optional): Draw negatives from items with an
            interaction only. (default: :obj:`False`)
    """
    def __init__(
        self,
        ranking_loss: str = 'softmax',
        score: str | None = None,
        temperature: float | None = None,
        num_negatives: int = 512,
        warm_negatives: bool = False,
    ) -> None:
        super().__init__()
        check_choice('ranking_loss', ranking_loss, RANKING_LOSSES)
        if score is None:
            score = 'cosine' if ranking_loss == 'softmax' else 'dot'
        self.ranking_loss = ranking_loss
        self.score = check_choice('score', score, SCORES)
        if temperature is None:
            temperature = default_temperature(score)
        self.temperature = check_float('temperature', temperature,
                                       exclusive=True)
        self.num_negatives = check_int('num_negatives', num_negatives, 1)
        self.warm_negatives = check_bool('warm_negatives', warm_negatives)
        self.loss: BPRLoss | SampledSoftmaxLoss = (
            BPRLoss()
            if ranking_loss == 'bpr' else SampledSoftmaxLoss(temperature))

    @property
    def default_lr(self) -> float:
        r"""The learning rate that suits the loss."""
        return 1e-2 if self.ranking_loss == 'bpr' else 5e-3

    @property
    def default_l2(self) -> float:
        r"""The L2 weight that suits the loss."""
        return 0.05 if self.ranking_loss == 'bpr' else 1e-3

    @property
    def batch_spec(self) -> BatchSpec:
        r"""What a batch must hold."""
        if self.ranking_loss == 'bpr':
            return BatchSpec(num_negatives=1,
                             warm_negatives=self.warm_negatives)
        return BatchSpec(shared_negatives=self.num_negatives,
                         warm_negatives=self.warm_negatives)

    def forward(self, rows: ScoredRows) -> Tensor:
        r"""Returns the loss of a batch's rows."""
        if isinstance(self.loss, BPRLoss):
            return self.loss(rows.margin(), rows.margin_mask)
        return self.loss.of_lists(rows.lists(self.temperature))

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.ranking_loss!r}, '
                f'score={self.score!r}, temperature={self.temperature}, '
                f'num_negatives={self.num_negatives})')
