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
OWN = 'own'


class RankingObjective(torch.nn.Module):
    r"""A ranking loss with its score function and its negatives.

    Args:
        ranking_loss (str, optional): :obj:`"softmax"`, the sampled softmax
            over shared uniform negatives, :obj:`"bpr"`, one negative a
            row, or :obj:`"own"`, the model's own. (default:
            :obj:`"softmax"`)
        score (str, optional): :obj:`"cosine"` or :obj:`"dot"`.
            (default: :obj:`"cosine"` for the softmax, else :obj:`"dot"`)
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
        check_choice('ranking_loss', ranking_loss, (*RANKING_LOSSES, OWN))
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
        losses: dict[str, BPRLoss | SampledSoftmaxLoss] = {
            'bpr': BPRLoss(),
            'softmax': SampledSoftmaxLoss(temperature),
        }
        self.loss = losses.get(ranking_loss)

    @property
    def is_own(self) -> bool:
        r"""Whether the model's own loss takes the place of this one."""
        return self.loss is None

    @property
    def default_lr(self) -> float:
        r"""The learning rate that suits the loss."""
        return {'bpr': 1e-2, 'softmax': 5e-3, OWN: 1e-3}[self.ranking_loss]

    @property
    def default_l2(self) -> float:
        r"""The L2 weight that suits the loss."""
        return {'bpr': 0.05, 'softmax': 1e-3, OWN: 0.0}[self.ranking_loss]

    @property
    def batch_spec(self) -> BatchSpec:
        r"""What a batch must hold."""
        own = 1 if self.ranking_loss == 'bpr' else 0
        shared = self.num_negatives if self.ranking_loss == 'softmax' else 0
        return BatchSpec(own, shared, warm_negatives=self.warm_negatives)

    def forward(self, rows: ScoredRows) -> Tensor:
        r"""Returns the loss of a batch's rows."""
        if isinstance(self.loss, BPRLoss):
            return self.loss(rows.margin(), rows.margin_mask)
        if isinstance(self.loss, SampledSoftmaxLoss):
            return self.loss.of_lists(rows.lists(self.temperature))
        raise ValueError("With ranking_loss='own' the loss is that of the "
                         "model: call its 'own_loss'")

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.ranking_loss!r}, '
                f'score={self.score!r}, temperature={self.temperature}, '
                f'num_negatives={self.num_negatives})')
