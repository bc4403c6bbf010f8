from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import check_float, check_int
from torch_promptmm.loader import Batch
from torch_promptmm.loss import InfoNCE
from torch_promptmm.models.base import ModelOutput, take
from torch_promptmm.models.item_graph_model import ItemGraphModel
from torch_promptmm.nn.functional import modality_key
from torch_promptmm.nn.graph import UserItemGraph
from torch_promptmm.nn.neighbor_graph import NeighborGraph
from torch_promptmm.nn.propagation import propagate

Pair = tuple[Tensor, Tensor]


class SideViewModel(ItemGraphModel):
    r"""What :class:`~torch_promptmm.models.MGCN` and
    :class:`~torch_promptmm.models.SMORE` share: views of content beside the
    behaviour :math:`\mathbf{c}` of a LightGCN. In a view :math:`v`, a signal
    :math:`\mathbf{G}_v` is a gate on the items' embeddings, which are
    smoothed over the view's graph of items and handed to users,

    .. math::
        \mathbf{E}_v^i = \mathbf{S}_v^{L_i} \left( \mathbf{Q} \odot \sigma
        (\mathbf{G}_v \mathbf{W}_v^g + \mathbf{b}_v^g) \right), \qquad
        \mathbf{E}_v^u = \mathbf{R} \mathbf{E}_v^i .

    A subclass implements :meth:`signals` and :meth:`side`. The output is
    :math:`\mathbf{c} + \mathbf{s}`, and the two are drawn together by
    :class:`~torch_promptmm.loss.InfoNCE`, of a batch's users and of its
    positive items.

    Args:
        views (dict): From the key of each view to the most neighbours that
            an item has in its graph.
        item_layers (int): The number :math:`L_i` of steps among items.
        contrast_weight (float): The weight of the contrast.
        temperature (float): Its temperature.
        *args (optional): Arguments of
            :class:`~torch_promptmm.models.item_graph_model.ItemGraphModel`.
    """
    def __init__(
        self,
        views: Mapping[str, int],
        item_layers: int,
        contrast_weight: float,
        temperature: float,
        *args: Any,
    ) -> None:
        super().__init__(*args)
        self.item_layers = check_int('item_layers', item_layers)
        self.contrast_weight = check_float('contrast_weight', contrast_weight)
        self.contrast = InfoNCE(temperature)
        d = self.hidden_channels
        self.item_graphs = torch.nn.ModuleDict({
            key: NeighborGraph(self.num_items, size)
            for key, size in views.items()})
        self.gates, self.preferences = (torch.nn.ModuleDict({
            key: torch.nn.Linear(d, d) for key in views}) for _ in range(2))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for module in (*self.gates.values(), *self.preferences.values()):
            module.reset_parameters()  # type: ignore[operator]

    def config(self) -> dict[str, Any]:
        return {**super().config(), 'item_layers': self.item_layers,
                'contrast_weight': self.contrast_weight,
                'temperature': self.contrast.temperature}

    def item_graph(self, key: str) -> NeighborGraph:
        r"""The graph of a view."""
        return self.item_graphs[key]  # type: ignore[return-value]

    def signals(self) -> dict[str, Tensor]:
        r"""Returns :math:`\mathbf{G}_v` :math:`(|\mathcal{I}|, d)` of each
        view."""
        raise NotImplementedError

    def side(self, content: Tensor, views: dict[str, Tensor]) -> Tensor:
        r"""Returns :math:`\mathbf{s}` of some nodes from their behaviour and
        their views, each :math:`(n, d)`."""
        raise NotImplementedError

    def forward(
        self,
        graph: Adj | UserItemGraph,
        user_id: Tensor | None = None,
        item_id: Tensor | None = None,
    ) -> ModelOutput:
        r"""Returns user and item embeddings and those of each modality."""
        graph = self._as_graph(graph)
        content = self.backbone(graph, user_id, item_id)
        views = self._views(graph, user_id, item_id)
        sides = [self.side(x, {key: pair[i] for key, pair in views.items()})
                 for i, x in enumerate(content)]
        user, item = (a + b for a, b in zip(content, sides, strict=True))
        return ModelOutput(
            user, item,
            {name: views[modality_key(name)] for name in self.modalities},
            own={'user': content[0], 'item': content[1],
                 'user_side': sides[0], 'item_side': sides[1]})

    def _views(self, graph: UserItemGraph, user_id: Tensor | None,
               item_id: Tensor | None) -> dict[str, Pair]:
        q, items = self.backbone.item_embedding.weight, {}
        for key, signal in self.signals().items():
            x = q * self.gates[key](signal).sigmoid()
            for _ in range(self.item_layers):
                x = self.item_graph(key)(x)
            items[key] = x
        item = take(torch.cat(list(items.values()), dim=1), graph.item_n_id)
        # With the items themselves at weight 1, users take one step.
        rows = propagate(graph, None, item, (1.0, 1.0), user_id, item_id)
        return dict(zip(items, zip(
            *(x.split(q.size(1), dim=1) for x in rows), strict=True),
            strict=True))

    def extra_loss(self, batch: Batch,
                   output: ModelOutput) -> dict[str, Tensor]:
        if self.contrast_weight == 0.0:
            return {}
        own, size = output.own, batch.positive.numel()
        total = self.contrast(own['user_side'], own['user'], batch.user)
        total = total + self.contrast(own['item_side'][:size],
                                      own['item'][:size], batch.positive)
        return {'contrast': self.contrast_weight * total}
