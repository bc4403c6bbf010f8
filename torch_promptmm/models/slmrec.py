from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import (
    check_bool,
    check_choice,
    check_float,
    check_int,
)
from torch_promptmm.loader import Batch
from torch_promptmm.loss import InfoNCE
from torch_promptmm.models.base import ModelOutput, take
from torch_promptmm.models.feature_model import FeatureModel
from torch_promptmm.nn.feature_maps import FeatureMaps
from torch_promptmm.nn.graph import UserItemGraph, as_graph
from torch_promptmm.nn.item_features import ItemFeatures
from torch_promptmm.nn.light_gcn_conv import LightGCNConv

Pair = tuple[Tensor, Tensor]
TASKS = ('fac', 'fd', 'fm', 'fd+fm', None)


class SLMRec(FeatureModel):
    r"""The model of `"Self-supervised Learning for Multimedia
    Recommendation" <https://doi.org/10.1109/TMM.2022.3187556>`_: ids and
    each modality are propagated side by side, with the same users, and
    fused,

    .. math::
        (\mathbf{u}_0, \mathbf{i}_0) = \textrm{LightGCN}_L(\mathbf{p},
        \mathbf{q}), \quad (\mathbf{u}_m, \mathbf{i}_m) =
        \textrm{LightGCN}_L(\mathbf{p}, \mathbf{W}_m^{\top}
        \hat{\mathbf{x}}_m + \mathbf{b}_m), \quad
        \mathbf{u} = \mathbf{W}_U^{\top} [\mathbf{u}_0 \| \ldots \|
        \mathbf{u}_M] + \mathbf{b}_U,

    with unit rows :math:`\hat{\mathbf{x}}_m` of standardised features, and
    the same of items by :math:`\mathbf{W}_I`. The model's own loss
    (:obj:`ranking_loss="own"`) is
    :class:`~torch_promptmm.loss.InfoNCE` of the cosines of a batch's users
    and items. What it ranks by then is their dot product, as in the code:
    negatives of a batch are as frequent as they are popular, so that cosines
    forget who is popular, and norms do not. A self-supervised task is added:

    - :obj:`"fac"`, fine and coarse: :math:`\mathbf{z}_m = g_m(
      \mathbf{z}_{m-1})` from :math:`\mathbf{z}_0 = \mathbf{i}_0` on is to
      find :math:`g_m'(\mathbf{i}_m)` of its item in the batch, one modality
      after the other, by dot products; :math:`g_m`, :math:`g_m'` are linear,
      the last two of half the width;
    - :obj:`"fd"`, feature dropout: two views of users and of items, with
      dropout on the output of each layer, are to find each other;
    - :obj:`"fm"`, feature masking: the same, of views that lack one of the
      parts each.

    It has :math:`(|\mathcal{U}| + |\mathcal{I}|) d + \sum_m (d_m + 1) d + 2
    ((M + 1) d^2 + d)` parameters and, with :obj:`"fac"`, :math:`(2M - 2)(d^2
    + d) + 2 (d \lfloor d / 2 \rfloor + \lfloor d / 2 \rfloor)` more.

    It is trained by the softmax where no ranking loss is given, which
    validates better on TikTok; the paper's is :obj:`ranking_loss="own"`.

    Differs from the published code in:

    - users and items that are in a batch twice are no negatives of
      themselves (:obj:`mask_duplicates=False`: they are);
    - it ranks with the weights as they are, not with rows from before the
      last step;
    - any number of modalities, in the order that they are given in; features
      are standardised (:obj:`standardize=False`: taken as they are);
    - an L2 term on a batch's rows of :math:`\mathbf{p}` and
      :math:`\mathbf{q}`, in place of weight decay.

    Args:
        num_users (int): The number of users :math:`|\mathcal{U}|`.
        num_items (int): The number of items :math:`|\mathcal{I}|`.
        in_channels (dict): The width :math:`d_m` of each modality.
        hidden_channels (int, optional): The width :math:`d` of an embedding.
            (default: :obj:`64`)
        num_layers (int, optional): The number :math:`L` of propagation
            steps. (default: :obj:`3`)
        temperature (float, optional): That of the model's own loss.
            (default: :obj:`0.2`)
        ssl (str, optional): The self-supervised task, :obj:`"fac"`,
            :obj:`"fd"`, :obj:`"fm"`, :obj:`"fd+fm"` or :obj:`None`.
            (default: :obj:`"fac"`)
        ssl_weight (float, optional): Its weight. (default: :obj:`0.1`)
        ssl_temperature (float, optional): Its temperature.
            (default: :obj:`0.2`)
        dropout (float, optional): The dropout of :obj:`"fd"`.
            (default: :obj:`0.3`)
        mask_duplicates (bool, optional): Whether rows of the same user or
            item are no negatives of each other. (default: :obj:`True`)
        standardize (bool, optional): If :obj:`False`, features are divided
            by their norm as they are. (default: :obj:`True`)

    Shapes:
        - **input:** a user-item graph, any PyG adjacency or a
          :class:`~torch_promptmm.nn.UserItemGraph`
        - **output:** user embeddings :math:`(|\mathcal{U}|, d)` and item
          embeddings :math:`(|\mathcal{I}|, d)`, and those of each modality
    """
    defaults = {'ranking_loss': 'softmax'}
    loss_defaults = {'own': {'l2': 1e-3, 'lr': 5e-3}}

    def __init__(
        self,
        num_users: int,
        num_items: int,
        in_channels: Mapping[str, int],
        hidden_channels: int = 64,
        num_layers: int = 3,
        temperature: float = 0.2,
        ssl: str | None = 'fac',
        ssl_weight: float = 0.1,
        ssl_temperature: float = 0.2,
        dropout: float = 0.3,
        mask_duplicates: bool = True,
        standardize: bool = True,
    ) -> None:
        features = ItemFeatures(in_channels, num_items)
        super().__init__(check_int('num_users', num_users, 1),
                         check_int('num_items', num_items, 1), features)
        self.hidden_channels = check_int('hidden_channels', hidden_channels, 1)
        self.num_layers = check_int('num_layers', num_layers, 0)
        self.ssl = check_choice('ssl', ssl, TASKS)
        self.ssl_weight = check_float('ssl_weight', ssl_weight)
        self.dropout = check_float('dropout', dropout, 0.0, 1.0)
        self.mask_duplicates = check_bool('mask_duplicates', mask_duplicates)
        self.loss = InfoNCE(temperature)
        self.ssl_loss = InfoNCE(ssl_temperature, normalize=ssl != 'fac')
        d, parts = hidden_channels, 1 + len(in_channels)
        self.user_embedding = torch.nn.Embedding(num_users, d)
        self.item_embedding = torch.nn.Embedding(num_items, d)
        self.maps = FeatureMaps(features, d, standardize)
        self.fuse_user = torch.nn.Linear(parts * d, d)
        self.fuse_item = torch.nn.Linear(parts * d, d)
        widths = [d] * (parts - 2) + [max(d // 2, 1)] if ssl == 'fac' else []
        self.heads = torch.nn.ModuleList(
            torch.nn.Linear(d, width) for width in widths for _ in range(2))
        self.conv = LightGCNConv([1.0 / (num_layers + 1)] * (num_layers + 1))
        self.step = LightGCNConv()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module."""
        nodes = self.num_users + self.num_items
        bound = math.sqrt(6.0 / (nodes + self.hidden_channels))
        for embedding in (self.user_embedding, self.item_embedding):
            torch.nn.init.uniform_(embedding.weight, -bound, bound)
        self.maps.reset_parameters()
        for linear in (self.fuse_user, self.fuse_item, *self.heads):
            torch.nn.init.xavier_uniform_(linear.weight)
            torch.nn.init.zeros_(linear.bias)

    @property
    def width(self) -> int:
        return self.hidden_channels

    def config(self) -> dict[str, Any]:
        names = ('num_users', 'num_items', 'hidden_channels', 'num_layers',
                 'ssl', 'ssl_weight', 'dropout', 'mask_duplicates')
        return {**{name: getattr(self, name) for name in names},
                'in_channels': self.maps.features.in_channels,
                'temperature': self.loss.temperature,
                'ssl_temperature': self.ssl_loss.temperature,
                'standardize': self.maps.standardize}

    def inputs(self) -> Pair:
        r"""What is propagated: ids and modalities side by side
        :math:`(*, (M + 1) d)`."""
        item = [self.item_embedding.weight, *map(self.maps, self.modalities)]
        return (self.user_embedding.weight.repeat(1, len(item)),
                torch.cat(item, dim=1))

    def fuse(self, user: Tensor, item: Tensor) -> Pair:
        r"""Fuses the parts, which are side by side."""
        return self.fuse_user(user), self.fuse_item(item)

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
        graph = self._graph(graph)
        return self._output(*self.conv(self.inputs(), graph, user_id, item_id))

    def rows(self, graph: UserItemGraph, user_id: Tensor, item_id: Tensor,
             num_ego: int = 0) -> ModelOutput:
        r"""Returns the rows of a training step; the L2 term falls on those
        of the tables."""
        graph, x = self._graph(graph), self.inputs()
        pair = self.conv(x, graph, user_id, item_id)
        out, size = self._output(*pair), user_id.numel()
        if num_ego > 0:
            out.ego = (self.user_embedding(user_id),
                       self.item_embedding(item_id[:num_ego]))
        views: list[Pair] = []
        if self.ssl in ('fd', 'fd+fm'):
            views += [self._dropped(x, graph, user_id, item_id[:size])
                      for _ in range(2)]
        if self.ssl in ('fm', 'fd+fm'):
            views += self._masked(pair[0], pair[1][:size])
        for number, view in enumerate(views):
            user, item = self.fuse(*view)
            out.own |= {f'user {number}': user, f'item {number}': item}
        return out

    def own_loss(self, batch: Batch, output: ModelOutput) -> Tensor:
        item = output.item[:batch.positive.numel()]
        return self._contrast(self.loss, output.user, item, batch.user,
                              batch.positive)

    def extra_loss(self, batch: Batch,
                   output: ModelOutput) -> dict[str, Tensor]:
        if self.ssl is None:
            return {}
        size, own, terms = batch.positive.numel(), output.own, []
        if self.ssl == 'fac':
            x = own['id'][:size]
            for number, (_, part) in enumerate(output.modalities.values()):
                x = self.heads[2 * number](x)
                target = self.heads[2 * number + 1](part[:size])
                terms.append(self._contrast(self.ssl_loss, x, target,
                                            batch.positive))
        for number in range(0, 4, 2):
            for side, index in (('user', batch.user),
                                ('item', batch.positive)):
                if f'{side} {number}' in own:
                    terms.append(self._contrast(
                        self.ssl_loss, own[f'{side} {number}'],
                        own[f'{side} {number + 1}'], index))
        return {'ssl': self.ssl_weight * torch.stack(terms).sum()}

    def _graph(self, graph: Adj | UserItemGraph) -> UserItemGraph:
        like = self.user_embedding.weight
        return as_graph(graph, self.num_users, self.num_items, like.device,
                        like.dtype)

    def _output(self, user: Tensor, item: Tensor) -> ModelOutput:
        users, items = (x.split(self.hidden_channels, dim=1)
                        for x in (user, item))
        return ModelOutput(*self.fuse(user, item), {
            name: (users[i], items[i])
            for i, name in enumerate(self.modalities, 1)
        }, own={'id': items[0]})

    def _contrast(self, loss: InfoNCE, a: Tensor, b: Tensor,
                  *ids: Tensor) -> Tensor:
        return loss(a, b, *(ids if self.mask_duplicates else ()))

    def _dropped(self, x: Pair, graph: UserItemGraph, user_id: Tensor,
                 item_id: Tensor) -> Pair:
        r"""A view with dropout on the output of each layer."""
        total = [take(x[0], user_id), take(x[1], item_id)]
        for _ in range(self.num_layers):
            user, item = self.step(x, graph)
            x = (F.dropout(user, self.dropout, self.training),
                 F.dropout(item, self.dropout, self.training))
            total[0] = total[0] + take(x[0], user_id)
            total[1] = total[1] + take(x[1], item_id)
        share = 1.0 / (self.num_layers + 1)
        return share * total[0], share * total[1]

    def _masked(self, user: Tensor, item: Tensor) -> list[Pair]:
        r"""Two views that lack one part each, not the same."""
        d, parts = self.hidden_channels, 1 + len(self.modalities)
        views: list[Pair] = []
        for part in torch.randperm(parts, device='cpu')[:2].tolist():
            keep = user.new_ones(parts * d)
            keep[part * d:(part + 1) * d] = 0.0
            views.append((user * keep, item * keep))
        return views

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.num_users}, '
                f'{self.num_items}, {self.maps.features}, '
                f'hidden_channels={self.hidden_channels}, '
                f'num_layers={self.num_layers}, ssl={self.ssl!r})')
