from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import check_float
from torch_promptmm.data import InteractionData
from torch_promptmm.models.base import (
    ModelOutput,
    Pair,
    RankingModel,
    as_output,
    model_from_config,
    saved_config,
    take,
)
from torch_promptmm.models.content_expert import ContentExpert
from torch_promptmm.models.light_gcn import LightGCN
from torch_promptmm.models.ridge import ridge_rows
from torch_promptmm.nn.functional import unit_rows
from torch_promptmm.nn.graph import UserItemGraph, as_graph


class Ensemble(RankingModel):
    r"""Several models side by side: the score is a weighted sum of cosines,
    which is one dot product,

    .. math::
        s(u, i) = \kappa_i \Big( \frac{p_i}{K} \sum_{k=1}^{K} \cos(
        \mathbf{e}^k_u, \mathbf{e}^k_i) + \sum_{m} w_m \cos(\mathbf{h}^m_u,
        \mathbf{h}^m_i) \Big), \qquad p_i = (\deg(i) + 1)^\rho .

    The members learn rows of users and items, the content expert needs no
    training. Rows of the members for users and items *without a training
    interaction* are not what was learned, for nothing was: those of users
    are zero, those of items are imputed from their content by a ridge
    regression (:func:`~torch_promptmm.models.ridge.ridge_rows`, weighted by
    the root of the degree), or zero where there is no content. Of such items
    :math:`p_i = 1` and :math:`\kappa_i = \kappa`, which sets how high they
    rise among the others; else :math:`\kappa_i = 1`.

    Args:
        members (list of RankingModel): The :math:`K` models that learn.
        content (ContentExpert, optional): The content.
            (default: :obj:`None`)
        weights (dict, optional): :math:`w_m` of each modality.
            (default: 1.0 each)
        popularity (float, optional): :math:`\rho`. (default: :obj:`0.0`)
        cold_weight (float, optional): :math:`\kappa`.
            (default: :obj:`1.0`)

    Shapes:
        - **input:** a user-item graph, any PyG adjacency or a
          :class:`~torch_promptmm.nn.UserItemGraph`
        - **output:** user embeddings :math:`(|\mathcal{U}|, w)` and item
          embeddings :math:`(|\mathcal{I}|, w)`, where :math:`w` is the sum
          of the members' and the modalities' widths
    """
    score = 'dot'

    def __init__(
        self,
        members: Sequence[RankingModel],
        content: ContentExpert | None = None,
        weights: Mapping[str, float] | None = None,
        popularity: float = 0.0,
        cold_weight: float = 1.0,
    ) -> None:
        members = list(members)
        if not members or not all(isinstance(x, RankingModel)
                                  for x in members):
            raise ValueError(f"'members' must be at least one RankingModel "
                             f"(got {[type(x).__name__ for x in members]})")
        first = members[0]
        for other in (*members, *([] if content is None else [content])):
            sizes = (other.num_users, other.num_items)
            if sizes != (first.num_users, first.num_items):
                raise ValueError(f"All members must be of "
                                 f"{first.num_users} users and "
                                 f"{first.num_items} items (got one of "
                                 f"{sizes[0]} and {sizes[1]})")
        super().__init__(first.num_users, first.num_items,
                         None if content is None else content.item_features)
        self.members = torch.nn.ModuleList(members)
        self.content = content
        # In the state, for it is chosen with the members' weights.
        self.fusion: Tensor
        self.register_buffer('fusion', torch.empty(2 + len(self.modalities),
                                                   dtype=torch.double))
        self.set_weights(dict.fromkeys(self.modalities, 1.0)
                         if weights is None else weights, popularity,
                         cold_weight)

    @classmethod
    def from_view(
        cls,
        view: InteractionData,
        hidden_channels: int = 64,
        num_members: int = 1,
        num_layers: int = 2,
        hop: float = 2.0,
        standardize: bool = True,
        use_content: bool = True,
        **kwargs: Any,
    ) -> Ensemble:
        r"""Builds LightGCNs and a content expert from a graph that was read.

        Args:
            view (InteractionData): The training graph.
            hidden_channels (int): The width of each member.
            num_members (int, optional): The number of LightGCNs.
                (default: :obj:`1`)
            num_layers (int, optional): Their propagation steps.
                (default: :obj:`2`)
            hop (float, optional): See
                :class:`~torch_promptmm.models.ContentExpert`.
                (default: :obj:`2.0`)
            standardize (bool, optional): Standardise the features.
                (default: :obj:`True`)
            use_content (bool, optional): If :obj:`False`, no content is
                read. (default: :obj:`True`)
            **kwargs (optional): Arguments of the model.
        """
        members = [LightGCN(view.num_users, view.num_items, hidden_channels,
                            num_layers) for _ in range(num_members)]
        content = None
        if use_content and view.features:
            content = ContentExpert.from_view(view, hop=hop,
                                              standardize=standardize)
        return cls(members, content, **kwargs)

    @property
    def width(self) -> int:
        parts = [*self.members, *([] if self.content is None else
                                  [self.content])]
        return sum(part.width for part in parts)  # type: ignore[misc]

    def set_weights(self, weights: Mapping[str, float], popularity: float,
                    cold_weight: float) -> None:
        r"""Sets what training does not learn, see the class."""
        if set(weights) != set(self.modalities):
            raise ValueError(f"'weights' must be of the modalities "
                             f"{self.modalities} (got {list(weights)})")
        values = [check_float('popularity', popularity),
                  check_float('cold_weight', cold_weight)]
        values += [check_float(f'weights[{name!r}]', weights[name])
                   for name in self.modalities]
        self.fusion.copy_(torch.tensor(values))

    @property
    def popularity(self) -> float:
        r"""The exponent :math:`\rho` of the popularity."""
        return float(self.fusion[0])

    @property
    def cold_weight(self) -> float:
        r"""The weight :math:`\kappa` of items without an interaction."""
        return float(self.fusion[1])

    @property
    def weights(self) -> dict[str, float]:
        r"""The weight :math:`w_m` of each modality."""
        return dict(zip(self.modalities, self.fusion[2:].tolist(),
                        strict=True))

    @torch.no_grad()
    def parts(self, graph: UserItemGraph) -> tuple[Pair, dict[str, Pair]]:
        r"""Returns what the score is made of, before any weight: the rows of
        all members side by side, with zero and imputed rows, whose dot
        product is the mean of the members' cosines, and the unit rows of
        each modality."""
        num = len(self.members)**0.5
        output = [as_output(member(graph)) for member in self.members]
        user = torch.cat([unit_rows(x.user) for x in output], dim=1) / num
        item = torch.cat([unit_rows(x.item) for x in output], dim=1) / num
        degree_user = graph.user_item.crow.diff().view(-1, 1)
        degree_item = graph.item_user.crow.diff().view(-1, 1)
        user = torch.where(degree_user > 0, user, 0.0)
        imputed: Tensor | float = 0.0
        if self.content is not None and bool((degree_item == 0).any()):
            features = self.content.item_features
            features.require()
            imputed = ridge_rows(features.tensors, features.masks, item,
                                 degree_item.view(-1).to(item).sqrt())
        item = torch.where(degree_item > 0, item, imputed)
        content = {} if self.content is None else as_output(
            self.content(graph)).modalities
        return (user, item), content

    def item_scale(self, graph: UserItemGraph) -> Pair:
        r"""Returns what the score of each item is multiplied with, the
        members' part and all of it :math:`(|\mathcal{I}|, 1)`."""
        degree = graph.item_user.crow.diff().view(-1, 1).to(graph.dtype)
        cold = torch.where(degree > 0, 1.0, self.cold_weight)
        return torch.where(degree > 0, (degree + 1)**self.popularity,
                           1.0), cold

    @torch.no_grad()
    def forward(
        self,
        graph: Adj | UserItemGraph,
        user_id: Tensor | None = None,
        item_id: Tensor | None = None,
    ) -> ModelOutput:
        r"""Returns user and item embeddings, and the unit rows of each
        modality, without a gradient: the members are trained on their own,
        not through their sum.

        Args:
            graph (torch.Tensor or SparseTensor or UserItemGraph): The
                user-item graph.
            user_id (torch.Tensor, optional): Return these users only.
                (default: :obj:`None`)
            item_id (torch.Tensor, optional): Return these items only.
                (default: :obj:`None`)
        """
        like = next(self.members.parameters())
        graph = as_graph(graph, self.num_users, self.num_items, like.device,
                         like.dtype)
        (user, item), content = self.parts(graph)
        popular, cold = self.item_scale(graph)
        users, items = [user], [item * (popular * cold)]
        for name, (x_user, x_item) in content.items():
            root = self.weights[name]**0.5
            users.append(root * x_user.to(user.dtype))
            items.append(root * x_item.to(item.dtype) * cold)
        return ModelOutput(
            take(torch.cat(users, dim=1), user_id),
            take(torch.cat(items, dim=1), item_id), {
                name: (take(x_user, user_id), take(x_item, item_id))
                for name, (x_user, x_item) in content.items()
            })

    def config(self) -> dict[str, Any]:
        return {
            'members': [saved_config(member) for member in self.members],
            'content': saved_config(self.content),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Ensemble:
        content = config['content']
        return cls([model_from_config(x) for x in config['members']],
                   None if content is None else model_from_config(content))

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the members."""
        for member in self.members:
            member.reset_parameters()  # type: ignore[operator]

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({len(self.members)} x '
                f'{self.members[0]}, content={self.content}, '
                f'weights={self.weights}, popularity={self.popularity}, '
                f'cold_weight={self.cold_weight})')
