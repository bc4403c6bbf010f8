from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
    """
    weights: Mapping[str, float] = field(default_factory=dict)
    popularity: float = 0.0
    cold_weight: float = 1.0
    rank: int = 0
    whole: float = 1.0
    co_occurrence: float = 0.0
    scaling: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            check_float(f'weights[{name!r}]', weight)
        for name in ('popularity', 'cold_weight', 'whole', 'co_occurrence'):
            check_float(name, getattr(self, name))
        check_int('rank', self.rank)
        for name, scaling in self.scaling.items():
            check_choice(f'scaling[{name!r}]', scaling, SCALINGS)
