from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.models.tables import TableModel
from torch_promptmm.nn.compression import solve_ego
from torch_promptmm.nn.graph import UserItemGraph, as_graph
from torch_promptmm.nn.light_gcn_conv import LightGCNConv
from torch_promptmm.nn.propagation import propagate


class LightGCN(TableModel):
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
        super().__init__(num_users, num_items, hidden_channels, num_layers)
        self.conv = LightGCNConv([1.0 / (num_layers + 1)] * (num_layers + 1))
        self.reset_parameters()

    def start_from(self, graph: UserItemGraph, user: Tensor,
                   item: Tensor) -> None:
        r"""Sets the tables so that the output is the given one. Where no
        tables have this output (:func:`~torch_promptmm.nn.solve_ego` needs
        an even number of layers), they are the given ones."""
        if self.num_layers % 2 == 0:
            user, item = solve_ego(graph, user, item, self.num_layers)
        super().start_from(graph, user, item)

    @torch.no_grad()
    def fold_rows(self, graph: Adj | UserItemGraph) -> Tensor | None:
        r"""Returns what the items give to a user who comes new,

        .. math::
            \mathbf{f}_i = \frac{1}{(L + 1) \sqrt{\deg(i) + 1}} \Big(
            \mathbf{e}^{(0)}_i + \sqrt{\tfrac{\deg(i)}{\deg(i) + 1}}
            \sum_{l=1}^{L-1} \mathbf{e}^{(l)}_i \Big), \qquad
            \mathbf{e}_u = \frac{1}{\sqrt{n}} \sum_{i \in \mathcal{N}(u)}
            \mathbf{f}_i,

        :math:`(|\mathcal{I}|, d)`; :obj:`None` without a layer. The user
        has :math:`n` items and an ego row of zeros. With one or two layers
        :math:`\mathbf{e}_u` is the row that propagation over the grown
        graph gives: the user's edges raise the degrees of the items, which
        is in the two roots, and add zeros to :math:`\mathbf{e}^{(1)}_i`.
        With more layers, the users who share items with the new one change
        in that graph as well, which is left out here."""
        weights = self.conv.weights
        if len(weights) == 1:
            return None
        user, item = self.user_embedding.weight, self.item_embedding.weight
        graph = as_graph(graph, self.num_users, self.num_items, item.device,
                         item.dtype)
        degree = graph.item_user.crow.diff().to(item.dtype).view(-1, 1)
        out = weights[1] * item
        if len(weights) > 2:
            layers = propagate(graph, user, item, (0.0, *weights[2:]))[1]
            out = out + layers * (degree / (degree + 1)).sqrt()
        return out * (degree + 1).rsqrt()

    def run(self, graph: Adj | UserItemGraph, user_id: Tensor | None,
            item_id: Tensor | None, num_ego: int) -> tuple[Tensor, ...]:
        tables = self.user_embedding.weight, self.item_embedding.weight
        graph = as_graph(graph, self.num_users, self.num_items,
                         tables[0].device, tables[0].dtype, batch=True)
        return self.conv(graph.gather(*tables), graph, user_id, item_id,
                         num_ego)
