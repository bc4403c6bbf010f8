from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import check_choice, check_float, check_int
from torch_promptmm.models.base import ModelOutput, global_ids, take
from torch_promptmm.models.item_graph_model import ItemGraphModel
from torch_promptmm.nn.csr import CSRMatrix
from torch_promptmm.nn.functional import unit_rows
from torch_promptmm.nn.graph import UserItemGraph
from torch_promptmm.nn.item_graph import with_features
from torch_promptmm.nn.neighbor_graph import Made, unchanged, versions
from torch_promptmm.nn.neighbors import nearest_rows, to_neighbors
from torch_promptmm.nn.standard_rows import StandardRows
from torch_promptmm.nn.weighted_csr import sddmm, spmm


class LATTICE(ItemGraphModel):
    r"""The model of `"Mining Latent Structures for Multimedia
    Recommendation" <https://arxiv.org/abs/2104.09036>`_, which learns a graph
    of its items,

    .. math::
        \mathbf{A} = \sum_{m \in \mathcal{M}} \alpha_m \left( \lambda
        \tilde{\mathbf{S}}_m + (1 - \lambda) \tilde{\mathbf{S}}'_m \right),
        \qquad \alpha = \textrm{softmax}(\mathbf{a}),

    from the :math:`k` nearest neighbours :math:`\mathbf{S}_m` in the features
    (:func:`~torch_promptmm.nn.item_knn_graph`) and :math:`\mathbf{S}'_m` in
    what is learnt of them, :math:`\mathbf{H}_m = \hat{\mathbf{X}}_m
    \mathbf{W}_m + \mathbf{b}_m`, with cosines for values, and
    :math:`\tilde{S}_{ij} = S_{ij} / \sqrt{d_i d_j}`, :math:`d_i = \sum_j
    S_{ij}`. Items take what their neighbours are into a LightGCN,

    .. math::
        (\mathbf{U}, \mathbf{I}) = \textrm{LightGCN}_L(\mathbf{P},
        \mathbf{Q}) + (\mathbf{0}, \textrm{row\_norm}(\mathbf{A}^{L_i}
        \mathbf{Q})).

    Who is a neighbour is found anew before each epoch; there is never an
    :math:`(|\mathcal{I}|, |\mathcal{I}|)` matrix. The values of the edges are
    computed again in each step, with their gradient. The graph of the last
    step is part of the state, so that a model is evaluated on what it was
    trained on, and without its features. The L2 term falls on the output. It
    has :math:`(|\mathcal{U}| + |\mathcal{I}|) d + \sum_m (d_m + 1) d + M`
    parameters.

    It is trained by the softmax where no ranking loss is given, as all
    systems here are; the paper's is :obj:`ranking_loss="bpr"`.

    Differs from the `published code
    <https://github.com/CRIPAC-DIG/LATTICE>`_ in:

    - the graph has a gradient in every step, as in the paper; in the code it
      has one in the first step of each epoch, and is kept:
      :obj:`graph_grad="epoch"`. :obj:`None` learns neither :math:`\mathbf{W}`
      nor :math:`\alpha`;
    - the learnt graph of each modality is normalised, as in the paper; in the
      code, their sum is: :obj:`graph_norm="sum"`;
    - users and items are propagated by LightGCN's normalisation; in the code
      by a row mean with self loops;
    - cosines below zero count as zero; there, a sum of negative ones gives
      NaN;
    - features are standardised (:obj:`standardize=False`) and constants;
      there, the raw tables are trained along;
    - an item without a modality has no neighbours in its graph;
    - :math:`\mathbf{H}_m` is as wide as an embedding.

    Args:
        num_users (int): The number of users :math:`|\mathcal{U}|`.
        num_items (int): The number of items :math:`|\mathcal{I}|`.
        in_channels (dict): The width :math:`d_m` of each modality.
        hidden_channels (int, optional): The width :math:`d` of an embedding.
            (default: :obj:`64`)
        num_layers (int, optional): The number :math:`L` of propagation
            steps; with 0, matrix factorisation takes LightGCN's place.
            (default: :obj:`2`)
        item_layers (int, optional): The number :math:`L_i` of steps among
            items. (default: :obj:`1`)
        k (int, optional): The number of neighbours. (default: :obj:`10`)
        feature_weight (float, optional): :math:`\lambda`.
            (default: :obj:`0.9`)
        graph_grad (str, optional): :obj:`"step"`, :obj:`"epoch"` or
            :obj:`None`. (default: :obj:`"step"`)
        graph_norm (str, optional): :obj:`"modality"` or :obj:`"sum"`.
            (default: :obj:`"modality"`)
        loop (bool, optional): Whether an item is its own neighbour, as in
            the paper; without, an item that nobody knows is what its
            neighbours are. (default: :obj:`True`)
        standardize (bool, optional): If :obj:`False`, features are taken as
            they are. (default: :obj:`True`)

    Shapes:
        - **input:** a user-item graph, any PyG adjacency or a
          :class:`~torch_promptmm.nn.UserItemGraph`
        - **output:** user embeddings :math:`(|\mathcal{U}|, d)` and item
          embeddings :math:`(|\mathcal{I}|, d)`
    """
    defaults = {'ranking_loss': 'softmax'}
    loss_defaults = {'bpr': {'l2': 1e-5, 'lr': 5e-4}}
    feature_index: Tensor
    feature_value: Tensor
    learnt_index: Tensor
    value: Tensor

    def __init__(
        self,
        num_users: int,
        num_items: int,
        in_channels: Mapping[str, int],
        hidden_channels: int = 64,
        num_layers: int = 2,
        item_layers: int = 1,
        k: int = 10,
        feature_weight: float = 0.9,
        graph_grad: str | None = 'step',
        graph_norm: str = 'modality',
        loop: bool = True,
        standardize: bool = True,
    ) -> None:
        super().__init__(num_users, num_items, in_channels, hidden_channels,
                         num_layers, k, loop, standardize)
        self.item_layers = check_int('item_layers', item_layers)
        self.feature_weight = check_float('feature_weight', feature_weight,
                                          0.0, 1.0)
        self.graph_grad = check_choice('graph_grad', graph_grad,
                                       ('step', 'epoch', None))
        self.graph_norm = check_choice('graph_norm', graph_norm,
                                       ('modality', 'sum'))
        size = len(in_channels), num_items, k
        self.modality_weight = torch.nn.Parameter(torch.empty(size[0]))
        # Neighbours by features and by what is learnt, -1 where there is
        # none, and the values of all edges.
        self.register_buffer('feature_index', torch.full(size, -1))
        self.register_buffer('feature_value', torch.zeros(size))
        self.register_buffer('learnt_index', torch.full(size, -1))
        self.register_buffer('value',
                             torch.zeros(num_items, 2 * size[0] * k))
        self._patterns: tuple[CSRMatrix, list[CSRMatrix]] | None = None
        self._made_of: Made = ()
        self._is_new = False  # Whether no step has used the graph yet.
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        torch.nn.init.constant_(self.modality_weight,
                                1.0 / len(self.modalities))

    def config(self) -> dict[str, Any]:
        names = ('item_layers', 'feature_weight', 'graph_grad', 'graph_norm')
        return {**super().config(),
                **{name: getattr(self, name) for name in names}}

    def __getstate__(self) -> dict[str, Any]:
        # What is derived is made again, for copies too.
        return {**self.__dict__, '_made_of': (), '_patterns': None}

    @torch.no_grad()
    def build_graphs(self) -> None:
        for number, name in enumerate(self.modalities):
            index, value = to_neighbors(self.knn_graph(name), self.k)
            self.feature_index[number] = index.to(self.feature_index)
            self.feature_value[number] = value.to(self.feature_value)
        self.find_neighbors()

    def on_epoch_start(self, epoch: int, graph: UserItemGraph) -> None:
        r"""Finds the neighbours anew."""
        self.find_neighbors()

    @torch.no_grad()
    def find_neighbors(self) -> None:
        r"""Finds each item's neighbours in what is learnt of its features,
        and computes all values of the graph."""
        for number, name in enumerate(self.modalities):
            h = self.maps(name)
            there = with_features(*self.item_features.rows(name))
            rows = StandardRows(h, there.to(h.device), h, 'raw')
            self.learnt_index[number] = nearest_rows(rows, self.k,
                                                     self.loop).col
        self.value.copy_(self._values())
        self._is_new = True

    def _edges(self) -> tuple[CSRMatrix, list[CSRMatrix]]:
        r"""The places of all edges, and of those that are learnt of each
        modality."""
        buffers = (self.feature_index, self.learnt_index)
        if self._patterns is None or not unchanged(buffers, self._made_of):
            self.require_graphs()
            both = torch.cat([*self.feature_index, *self.learnt_index], dim=1)
            self._patterns = (_pattern(both),
                              [_pattern(x) for x in self.learnt_index])
            self._made_of = versions(buffers)
        return self._patterns

    def _values(self) -> Tensor:
        r"""The values of all edges :math:`(|\mathcal{I}|, 2Mk)`."""
        alpha = self.modality_weight.softmax(dim=0).view(-1, 1, 1)
        cosines = []
        for name, pattern in zip(self.modalities, self._edges()[1],
                                 strict=True):
            h = unit_rows(self.maps(name))
            cosines.append(sddmm(pattern, h, h).view(self.num_items, -1))
        learnt = torch.stack(cosines).clamp(min=0.0)
        learnt = torch.where(self.learnt_index >= 0, learnt, 0.0)
        if self.graph_norm == 'modality':
            learnt = alpha * self._normalized(learnt)
        else:
            learnt = self._normalized(alpha * learnt, together=True)
        parts = (self.feature_weight * alpha * self.feature_value,
                 (1.0 - self.feature_weight) * learnt)
        return torch.cat([*parts[0], *parts[1]], dim=1)

    def _normalized(self, x: Tensor, together: bool = False) -> Tensor:
        degree = x.sum(dim=2)
        if together:
            degree = degree.sum(dim=0, keepdim=True).expand_as(degree)
        positive = degree > 0
        root = torch.where(positive, degree, 1.0).rsqrt() * positive
        col = self.learnt_index.clamp(min=0)
        other = root.gather(1, col.flatten(1)).view_as(col)
        return root.unsqueeze(-1) * x * other

    def _item_graph(self) -> tuple[CSRMatrix, Tensor]:
        r"""The graph, with a gradient where one is wanted."""
        value = self.value
        if (self.training and torch.is_grad_enabled()
                and (self.graph_grad == 'step'
                     or (self.graph_grad == 'epoch' and self._is_new))):
            value = self._values()
            self.value.copy_(value.detach())
            self._is_new = False
        return self._edges()[0], value.view(-1)

    def forward(
        self,
        graph: Adj | UserItemGraph,
        user_id: Tensor | None = None,
        item_id: Tensor | None = None,
    ) -> ModelOutput:
        r"""Returns user and item embeddings."""
        graph = self._as_graph(graph)
        user, item = self.backbone(graph, user_id, item_id)
        edges, value = self._item_graph()
        h = self.backbone.item_embedding.weight
        for _ in range(self.item_layers):
            h = spmm(edges, value, h)
        h = take(h, global_ids(graph, None, item_id)[1])
        return ModelOutput(user, item + unit_rows(h))


def _pattern(index: Tensor) -> CSRMatrix:
    r"""The places of neighbours, an item itself where it has fewer."""
    num_rows, width = index.shape
    own = torch.arange(num_rows, device=index.device).view(-1, 1)
    crow = torch.arange(num_rows + 1, device=index.device) * width
    col = torch.where(index < 0, own, index).view(-1)
    value = torch.zeros(col.numel(), device=index.device)
    return CSRMatrix(crow.int(), col.int(), value, num_rows)
