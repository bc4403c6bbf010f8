from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import check_int
from torch_promptmm.data import InteractionData
from torch_promptmm.models.base import (
    ModelOutput,
    Pair,
    RankingModel,
    as_output,
    take,
)
from torch_promptmm.models.co_occurrence import CoOccurrence
from torch_promptmm.models.content_expert import ContentExpert
from torch_promptmm.models.fusion import Fusion
from torch_promptmm.models.learned_content import learned_content
from torch_promptmm.models.light_gcn import LightGCN
from torch_promptmm.models.multimodal_teacher import MultimodalTeacher
from torch_promptmm.models.propagated_features import can_propagate
from torch_promptmm.models.ridge import ridge_rows
from torch_promptmm.models.side_by_side import (
    SideBySide,
    part_config,
    part_from_config,
)
from torch_promptmm.nn.compression import compress
from torch_promptmm.nn.functional import unit_rows
from torch_promptmm.nn.graph import UserItemGraph, as_graph
from torch_promptmm.nn.prompt import SoftPrompt

# What stands beside the members.
_PARTS = ('content', 'co_occurrence', 'prompted')


class Ensemble(SideBySide):
    r"""Several models side by side: the score is a weighted sum of cosines,
    which is one dot product,

    .. math::
        s(u, i) = \kappa_i \Big( p_i \big( a \, c_{ui} + c^{(r)}_{ui}
        \big) + b \, g_{ui} + \sum_{m} w_m \cos(\mathbf{h}^m_u,
        \mathbf{h}^m_i) + w_{\mathbf{P}} \cos(\mathbf{f}_u, \mathbf{f}_i)
        \Big), \quad c_{ui} = \frac{1}{K} \sum_{k=1}^{K}
        \cos(\mathbf{e}^k_u, \mathbf{e}^k_i), \quad p_i = (\deg(i) +
        1)^\rho .

    The members learn rows of users and items, and may read features too; the
    content expert needs no training. :math:`c^{(r)}` is :math:`c` in the
    :math:`r` leading joint directions of the members' rows
    (:func:`~torch_promptmm.nn.compress`), which are less noisy than all of
    them; :math:`g` is what :class:`~torch_promptmm.models.CoOccurrence` says;
    :math:`\mathbf{f}` are the rows of a member that learns content, reduced
    and opened by a soft prompt. What is not learned, :math:`\rho, \kappa, r,
    a, b, w_m` and :math:`w_{\mathbf{P}}`, is a :class:`Fusion`.

    Members may be models of any kind. With :obj:`member_weights` the mean is
    a weighted one, :math:`c_{ui} = \sum_k \omega_k \cos(\mathbf{e}^k_u,
    \mathbf{e}^k_i) / \sum_k \omega_k`. Where one of them scores by dot
    products, for which a cosine would be meaningless (a column may be a
    bias), the scores of all members are standardised for each user instead
    (:func:`~torch_promptmm.models.standard_pair`).

    Rows of the members for users and items *without a training interaction*
    are not what was learned, for nothing was: those of users are zero, those
    of items are imputed from their content by a ridge regression
    (:func:`~torch_promptmm.models.ridge_rows`, weighted by the root of the
    degree), or zero where there is no content; a member that reads content
    itself keeps its own. Of such items :math:`p_i = 1` and :math:`\kappa_i =
    \kappa`, which says how high they rise; else :math:`\kappa_i = 1`.

    Args:
        members (list of RankingModel): The :math:`K` models that learn.
        content (ContentExpert, optional): The content.
            (default: :obj:`None`)
        fusion (Fusion, optional): How the parts are added up.
            (default: modalities and the prompted member with weight 1.0)
        co_occurrence (CoOccurrence, optional): Items that share users.
            (default: :obj:`None`)
        member_weights (list of float, optional): :math:`\omega_k`, which a
            distiller chooses on validation.
            (default: all the same, for good)
        prompted (MultimodalTeacher, optional): The member that learns
            content; its prompt is that of the ensemble.
            (default: :obj:`None`)

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
        co_occurrence: CoOccurrence | None = None,
        member_weights: Sequence[float] | None = None,
        prompted: MultimodalTeacher | None = None,
    ) -> None:
        if prompted is not None and content is None:
            raise ValueError("'prompted' learns content: give 'content' too")
        super().__init__(members, member_weights,
                         None if content is None else content.item_features)
        self.content, self.co_occurrence = content, co_occurrence
        self.prompted = prompted
        for part in (*self.members, content, co_occurrence, prompted):
            if part is None:
                continue
            sizes = (part.num_users, part.num_items)
            if sizes != (self.num_users, self.num_items):
                raise ValueError(f'All members must be of '
                                 f'{self.num_users} users and '
                                 f'{self.num_items} items (got one of '
                                 f'{sizes[0]} and {sizes[1]})')
        start = Fusion(dict.fromkeys(self.content_modalities, 1.0),
                       prompted=float(prompted is not None))
        # In the state, for it is chosen for the members' weights.
        self._fusion: Tensor
        self.register_buffer('_fusion',
                             start.to_bits(self.content_modalities))
        self.fusion = fusion or start
        self._start = self.fusion

    @classmethod
    def from_view(
        cls,
        view: InteractionData,
        hidden_channels: int = 64,
        num_members: int = 1,
        num_layers: int = 2,
        hop: float = 2.0,
        scaling: str | Mapping[str, str] = 'standardize',
        use_content: bool = True,
        neighbors: int = 0,
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
            scaling (str or dict, optional): See
                :class:`~torch_promptmm.models.ContentExpert`; on validation
                another one may be chosen. The member that learns content
                has them standardised but for :obj:`"raw"`.
                (default: :obj:`"standardize"`)
            use_content (bool, optional): If :obj:`False`, no content is
                read. (default: :obj:`True`)
            neighbors (int, optional): See
                :class:`~torch_promptmm.models.CoOccurrence`; with 0 there is
                no such part. (default: :obj:`0`)
            train_content (bool, optional): Have a member that learns
                content. (default: if there is a prompt)
            prompt (str, optional): The soft prompt of that member, see
                :meth:`MultimodalTeacher.from_view()
                <torch_promptmm.models.MultimodalTeacher.from_view>`.
                (default: :obj:`None`)
            prompt_layers (int, optional): The same. (default: :obj:`1`)
            prompt_weight (float, optional): See
                :class:`~torch_promptmm.nn.PromptedReduction`.
                (default: :obj:`1.0`)
            normalize (bool or str, optional): The same.
                (default: :obj:`"size"`)
            **kwargs (optional): Arguments of the model.
        """
        check_int('num_members', num_members, 1)
        members = [LightGCN(view.num_users, view.num_items, hidden_channels,
                            num_layers) for _ in range(num_members)]
        content = None
        if use_content and view.features:
            content = ContentExpert.from_view(view, hop=hop, scaling=scaling)
        shared = None
        if check_int('neighbors', neighbors) > 0:
            shared = CoOccurrence(view.num_users, view.num_items,
                                  neighbors=neighbors)
        prompted = learned_content(
            view, hidden_channels, train_content, prompt, content is not None,
            prompt_layers=prompt_layers, standardize=scaling != 'raw',
            num_layers=num_layers, prompt_weight=prompt_weight,
            normalize=normalize)
        return cls(members, content, co_occurrence=shared, prompted=prompted,
                   **kwargs)

    def parts_with_features(self) -> list[RankingModel]:
        parts = (self.content, *super().parts_with_features(), self.prompted)
        return [x for x in parts if x is not None]

    @property
    def content_modalities(self) -> list[str]:
        r"""The names of the modalities of the content, each of which has a
        weight in the fusion."""
        return [] if self.content is None else self.content.modalities

    @property
    def width(self) -> int:
        fusion, shared = self.fusion, self.co_occurrence
        out = fusion.rank + sum(
            part.width for part in self.parts_with_features())
        if shared is not None and fusion.co_occurrence > 0.0:
            out += shared.width
        return out

    @property
    def fusion(self) -> Fusion:
        r"""How the parts are added up."""
        return Fusion.from_bits(
            self._fusion, self.content_modalities,
            {} if self.content is None else self.content.scaling)

    @fusion.setter
    def fusion(self, fusion: Fusion) -> None:
        fusion.check_parts(self.content_modalities,
                           self.co_occurrence is not None,
                           self.prompted is not None)
        if self.content is not None:
            self.content.scaling = {**self.content.scaling, **fusion.scaling}
        self._fusion.copy_(fusion.to_bits(self.content_modalities))

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

    def cache_features(self, graph: UserItemGraph | None,
                       of_members: bool = True) -> None:
        r"""Does so for the member that learns content where that is exact,
        and for the others if :obj:`of_members`."""
        for member in super().parts_with_features():
            member.cache_features(graph if of_members else None)
        if self.prompted is not None:
            exact = can_propagate(self.prompted)
            self.prompted.cache_features(graph if exact else None)

    @torch.no_grad()
    def member_rows(self, graph: UserItemGraph) -> Pair:
        r"""Returns the rows of all members side by side, with zero and
        imputed rows, whose dot product is the mean of the members' cosines,
        before any weight."""
        pairs = self.member_pairs(graph)
        user, item = self.joined(pairs)
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
        kept = torch.cat([
            torch.full((x.size(1), ), bool(member.modalities))
            for member, (_, x) in zip(self.members, pairs, strict=True)
        ]).to(item.device)
        return user, torch.where((degree_item > 0) | kept, item, imputed)

    @torch.no_grad()
    def shared_rows(self, graph: UserItemGraph,
                    user_id: Tensor | None = None) -> Pair:
        r"""Returns the rows of :class:`CoOccurrence`, on the scale of a
        cosine."""
        assert self.co_occurrence is not None
        user, item = self.co_occurrence.unit_pair(graph)
        return take(user, user_id), item

    @torch.no_grad()
    def prompted_rows(self, graph: UserItemGraph,
                      user_id: Tensor | None = None) -> Pair | None:
        r"""Returns the unit rows of the member that learns content, if there
        is one."""
        if self.prompted is None:
            return None
        out = as_output(self.prompted(graph))
        return unit_rows(take(out.user, user_id)), unit_rows(out.item)

    @torch.no_grad()
    def parts(self, graph: UserItemGraph) -> tuple[Pair, dict[str, Pair]]:
        r"""Returns what the score is made of, before any weight:
        :meth:`member_rows`, and the unit rows of each modality."""
        content = {} if self.content is None else as_output(
            self.content(graph)).modalities
        return self.member_rows(graph), content

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
        if self.co_occurrence is not None and fusion.co_occurrence > 0.0:
            pairs.append((fusion.co_occurrence**0.5,
                          *self.shared_rows(graph), cold))
        pairs += [(fusion.weights[name]**0.5, x_user.to(user),
                   x_item.to(item), cold)
                  for name, (x_user, x_item) in content.items()]
        if (prompted := self.prompted_rows(graph)) is not None:
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
            'members': [part_config(x) for x in super().parts_with_features()],
            **{name: part_config(getattr(self, name)) for name in _PARTS},
            'member_weights': self._start_weights,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Ensemble:
        # Files of before lack some of it.
        content, shared, prompted = (
            None if config.get(name) is None else
            part_from_config(config[name]) for name in _PARTS)
        assert isinstance(content, ContentExpert | None)
        assert isinstance(shared, CoOccurrence | None)
        assert isinstance(prompted, MultimodalTeacher | None)
        return cls([part_from_config(x) for x in config['members']], content,
                   None, shared, config.get('member_weights'), prompted)

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the members, and weights and
        fusion to what was given."""
        super().reset_parameters()
        if self.prompted is not None:
            self.prompted.reset_parameters()
        self.fusion = self._start

    def __repr__(self) -> str:
        names = [str(member) for member in self.members]
        shown = ', '.join(f'{names.count(name)} x {name}'
                          for name in dict.fromkeys(names))
        weights, more = self.member_weights, str(self.fusion)
        if self.prompted is not None:
            more = f'prompted={self.prompted}, {more}'
        if weights is not None:
            more += f', member_weights={weights}'
        return (f'{self.__class__.__name__}({shown}, content={self.content}, '
                f'co_occurrence={self.co_occurrence}, {more})')
