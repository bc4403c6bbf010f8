from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import check_bool, check_choice, check_int
from torch_promptmm.models.base import (
    ModelOutput,
    global_ids,
    take,
)
from torch_promptmm.models.feature_model import FeatureModel
from torch_promptmm.nn.feature_maps import FeatureMaps
from torch_promptmm.nn.functional import masked_rows
from torch_promptmm.nn.graph import UserItemGraph, as_graph
from torch_promptmm.nn.item_features import ItemFeatures


class VBPR(FeatureModel):
    r"""The model of `"VBPR: Visual Bayesian Personalized Ranking from
    Implicit Feedback" <https://arxiv.org/abs/1510.01784>`_, for any number
    of modalities,

    .. math::
        s(u, i) = \gamma_u^{\top} \gamma_i + \sum_{m \in \mathcal{M}}
        \theta_u^{\top} \mathbf{E}_m^{\top} \hat{\mathbf{x}}^m_i + \Big(
        \beta_i + \sum_{m \in \mathcal{M}} \beta_m^{\top}
        \hat{\mathbf{x}}^m_i \Big),

    with standardised features :math:`\hat{\mathbf{X}}_m`, divided by
    :math:`\sqrt{d_m}` so that wide ones do not outrun :math:`\gamma` and
    :math:`\theta`. The biases, in brackets, are the paper's, and optional:
    users are :math:`[\gamma_u \, \| \, \theta_u]`, items :math:`[\gamma_i \,
    \| \, \sum_m \mathbf{E}_m^{\top} \hat{\mathbf{x}}^m_i]`, and with biases
    one column wider, of ones and of the sum in brackets. It has
    :math:`|\mathcal{U}| (d + d_v) + |\mathcal{I}| d + \sum_m d_m d_v`
    parameters, and :math:`|\mathcal{I}| + \sum_m d_m` more with biases. The
    L2 term falls on :math:`\gamma`, :math:`\theta` and :math:`\beta_i`, not
    on :math:`\mathbf{E}_m`, :math:`\beta_m` and the column of ones.

    It is trained by the softmax of cosines where no ranking loss is given,
    which validates better on TikTok, and has no biases unless they are asked
    for, since these make a cosine meaningless. The paper's form is
    :obj:`bias=True` and :obj:`ranking_loss="bpr"`.

    A training step reads the features of the batch's items alone, each once.

    Differs from published code in:

    - features are standardised and scaled; there they are raw (`MMRec
      <https://github.com/enoche/MMRec>`_), or divided by the largest value;
      :obj:`standardize=False` takes them as they are;
    - with :obj:`bias=True`, biases of items and of features are there, as in
      the paper; MMRec has neither;
    - the difference of the features' biases is one number a row; in `cornac
      <https://github.com/PreferredAI/cornac>`_ it is added to every row of a
      batch;
    - one weight for the L2 of all of these; cornac takes a tenth of it for
      negatives;
    - every user and every item is drawn (`DevilEEE/VBPR
      <https://github.com/DevilEEE/VBPR>`_ never draws the last ones).

    Args:
        num_users (int): The number of users :math:`|\mathcal{U}|`.
        num_items (int): The number of items :math:`|\mathcal{I}|`.
        in_channels (dict): The width :math:`d_m` of each modality.
        hidden_channels (int, optional): The width :math:`d` of
            :math:`\gamma`. (default: :obj:`64`)
        content_channels (int, optional): The width :math:`d_v` of
            :math:`\theta`. (default: :obj:`hidden_channels`)
        cold (str, optional): :obj:`"content"` lets items without an
            interaction in the graph be what their features say, in training
            and after; with :obj:`"all"` they keep :math:`\gamma_i` and
            :math:`\beta_i`, which only being a negative has moved.
            (default: :obj:`"all"`)
        bias (bool, optional): If :obj:`True`, items and features have biases.
            Scores are dot products then: a cosine would be meaningless.
            (default: :obj:`False`)
        standardize (bool, optional): If :obj:`False`, features are taken as
            they are. (default: :obj:`True`)

    Shapes:
        - **input:** a user-item graph, which only says which items are cold
          and whose rows are returned
        - **output:** user embeddings :math:`(|\mathcal{U}|, w)`, item
          embeddings :math:`(|\mathcal{I}|, w)` with :math:`w = d + d_v`, or
          :math:`d + d_v + 1` with biases, and those of each modality,
          :math:`\theta_u` and :math:`\mathbf{E}_m^{\top}
          \hat{\mathbf{x}}^m_i`, of width :math:`d_v`
    """
    defaults = {'ranking_loss': 'softmax'}

    def __init__(
        self,
        num_users: int,
        num_items: int,
        in_channels: Mapping[str, int],
        hidden_channels: int = 64,
        content_channels: int | None = None,
        cold: str = 'all',
        bias: bool = False,
        standardize: bool = True,
    ) -> None:
        features = ItemFeatures(in_channels, num_items)
        super().__init__(check_int('num_users', num_users, 1),
                         check_int('num_items', num_items, 1), features)
        if content_channels is None:
            content_channels = hidden_channels
        self.hidden_channels = check_int('hidden_channels', hidden_channels, 1)
        self.content_channels = check_int('content_channels',
                                          content_channels, 1)
        self.cold = check_choice('cold', cold, ('all', 'content'))
        self.user_embedding = torch.nn.Embedding(num_users, hidden_channels)
        self.user_content = torch.nn.Embedding(num_users, content_channels)
        self.item_embedding = torch.nn.Embedding(num_items, hidden_channels)
        self.item_bias = None
        if check_bool('bias', bias):
            self.item_bias = torch.nn.Parameter(torch.empty(num_items, 1))
            self.score = 'dot'
        # With biases, the last column is that of the features.
        self.maps = FeatureMaps(features, content_channels + bias, standardize,
                                bias=False, normalize=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module; statistics of the
        features stay."""
        for table in (self.user_embedding, self.user_content,
                      self.item_embedding):
            torch.nn.init.normal_(table.weight, std=0.1)
        self.maps.reset_parameters()
        if self.item_bias is None:
            return
        torch.nn.init.zeros_(self.item_bias)
        for name in self.modalities:
            torch.nn.init.zeros_(self.maps[name].weight.detach()[:, -1])

    @property
    def width(self) -> int:
        return (self.hidden_channels + self.content_channels +
                (self.item_bias is not None))

    @property
    def needed_score(self) -> str | None:
        return None if self.item_bias is None else 'dot'

    def config(self) -> dict[str, Any]:
        return {
            'num_users': self.num_users,
            'num_items': self.num_items,
            'in_channels': self.item_features.in_channels,
            'hidden_channels': self.hidden_channels,
            'content_channels': self.content_channels,
            'cold': self.cold,
            'bias': self.item_bias is not None,
            'standardize': self.maps.standardize,
        }

    def forward(
        self,
        graph: Adj | UserItemGraph,
        user_id: Tensor | None = None,
        item_id: Tensor | None = None,
    ) -> ModelOutput:
        r"""Returns user and item embeddings and those of each modality.

        Args:
            graph (torch.Tensor or SparseTensor or UserItemGraph): The
                user-item graph; of that of a batch, its rows are returned.
            user_id (torch.Tensor, optional): Return these users only.
                (default: :obj:`None`)
            item_id (torch.Tensor, optional): Compute these items only.
                (default: :obj:`None`)
        """
        user_id, item_id = global_ids(graph, user_id, item_id)
        user = take(self.user_embedding.weight, user_id)
        theta = take(self.user_content.weight, user_id)
        free = take(self.item_embedding.weight, item_id)
        if self.item_bias is not None:
            free = torch.cat([free, take(self.item_bias, item_id)], dim=1)
        if self.cold == 'content':
            graph = as_graph(graph, self.num_users, self.num_items,
                             free.device, free.dtype)
            free = masked_rows(free, take(graph.item_user.crow.diff() > 0,
                                          item_id))
        content = self._content(item_id)
        total = torch.stack(list(content.values())).sum(dim=0)
        d, split = self.hidden_channels, self.content_channels
        ones = user.new_ones(user.size(0), free.size(1) - d)
        ego = torch.cat([user, theta], dim=1), free
        return ModelOutput(
            torch.cat([ego[0], ones], dim=1),
            torch.cat([free[:, :d], total[:, :split],
                       free[:, d:] + total[:, split:]], dim=1),
            {name: (theta, x[:, :split]) for name, x in content.items()},
            ego=ego)

    def _content(self, item_id: Tensor | None) -> dict[str, Tensor]:
        r"""Returns what features say of items, and their bias."""
        out = {}
        for name, width in self.item_features.in_channels.items():
            out[name] = self.maps(name, item_id)
            if self.maps.standardize:  # A row is of length one, or so.
                out[name] = out[name] * width**-0.5
        return out

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.num_users}, '
                f'{self.num_items}, in_channels='
                f'{self.item_features.in_channels}, '
                f'hidden_channels={self.hidden_channels}, '
                f'content_channels={self.content_channels}, '
                f'cold={self.cold!r}, bias={self.item_bias is not None})')
