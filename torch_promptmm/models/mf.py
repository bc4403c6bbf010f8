from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import check_bool, check_int
from torch_promptmm.models.base import (
    ModelOutput,
    RankingModel,
    global_ids,
    take,
)
from torch_promptmm.nn.graph import UserItemGraph


class MF(RankingModel):
    r"""The matrix factorisation of `"BPR: Bayesian Personalized Ranking from
    Implicit Feedback" <https://arxiv.org/abs/1205.2618>`_: a free vector for
    each user and each item,

    .. math::
        s(u, i) = \mathbf{p}_u^{\top} \mathbf{q}_i + b_i,

    where the bias :math:`b_i`, which is optional, is one more column:
    :math:`[\mathbf{p}_u \| 1]^{\top} [\mathbf{q}_i \| b_i]`. A bias of users
    would cancel in every ranking. It has :math:`(|\mathcal{U}| +
    |\mathcal{I}|) \, d` parameters, and :math:`|\mathcal{I}|` more with
    biases. The L2 term falls on :math:`\mathbf{p}`, :math:`\mathbf{q}` and
    :math:`b`, not on the column of ones.

    It is trained by the softmax where no ranking loss is given, which
    validates better on TikTok; the paper's is :obj:`ranking_loss="bpr"`.

    Differs from the published code in:

    - it is trained in batches by AdamW, on each interaction once an epoch
      (`gamboviol/bpr <https://github.com/gamboviol/bpr>`_: SGD, one triple
      at a time; others draw users uniformly, as :obj:`user_weight=1.0` of
      :func:`~torch_promptmm.train.fit` does);
    - L2 is half the squared norm of a batch's rows over its size, with one
      weight for all (`MMRec <https://github.com/enoche/MMRec>`_ does not
      square it, so that its weights are no guide);
    - BPR is a softplus of the margin, which has a gradient everywhere.

    Args:
        num_users (int): The number of users :math:`|\mathcal{U}|`.
        num_items (int): The number of items :math:`|\mathcal{I}|`.
        hidden_channels (int, optional): The width :math:`d` of an embedding.
            (default: :obj:`64`)
        bias (bool, optional): If :obj:`True`, items have biases. Scores are
            dot products then: a cosine would be meaningless.
            (default: :obj:`False`)

    Shapes:
        - **input:** a user-item graph, which only says whose rows are
          returned
        - **output:** user embeddings :math:`(|\mathcal{U}|, w)` and item
          embeddings :math:`(|\mathcal{I}|, w)` with :math:`w = d`, or
          :math:`d + 1` with biases
    """
    defaults = {'ranking_loss': 'softmax'}

    def __init__(
        self,
        num_users: int,
        num_items: int,
        hidden_channels: int = 64,
        bias: bool = False,
    ) -> None:
        super().__init__(check_int('num_users', num_users, 1),
                         check_int('num_items', num_items, 1))
        self.hidden_channels = check_int('hidden_channels', hidden_channels, 1)
        self.user_embedding = torch.nn.Embedding(num_users, hidden_channels)
        self.item_embedding = torch.nn.Embedding(num_items, hidden_channels)
        self.item_bias = None
        if check_bool('bias', bias):
            self.item_bias = torch.nn.Parameter(torch.empty(num_items, 1))
            self.score = 'dot'
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module."""
        for table in (self.user_embedding, self.item_embedding):
            torch.nn.init.normal_(table.weight, std=0.1)
        if self.item_bias is not None:
            torch.nn.init.zeros_(self.item_bias)

    @property
    def width(self) -> int:
        return self.hidden_channels + (self.item_bias is not None)

    @property
    def needed_score(self) -> str | None:
        return None if self.item_bias is None else 'dot'

    def config(self) -> dict[str, Any]:
        return {
            'num_users': self.num_users,
            'num_items': self.num_items,
            'hidden_channels': self.hidden_channels,
            'bias': self.item_bias is not None,
        }

    def forward(
        self,
        graph: Adj | UserItemGraph,
        user_id: Tensor | None = None,
        item_id: Tensor | None = None,
    ) -> ModelOutput:
        r"""Returns user and item embeddings.

        Args:
            graph (torch.Tensor or SparseTensor or UserItemGraph): The
                user-item graph; of that of a batch, its rows are returned.
            user_id (torch.Tensor, optional): Return these users only.
                (default: :obj:`None`)
            item_id (torch.Tensor, optional): Return these items only.
                (default: :obj:`None`)
        """
        user_id, item_id = global_ids(graph, user_id, item_id)
        user = take(self.user_embedding.weight, user_id)
        item = take(self.item_embedding.weight, item_id)
        if self.item_bias is None:
            return ModelOutput(user, item)
        item = torch.cat([item, take(self.item_bias, item_id)], dim=1)
        one = user.new_ones(user.size(0), 1)
        return ModelOutput(torch.cat([user, one], dim=1), item,
                           ego=(user, item))

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.num_users}, '
                f'{self.num_items}, hidden_channels={self.hidden_channels}, '
                f'bias={self.item_bias is not None})')
