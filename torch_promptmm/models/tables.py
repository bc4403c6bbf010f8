from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import check_int
from torch_promptmm.models.base import ModelOutput, RankingModel
from torch_promptmm.nn.graph import UserItemGraph


class TableModel(RankingModel):
    r"""The base class of models with a free vector :math:`\mathbf{e}^{(0)}`
    of the output's width for each user and each item, and nothing of the
    items' content: what a student is.

    A subclass implements :meth:`run`.

    Args:
        num_users (int): The number of users :math:`|\mathcal{U}|`.
        num_items (int): The number of items :math:`|\mathcal{I}|`.
        hidden_channels (int): The width :math:`d` of an embedding.
        num_layers (int, optional): The number :math:`L` of layers.
            (default: :obj:`2`)
    """
    def __init__(
        self,
        num_users: int,
        num_items: int,
        hidden_channels: int,
        num_layers: int = 2,
    ) -> None:
        super().__init__(check_int('num_users', num_users, 1),
                         check_int('num_items', num_items, 1))
        self.hidden_channels = check_int('hidden_channels', hidden_channels, 1)
        self.num_layers = check_int('num_layers', num_layers, 0)
        self.user_embedding = torch.nn.Embedding(num_users, hidden_channels)
        self.item_embedding = torch.nn.Embedding(num_items, hidden_channels)

    def run(self, graph: Adj | UserItemGraph, user_id: Tensor | None,
            item_id: Tensor | None, num_ego: int) -> tuple[Tensor, ...]:
        r"""Returns the rows of users and items; with :obj:`num_ego` also
        those of the tables, of all these users and of so many of the items,
        from the first."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module: the tables as
        :class:`torch_geometric.nn.LightGCN` does (Xavier uniform over the
        table of all nodes)."""
        num_nodes = self.num_users + self.num_items
        bound = math.sqrt(6.0 / (num_nodes + self.hidden_channels))
        for embedding in (self.user_embedding, self.item_embedding):
            torch.nn.init.uniform_(embedding.weight, -bound, bound)

    @property
    def width(self) -> int:
        return self.hidden_channels

    def config(self) -> dict[str, Any]:
        return {
            'num_users': self.num_users,
            'num_items': self.num_items,
            'hidden_channels': self.hidden_channels,
            'num_layers': self.num_layers,
        }

    @torch.no_grad()
    def start_from(self, graph: UserItemGraph, user: Tensor,
                   item: Tensor) -> None:
        r"""Sets the tables to the given ones, as they are; what the layers
        make of them is another thing."""
        self.user_embedding.weight.copy_(user)
        self.item_embedding.weight.copy_(item)

    @torch.no_grad()
    def grow(self, num_users: int, num_items: int) -> None:
        for kind, size in (('user', num_users), ('item', num_items)):
            num = f'num_{kind}s'
            old = getattr(self, num)
            if check_int(num, size, 1) < old:
                raise ValueError(f"'{num}' must be at least {old}, for a "
                                 f"model never shrinks (got {size})")
            if size == old:
                continue
            table = getattr(self, f'{kind}_embedding')
            weight = table.weight.new_zeros(size, self.hidden_channels)
            weight[:old] = table.weight
            table.weight = torch.nn.Parameter(weight,
                                              table.weight.requires_grad)
            table.num_embeddings = size
            setattr(self, num, size)

    def forward(
        self,
        graph: Adj | UserItemGraph,
        user_id: Tensor | None = None,
        item_id: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        r"""Returns user and item embeddings.

        Args:
            graph (torch.Tensor or SparseTensor or UserItemGraph): The
                user-item graph, or that of a batch
                (:meth:`UserItemGraph.from_batch()
                <torch_promptmm.nn.UserItemGraph.from_batch>`), whose rows
                are then returned.
            user_id (torch.Tensor, optional): Return (and, as far as that
                saves work, compute) these users only.
                (default: :obj:`None`)
            item_id (torch.Tensor, optional): The same for items.
                (default: :obj:`None`)
        """
        user, item = self.run(graph, user_id, item_id, 0)
        return user, item

    def rows(
        self,
        graph: UserItemGraph,
        user_id: Tensor,
        item_id: Tensor,
        num_ego: int = 0,
    ) -> ModelOutput:
        r"""Returns the rows of a training step; the L2 term falls on those
        of the tables."""
        user, item, *ego = self.run(graph, user_id, item_id, num_ego)
        return ModelOutput(user, item, ego=(ego[0], ego[1]) if ego else None)

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.num_users}, '
                f'{self.num_items}, hidden_channels={self.hidden_channels}, '
                f'num_layers={self.num_layers})')
