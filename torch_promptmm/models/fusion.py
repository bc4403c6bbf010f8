from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from torch_promptmm.checks import check_choice, check_float, check_int
from torch_promptmm.nn.standard_rows import SCALINGS


@dataclass(frozen=True)
class Fusion:
    r"""How the parts of an
    :class:`~torch_promptmm.models.Ensemble` are added up; chosen on
    validation, not learned.

    Args:
        weights (dict, optional): :math:`w_m` of each modality.
            (default: none)
        popularity (float, optional): :math:`\rho`. (default: :obj:`0.0`)
        cold_weight (float, optional): :math:`\kappa`.
            (default: :obj:`1.0`)
        rank (int, optional): :math:`r`; 0 is no such part.
            (default: :obj:`0`)
        whole (float, optional): :math:`a`. (default: :obj:`1.0`)
        co_occurrence (float, optional): :math:`b`. (default: :obj:`0.0`)
        scaling (dict, optional): How features of a modality are scaled, see
            :class:`~torch_promptmm.models.ContentExpert`. (default: as the
            content expert has it)
        prompted (float, optional): :math:`w_{\mathbf{P}}`.
            (default: :obj:`0.0`)
    """
    weights: Mapping[str, float] = field(default_factory=dict)
    popularity: float = 0.0
    cold_weight: float = 1.0
    rank: int = 0
    whole: float = 1.0
    co_occurrence: float = 0.0
    scaling: Mapping[str, str] = field(default_factory=dict)
    prompted: float = 0.0

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            check_float(f'weights[{name!r}]', weight)
        for name in ('popularity', 'cold_weight', 'whole', 'co_occurrence',
                     'prompted'):
            check_float(name, getattr(self, name))
        check_int('rank', self.rank)
        for name, scaling in self.scaling.items():
            check_choice(f'scaling[{name!r}]', scaling, SCALINGS)

    def check_parts(self, names: Sequence[str], co_occurrence: bool,
                    prompted: bool) -> None:
        r"""Raises a :obj:`ValueError` if it is not of modalities of these
        names, or weighs a part that is not there."""
        if set(self.weights) != set(names):
            raise ValueError(f"'fusion' must have a weight for each of "
                             f"{names} (got {list(self.weights)})")
        if not set(self.scaling) <= set(names):
            raise ValueError(f"'fusion' must have the scaling of no other "
                             f"modality than {names} (got "
                             f"{list(self.scaling)})")
        if not co_occurrence and self.co_occurrence > 0.0:
            raise ValueError(f"'co_occurrence' of 'fusion' must be 0 where "
                             f"the ensemble has no such part (got "
                             f"{self.co_occurrence})")
        if not prompted and self.prompted > 0.0:
            raise ValueError(f"'fusion' weighs a prompted member, which there "
                             f"is not (got prompted={self.prompted})")

    def to_bits(self, names: Sequence[str]) -> Tensor:
        r"""Returns all numbers as the bits of doubles, which no change of a
        module's type rounds; weights in the order of :obj:`names`."""
        values = [self.popularity, self.cold_weight, self.rank, self.whole,
                  self.co_occurrence, *(self.weights[name] for name in names),
                  self.prompted]
        return torch.tensor(values, dtype=torch.double).view(torch.long)

    @classmethod
    def from_bits(cls, bits: Tensor, names: Sequence[str],
                  scaling: Mapping[str, str]) -> Fusion:
        r"""Returns what :meth:`to_bits` had."""
        rho, kappa, rank, whole, both, *weights, prompted = bits.cpu().view(
            torch.double).tolist()
        return cls(dict(zip(names, weights, strict=True)), rho, kappa,
                   int(rank), whole, both, scaling, prompted)
