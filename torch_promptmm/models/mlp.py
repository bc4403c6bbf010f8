from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter, ParameterList
from torch_geometric.typing import Adj

from torch_promptmm.models.base import take
from torch_promptmm.models.tables import TableModel
from torch_promptmm.nn.dense import matmul
from torch_promptmm.nn.graph import UserItemGraph


class MLP(TableModel):
    r"""The student without a graph of `"PromptMM: Multi-Modal Knowledge
    Distillation for Recommendation with Prompt-Tuning"
    <https://arxiv.org/abs/2402.17188>`_: residual layers over free
    embeddings, with weights of their own for users and for items,

    .. math::
        \mathbf{E}^{(l)} = \textrm{LeakyReLU}_{0.5} \left(
        \mathbf{E}^{(l-1)} \mathbf{W}^{(l)} \right) + \mathbf{E}^{(l-1)},
        \qquad \mathbf{E} = \mathbf{E}^{(L)} .

    It has :math:`(|\mathcal{U}| + |\mathcal{I}|) \, d + 2 L d^2` parameters.
    What it knows of the interactions comes through the losses alone.

    Differs from the `published code <https://github.com/HKUDS/PromptMM>`_
    in:

    - items have weights of their own: there, those of the users are applied
      to both;
    - what is evaluated is the output: there, it is the tables.

    Args:
        num_users (int): The number of users :math:`|\mathcal{U}|`.
        num_items (int): The number of items :math:`|\mathcal{I}|`.
        hidden_channels (int): The width :math:`d` of an embedding.
        num_layers (int, optional): The number :math:`L` of layers.
            (default: :obj:`2`)

    Shapes:
        - **input:** a user-item graph, any PyG adjacency or a
          :class:`UserItemGraph`, which only says whose rows are returned
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
        super().__init__(num_users, num_items, hidden_channels, num_layers)
        self.user_weight, self.item_weight = (
            ParameterList(Parameter(torch.empty(hidden_channels,
                                                hidden_channels))
                          for _ in range(num_layers)) for _ in range(2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for weight in (*self.user_weight, *self.item_weight):
            torch.nn.init.xavier_uniform_(weight)

    def run(self, graph: Adj | UserItemGraph, user_id: Tensor | None,
            item_id: Tensor | None, num_ego: int) -> tuple[Tensor, ...]:
        user, item = self.user_embedding.weight, self.item_embedding.weight
        if isinstance(graph, UserItemGraph):  # It may be that of a batch.
            user, item = graph.gather(user, item)
        ego = take(user, user_id), take(item, item_id)
        out = (_residual(ego[0], self.user_weight),
               _residual(ego[1], self.item_weight))
        return out if num_ego == 0 else (*out, ego[0], ego[1][:num_ego])


def _residual(x: Tensor, weights: ParameterList) -> Tensor:
    for weight in weights:
        x = torch.nn.functional.leaky_relu(matmul(x, weight), 0.5) + x
    return x
