from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import check_bool, check_int
from torch_promptmm.data import InteractionData
from torch_promptmm.models.base import RankingModel
from torch_promptmm.models.light_gcn import LightGCN
from torch_promptmm.nn.csr import CSRMatrix
from torch_promptmm.nn.functional import modality_key
from torch_promptmm.nn.graph import UserItemGraph, as_graph
from torch_promptmm.nn.item_features import ItemFeatures
from torch_promptmm.nn.item_graph import item_knn_graph
from torch_promptmm.nn.standard_linear import StandardLinear


class ItemGraphModel(RankingModel):
    r"""What models with frozen graphs of items share: a
    :class:`~torch_promptmm.models.LightGCN`, a linear map of each modality's
    standardised features,

    .. math::
        \mathbf{H}_m = \hat{\mathbf{X}}_m \mathbf{W}_m + \mathbf{b}_m,

    and graphs that are made whenever features are set. The graphs are part
    of the state: a loaded model has them, and keeps them when it is given
    its features again.

    A subclass implements :meth:`build_graphs`.

    Args:
        num_users (int): The number of users :math:`|\mathcal{U}|`.
        num_items (int): The number of items :math:`|\mathcal{I}|`.
        in_channels (dict): The width :math:`d_m` of each modality.
        hidden_channels (int): The width :math:`d` of an embedding.
        num_layers (int): The number :math:`L` of propagation steps.
        k (int): The number of an item's neighbours.
        loop (bool): If :obj:`True`, an item is one of them itself.
        standardize (bool): If :obj:`False`, features are taken as they are.
    """
    item_features: ItemFeatures
    needs_features = True

    def __init__(
        self,
        num_users: int,
        num_items: int,
        in_channels: Mapping[str, int],
        hidden_channels: int,
        num_layers: int,
        k: int,
        loop: bool,
        standardize: bool,
    ) -> None:
        super().__init__(num_users, num_items,
                         ItemFeatures(in_channels, num_items))
        self.hidden_channels = check_int('hidden_channels', hidden_channels, 1)
        self.num_layers = check_int('num_layers', num_layers)
        self.k, self.loop = check_int('k', k, 1), check_bool('loop', loop)
        self.standardize = check_bool('standardize', standardize)
        self.backbone = LightGCN(num_users, num_items, hidden_channels,
                                 num_layers)
        self.reductions = torch.nn.ModuleDict({
            modality_key(name):
            StandardLinear(width, hidden_channels, bias=True)
            for name, width in in_channels.items()
        })

    @property
    def width(self) -> int:
        return self.hidden_channels

    def config(self) -> dict[str, Any]:
        return {
            'num_users': self.num_users,
            'num_items': self.num_items,
            'in_channels': self.item_features.in_channels,
            'hidden_channels': self.hidden_channels,
            'num_layers': self.num_layers,
            'k': self.k,
            'loop': self.loop,
            'standardize': self.standardize,
        }

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module; statistics and
        graphs of the features stay."""
        self.backbone.reset_parameters()
        for name in self.modalities:
            self.reduction(name).reset_parameters()

    def reduction(self, name: str) -> StandardLinear:
        r"""The linear map of a modality."""
        return self.reductions[modality_key(name)]  # type: ignore

    def reduced(self, name: str, item_id: Tensor | None = None) -> Tensor:
        r"""Returns :math:`\mathbf{H}_m` :math:`(|\mathcal{I}|, d)`, or rows
        of it, of which each is computed once."""
        back = None
        if item_id is not None:
            item_id, back = item_id.unique(return_inverse=True)
        x, mask = self.item_features.rows(name, item_id)
        out = self.reduction(name)(x, mask)
        return out if back is None else out.index_select(0, back)

    def _as_graph(self, graph: Adj | UserItemGraph) -> UserItemGraph:
        like = self.backbone.item_embedding.weight
        return as_graph(graph, self.num_users, self.num_items, like.device,
                        like.dtype, batch=True)

    def knn_graph(self, name: str, weight: str = 'cosine') -> CSRMatrix:
        r"""Returns the graph of a modality's features."""
        x, mask = self.item_features.rows(name)
        scaling = 'standardize' if self.standardize else 'raw'
        return item_knn_graph(x, self.k, mask, self.loop, weight,
                              scaling=scaling, cache='memory')

    def build_graphs(self) -> None:
        r"""Makes all graphs of features that are new."""
        raise NotImplementedError

    @property
    def has_statistics(self) -> bool:
        r"""Whether the model has seen features."""
        return all(self.reduction(name).has_statistics
                   for name in self.modalities)

    def require_graphs(self) -> None:
        r"""Raises a :obj:`ValueError` if there are no graphs yet."""
        if not self.has_statistics:
            raise ValueError("The model has no graph of its items yet: give "
                             "it the features ('from_data', 'set_features' "
                             "or 'fit')")

    def set_features(
        self,
        features: Mapping[str, Tensor],
        masks: Mapping[str, Tensor] | None = None,
        fit: bool = True,
    ) -> None:
        r"""Sets the raw features of all items.

        Args:
            features (dict): Features :math:`(|\mathcal{I}|, d_m)` of each
                modality, in any floating-point type, on any device.
            masks (dict, optional): For some modalities, True where the item
                has it :math:`(|\mathcal{I}|)`. (default: :obj:`None`)
            fit (bool, optional): If :obj:`False`, their statistics and
                graphs stay as they are. (default: :obj:`True`)
        """
        self.item_features.set(features, masks)
        if fit:
            for name, x in self.item_features.tensors.items():
                self.reduction(name).fit_statistics(
                    x, self.item_features.masks.get(name),
                    standardize=self.standardize)
            self.build_graphs()

    def give_features(self, view: InteractionData) -> None:
        features, masks = self.select_features(view)
        if not self.item_features.holds(features, masks):
            self.set_features(features, masks, fit=not self.has_statistics)

    def __repr__(self) -> str:
        config = self.config()
        sizes = f'{config.pop("num_users")}, {config.pop("num_items")}'
        options = ', '.join(f'{k}={v!r}' for k, v in config.items())
        return f'{self.__class__.__name__}({sizes}, {options})'
