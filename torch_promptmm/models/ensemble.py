from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import check_bool, check_float, check_int
from torch_promptmm.data import InteractionData
from torch_promptmm.models.base import (
    ModelOutput,
    Pair,
    RankingModel,
    as_output,
    take,
)
from torch_promptmm.models.content_expert import ContentExpert
from torch_promptmm.models.door import model_from_config, saved_config
from torch_promptmm.models.light_gcn import LightGCN
from torch_promptmm.models.multimodal_teacher import MultimodalTeacher
from torch_promptmm.models.propagated_features import can_propagate
from torch_promptmm.models.ridge import ridge_rows
from torch_promptmm.nn.compression import compress
from torch_promptmm.nn.functional import unit_rows
from torch_promptmm.nn.graph import UserItemGraph, as_graph
from torch_promptmm.nn.prompt import SoftPrompt

# The weight of the modalities in the member that learns content.
PROMPTED_FUSION = 1.0


@dataclass(frozen=True)
class Fusion:
    r"""How the parts of an :class:`Ensemble` are added up; chosen on
    validation, not learned.

    Args:
        weights (dict, optional): :math:`w_m` of each modality.
            (default: none)
        popularity (float, optional): :math:`\rho`. (default: :obj:`0.0`)
        cold_weight (float, optional): :math:`\kappa`.
            (default: :obj:`1.0`)
        rank (int, optional): :math:`r`; 0 is no such part.
            (default: :obj:`0`)
        whole (float, optional): :math:`a`. (default: :obj:`1.0`)
        prompted (float, optional): :math:`w_{\mathbf{P}}`.
            (default: :obj:`0.0`)
    """
    weights: Mapping[str, float] = field(default_factory=dict)
    popularity: float = 0.0
    cold_weight: float = 1.0
    rank: int = 0
    whole: float = 1.0
    prompted: float = 0.0

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            check_float(f'weights[{name!r}]', weight)
        for name in ('popularity', 'cold_weight', 'whole', 'prompted'):
            check_float(name, getattr(self, name))
        check_int('rank', self.rank)


class Ensemble(RankingModel):
    r"""Several models side by side: the score is a weighted sum of cosines,
    which is one dot product,

    .. math::
        s(u, i) = \kappa_i \Big( p_i \big( a \, c_{ui} + c^{(r)}_{ui}
        \big) + \sum_{m} w_m \cos(\mathbf{h}^m_u, \mathbf{h}^m_i) +
        w_{\mathbf{P}} \cos(\mathbf{f}_u, \mathbf{f}_i) \Big), \quad
        c_{ui} = \frac{1}{K} \sum_{k=1}^{K} \cos(\mathbf{e}^k_u,
        \mathbf{e}^k_i), \quad p_i = (\deg(i) + 1)^\rho .

    The members learn rows of users and items, the content expert needs no
    training. :math:`c^{(r)}` is :math:`c` in the :math:`r` leading joint
    directions of the members' rows (:func:`~torch_promptmm.nn.compress`),
    which are less noisy than all of them. :math:`\mathbf{f}` are the rows
    of a member that learns content, reduced and opened by a soft prompt, if
    there is one. What is not learned, :math:`\rho, \kappa, r, a, w_m` and
    :math:`w_{\mathbf{P}}`, is a :class:`Fusion`.

    Rows of the members for users and items *without a training interaction*
    are not what was learned, for nothing was: those of users are zero, those
    of items are imputed from their content by a ridge regression
    (:func:`~torch_promptmm.models.ridge_rows`, weighted by the root of the
    degree), or zero where there is no content. Of such items :math:`p_i = 1`
    and :math:`\kappa_i = \kappa`, which sets how high they rise among the
    others; else :math:`\kappa_i = 1`.

    Args:
        members (list of RankingModel): The :math:`K` models that learn.
        content (ContentExpert, optional): The content.
            (default: :obj:`None`)
        fusion (Fusion, optional): How the parts are added up.
            (default: each modality with weight 1.0, and the prompted member
            too)
        prompted (MultimodalTeacher, optional): The member that learns
            content. (default: :obj:`None`)

    Shapes:
        - **input:** a user-item graph, any PyG adjacency or a
          :class:`~torch_promptmm.nn.UserItemGraph`
        - **output:** user embeddings :math:`(|\mathcal{U}|, w)` and item
          embeddings :math:`(|\mathcal{I}|, w)`, where :math:`w` is the sum
          of the members' and the modalities' widths, and the rank
    """
    score = 'dot'

    def __init__(
        self,
        members: Sequence[RankingModel],
        content: ContentExpert | None = None,
        fusion: Fusion | None = None,
        prompted: MultimodalTeacher | None = None,
    ) -> None:
        members = list(members)
        if not members or not all(isinstance(x, RankingModel)
                                  for x in members):
            raise ValueError(f"'members' must be at least one RankingModel "
                             f"(got {[type(x).__name__ for x in members]})")
        if prompted is not None and content is None:
            raise ValueError("'prompted' learns content: give 'content' too")
        first = members[0]
        for other in (*members, *(x for x in (content, prompted)
                                  if x is not None)):
            sizes = (other.num_users, other.num_items)
            if sizes != (first.num_users, first.num_items):
                raise ValueError(f'All members must be of '
                                 f'{first.num_users} users and '
                                 f'{first.num_items} items (got one of '
                                 f'{sizes[0]} and {sizes[1]})')
        super().__init__(first.num_users, first.num_items,
                         None if content is None else content.item_features)
        self.members = torch.nn.ModuleList(members)
        self.content, self.prompted = content, prompted
        # In the state, for it is chosen for the members' weights.
        self._fusion: Tensor
        size = 4 + len(self.modalities) + (prompted is not None)
        self.register_buffer('_fusion', torch.empty(size, dtype=torch.double))
        self._start = fusion or Fusion(
            dict.fromkeys(self.modalities, 1.0),
            prompted=0.0 if prompted is None else 1.0)
        self.fusion = self._start

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
        train_content: bool | None = None,
        prompt: str | None = None,
        prompt_layers: int = 1,
        prompt_weight: float = 1.0,
        normalize: bool | str = 'size',
        **kwargs: Any,
    ) -> Ensemble:
        r"""Builds LightGCNs and a content expert from a graph that was read,
        and a member that learns content, if it is asked for.

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
            train_content (bool, optional): Have a member that learns
                content. (default: if there is a prompt)
            prompt (str, optional): The soft prompt of that member, see
                :meth:`MultimodalTeacher.from_view()
                <torch_promptmm.models.MultimodalTeacher.from_view>`.
                (default: :obj:`None`)
            prompt_layers (int, optional): The same.
                (default: :obj:`1`)
            prompt_weight (float, optional): See
                :class:`~torch_promptmm.nn.PromptedReduction`.
                (default: :obj:`1.0`)
            normalize (bool or str, optional): The same.
                (default: :obj:`"size"`)
            **kwargs (optional): Arguments of the model.
        """
        check_int('num_members', num_members, 1)
        if train_content is None:
            train_content = prompt is not None
        check_bool('train_content', train_content)
        if prompt is not None and not train_content:
            raise ValueError(f"'prompt' opens the member that learns content: "
                             f"set prompt=None, or train_content=True (got "
                             f"prompt={prompt!r})")
        if train_content and not (use_content and view.features):
            raise ValueError("'train_content' needs content, but there is "
                             "none, or 'use_content' is False")
        members = [LightGCN(view.num_users, view.num_items, hidden_channels,
                            num_layers) for _ in range(num_members)]
        content = None
        if use_content and view.features:
            content = ContentExpert.from_view(view, hop=hop,
                                              standardize=standardize)
        prompted = None
        if train_content:
            prompted = MultimodalTeacher.from_view(
                view, hidden_channels, prompt, prompt_layers, standardize,
                num_layers=num_layers, fusion_weight=PROMPTED_FUSION,
                prompt_weight=prompt_weight, normalize=normalize)
        return cls(members, content, prompted=prompted, **kwargs)

    @property
    def width(self) -> int:
        parts = [*self.members, *(x for x in (self.content, self.prompted)
                                  if x is not None)]
        return self.fusion.rank + sum(
            part.width for part in parts)  # type: ignore[misc]

    @property
    def fusion(self) -> Fusion:
        r"""How the parts are added up."""
        rho, kappa, rank, whole, *weights = self._fusion.tolist()
        prompted = 0.0 if self.prompted is None else weights.pop()
        return Fusion(dict(zip(self.modalities, weights, strict=True)), rho,
                      kappa, int(rank), whole, prompted)

    @fusion.setter
    def fusion(self, fusion: Fusion) -> None:
        if set(fusion.weights) != set(self.modalities):
            raise ValueError(f"'fusion' must have a weight for each of "
                             f"{self.modalities} (got "
                             f"{list(fusion.weights)})")
        if fusion.prompted > 0.0 and self.prompted is None:
            raise ValueError(f"'fusion' weighs a prompted member, which there "
                             f"is not (got prompted={fusion.prompted})")
        own = [] if self.prompted is None else [fusion.prompted]
        self._fusion.copy_(torch.tensor([
            fusion.popularity, fusion.cold_weight, fusion.rank, fusion.whole,
            *(fusion.weights[name] for name in self.modalities), *own
        ], dtype=torch.double))

    @property
    def prompt(self) -> SoftPrompt | None:
        r"""The prompt of the member that learns content."""
        return None if self.prompted is None else self.prompted.prompt

    def inject(self, prompt: SoftPrompt) -> None:
        r"""Puts another prompt into the member that learns content."""
        if self.prompted is None:
            raise ValueError("'prompt' opens a member that learns content, "
                             "which there is not: set train_content=True")
        self.prompted.inject(prompt)

    def give_features(self, view: InteractionData) -> None:
        super().give_features(view)
        if self.prompted is not None:
            self.prompted.give_features(view)

    def release_features(self) -> None:
        super().release_features()
        if self.prompted is not None:
            self.prompted.release_features()

    def cache_features(self, graph: UserItemGraph | None) -> None:
        if self.prompted is not None:
            exact = can_propagate(self.prompted)
            self.prompted.cache_features(graph if exact else None)

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
            assert features is not None
            features.require()
            imputed = ridge_rows(features.tensors, features.masks, item,
                                 degree_item.view(-1).to(item).sqrt())
        item = torch.where(degree_item > 0, item, imputed)
        content = {} if self.content is None else as_output(
            self.content(graph)).modalities
        return (user, item), content

    @torch.no_grad()
    def prompted_rows(self, graph: UserItemGraph) -> Pair | None:
        r"""Returns the unit rows of the member that learns content, if there
        is one."""
        if self.prompted is None:
            return None
        out = as_output(self.prompted(graph))
        return unit_rows(out.user), unit_rows(out.item)

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
        fusion = self.fusion
        degree = graph.item_user.crow.diff().view(-1, 1)
        cold = torch.where(degree > 0, 1.0, fusion.cold_weight)
        popular = torch.where(
            degree > 0, (degree + 1).to(item)**fusion.popularity, cold)
        pairs = [(fusion.whole**0.5, user, item, popular)]
        if fusion.rank > 0:
            pairs.append((1.0, *compress(user, item, fusion.rank), popular))
        pairs += [(fusion.weights[name]**0.5, x_user.to(user),
                   x_item.to(item), cold)
                  for name, (x_user, x_item) in content.items()]
        prompted = self.prompted_rows(graph)
        if prompted is not None:
            pairs.append((fusion.prompted**0.5, prompted[0].to(user),
                          prompted[1].to(item), cold))
        users = [root * x for root, x, _, _ in pairs]
        items = [root * scale * x for root, _, x, scale in pairs]
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
            'prompted': saved_config(self.prompted),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Ensemble:
        members = [model_from_config(x) for x in config['members']]
        content, prompted = (
            None if config.get(name) is None else
            model_from_config(config[name]) for name in ('content', 'prompted'))
        assert content is None or isinstance(content, ContentExpert)
        assert prompted is None or isinstance(prompted, MultimodalTeacher)
        return cls(members, content, prompted=prompted)

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the members, and the fusion to
        what was given."""
        for member in self.members:
            member.reset_parameters()  # type: ignore[operator]
        if self.prompted is not None:
            self.prompted.reset_parameters()
        self.fusion = self._start

    def __repr__(self) -> str:
        prompted = ('' if self.prompted is None else
                    f'prompted={self.prompted}, ')
        return (f'{self.__class__.__name__}({len(self.members)} x '
                f'{self.members[0]}, content={self.content}, {prompted}'
                f'{self.fusion})')
