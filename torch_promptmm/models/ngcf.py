from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import check_float, check_int
from torch_promptmm.models.base import RankingModel, take
from torch_promptmm.nn.functional import unit_rows
from torch_promptmm.nn.graph import UserItemGraph, as_graph
from torch_promptmm.nn.ngcf_conv import NGCFConv


class NGCF(RankingModel):
    r"""The model of `"Neural Graph Collaborative Filtering"
    <https://arxiv.org/abs/1905.08108>`_: layers of
    :class:`~torch_promptmm.nn.NGCFConv` over free embeddings, all of which
    are its output, side by side,

    .. math::
        \mathbf{E}^{(l+1)} = \textrm{dropout} \left( \textrm{NGCFConv}_l
        (\mathbf{E}^{(l)}) \right), \qquad
        \mathbf{E} = \left[ \mathbf{E}^{(0)} \, \| \,
        \textrm{row\_norm}(\mathbf{E}^{(1)}) \, \| \ldots \| \,
        \textrm{row\_norm}(\mathbf{E}^{(L)}) \right] .

    It has :math:`(|\mathcal{U}| + |\mathcal{I}|) \, d + 2 L d (d + 1)`
    parameters. Its rows are :math:`L + 1` times as wide as those of others,
    and so is what serves them. The L2 term falls on them, as in the paper.

    It is trained by the softmax where no ranking loss is given, which
    validates better on TikTok; the paper's is :obj:`ranking_loss="bpr"`.

    Differs from the `published code
    <https://github.com/xiangwang1223/neural_graph_collaborative_filtering>`_
    in:

    - neighbours are weighted as in the paper; the code takes the mean over a
      node and its neighbours: :obj:`norm="mean"`;
    - the product is of a node with its neighbours; in the code, it is among
      these itself: :obj:`bilinear_self=True`. Both together are the code;
    - the activation is that of the sum, as in the paper; the code has one
      for each term;
    - node dropout silences nodes, as in the paper; the code drops each
      direction of an edge apart;
    - in evaluation nothing is dropped (a `port
      <https://github.com/huangtinglin/NGCF-PyTorch>`_ goes on with message
      dropout), and it is not the test that stops training;
    - a row of zeros stays one where rows are normalised.

    The biases are those of the code; the paper has none.

    Args:
        num_users (int): The number of users :math:`|\mathcal{U}|`.
        num_items (int): The number of items :math:`|\mathcal{I}|`.
        hidden_channels (int, optional): The width :math:`d` of an embedding
            and of each layer. (default: :obj:`64`)
        num_layers (int, optional): The number :math:`L` of layers.
            (default: :obj:`3`)
        dropout (float, optional): The probability of message dropout.
            (default: :obj:`0.1`)
        node_dropout (float, optional): The probability of node dropout.
            (default: :obj:`0.1`)
        norm (str, optional): :obj:`"sym"` or :obj:`"mean"`.
            (default: :obj:`"sym"`)
        bilinear_self (bool, optional): Whether a node is among the
            neighbours that it is multiplied with. (default: :obj:`False`)

    Shapes:
        - **input:** a user-item graph, any PyG adjacency or a
          :class:`~torch_promptmm.nn.UserItemGraph`
        - **output:** user embeddings :math:`(|\mathcal{U}|, (L + 1) d)` and
          item embeddings :math:`(|\mathcal{I}|, (L + 1) d)`
    """
    defaults = {'ranking_loss': 'softmax'}

    def __init__(
        self,
        num_users: int,
        num_items: int,
        hidden_channels: int = 64,
        num_layers: int = 3,
        dropout: float = 0.1,
        node_dropout: float = 0.1,
        norm: str = 'sym',
        bilinear_self: bool = False,
    ) -> None:
        super().__init__(check_int('num_users', num_users, 1),
                         check_int('num_items', num_items, 1))
        self.hidden_channels = check_int('hidden_channels', hidden_channels, 1)
        self.num_layers = check_int('num_layers', num_layers, 0)
        self.dropout = check_float('dropout', dropout, 0.0, 1.0)
        self.options: dict[str, Any] = {'norm': norm,
                                        'bilinear_self': bilinear_self,
                                        'node_dropout': node_dropout}
        self.user_embedding = torch.nn.Embedding(num_users, hidden_channels)
        self.item_embedding = torch.nn.Embedding(num_items, hidden_channels)
        self.convs = torch.nn.ModuleList(
            NGCFConv(hidden_channels, hidden_channels, **self.options)
            for _ in range(num_layers))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module."""
        for table in (self.user_embedding, self.item_embedding):
            torch.nn.init.xavier_uniform_(table.weight)
        for conv in self.convs:
            conv.reset_parameters()  # type: ignore

    @property
    def width(self) -> int:
        return (self.num_layers + 1) * self.hidden_channels

    def config(self) -> dict[str, Any]:
        return {
            'num_users': self.num_users,
            'num_items': self.num_items,
            'hidden_channels': self.hidden_channels,
            'num_layers': self.num_layers,
            'dropout': self.dropout,
            **self.options,
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
                user-item graph, or that of a batch, whose rows are then
                returned.
            user_id (torch.Tensor, optional): Return (and, in the last layer,
                compute) these users only. (default: :obj:`None`)
            item_id (torch.Tensor, optional): The same for items.
                (default: :obj:`None`)
        """
        tables = self.user_embedding.weight, self.item_embedding.weight
        graph = as_graph(graph, self.num_users, self.num_items,
                         tables[0].device, tables[0].dtype, batch=True)
        x = graph.gather(*tables)
        out = [(take(x[0], user_id), take(x[1], item_id))]
        for conv in self.convs[:-1]:
            user, item = conv(x, graph)
            x = self._drop(user), self._drop(item)
            out.append((unit_rows(take(x[0], user_id)),
                        unit_rows(take(x[1], item_id))))
        for conv in self.convs[-1:]:  # If there is one.
            user, item = conv(x, graph, user_id, item_id)
            out.append((unit_rows(self._drop(user)),
                        unit_rows(self._drop(item))))
        users, items = zip(*out, strict=True)
        return torch.cat(users, dim=1), torch.cat(items, dim=1)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.num_users}, '
                f'{self.num_items}, hidden_channels={self.hidden_channels}, '
                f'num_layers={self.num_layers}, dropout={self.dropout}, '
                f'node_dropout={self.options["node_dropout"]}, '
                f'norm={self.options["norm"]!r})')
