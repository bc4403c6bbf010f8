from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import check_int
from torch_promptmm.data import InteractionData
from torch_promptmm.models.base import ModelOutput, Pair, RankingModel, take
from torch_promptmm.nn import co_occurrence_graph
from torch_promptmm.nn.csr import CSRMatrix
from torch_promptmm.nn.functional import unit_rows
from torch_promptmm.nn.graph import UserItemGraph, as_graph

_OVERSAMPLES, _POWERS = 16, 2


class CoOccurrence(RankingModel):
    r"""Items that share users, without a parameter: the score of an item is
    the mean weight of its edges to those of the user,

    .. math::
        s(u, i) = \frac{1}{|\mathcal{N}_u|} \sum_{j \in \mathcal{N}_u}
        C_{ij},

    in the graph :math:`\mathbf{C}` of
    :func:`~torch_promptmm.nn.co_occurrence_graph`, cut to its leading
    :math:`r` singular directions (`"Finding Structure with Randomness"
    <https://arxiv.org/abs/0909.4061>`_), so that it is a dot product of
    :math:`r` columns. What is cut off is noise in part: few directions rank
    nearly as well beside other models as all of them do.

    The tables are made anew at each call, in a few sparse products.

    Args:
        num_users (int): The number of users :math:`|\mathcal{U}|`.
        num_items (int): The number of items :math:`|\mathcal{I}|`.
        hidden_channels (int, optional): The number :math:`r` of directions.
            (default: :obj:`64`)
        neighbors (int, optional): The edges that an item has at most.
            (default: :obj:`20`)

    Shapes:
        - **input:** a user-item graph, any PyG adjacency or a
          :class:`~torch_promptmm.nn.UserItemGraph`
        - **output:** user embeddings :math:`(|\mathcal{U}|, r)` and item
          embeddings :math:`(|\mathcal{I}|, r)`; those of users and items
          without an interaction are zero
    """
    score = 'dot'

    def __init__(self, num_users: int, num_items: int,
                 hidden_channels: int = 64, neighbors: int = 20) -> None:
        super().__init__(check_int('num_users', num_users, 1),
                         check_int('num_items', num_items, 1))
        self.hidden_channels = check_int('hidden_channels', hidden_channels, 1)
        self.neighbors = check_int('neighbors', neighbors, 1)

    @classmethod
    def from_view(cls, view: InteractionData, hidden_channels: int = 64,
                  **kwargs: Any) -> CoOccurrence:
        return cls(view.num_users, view.num_items, hidden_channels, **kwargs)

    @property
    def width(self) -> int:
        return self.hidden_channels

    def config(self) -> dict[str, Any]:
        return {
            'num_users': self.num_users,
            'num_items': self.num_items,
            'hidden_channels': self.hidden_channels,
            'neighbors': self.neighbors,
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
            user_id (torch.Tensor, optional): Return these users only.
                (default: :obj:`None`)
            item_id (torch.Tensor, optional): Return these items only.
                (default: :obj:`None`)
        """
        graph = as_graph(graph, self.num_users, self.num_items)
        mean = graph.user_item.edge_means()
        # Sparse products are not there in every type that autocast may choose.
        with torch.autocast(graph.device.type, enabled=False):
            user, item = _leading_directions(
                mean, co_occurrence_graph(graph, self.neighbors),
                self.hidden_channels)
        return ModelOutput(take(user, user_id), take(item, item_id))

    @torch.no_grad()
    def unit_pair(self, graph: UserItemGraph) -> Pair:
        r"""Returns rows whose dot products rank as the scores do, on the
        scale of a cosine: the length of an item's row is part of its scores,
        not of a user's."""
        user, item, _ = self(graph)
        warm = graph.item_user.crow.diff().view(-1, 1) > 0
        length = item.norm(dim=1, keepdim=True)[warm].mean()
        return unit_rows(user), item / length.clamp(min=1e-12)

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.num_users}, '
                f'{self.num_items}, hidden_channels={self.hidden_channels}, '
                f'neighbors={self.neighbors})')


def _leading_directions(mean: CSRMatrix, edges: CSRMatrix,
                        rank: int) -> Pair:
    r"""The leading singular directions of the product of the users' means and
    the transposed graph, by a randomised range finder with power steps. The
    singular values go to the users."""
    mean_t, edges_t = mean.t, edges.t
    num_users, num_items = mean.shape
    width = min(rank + _OVERSAMPLES, num_users, num_items)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num_items, width, generator=generator).to(mean.value)
    for _ in range(_POWERS + 1):
        basis = torch.linalg.qr(mean.matmul(edges_t.matmul(x))).Q
        x = edges.matmul(mean_t.matmul(basis))
        cross = x
        x = torch.linalg.qr(x).Q
    item, value, inner = torch.linalg.svd(cross, full_matrices=False)
    pad = (0, rank - min(rank, width))
    user = basis @ (inner.t() * value)[:, :rank]
    return (torch.nn.functional.pad(user, pad),
            torch.nn.functional.pad(item[:, :rank], pad))
