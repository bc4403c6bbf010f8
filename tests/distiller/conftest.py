"""Small planted data and distillers that train in a moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from torch_promptmm import PromptMMDistiller
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.datasets.blocks import BlockDataset


@pytest.fixture(scope='session')
def blocks() -> BlockDataset:
    return SyntheticMultimodal.blocks()


@pytest.fixture(scope='session')
def small() -> SyntheticMultimodal:
    return SyntheticMultimodal.preset('small', scale=0.25)


@pytest.fixture
def make(blocks: BlockDataset) -> Callable[..., PromptMMDistiller]:
    def make(**kwargs: Any) -> PromptMMDistiller:
        kwargs = {'hidden_channels': 8, 'num_negatives': 16, 'seed': 0,
                  **kwargs}
        return PromptMMDistiller.from_data(kwargs.pop('data', blocks[0]),
                                           **kwargs)

    return make


@pytest.fixture(scope='session')
def fitted(blocks: BlockDataset) -> PromptMMDistiller:
    """Do not change it."""
    distiller = PromptMMDistiller.from_data(blocks[0], hidden_channels=8,
                                            num_negatives=16, seed=0)
    distiller.fit(blocks[0], blocks[1], epochs=5, seed=0, progress=False)
    return distiller


class FixedTeacher(torch.nn.Module):
    """A teacher of a class that is not ours, of another width."""
    def __init__(self, num_users: int = 40, num_items: int = 36,
                 channels: int = 6, modalities: int = 1) -> None:
        super().__init__()
        self.user = torch.nn.Embedding(num_users, channels)
        self.item = torch.nn.Embedding(num_items, channels)
        self.modalities = modalities

    def forward(self, graph: Any) -> Any:
        user, item = self.user.weight, self.item.weight
        if self.modalities == 0:
            return user, item
        return user, item, {
            f'view {i}': (user[:, :5], item[:, :5])
            for i in range(self.modalities)
        }


@pytest.fixture
def foreign() -> type[FixedTeacher]:
    return FixedTeacher


@pytest.fixture
def content(make: Callable[..., PromptMMDistiller]
            ) -> Callable[..., PromptMMDistiller]:
    def build(**kwargs: Any) -> PromptMMDistiller:
        members = {} if 'teacher' in kwargs else {'num_members': 2}
        return make(**{'setting': 'content', 'top_items': 10,
                       'list_epochs': 3, 'user_batch_size': 16,
                       **members, **kwargs})

    return build
