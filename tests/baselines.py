"""Models as a user would write them, on the protocol and off it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torch_promptmm.models import ModelOutput, RankingModel
from torch_promptmm.models.base import take
from torch_promptmm.nn.functional import masked_rows
from torch_promptmm.nn.item_features import ItemFeatures


class MF(RankingModel):
    """Matrix factorisation, which returns its tables as they are."""
    def __init__(self, num_users: int, num_items: int,
                 hidden_channels: int = 8) -> None:
        super().__init__(num_users, num_items)
        self.hidden_channels = hidden_channels
        self.user = torch.nn.Embedding(num_users, hidden_channels)
        self.item = torch.nn.Embedding(num_items, hidden_channels)
        self.reset_parameters()

    @property
    def width(self) -> int:
        return self.hidden_channels

    def forward(self, graph: Any, user_id: Tensor | None = None,
                item_id: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return take(self.user.weight, user_id), take(self.item.weight, item_id)

    def config(self) -> dict[str, Any]:
        return {'num_users': self.num_users, 'num_items': self.num_items,
                'hidden_channels': self.hidden_channels}

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, std=0.1)


class BiasedMF(MF):
    """The bias of an item is one more column, which a cosine makes no sense
    of.
    """
    score = 'dot'
    defaults = {'ranking_loss': 'bpr', 'l2': 0.25, 'lr': 0.03}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.bias = torch.nn.Parameter(torch.zeros(self.num_items, 1))

    @property
    def width(self) -> int:
        return self.hidden_channels + 1

    def forward(self, graph: Any, user_id: Tensor | None = None,
                item_id: Tensor | None = None) -> ModelOutput:
        user, item = super().forward(graph, user_id, item_id)
        return ModelOutput(
            torch.cat([user, user.new_ones(len(user), 1)], dim=1),
            torch.cat([item, take(self.bias, item_id)], dim=1))


class Content(MF):
    """Reads the features of items and nothing else of them."""
    needs_features = True

    def __init__(self, num_users: int, num_items: int,
                 in_channels: dict[str, int], hidden_channels: int = 8,
                 ) -> None:
        super().__init__(num_users, num_items, hidden_channels)
        del self.item
        self.item_features = ItemFeatures(in_channels, num_items)
        self.linear = torch.nn.ModuleDict({
            name: torch.nn.Linear(width, hidden_channels, bias=False)
            for name, width in in_channels.items()
        })

    def forward(self, graph: Any, user_id: Tensor | None = None,
                item_id: Tensor | None = None) -> tuple[Tensor, Tensor]:
        item = 0.0
        for name in self.modalities:
            x, mask = self.item_features.rows(name, item_id)
            item = item + self.linear[name](masked_rows(x, mask))
        return take(self.user.weight, user_id), item

    def config(self) -> dict[str, Any]:
        return {**super().config(),
                'in_channels': self.item_features.in_channels}


class Tables(torch.nn.Module):
    """A module of another class, which returns its tables."""
    def __init__(self, num_users: int, num_items: int,
                 channels: int = 3) -> None:
        super().__init__()
        self.user = torch.nn.Embedding(num_users, channels)
        self.item = torch.nn.Embedding(num_items, channels)

    def forward(self, graph: Any) -> tuple[Tensor, Tensor]:
        return self.user.weight, self.item.weight


class Wrapper(torch.nn.Module):
    """Hides whatever class is in it."""
    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, graph: Any) -> Any:
        return self.module(graph)
