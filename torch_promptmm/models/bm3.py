from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import check_float, check_int
from torch_promptmm.loader import Batch
from torch_promptmm.loss.masked import masked_mean
from torch_promptmm.models.base import ModelOutput, take
from torch_promptmm.models.feature_model import FeatureModel
from torch_promptmm.nn.feature_maps import FeatureMaps
from torch_promptmm.nn.functional import unit_rows
from torch_promptmm.nn.graph import UserItemGraph, as_graph
from torch_promptmm.nn.item_features import ItemFeatures
from torch_promptmm.nn.light_gcn_conv import LightGCNConv


class BM3(FeatureModel):
    r"""The model of `"Bootstrap Latent Representations for Multi-modal
    Recommendation" <https://arxiv.org/abs/2207.05969>`_, which is trained
    without negatives: a predictor :math:`f` is to find, from the vector of a
    user, that of an item which the user has, and the other way round,

    .. math::
        \mathcal{L}_{\textrm{rank}} = (1 - \cos(f(\mathbf{u}), \mathbf{i}'))
        + (1 - \cos(f(\mathbf{i}), \mathbf{u}')), \qquad
        (\mathbf{u}, \mathbf{i}) = \textrm{LightGCN}_L(\mathbf{p},
        \mathbf{q}) + (\mathbf{0}, \mathbf{q}),

    where a prime stands for dropout and a stopped gradient. This is the
    model's own loss (:obj:`ranking_loss="own"`). Content is drawn to the
    item, and to itself under dropout,

    .. math::
        \mathcal{L}_{\textrm{model}} = \lambda_m \sum_m (1 -
        \cos(f(\mathbf{h}_m), \mathbf{i}')) + (1 - \cos(f(\mathbf{h}_m),
        \mathbf{h}_m')), \qquad \mathbf{h}_m = \mathbf{W}_m^{\top}
        \hat{\mathbf{x}}_m + \mathbf{b}_m,

    with unit rows :math:`\hat{\mathbf{x}}_m` of standardised features. The
    score is :math:`f(\mathbf{u}) \cdot f(\mathbf{i})`. It has
    :math:`(|\mathcal{U}| + |\mathcal{I}|) d + \sum_m (d_m + 1) d + d^2 + d`
    parameters.

    It is trained by the softmax where no ranking loss is given, which
    validates better on TikTok; the paper's is :obj:`ranking_loss="own"`.

    Differs from the published code in:

    - the L2 term is that of the paper: the squares of a batch's
      :math:`\mathbf{u}` and :math:`\mathbf{i}`; there, the norm of all rows
      together over the number of items;
    - items without a modality have no loss of it;
    - any number of modalities, whose features are constants, standardised
      and with unit rows; there, two of them, raw and trained along.

    Args:
        num_users (int): The number of users :math:`|\mathcal{U}|`.
        num_items (int): The number of items :math:`|\mathcal{I}|`.
        in_channels (dict): The width :math:`d_m` of each modality.
        hidden_channels (int, optional): The width :math:`d` of an embedding.
            (default: :obj:`64`)
        num_layers (int, optional): The number :math:`L` of propagation
            steps. (default: :obj:`1`)
        dropout (float, optional): The dropout of the targets.
            (default: :obj:`0.3`)
        content_weight (float, optional): :math:`\lambda_m`.
            (default: :obj:`2.0`)

    Shapes:
        - **input:** a user-item graph, any PyG adjacency or a
          :class:`~torch_promptmm.nn.UserItemGraph`
        - **output:** the predictor's output for users
          :math:`(|\mathcal{U}|, d)`, items and, for each modality, content
          :math:`(|\mathcal{I}|, d)`
    """
    defaults = {'ranking_loss': 'softmax'}
    loss_defaults = {'own': {'l2': 1e-3, 'lr': 5e-3}}

    def __init__(
        self,
        num_users: int,
        num_items: int,
        in_channels: Mapping[str, int],
        hidden_channels: int = 64,
        num_layers: int = 1,
        dropout: float = 0.3,
        content_weight: float = 2.0,
    ) -> None:
        features = ItemFeatures(in_channels, num_items)
        super().__init__(check_int('num_users', num_users, 1),
                         check_int('num_items', num_items, 1), features)
        self.hidden_channels = check_int('hidden_channels', hidden_channels, 1)
        self.num_layers = check_int('num_layers', num_layers, 0)
        self.dropout = check_float('dropout', dropout, 0.0, 1.0)
        self.content_weight = check_float('content_weight', content_weight)
        self.user_embedding = torch.nn.Embedding(num_users, hidden_channels)
        self.item_embedding = torch.nn.Embedding(num_items, hidden_channels)
        self.maps = FeatureMaps(features, hidden_channels)
        self.predictor = torch.nn.Linear(hidden_channels, hidden_channels)
        self.conv = LightGCNConv([1.0 / (num_layers + 1)] * (num_layers + 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module."""
        nodes = self.num_users + self.num_items
        bound = math.sqrt(6.0 / (nodes + self.hidden_channels))
        for embedding in (self.user_embedding, self.item_embedding):
            torch.nn.init.uniform_(embedding.weight, -bound, bound)
        self.maps.reset_parameters()
        self.predictor.reset_parameters()

    @property
    def width(self) -> int:
        return self.hidden_channels

    def config(self) -> dict[str, Any]:
        names = ('num_users', 'num_items', 'hidden_channels', 'num_layers',
                 'dropout', 'content_weight')
        return {**{name: getattr(self, name) for name in names},
                'in_channels': self.maps.features.in_channels}

    def forward(
        self,
        graph: Adj | UserItemGraph,
        user_id: Tensor | None = None,
        item_id: Tensor | None = None,
    ) -> ModelOutput:
        r"""Returns user and item embeddings.

        Args:
            graph (torch.Tensor or SparseTensor or UserItemGraph): The
                user-item graph.
            user_id (torch.Tensor, optional): Compute these users only.
                (default: :obj:`None`)
            item_id (torch.Tensor, optional): Compute these items only.
                (default: :obj:`None`)
        """
        tables = self.user_embedding.weight, self.item_embedding.weight
        graph = as_graph(graph, self.num_users, self.num_items,
                         tables[0].device, tables[0].dtype)
        user, item = self.conv(tables, graph, user_id, item_id)
        item = item + take(tables[1], item_id)
        content = {name: self.maps(name, item_id) for name in self.modalities}
        found = self.predictor(user)
        return ModelOutput(found, self.predictor(item), {
            name: (found, self.predictor(x)) for name, x in content.items()
        }, ego=(user, item), own=content)

    def own_loss(self, batch: Batch, output: ModelOutput) -> Tensor:
        size = batch.positive.numel()
        assert output.ego is not None
        user, item = output.ego
        return (self._error(output.user, item[:size]) +
                self._error(output.item[:size], user))

    def extra_loss(self, batch: Batch,
                   output: ModelOutput) -> dict[str, Tensor]:
        size = batch.positive.numel()
        assert output.ego is not None and self.item_features is not None
        item, total = output.ego[1][:size], output.user.new_zeros(())
        for name, (_, found) in output.modalities.items():
            mask = self.item_features.masks.get(name)
            if mask is not None:
                mask = mask.to(item.device)[batch.positive]
            for target in (item, output.own[name][:size]):
                total = total + self._error(found[:size], target, mask)
        return {'content': self.content_weight * total}

    def _error(self, found: Tensor, target: Tensor,
               mask: Tensor | None = None) -> Tensor:
        target = F.dropout(target.detach(), self.dropout, self.training)
        cosine = (unit_rows(found) * unit_rows(target)).sum(dim=-1)
        return masked_mean(1.0 - cosine, mask)

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.num_users}, '
                f'{self.num_items}, {self.maps.features}, '
                f'hidden_channels={self.hidden_channels}, '
                f'num_layers={self.num_layers}, dropout={self.dropout}, '
                f'content_weight={self.content_weight})')
