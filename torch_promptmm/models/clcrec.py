from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import check_bool, check_float, check_int
from torch_promptmm.loader import Batch, BatchSpec
from torch_promptmm.loss import SampledSoftmaxLoss
from torch_promptmm.models.base import ModelOutput, take
from torch_promptmm.models.feature_model import FeatureModel
from torch_promptmm.nn.dense import matmul
from torch_promptmm.nn.feature_maps import FeatureMaps
from torch_promptmm.nn.functional import unit_rows
from torch_promptmm.nn.graph import UserItemGraph
from torch_promptmm.nn.item_features import ItemFeatures


class CLCRec(FeatureModel):
    r"""The model of `"Contrastive Learning for Cold-Start Recommendation"
    <https://arxiv.org/abs/2107.05315>`_: an encoder of content learns to say
    what the free vector of an item would say, and so stands in for it where
    an item has no interaction. There is no graph. With the unit rows
    :math:`\hat{\mathbf{x}}_m` of each modality's standardised features,

    .. math::
        \mathbf{f}_i = \mathbf{W}_2^{\top} \, \textrm{LeakyReLU} \Big( \sum_m
        \mathbf{W}_m^{\top} \hat{\mathbf{x}}_{m,i} + \mathbf{b}_1 \Big) +
        \mathbf{b}_2, \qquad \mathbf{e}_i = \begin{cases} \mathbf{q}_i &
        \textrm{where } \mathbf{q}_i \textrm{ was trained} \\ \mathbf{f}_i &
        \textrm{elsewhere} \end{cases}

    and users :math:`\mathbf{p}_u`, whose dot product is the score. The loss
    is :math:`(1 - \lambda) \mathcal{L}_{\textrm{UI}} + \lambda
    \mathcal{L}_{\textrm{RE}} + \frac{\eta}{2} (\textrm{mean} \|
    \mathbf{p}_u \| + \textrm{mean} \| \mathbf{q}_k \|)`, over an
    interaction's item :math:`i` and :math:`K` items :math:`\mathcal{N}_u`
    that the user does not know,

    .. math::
        \mathcal{L}_{\textrm{UI}} = - \log \frac{\exp(\mathbf{p}_u \cdot
        \mathbf{g}_i / \tau)}{\sum_{k \in \{i\} \cup \mathcal{N}_u}
        \exp(\mathbf{p}_u \cdot \mathbf{g}_k / \tau)}, \qquad
        \mathcal{L}_{\textrm{RE}} = - \log \frac{\exp(\cos(\mathbf{q}_i,
        \mathbf{f}_i) / \tau)}{\sum_{k \in \{i\} \cup \mathcal{N}_u}
        \exp(\cos(\mathbf{q}_i, \mathbf{f}_k) / \tau)},

    where :math:`\mathbf{g}_k` is :math:`\mathbf{f}_k` with probability
    :math:`\rho`, else :math:`\mathbf{q}_k`, drawn anew in each step. The
    first one is the model's own loss (:obj:`ranking_loss="own"`); a softmax
    or BPR in its place ranks :math:`\mathbf{g}` as well. Where no ranking loss
    is given it is the softmax of cosines, which validates better on TikTok.

    It has :math:`(|\mathcal{U}| + |\mathcal{I}|) d + c \sum_m d_m + c + cd +
    d` parameters, with :math:`c` encoder channels.

    Differs from the published code in:

    - both losses are computed in log space, where products above 88
      overflow there;
    - negatives are items with an interaction that the *training* graph does
      not say the user knows; there, items of validation and test are no
      negatives of their users either;
    - negatives are shared by a batch, so that a step encodes few items;
      :obj:`shared_negatives=False` draws :math:`K` for each row;
    - :math:`\rho` is the share that is replaced; there, rows are drawn with
      replacement, and :math:`\rho = 0.5` replaces 0.39;
    - :math:`\lambda` is 0.5; its command line has 1, with which the model
      learns no preference at all (:obj:`content_weight=1.0`);
    - it has no layers that nothing uses, and ranks with the weights as they
      are, not with rows from before the last step;
    - which items have a trained vector is in the state, so that their ids
      may be in any order;
    - features are standardised (:obj:`standardize=False`: taken as they are).

    Args:
        num_users (int): The number of users :math:`|\mathcal{U}|`.
        num_items (int): The number of items :math:`|\mathcal{I}|`.
        in_channels (dict): The width :math:`d_m` of each modality.
        hidden_channels (int, optional): The width :math:`d` of an embedding.
            (default: :obj:`64`)
        encoder_channels (int, optional): The width of the encoder's hidden
            layer. (default: :obj:`256`)
        content_weight (float, optional): :math:`\lambda`.
            (default: :obj:`0.5`)
        hybrid (float, optional): :math:`\rho`. (default: :obj:`0.5`)
        temperature (float, optional): :math:`\tau`. (default: :obj:`1.0`)
        norm_weight (float, optional): :math:`\eta`. (default: :obj:`0.1`)
        num_negatives (int, optional): :math:`K`. (default: :obj:`512`)
        shared_negatives (bool, optional): Whether a batch has one set of
            negatives. (default: :obj:`True`)
        standardize (bool, optional): If :obj:`False`, features are divided
            by their norm as they are. (default: :obj:`True`)

    Shapes:
        - **input:** a user-item graph, which is not looked at
        - **output:** user embeddings :math:`(|\mathcal{U}|, d)` and item
          embeddings :math:`(|\mathcal{I}|, d)`
    """
    defaults = {'ranking_loss': 'softmax', 'warm_negatives': True}
    loss_defaults = {'own': {'l2': 0.0, 'lr': 1e-3, 'batch_size': 256}}
    warm: Tensor

    def __init__(
        self,
        num_users: int,
        num_items: int,
        in_channels: Mapping[str, int],
        hidden_channels: int = 64,
        encoder_channels: int = 256,
        content_weight: float = 0.5,
        hybrid: float = 0.5,
        temperature: float = 1.0,
        norm_weight: float = 0.1,
        num_negatives: int = 512,
        shared_negatives: bool = True,
        standardize: bool = True,
    ) -> None:
        features = ItemFeatures(in_channels, num_items)
        super().__init__(check_int('num_users', num_users, 1),
                         check_int('num_items', num_items, 1), features)
        self.hidden_channels = check_int('hidden_channels', hidden_channels, 1)
        self.encoder_channels = check_int('encoder_channels',
                                          encoder_channels, 1)
        self.content_weight = check_float('content_weight', content_weight,
                                          0.0, 1.0)
        self.hybrid = check_float('hybrid', hybrid, 0.0, 1.0)
        self.norm_weight = check_float('norm_weight', norm_weight)
        self.num_negatives = check_int('num_negatives', num_negatives, 1)
        self.shared_negatives = check_bool('shared_negatives',
                                           shared_negatives)
        self.loss = SampledSoftmaxLoss(temperature)
        self.user_embedding = torch.nn.Embedding(num_users, hidden_channels)
        self.item_embedding = torch.nn.Embedding(num_items, hidden_channels)
        self.maps = FeatureMaps(features, encoder_channels, standardize,
                                bias=False)
        self.bias = torch.nn.Parameter(torch.empty(encoder_channels))
        self.linear = torch.nn.Linear(encoder_channels, hidden_channels)
        # Whose own vector was trained.
        self.register_buffer('warm', torch.zeros(num_items, dtype=torch.bool))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module; no item has a
        trained vector then."""
        for module in (self.user_embedding, self.item_embedding, self.linear):
            torch.nn.init.xavier_normal_(module.weight)
        self.maps.reset_parameters()
        torch.nn.init.zeros_(self.bias)
        torch.nn.init.zeros_(self.linear.bias)
        self.warm.zero_()

    @property
    def width(self) -> int:
        return self.hidden_channels

    def config(self) -> dict[str, Any]:
        names = ('num_users', 'num_items', 'hidden_channels',
                 'encoder_channels', 'content_weight', 'hybrid',
                 'norm_weight', 'num_negatives', 'shared_negatives')
        return {**{name: getattr(self, name) for name in names},
                'in_channels': self.maps.features.in_channels,
                'temperature': self.loss.temperature,
                'standardize': self.maps.standardize}

    def on_epoch_start(self, epoch: int, graph: UserItemGraph) -> None:
        self.warm |= graph.item_user.crow.diff() > 0

    def batch_spec(self, spec: BatchSpec) -> BatchSpec:
        own, shared = ((0, self.num_negatives) if self.shared_negatives else
                       (self.num_negatives, 0))
        return spec.merge(BatchSpec(own, shared, warm_negatives=True))

    def encode(self, item_id: Tensor | None = None) -> Tensor:
        r"""Returns the encoder's output of all items, or of some."""
        hidden = self.bias
        for name in self.modalities:
            hidden = hidden + self.maps(name, item_id)
        return self.linear(F.leaky_relu(hidden))

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
            user_id (torch.Tensor, optional): Return these users only.
                (default: :obj:`None`)
            item_id (torch.Tensor, optional): Return (and encode) these items
                only. (default: :obj:`None`)
        """
        item = torch.where(take(self.warm, item_id).view(-1, 1),
                           take(self.item_embedding.weight, item_id),
                           self.encode(item_id))
        return ModelOutput(take(self.user_embedding.weight, user_id), item)

    def rows(self, graph: UserItemGraph, user_id: Tensor, item_id: Tensor,
             num_ego: int = 0) -> ModelOutput:
        r"""Returns the rows of a training step, where items have either of
        their vectors; the L2 term falls on free ones."""
        user = self.user_embedding(user_id)
        item = self.item_embedding(item_id)
        distinct, back = item_id.unique(return_inverse=True)
        content = self.encode(distinct).index_select(0, back)
        drawn = torch.rand(len(item_id), 1, device=item.device) < self.hybrid
        return ModelOutput(user, torch.where(drawn, content, item),
                           ego=(user, item), own={'content': content})

    def own_loss(self, batch: Batch, output: ModelOutput) -> Tensor:
        value = self._contrast(output.user, output.item, batch)
        return (1.0 - self.content_weight) * value

    def extra_loss(self, batch: Batch,
                   output: ModelOutput) -> dict[str, Tensor]:
        assert output.ego is not None
        user, item = output.ego
        anchor = unit_rows(item[:batch.positive.numel()])
        content = unit_rows(output.own['content'])
        norms = user.norm(dim=1).mean() + item.norm(dim=1).mean()
        return {
            'content': self.content_weight * self._contrast(anchor, content,
                                                            batch),
            'norm': self.norm_weight / 2 * norms,
        }

    def _contrast(self, anchor: Tensor, item: Tensor, batch: Batch) -> Tensor:
        r"""The loss of rows that are to find their positive, which is
        first, among those of the batch's items."""
        size, own = batch.positive.numel(), batch.negative.numel()
        positive, negative, shared = item[:size + own + batch.shared.numel()
                                          ].split([size, own,
                                                   batch.shared.numel()])
        if self.shared_negatives:
            scores, mask = matmul(anchor, shared.t()), batch.shared_mask
        else:
            negative = negative.view(-1, size, item.size(1))
            scores = (negative * anchor).sum(dim=-1).t()
            mask = batch.negative_mask
        first = (anchor * positive).sum(dim=-1, keepdim=True)
        return self.loss(torch.cat([first, scores], dim=1),
                         F.pad(mask, (1, 0), value=True))

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.num_users}, '
                f'{self.num_items}, {self.maps.features}, '
                f'hidden_channels={self.hidden_channels}, '
                f'content_weight={self.content_weight}, '
                f'hybrid={self.hybrid})')
