r"""The score functions: how embeddings become scores."""

from __future__ import annotations

from torch import Tensor

from torch_promptmm.checks import check_choice
from torch_promptmm.nn.functional import unit_rows

SCORES = ('dot', 'cosine')


def as_scored(x: Tensor, score: str) -> Tensor:
    r"""Returns embeddings as the score function sees them, so that their dot
    product is the score: as they are (:obj:`"dot"`) or with unit rows
    (:obj:`"cosine"`)."""
    check_choice('score', score, SCORES)
    return unit_rows(x) if score == 'cosine' else x


def default_temperature(score: str) -> float:
    r"""The temperature that suits the range of the scores: cosine margins
    lie in :math:`[-2, 2]`."""
    return 0.2 if check_choice('score', score, SCORES) == 'cosine' else 1.0
