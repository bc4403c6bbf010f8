r"""The datasets of the paper as its Table 3 has them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figures:
    r"""The size of a dataset.

    Args:
        users (int): The number of users.
        items (int): The number of items.
        interactions (int): The number of interactions in all splits.
        features (dict): The width of each modality.
    """
    users: int
    items: int
    interactions: int
    features: dict[str, int] = field(default_factory=dict)

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


def figures_of(statistics: dict[str, Any]) -> Figures:
    r"""The figures of a dataset that is at hand.

    Args:
        statistics (dict): Its
            :attr:`~torch_promptmm.datasets.SplitDataset.statistics`.
    """
    return Figures(statistics['users'], statistics['items'],
                   statistics['interactions'], statistics['features'])


def beside_table3(name: str, statistics: dict[str, Any]) -> str:
    r"""What was found, and the paper's figures where it has any.

    Args:
        name (str): The name of the dataset.
        statistics (dict): Its statistics.
    """
    lines = [f'{name}, found: {figures_of(statistics)}']
    if name in TABLE3:
        lines.append(f'{name}, paper: {TABLE3[name]} (Table 3)')
    return '\n'.join(lines)
