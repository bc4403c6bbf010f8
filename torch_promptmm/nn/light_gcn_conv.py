from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.nn.graph import UserItemGraph, as_graph
from torch_promptmm.nn.propagation import propagate


class LightGCNConv(torch.nn.Module):
    r"""The propagation step of `"LightGCN: Simplifying and Powering Graph
    Convolution Network for Recommendation"
    <https://arxiv.org/abs/2002.02126>`_ on a user-item graph,

    .. math::
        \mathbf{x}^{\prime}_u = \sum_{i \in \mathcal{N}(u)}
        \frac{\mathbf{x}_i}{\sqrt{\deg(u)\deg(i)}}, \qquad
        \mathbf{x}^{\prime}_i = \sum_{u \in \mathcal{N}(i)}
        \frac{\mathbf{x}_u}{\sqrt{\deg(u)\deg(i)}},

    equal in value and gradient to :class:`torch_geometric.nn.LGConv` on the
    square graph of both. With :obj:`weights` it computes a weighted sum of
    several steps at once, :math:`\sum_l w_l \mathbf{A}^l \mathbf{X}`, as
    :class:`~torch_promptmm.models.LightGCN` does.

    Args:
        weights (sequence of float, optional): :math:`w_0, \ldots, w_L`.
            (default: :obj:`(0.0, 1.0)`, one step)

    Shapes:
        - **input:**
          user and item features :math:`((|\mathcal{U}|, d),
          (|\mathcal{I}|, d))`, where :obj:`None` for the users stands for
          zeros, and the graph, any PyG adjacency of the user-item relation
          or a :class:`UserItemGraph`
        - **output:** user and item features :math:`((|\mathcal{U}|, d),
          (|\mathcal{I}|, d))`, or the rows :obj:`user_id`, :obj:`item_id`
          of them
    """
    def __init__(self, weights: Sequence[float] = (0.0, 1.0)) -> None:
        super().__init__()
        if len(weights) == 0:
            raise ValueError("'weights' must have at least one number (got "
                             "none)")
        self.weights = tuple(float(weight) for weight in weights)

    def reset_parameters(self) -> None:
        r"""Does nothing: there are no parameters."""

    def forward(
        self,
        x: tuple[Tensor | None, Tensor],
        graph: Adj | UserItemGraph,
        user_id: Tensor | None = None,
        item_id: Tensor | None = None,
        num_ego: int = 0,
    ) -> tuple[Tensor, ...]:
        r"""Runs the forward pass.

        Args:
            x (tuple): User features (or :obj:`None`) and item features.
            graph (torch.Tensor or SparseTensor or UserItemGraph): The
                user-item graph.
            user_id (torch.Tensor, optional): Return these users only.
                (default: :obj:`None`)
            item_id (torch.Tensor, optional): Return these items only.
                (default: :obj:`None`)
            num_ego (int, optional): If not 0, the same rows of the inputs
                are returned as well, of all users and of so many of the
                items, from the first. (default: :obj:`0`)
        """
        if not isinstance(x, (tuple, list)) or len(x) != 2:
            raise ValueError("'x' must be a tuple (user features, item "
                             f"features) (got '{type(x).__name__}')")
        x_user, x_item = x
        if x_item is None:
            raise ValueError("'x' has no item features (got None)")
        if x_user is None and not isinstance(graph, UserItemGraph):
            graph = UserItemGraph(graph, None, x_item.size(0),
                                  dtype=x_item.dtype)
        if x_user is not None:
            num_users = x_user.size(0)
        else:
            assert isinstance(graph, UserItemGraph)
            num_users = graph.num_users
        graph = as_graph(graph, num_users, x_item.size(0), x_item.device,
                         x_item.dtype, batch=True)
        return propagate(graph, x_user, x_item, self.weights, user_id,
                         item_id, num_ego)

    def __repr__(self) -> str:
        weights = ', '.join(f'{weight:.4g}' for weight in self.weights)
        return f'{self.__class__.__name__}(weights=({weights}))'
