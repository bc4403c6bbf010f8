r"""The score functions: how embeddings become scores, and the checks of
scores."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from torch_promptmm.checks import check_choice
from torch_promptmm.nn.functional import unit_rows

SCORES = ('dot', 'cosine')


def as_scored(x: Tensor, score: str) -> Tensor:
    r"""Returns embeddings as the score function sees them, so that their dot
    product is the score: as they are (:obj:`"dot"`) or with unit rows
    (:obj:`"cosine"`)."""
    check_floats('x', x)
    check_choice('score', score, SCORES)
    return unit_rows(x) if score == 'cosine' else x


def default_temperature(score: str) -> float:
    r"""The temperature that suits the range of the scores: cosine margins
    lie in :math:`[-2, 2]`."""
    return 0.2 if check_choice('score', score, SCORES) == 'cosine' else 1.0


def check_floats(name: str, value: Any, dim: int | None = None) -> Tensor:
    r"""Returns :obj:`value` if it is a floating-point tensor (of :obj:`dim`
    dimensions)."""
    if not isinstance(value, Tensor):
        raise TypeError(f"'{name}' must be a torch.Tensor (got "
                        f"'{type(value).__name__}')")
    if not value.is_floating_point() or dim not in (None, value.dim()):
        kind = '' if dim is None else f'{dim}-dimensional '
        raise ValueError(f"'{name}' must be a {kind}floating-point tensor "
                         f"(got shape {list(value.shape)}, {value.dtype})")
    return value


def check_one_shape(name: str, value: Tensor, other_name: str,
                    other: Tensor) -> None:
    r"""Checks that two tensors are of one shape."""
    if value.shape != other.shape:
        raise ValueError(f"'{name}' and '{other_name}' must be of one shape "
                         f"(got {list(value.shape)} and "
                         f"{list(other.shape)})")
