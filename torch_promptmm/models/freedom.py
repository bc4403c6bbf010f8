from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import check_float, check_int
from torch_promptmm.models.base import ModelOutput, global_ids, take
from torch_promptmm.models.item_graph_model import ItemGraphModel
from torch_promptmm.nn.edge_drop import drop_edges
from torch_promptmm.nn.graph import UserItemGraph
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

    A training step reads the features of the batch's items alone. A loaded
    model is evaluated without any.

    It is trained by the softmax where no ranking loss is given, as all
    systems here are; the paper's is :obj:`ranking_loss="bpr"`.

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
    defaults = {'ranking_loss': 'softmax', 'modality_weight': 1e-3}
    loss_defaults = {'bpr': {'l2': 0.0, 'lr': 1e-3}}

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
        _check_weights(graph_weights, self.modalities)
        self.graph_weights = graph_weights
        self.item_graph = NeighborGraph(num_items, len(in_channels) * k)
        self.kept: tuple[UserItemGraph, UserItemGraph] | None = None

    def config(self) -> dict[str, Any]:
        return {**super().config(), 'item_layers': self.item_layers,
                'graph_weights': None if self.graph_weights is None else
                dict(self.graph_weights),
                'edge_keep': self.edge_keep}

    def build_graphs(self) -> None:
        self.item_graph.set(combine_graphs(
            [self.knn_graph(name, 'binary') for name in self.modalities],
            _check_weights(self.graph_weights, self.modalities)))

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
        graph = self._as_graph(graph)
        user, item = self.backbone(graph, user_id, item_id)
        names = self.modalities if self.item_features.available else []
        return self._output(ModelOutput(user, item), names, graph, item_id)

    def rows(
        self,
        graph: UserItemGraph,
        user_id: Tensor,
        item_id: Tensor,
        num_ego: int = 0,
    ) -> ModelOutput:
        if self.training and self.kept is not None and self.kept[0] is graph:
            graph = self.kept[1]
        out = self.backbone.rows(graph, user_id, item_id, num_ego)
        return self._output(out, self.modalities, graph, item_id)

    def _output(self, ids: ModelOutput, names: list[str],
                graph: UserItemGraph, item_id: Tensor | None) -> ModelOutput:
        r"""Adds what an item's neighbours say, and some modalities."""
        h = self.backbone.item_embedding.weight
        for _ in range(self.item_layers):
            h = self.item_graph(h)
        item_id = global_ids(graph, None, item_id)[1]
        return ModelOutput(
            ids.user, ids.item + take(h, item_id),
            {name: (ids.user, self.maps(name, item_id)) for name in names},
            ego=ids.ego)


def _check_weights(weights: Mapping[str, float] | None,
                   modalities: list[str]) -> list[float]:
    if weights is None:
        return [1.0 / len(modalities)] * len(modalities)
    if set(weights) != set(modalities):
        raise ValueError(f"'graph_weights' must have the modalities "
                         f"{modalities} (got {list(weights)})")
    return [check_float(f'graph_weights[{name!r}]', weights[name])
            for name in modalities]
