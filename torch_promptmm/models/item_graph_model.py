from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import check_bool, check_int
from torch_promptmm.models.feature_model import FeatureModel
from torch_promptmm.models.light_gcn import LightGCN
from torch_promptmm.nn.csr import CSRMatrix
from torch_promptmm.nn.feature_maps import FeatureMaps
from torch_promptmm.nn.graph import UserItemGraph, as_graph
from torch_promptmm.nn.item_features import ItemFeatures
from torch_promptmm.nn.item_graph import item_knn_graph


class ItemGraphModel(FeatureModel):
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
        features = ItemFeatures(in_channels, num_items)
        super().__init__(num_users, num_items, features)
        self.hidden_channels = check_int('hidden_channels', hidden_channels, 1)
        self.num_layers = check_int('num_layers', num_layers)
        self.k, self.loop = check_int('k', k, 1), check_bool('loop', loop)
        self.backbone = LightGCN(num_users, num_items, hidden_channels,
                                 num_layers)
        self.maps = FeatureMaps(features, hidden_channels, standardize,
                                normalize=False)

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
            'standardize': self.maps.standardize,
        }

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module; statistics and
        graphs of the features stay."""
        self.backbone.reset_parameters()
        self.maps.reset_parameters()

    def _as_graph(self, graph: Adj | UserItemGraph) -> UserItemGraph:
        like = self.backbone.item_embedding.weight
        return as_graph(graph, self.num_users, self.num_items, like.device,
                        like.dtype, batch=True)

    def knn_graph(self, name: str, weight: str = 'cosine') -> CSRMatrix:
        r"""Returns the graph of a modality's features."""
        x, mask = self.item_features.rows(name)
        scaling = 'standardize' if self.maps.standardize else 'raw'
        return item_knn_graph(x, self.k, mask, self.loop, weight,
                              scaling=scaling, cache='memory')

    def build_graphs(self) -> None:
        r"""Makes all graphs of features that are new."""
        raise NotImplementedError

    def require_graphs(self) -> None:
        r"""Raises a :obj:`ValueError` if there are no graphs yet."""
        if not self.maps.has_statistics:
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
        super().set_features(features, masks, fit)
        if fit:
            self.build_graphs()

    def __repr__(self) -> str:
        config = self.config()
        sizes = f'{config.pop("num_users")}, {config.pop("num_items")}'
        options = ', '.join(f'{k}={v!r}' for k, v in config.items())
        return f'{self.__class__.__name__}({sizes}, {options})'
