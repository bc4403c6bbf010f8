from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import check_bool, check_choice, check_float
from torch_promptmm.nn.csr import CSRMatrix
from torch_promptmm.nn.functional import take
from torch_promptmm.nn.graph import UserItemGraph, as_graph
from torch_promptmm.nn.propagation import propagate


class NGCFConv(torch.nn.Module):
    r"""The layer of `"Neural Graph Collaborative Filtering"
    <https://arxiv.org/abs/1905.08108>`_ (Eq. 7) on a user-item graph,

    .. math::
        \mathbf{X}^{\prime} = \textrm{LeakyReLU}_{0.2} \left( (\mathbf{N} +
        \mathbf{S}) \mathbf{W}_1 + (\mathbf{N} \odot \mathbf{X}) \mathbf{W}_2
        + \mathbf{b}_1 + \mathbf{b}_2 \right),

    with what a node's neighbours say, :math:`\mathbf{N}`, and what it says
    itself, :math:`\mathbf{S}`. With :obj:`norm="sym"` these are
    :math:`\mathbf{D}^{-1/2} \mathbf{A} \mathbf{D}^{-1/2} \mathbf{X}` and
    :math:`\mathbf{X}`, with :obj:`norm="mean"` they are the two parts of the
    mean :math:`(\mathbf{D} + \mathbf{I})^{-1} (\mathbf{A} + \mathbf{I})
    \mathbf{X}`, in which each edge counts once, whatever its weight.

    Args:
        in_channels (int): The width of the input.
        out_channels (int): The width of the output.
        norm (str, optional): :obj:`"sym"` or :obj:`"mean"`.
            (default: :obj:`"sym"`)
        bilinear_self (bool, optional): If :obj:`True`, the second term is
            :math:`(\mathbf{N} + \mathbf{S}) \odot \mathbf{X}`.
            (default: :obj:`False`)
        node_dropout (float, optional): The probability that a node says
            nothing to its neighbours in a step of training.
            (default: :obj:`0.0`)

    Shapes:
        - **input:**
          user and item features :math:`((|\mathcal{U}|, d),
          (|\mathcal{I}|, d))` and the graph, any PyG adjacency of the
          user-item relation or a :class:`UserItemGraph`
        - **output:** user and item features :math:`((|\mathcal{U}|,
          d^{\prime}), (|\mathcal{I}|, d^{\prime}))`, or the rows
          :obj:`user_id`, :obj:`item_id` of them
    """
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        norm: str = 'sym',
        bilinear_self: bool = False,
        node_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm = check_choice('norm', norm, ('sym', 'mean'))
        self.bilinear_self = check_bool('bilinear_self', bilinear_self)
        self.node_dropout = check_float('node_dropout', node_dropout, 0.0, 1.0)
        self.sum = torch.nn.Linear(in_channels, out_channels)
        self.product = torch.nn.Linear(in_channels, out_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module."""
        for linear in (self.sum, self.product):
            torch.nn.init.xavier_uniform_(linear.weight)
            torch.nn.init.zeros_(linear.bias)

    def forward(
        self,
        x: tuple[Tensor, Tensor],
        graph: Adj | UserItemGraph,
        user_id: Tensor | None = None,
        item_id: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        r"""Runs the forward pass.

        Args:
            x (tuple): User features and item features.
            graph (torch.Tensor or SparseTensor or UserItemGraph): The
                user-item graph.
            user_id (torch.Tensor, optional): Return these users only.
                (default: :obj:`None`)
            item_id (torch.Tensor, optional): Return these items only.
                (default: :obj:`None`)
        """
        graph = as_graph(graph, x[0].size(0), x[1].size(0), x[0].device,
                         x[0].dtype, batch=True)
        if self.norm == 'mean':
            graph = _unweighted(graph)
        ids, halves = (user_id, item_id), (graph.user_item, graph.item_user)
        said = (self._silenced(x[0]), self._silenced(x[1]))
        near = propagate(graph, *said, (0.0, 1.0), *ids)
        out = []
        for matrix, index, value, other in zip(halves, ids, x, near,
                                               strict=True):
            value = take(value, index)
            own = value
            if self.norm == 'mean':
                degree = matrix.matmul(value.new_ones(matrix.shape[1], 1))
                scale = (take(degree, index) + 1.0).reciprocal()
                other, own = other * scale, own * scale
            out.append(self._combine(value, other, own))
        return out[0], out[1]

    def _silenced(self, x: Tensor) -> Tensor:
        if not self.training or self.node_dropout == 0.0:
            return x
        return x * F.dropout(x.new_ones(x.size(0), 1), self.node_dropout)

    def _combine(self, x: Tensor, near: Tensor, own: Tensor) -> Tensor:
        both = near + own
        pair = (both if self.bilinear_self else near) * x
        return F.leaky_relu(self.sum(both) + self.product(pair), 0.2)

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.sum.in_features}, '
                f'{self.sum.out_features}, norm={self.norm!r}, '
                f'bilinear_self={self.bilinear_self}, '
                f'node_dropout={self.node_dropout})')


def _unweighted(graph: UserItemGraph) -> UserItemGraph:
    r"""The same edges with a value of one, which is symmetric too."""
    out = copy.copy(graph)
    out.user_item, out.item_user = (
        CSRMatrix(x.crow, x.col, (x.value > 0).to(x.value.dtype), x.shape[1])
        for x in (graph.user_item, graph.item_user))
    return out
