from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import check_float, check_int
from torch_promptmm.models.base import ModelOutput, take
from torch_promptmm.models.item_graph_model import ItemGraphModel
from torch_promptmm.nn.edge_drop import drop_edges
from torch_promptmm.nn.graph import UserItemGraph, as_graph
from torch_promptmm.nn.neighbor_graph import NeighborGraph
from torch_promptmm.nn.neighbors import combine_graphs


class FREEDOM(ItemGraphModel):
    r"""The model of `"A Tale of Two Graphs: Freezing and Denoising Graph
    Structures for Multimodal Recommendation"
    <https://arxiv.org/abs/2211.06924>`_: a LightGCN, whose items take the
    mean over frozen neighbours of like features as well,

    .. math::
        (\mathbf{U}, \mathbf{I}) = \textrm{LightGCN}_L(\mathbf{P},
        \mathbf{Q}) + (\mathbf{0}, \mathbf{S}^{L_i} \mathbf{Q}), \qquad
        \mathbf{S} = \sum_{m \in \mathcal{M}} w_m \mathbf{S}_m, \quad
        S^m_{ij} = \frac{[j \in \textrm{top-}k(i)]}{\sqrt{k_i k_j}},

    where an item counts among its own :math:`k` neighbours
    (:func:`~torch_promptmm.nn.item_knn_graph`), and has :math:`k_i` of them:
    each of :math:`\mathbf{S}_m`'s values is :math:`1/k`. In each epoch it is
    trained on a share of the interactions, those of nodes with few being
    kept more often (:func:`~torch_promptmm.nn.drop_edges`); embeddings for
    evaluation are those of all interactions. The loss of each modality,
    between :math:`\mathbf{U}` and :math:`\mathbf{H}_m = \hat{\mathbf{X}}_m
    \mathbf{W}_m + \mathbf{b}_m`, is that of :obj:`modality_weight` of
    :func:`~torch_promptmm.train.fit`. It has :math:`(|\mathcal{U}| +
    |\mathcal{I}|) d + \sum_m (d_m + 1) d` parameters.

    A training step reads the features of the batch's items alone, and
    evaluation none.

    Differs from the `published code <https://github.com/enoche/FREEDOM>`_ in:

    - any number of modalities, with equal weights if none are given; there,
      two of them with 0.1 (images) and 0.9 (text);
    - features are standardised, without which a few items are everybody's
      neighbours (:obj:`standardize=False`), and constants; there, the raw
      tables are trained along;
    - an item without a modality has no neighbours in its graph;
    - the graph is found again by its content, not by :math:`k` and a weight.

    Args:
        num_users (int): The number of users :math:`|\mathcal{U}|`.
        num_items (int): The number of items :math:`|\mathcal{I}|`.
        in_channels (dict): The width :math:`d_m` of each modality.
        hidden_channels (int, optional): The width :math:`d` of an embedding.
            (default: :obj:`64`)
        num_layers (int, optional): The number :math:`L` of propagation
            steps. (default: :obj:`2`)
        item_layers (int, optional): The number :math:`L_i` of steps among
            items. (default: :obj:`1`)
        k (int, optional): The number of neighbours. (default: :obj:`10`)
        graph_weights (dict, optional): :math:`w_m` of each modality.
            (default: one over their number)
        edge_keep (float, optional): The share of interactions that is
            trained on; the paper tries 0.1 and 0.2. (default: :obj:`0.2`)
        loop (bool, optional): Whether an item is its own neighbour.
            (default: :obj:`True`)
        standardize (bool, optional): If :obj:`False`, features are taken as
            they are. (default: :obj:`True`)

    Shapes:
        - **input:** a user-item graph, any PyG adjacency or a
          :class:`~torch_promptmm.nn.UserItemGraph`
        - **output:** user embeddings :math:`(|\mathcal{U}|, d)` and item
          embeddings :math:`(|\mathcal{I}|, d)`; in a training step also,
          for each modality, :math:`\mathbf{U}` and :math:`\mathbf{H}_m`
    """
    defaults = {'ranking_loss': 'bpr', 'l2': 0.0, 'lr': 1e-3,
                'modality_weight': 1e-3}

    def __init__(
        self,
        num_users: int,
        num_items: int,
        in_channels: Mapping[str, int],
        hidden_channels: int = 64,
        num_layers: int = 2,
        item_layers: int = 1,
        k: int = 10,
        graph_weights: Mapping[str, float] | None = None,
        edge_keep: float = 0.2,
        loop: bool = True,
        standardize: bool = True,
    ) -> None:
        super().__init__(num_users, num_items, in_channels, hidden_channels,
                         num_layers, k, loop, standardize)
        self.item_layers = check_int('item_layers', item_layers)
        self.edge_keep = check_float('edge_keep', edge_keep, 0.0, 1.0)
        self.graph_weights = _check_weights(graph_weights, self.modalities)
        self.item_graph = NeighborGraph(num_items, len(in_channels) * k)
        self.kept: tuple[UserItemGraph, UserItemGraph] | None = None

    def config(self) -> dict[str, Any]:
        return {**super().config(), 'item_layers': self.item_layers,
                'graph_weights': self.graph_weights,
                'edge_keep': self.edge_keep}

    def build_graphs(self) -> None:
        self.item_graph.set(combine_graphs(
            [self.knn_graph(name, 'binary') for name in self.modalities],
            [self.graph_weights[name] for name in self.modalities]))

    def on_epoch_start(self, epoch: int, graph: UserItemGraph) -> None:
        r"""Draws the interactions of the epoch."""
        self.kept = (graph, drop_edges(graph, self.edge_keep)
                     if self.edge_keep < 1.0 else graph)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, 'kept': None}  # Graphs are no state.

    def forward(
        self,
        graph: Adj | UserItemGraph,
        user_id: Tensor | None = None,
        item_id: Tensor | None = None,
    ) -> ModelOutput:
        r"""Returns user and item embeddings, and, where the features are
        set, those of each modality."""
        out = self._fused(graph, user_id, item_id, 0)
        if self.item_features.available:
            rows = item_id
            if isinstance(graph, UserItemGraph) and graph.is_batch:
                assert graph.item_n_id is not None
                rows = take(graph.item_n_id, item_id)
            out.modalities.update({
                name: (out.user, self.reduced(name, rows))
                for name in self.modalities})
        return out

    def rows(
        self,
        graph: UserItemGraph,
        user_id: Tensor,
        item_id: Tensor,
        num_ego: int = 0,
    ) -> ModelOutput:
        if self.training and self.kept is not None and self.kept[0] is graph:
            graph = self.kept[1]
        out = self._fused(graph, user_id, item_id, num_ego)
        out.modalities.update({
            name: (out.user, self.reduced(name, item_id))
            for name in self.modalities})
        return out

    def _fused(self, graph: Adj | UserItemGraph, user_id: Tensor | None,
               item_id: Tensor | None, num_ego: int) -> ModelOutput:
        h = self.backbone.item_embedding.weight
        graph = as_graph(graph, self.num_users, self.num_items, h.device,
                         h.dtype, batch=True)
        out = self.backbone.rows(graph, user_id, item_id, num_ego)
        for _ in range(self.item_layers):
            h = self.item_graph(h)
        h = take(take(h, graph.item_n_id), item_id)
        return ModelOutput(out.user, out.item + h, ego=out.ego)


def _check_weights(weights: Mapping[str, float] | None,
                   modalities: list[str]) -> dict[str, float]:
    if weights is None:
        return dict.fromkeys(modalities, 1.0 / len(modalities))
    if set(weights) != set(modalities):
        raise ValueError(f"'graph_weights' must have the modalities "
                         f"{modalities} (got {list(weights)})")
    return {name: check_float(f'graph_weights[{name!r}]', weights[name])
            for name in modalities}
