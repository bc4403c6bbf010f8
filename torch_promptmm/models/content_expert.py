from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import check_choice, check_float, check_int
from torch_promptmm.data import InteractionData
from torch_promptmm.models.base import ModelOutput, Pair, RankingModel, take
from torch_promptmm.nn.feature_matmul import row_slices
from torch_promptmm.nn.functional import unit_rows
from torch_promptmm.nn.graph import CSRMatrix, UserItemGraph, as_graph
from torch_promptmm.nn.item_features import ItemFeatures
from torch_promptmm.nn.standard_rows import SCALINGS, StandardRows

_BLOCK_SIZE = 2**24  # Elements that are propagated at a time.


class ContentExpert(RankingModel):
    r"""Content alone, at its full width and without a parameter: items are
    the features of their own and of what their users have read, users the
    mean of their items. For each modality,

    .. math::
        \mathbf{h}^m_i = \frac{\mathbf{y}_i}{\| \mathbf{y}_i \|}, \quad
        \mathbf{Y} = \hat{\mathbf{X}}_m + \gamma \, \mathbf{R}^{\top}
        \mathbf{R} \hat{\mathbf{X}}_m, \qquad
        \mathbf{h}^m_u = \frac{\sum_{i \in \mathcal{N}_u} \mathbf{h}^m_i}
        {\| \sum_{i \in \mathcal{N}_u} \mathbf{h}^m_i \|},

    with the rows :math:`\hat{\mathbf{X}}_m` of
    :class:`~torch_promptmm.nn.standard_rows.StandardRows`, which are scaled
    in one of three ways, and the normalised :math:`\mathbf{R}` of
    :class:`~torch_promptmm.nn.UserItemGraph`. An item without an interaction
    keeps its own features; what has neither is zero. Each edge counts once
    in the mean, whatever its weight.

    The tables are made in place, in blocks of rows and of columns: beside
    them, there is never more than a few blocks. They are made anew at each
    call, so keep what it returns.

    Args:
        num_users (int): The number of users :math:`|\mathcal{U}|`.
        num_items (int): The number of items :math:`|\mathcal{I}|`.
        in_channels (dict): The width :math:`d_m` of each modality.
        hop (float, optional): The weight :math:`\gamma` of what an item's
            users have read; with 0 nothing is propagated.
            (default: :obj:`2.0`)
        scaling (str or dict, optional): How features are scaled before
            their rows are made units: :obj:`"standardize"`, :obj:`"raw"` or
            :obj:`"whiten"`, for all modalities or for each. It is in the
            state. (default: :obj:`"standardize"`)
        dtype (torch.dtype or str, optional): The type of the tables, such as
            :obj:`torch.half`; products are in single precision at least.
            (default: :obj:`torch.float`)

    Shapes:
        - **input:** a user-item graph, any PyG adjacency or a
          :class:`~torch_promptmm.nn.UserItemGraph`
        - **output:** user embeddings :math:`(|\mathcal{U}|, w)` and item
          embeddings :math:`(|\mathcal{I}|, w)`, the modalities side by side,
          :math:`w = \sum_m d_m`; those of each modality are views of them
    """
    needs_features = True

    def __init__(
        self,
        num_users: int,
        num_items: int,
        in_channels: Mapping[str, int],
        hop: float = 2.0,
        scaling: str | Mapping[str, str] = 'standardize',
        dtype: torch.dtype | str = torch.float,
    ) -> None:
        super().__init__(check_int('num_users', num_users, 1),
                         check_int('num_items', num_items, 1),
                         ItemFeatures(in_channels, num_items))
        self.in_channels = dict(in_channels)
        self.hop = check_float('hop', hop)
        self.dtype = _check_dtype(dtype)
        # In the state, for an ensemble chooses it.
        self._scaling: Tensor
        self.register_buffer('_scaling', torch.zeros(
            len(self.in_channels), dtype=torch.long))
        self.scaling = (dict.fromkeys(self.in_channels, scaling)
                        if isinstance(scaling, str) else scaling)

    @classmethod
    def from_view(cls, view: InteractionData, hidden_channels: int = 64,
                  **kwargs: Any) -> ContentExpert:
        r"""Builds the model from a graph that was read; the width is that of
        the features, whatever :obj:`hidden_channels` says."""
        widths = {name: x.size(1) for name, x in view.features.items()}
        model = cls(view.num_users, view.num_items, widths, **kwargs)
        model.give_features(view)
        return model

    @property
    def width(self) -> int:
        return sum(self.in_channels.values())

    @property
    def scaling(self) -> dict[str, str]:
        r"""How the features of each modality are scaled."""
        return {name: SCALINGS[i] for name, i in zip(
            self.in_channels, self._scaling.tolist(), strict=True)}

    @scaling.setter
    def scaling(self, scaling: Mapping[str, str]) -> None:
        if not isinstance(scaling, Mapping) or (
                set(scaling) != set(self.in_channels)):
            raise ValueError(f"'scaling' must be a name, or have one for "
                             f"each of {list(self.in_channels)} (got "
                             f"{scaling!r})")
        for value in scaling.values():
            check_choice('scaling', value, SCALINGS)
        self._scaling.copy_(torch.tensor([
            SCALINGS.index(scaling[name]) for name in self.in_channels
        ]))

    def config(self) -> dict[str, Any]:
        return {
            'num_users': self.num_users,
            'num_items': self.num_items,
            'in_channels': self.in_channels,
            'hop': self.hop,
            'scaling': self.scaling,
            'dtype': str(self.dtype).removeprefix('torch.'),
        }

    def reset_parameters(self) -> None:
        r"""Does nothing: there is no parameter."""

    @torch.no_grad()
    def forward(
        self,
        graph: Adj | UserItemGraph,
        user_id: Tensor | None = None,
        item_id: Tensor | None = None,
    ) -> ModelOutput:
        r"""Returns user and item embeddings, on the device of the graph.

        Args:
            graph (torch.Tensor or SparseTensor or UserItemGraph): The
                user-item graph.
            user_id (torch.Tensor, optional): Compute these users only.
                (default: :obj:`None`)
            item_id (torch.Tensor, optional): Return these items only; all
                of them are computed. (default: :obj:`None`)
        """
        self._require()
        graph, edges = self._graphs(graph, user_id)
        item, user = self._empty(graph, edges, self.width)
        for name, cols in self._columns().items():
            self._fill(item[:, cols], user[:, cols], name, graph, edges)
        item = take(item, item_id)
        return ModelOutput(user, item, {
            name: (user[:, cols], item[:, cols])
            for name, cols in self._columns().items()
        })

    @torch.no_grad()
    def modality(
        self,
        name: str,
        graph: Adj | UserItemGraph,
        user_id: Tensor | None = None,
        scaling: str | None = None,
    ) -> Pair:
        r"""Returns the user and item embeddings of one modality.

        Args:
            name (str): The modality.
            graph (torch.Tensor or SparseTensor or UserItemGraph): The
                user-item graph.
            user_id (torch.Tensor, optional): Compute these users only.
                (default: :obj:`None`)
            scaling (str, optional): Another way to scale its features.
                (default: that of the model)
        """
        self._require()
        graph, edges = self._graphs(graph, user_id)
        item, user = self._empty(graph, edges, self.in_channels[name])
        self._fill(item, user, name, graph, edges, scaling)
        return user, item

    def _require(self) -> None:
        assert self.item_features is not None
        self.item_features.require()

    def _graphs(self, graph: Adj | UserItemGraph, user_id: Tensor | None
                ) -> tuple[UserItemGraph, CSRMatrix]:
        r"""The graph in the type of products, and the mean over the items of
        each user who is asked for."""
        wide = torch.promote_types(self.dtype, torch.float)
        graph = as_graph(graph, self.num_users, self.num_items, dtype=wide)
        edges = graph.user_item.edge_means()
        return graph, edges if user_id is None else edges.select_rows(user_id)

    def _empty(self, graph: UserItemGraph, edges: CSRMatrix,
               width: int) -> Pair:
        return tuple(  # type: ignore[return-value]
            torch.empty(num, width, dtype=self.dtype, device=graph.device)
            for num in (self.num_items, edges.shape[0]))

    def _columns(self) -> dict[str, slice]:
        out, start = {}, 0
        for name, width in self.in_channels.items():
            out[name] = slice(start, start + width)
            start += width
        return out

    def _fill(self, item: Tensor, user: Tensor, name: str,
              graph: UserItemGraph, edges: CSRMatrix,
              scaling: str | None = None) -> None:
        r"""Writes a modality's columns of both tables."""
        # Sparse products are not there in every type that autocast may choose.
        with torch.autocast(graph.device.type, enabled=False):
            self._fill_items(item, name, graph,
                             scaling or self.scaling[name])
            for cols in self._blocks(item):
                user[:, cols] = edges.matmul(
                    item[:, cols].to(graph.dtype).contiguous())
            _scale_rows_(user, graph.dtype)

    def _fill_items(self, item: Tensor, name: str, graph: UserItemGraph,
                    scaling: str) -> None:
        features = self.item_features
        assert features is not None
        scaled = StandardRows(features.tensors[name],
                              features.masks.get(name),
                              graph.user_item.value, scaling)
        for rows in row_slices(item):
            item[rows] = scaled(rows)
        if self.hop > 0.0:
            for cols in self._blocks(item):
                x = item[:, cols].to(graph.dtype).contiguous()
                y = graph.item_user.matmul(graph.user_item.matmul(x))
                item[:, cols] = y.mul_(self.hop).add_(x)
            _scale_rows_(item, graph.dtype)

    def _blocks(self, item: Tensor) -> list[slice]:
        step = max(1, _BLOCK_SIZE // (self.num_users + self.num_items))
        return [slice(start, start + step)
                for start in range(0, item.size(1), step)]

    def __repr__(self) -> str:
        widths = ', '.join(f'{k}={v}' for k, v in self.in_channels.items())
        return (f'{self.__class__.__name__}({self.num_users}, '
                f'{self.num_items}, {widths}, hop={self.hop}, '
                f'scaling={self.scaling}, dtype={self.dtype})')


def _check_dtype(dtype: Any) -> torch.dtype:
    value = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise ValueError(f"'dtype' must be a floating-point type, such as "
                         f"torch.half or 'float16' (got {dtype!r})")
    return value


def _scale_rows_(x: Tensor, wide: torch.dtype) -> None:
    for rows in row_slices(x):
        x[rows] = unit_rows(x[rows].to(wide)).to(x.dtype)
