from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.typing import Adj, SparseTensor

from torch_promptmm.nn.graph import UserItemGraph, as_graph
from torch_promptmm.nn.light_gcn_conv import LightGCNConv
from torch_promptmm.nn.reduction import PromptContext, PromptedReduction


class MultimodalConv(torch.nn.Module):
    r"""One modality's part of the teacher of `"PromptMM: Multi-Modal
    Knowledge Distillation for Recommendation with Prompt-Tuning"
    <https://arxiv.org/abs/2402.17188>`_ (Eq. 1): reduces the features of
    items (Eq. 4) and propagates them to users,

    .. math::
        \mathbf{f}^m_u = \sum_{i \in \mathcal{N}(u)}
        \frac{\mathcal{R}(\mathbf{x}^m_i, \mathbf{p}_i)}
        {\sqrt{\deg(u)\deg(i)}}.

    It has the bipartite signature of PyG's convolutions and so sits in a
    :class:`torch_geometric.nn.HeteroConv`. A :math:`(2, |\mathcal{E}|)`
    :obj:`edge_index` has PyG's direction here (row 0 items, row 1 users);
    sparse matrices are :math:`(|\mathcal{U}|, |\mathcal{I}|)`, PyG's
    :obj:`adj_t`.

    Args:
        in_channels (int): The width :math:`d_m` of the features.
        out_channels (int): The width :math:`d` of the output.
        **kwargs (optional): Arguments of :class:`PromptedReduction`.

    Shapes:
        - **input:** features :math:`((|\mathcal{I}|, d_m), (|\mathcal{U}|,
          *))`, where the users' may be :obj:`None`
        - **output:** :math:`(|\mathcal{U}|, d)`
    """
    def __init__(self, in_channels: int, out_channels: int,
                 **kwargs: Any) -> None:
        super().__init__()
        self.reduction = PromptedReduction(in_channels, out_channels, **kwargs)
        self.conv = LightGCNConv()

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module."""
        self.reduction.reset_parameters()

    def forward(
        self,
        x: tuple[Tensor, Tensor | None] | Tensor,
        edge_index: Adj | UserItemGraph,
        prompt: Tensor | tuple[Tensor | None, ...] | None = None,
        size: tuple[int, int] | None = None,
        context: PromptContext | None = None,
    ) -> Tensor:
        r"""Runs the forward pass.

        Args:
            x (tuple or torch.Tensor): Item features and, if there are any,
                user features, of which only the number is used.
            edge_index (torch.Tensor or SparseTensor or UserItemGraph): The
                interactions.
            prompt (torch.Tensor or tuple, optional): The prompt of the
                items :math:`(|\mathcal{I}|, d)`, alone or first in a tuple.
                (default: :obj:`None`)
            size (tuple, optional): The number of items and users.
                (default: :obj:`None`)
            context (PromptContext, optional): The prompt's context over all
                items, where these are some of them. (default: :obj:`None`)

        Raises:
            ValueError: If the number of users is not known.
        """
        x_item, x_user = x if isinstance(x, (tuple, list)) else (x, None)
        if isinstance(prompt, (tuple, list)):
            prompt = prompt[0]
        num_items = x_item.size(0)
        if size is not None and int(size[0]) != num_items:
            raise ValueError(f"'size' must be (num_items, num_users), but "
                             f"there are {num_items} item features (got "
                             f"{tuple(size)})")
        num_users = self._num_users(edge_index, x_user, size)
        if isinstance(edge_index, Tensor) and (edge_index.layout
                                               == torch.strided):
            edge_index = edge_index.as_subclass(Tensor).flip([0])
        out = self.reduction(x_item, prompt, context)
        graph = as_graph(edge_index, num_users, num_items, out.device,
                         out.dtype, batch=True)
        return self.conv((None, out), graph)[0]

    def _num_users(self, edge_index: Any, x_user: Tensor | None,
                   size: tuple[int, int] | None) -> int:
        if x_user is not None:
            return x_user.size(0)
        if size is not None:
            return int(size[1])
        if isinstance(edge_index, UserItemGraph):
            return edge_index.num_users
        if isinstance(edge_index, SparseTensor) or (
                isinstance(edge_index, Tensor)
                and edge_index.layout != torch.strided):
            return int(edge_index.size(0))
        if isinstance(edge_index, EdgeIndex):
            num_users = edge_index.sparse_size(1)
            if num_users is not None:
                return int(num_users)
        raise ValueError("The number of users is unknown: pass user features "
                         "in 'x', or 'size=(num_items, num_users)'")

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.reduction.in_channels}, '
                f'{self.reduction.out_channels})')
