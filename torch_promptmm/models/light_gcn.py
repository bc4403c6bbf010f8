from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import check_int
from torch_promptmm.models.base import ModelOutput, RankingModel
from torch_promptmm.nn.graph import UserItemGraph, as_graph
from torch_promptmm.nn.light_gcn_conv import LightGCNConv


class LightGCN(RankingModel):
    r"""The model of `"LightGCN: Simplifying and Powering Graph Convolution
    Network for Recommendation" <https://arxiv.org/abs/2002.02126>`_, which
    is also the student of `"PromptMM: Multi-Modal Knowledge Distillation for
    Recommendation with Prompt-Tuning" <https://arxiv.org/abs/2402.17188>`_
    (Eq. 2): it serves from ID embeddings alone,

    .. math::
        \mathbf{E} = \frac{1}{L + 1} \sum_{l=0}^{L} \mathbf{A}^l
        \mathbf{E}^{(0)},

    equal in value and gradient to
    :meth:`torch_geometric.nn.LightGCN.get_embedding`. It has exactly
    :math:`(|\mathcal{U}| + |\mathcal{I}|) \cdot d` parameters.

    Args:
        num_users (int): The number of users :math:`|\mathcal{U}|`.
        num_items (int): The number of items :math:`|\mathcal{I}|`.
        hidden_channels (int): The width :math:`d` of an embedding.
        num_layers (int, optional): The number :math:`L` of propagation
            steps. (default: :obj:`2`)

    Shapes:
        - **input:** a user-item graph, any PyG adjacency or a
          :class:`UserItemGraph`
        - **output:** user embeddings :math:`(|\mathcal{U}|, d)` and item
          embeddings :math:`(|\mathcal{I}|, d)`
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
        self.conv = LightGCNConv([1.0 / (num_layers + 1)] * (num_layers + 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module, as
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
        user, item = self._run(graph, user_id, item_id, 0)
        return user, item

    def rows(
        self,
        graph: UserItemGraph,
        user_id: Tensor,
        item_id: Tensor,
        num_ego: int = 0,
    ) -> ModelOutput:
        r"""Returns the rows of a training step; the L2 term falls on those
        of :math:`\mathbf{E}^{(0)}`."""
        user, item, *ego = self._run(graph, user_id, item_id, num_ego)
        return ModelOutput(user, item, ego=(ego[0], ego[1]) if ego else None)

    def _run(self, graph: Adj | UserItemGraph, user_id: Tensor | None,
             item_id: Tensor | None, num_ego: int) -> tuple[Tensor, ...]:
        tables = self.user_embedding.weight, self.item_embedding.weight
        graph = as_graph(graph, self.num_users, self.num_items,
                         tables[0].device, tables[0].dtype, batch=True)
        return self.conv(graph.gather(*tables), graph, user_id, item_id,
                         num_ego)

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.num_users}, '
                f'{self.num_items}, hidden_channels={self.hidden_channels}, '
                f'num_layers={self.num_layers})')
