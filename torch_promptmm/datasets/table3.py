r"""The datasets of the paper as its Table 3 has them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Figures:
    r"""The size of a dataset: users, items, interactions in all splits, and
    the width of each modality."""
    users: int
    items: int
    interactions: int
    features: dict[str, int]

    @property
    def sparsity(self) -> float:
        r"""The share of pairs without an interaction."""
        return 1.0 - self.interactions / (self.users * self.items)

    def __str__(self) -> str:
        width = ', '.join(f'{k} {v:,}' for k, v in self.features.items())
        return (f'{self.users:,} users, {self.items:,} items, '
                f'{self.interactions:,} interactions, '
                f'{100 * self.sparsity:.3f} % empty; {width or "no feature"}')


TABLE3 = {
    'Netflix': Figures(43_739, 17_239, 609_341,
                       {'visual': 512, 'textual': 768}),
    'TikTok': Figures(14_343, 8_690, 276_637,
                      {'visual': 128, 'acoustic': 128, 'textual': 768}),
    'Electronics': Figures(41_691, 21_479, 359_165,
                           {'visual': 4_096, 'textual': 1_024}),
}


def beside_table3(name: str, statistics: dict[str, Any]) -> str:
    r"""What was found, and the paper's figures where it has any."""
    found = Figures(*(statistics[x.name] for x in fields(Figures)))
    lines = [f'{name}, found: {found}']
    if name in TABLE3:
        lines.append(f'{name}, paper: {TABLE3[name]} (Table 3)')
    return '\n'.join(lines)
