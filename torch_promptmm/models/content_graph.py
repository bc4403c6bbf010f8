from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import check_int
from torch_promptmm.models.base import ModelOutput, take
from torch_promptmm.models.feature_model import FeatureModel
from torch_promptmm.nn.feature_maps import FeatureMaps
from torch_promptmm.nn.functional import masked_rows, modality_key
from torch_promptmm.nn.graph import UserItemGraph, as_graph
from torch_promptmm.nn.item_features import ItemFeatures


class ContentGraphModel(FeatureModel):
    r"""The base class of models with a table of IDs and, for each modality, a
    linear map of the items' features and a table of what users like of them.

    .. math::
        \mathbf{Z}_m = \hat{\mathbf{X}}_m \mathbf{W}_m + \mathbf{1}
        \mathbf{b}_m^{\top}, \qquad \mathbf{P}_m \in
        \mathbb{R}^{|\mathcal{U}| \times d_c}

    Features are standardised column by column and held by reference. They
    are multiplied whole, once a step: what a model does with the rows of
    :math:`\mathbf{Z}_m` looks at neighbours of neighbours. An item that
    lacks a modality has a zero row. The L2 term falls on the rows of the
    tables.

    Args:
        num_users (int): The number of users :math:`|\mathcal{U}|`.
        num_items (int): The number of items :math:`|\mathcal{I}|`.
        in_channels (dict): The width :math:`d_m` of each modality.
        hidden_channels (int): The width :math:`d` of an ID embedding.
        content_channels (int): The width :math:`d_c` of content.
        standardize (bool, optional): If :obj:`False`, features are taken as
            they are. (default: :obj:`True`)
    """
    def __init__(
        self,
        num_users: int,
        num_items: int,
        in_channels: Mapping[str, int],
        hidden_channels: int,
        content_channels: int,
        standardize: bool = True,
    ) -> None:
        features = ItemFeatures(in_channels, num_items)
        super().__init__(check_int('num_users', num_users, 1),
                         check_int('num_items', num_items, 1), features)
        self.hidden_channels = check_int('hidden_channels', hidden_channels, 1)
        self.content_channels = check_int('content_channels',
                                          content_channels, 1)
        self.user_embedding = torch.nn.Embedding(num_users, hidden_channels)
        self.item_embedding = torch.nn.Embedding(num_items, hidden_channels)
        self.preferences = torch.nn.ModuleDict({
            modality_key(name): torch.nn.Embedding(num_users, content_channels)
            for name in in_channels
        })
        self.maps = FeatureMaps(features, content_channels, standardize,
                                normalize=False)

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module; statistics of the
        features stay."""
        for table in (*self.user_tables, self.item_embedding.weight):
            torch.nn.init.xavier_normal_(table)
        self.maps.reset_parameters()

    def config(self) -> dict[str, Any]:
        return {
            'num_users': self.num_users,
            'num_items': self.num_items,
            'in_channels': self.item_features.in_channels,
            'hidden_channels': self.hidden_channels,
            'content_channels': self.content_channels,
            'standardize': self.maps.standardize,
        }

    def preference(self, name: str) -> Tensor:
        r"""The users' table of a modality :math:`(|\mathcal{U}|, d_c)`."""
        return self.preferences[modality_key(name)].weight  # type: ignore

    @property
    def user_tables(self) -> list[Tensor]:
        r"""The IDs of users, and their table of each modality."""
        return [self.user_embedding.weight,
                *(self.preference(name) for name in self.modalities)]

    def content(self, name: str, negative_slope: float = 1.0) -> Tensor:
        r"""Returns :math:`\mathbf{Z}_m` :math:`(|\mathcal{I}|, d_c)`, after
        a leaky ReLU."""
        out = self.maps(name)
        if negative_slope != 1.0:
            out = torch.nn.functional.leaky_relu(out, negative_slope)
        return masked_rows(out, self.item_features.masks.get(name))

    def as_graph(self, graph: Adj | UserItemGraph) -> UserItemGraph:
        r"""Returns a graph where the model is, in its type."""
        weight = self.item_embedding.weight
        return as_graph(graph, self.num_users, self.num_items, weight.device,
                        weight.dtype)

    def ids(self, graph: UserItemGraph) -> tuple[Tensor, Tensor]:
        r"""Returns the ID embeddings. Those of users and items without an
        interaction, which nothing has trained, are zero: left random, they
        would drown the content."""
        tables = self.user_embedding.weight, self.item_embedding.weight
        user, item = (
            masked_rows(table, matrix.crow.diff() > 0)
            for table, matrix in zip(
                tables, (graph.user_item, graph.item_user), strict=True))
        return user, item

    def rows(
        self,
        graph: UserItemGraph,
        user_id: Tensor,
        item_id: Tensor,
        num_ego: int = 0,
    ) -> ModelOutput:
        r"""Returns the rows of a training step; the L2 term falls on those
        of the tables."""
        out = self(graph, user_id, item_id)
        if num_ego > 0:
            user = torch.cat([take(x, user_id) for x in self.user_tables], 1)
            out.ego = user, take(self.item_embedding.weight,
                                 item_id[:num_ego])
        return out

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.num_users}, '
                f'{self.num_items}, in_channels='
                f'{self.item_features.in_channels}, '
                f'hidden_channels={self.hidden_channels}, '
                f'content_channels={self.content_channels})')
