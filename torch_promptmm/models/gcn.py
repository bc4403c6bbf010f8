from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter, ParameterList
from torch_geometric.typing import Adj

from torch_promptmm.models.base import take
from torch_promptmm.models.tables import TableModel
from torch_promptmm.nn.dense import matmul
from torch_promptmm.nn.graph import UserItemGraph, as_graph
from torch_promptmm.nn.light_gcn_conv import LightGCNConv


class GCN(TableModel):
    r"""The graph convolution that is a student in Table 9 of `"PromptMM:
    Multi-Modal Knowledge Distillation for Recommendation with
    Prompt-Tuning" <https://arxiv.org/abs/2402.17188>`_: layers with weights
    of their own for users and for items,

    .. math::
        \mathbf{E}_u^{(l)} = \textrm{ReLU} \left( \mathbf{R} \,
        \mathbf{E}_i^{(l-1)} \mathbf{W}_i^{(l)} \right), \qquad
        \mathbf{E}_i^{(l)} = \textrm{ReLU} \left( \mathbf{R}^{\top}
        \mathbf{E}_u^{(l-1)} \mathbf{W}_u^{(l)} \right), \qquad
        \mathbf{E} = \frac{1}{L + 1} \sum_{l=0}^{L} \mathbf{E}^{(l)},

    where :math:`\mathbf{R} = \mathbf{D}_u^{-1/2} \mathbf{A}
    \mathbf{D}_i^{-1/2}` and :math:`\mathbf{E}^{(0)}` is free. It has
    :math:`(|\mathcal{U}| + |\mathcal{I}|) \, d + 2 L d^2` parameters.

    Differs from the `published code <https://github.com/HKUDS/PromptMM>`_
    in:

    - it propagates: there, the student of this name is two linear layers
      over the teacher's final embeddings, which never see the graph;
    - the tables are its own parameters, which Table 9 (:math:`2 d^2`) leaves
      out because they are the teacher's there.

    Args:
        num_users (int): The number of users :math:`|\mathcal{U}|`.
        num_items (int): The number of items :math:`|\mathcal{I}|`.
        hidden_channels (int): The width :math:`d` of an embedding.
        num_layers (int, optional): The number :math:`L` of layers.
            (default: :obj:`2`)

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
        super().__init__(num_users, num_items, hidden_channels, num_layers)
        self.user_weight, self.item_weight = (
            ParameterList(Parameter(torch.empty(hidden_channels,
                                                hidden_channels))
                          for _ in range(num_layers)) for _ in range(2))
        self.conv = LightGCNConv()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for weight in (*self.user_weight, *self.item_weight):
            torch.nn.init.xavier_uniform_(weight)

    def run(self, graph: Adj | UserItemGraph, user_id: Tensor | None,
            item_id: Tensor | None, num_ego: int) -> tuple[Tensor, ...]:
        tables = self.user_embedding.weight, self.item_embedding.weight
        graph = as_graph(graph, self.num_users, self.num_items,
                         tables[0].device, tables[0].dtype, batch=True)
        user, item = graph.gather(*tables)
        users, items = [take(user, user_id)], [take(item, item_id)]
        for layer, (of_user, of_item) in enumerate(
                zip(self.user_weight, self.item_weight, strict=True), 1):
            last = layer == self.num_layers  # Rows alone are asked for.
            # Under autocast a product may have another type than the graph.
            x = (matmul(user, of_user).to(user.dtype),
                 matmul(item, of_item).to(item.dtype))
            x_user, x_item = self.conv(x, graph, user_id if last else None,
                                       item_id if last else None)
            user, item = x_user.relu(), x_item.relu()
            users.append(user if last else take(user, user_id))
            items.append(item if last else take(item, item_id))
        share = 1.0 / (self.num_layers + 1)
        out = (share * torch.stack(users).sum(dim=0),
               share * torch.stack(items).sum(dim=0))
        if num_ego == 0:
            return out
        return (*out, users[0], items[0][:num_ego])
