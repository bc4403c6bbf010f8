r"""Models of any kind side by side, so that their scores can be added up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torch_promptmm.checks import check_float
from torch_promptmm.data import InteractionData
from torch_promptmm.models.base import (
    ModelOutput,
    Pair,
    RankingModel,
    as_output,
)
from torch_promptmm.models.door import model_from_config, saved_config
from torch_promptmm.nn.functional import unit_rows
from torch_promptmm.nn.graph import UserItemGraph
from torch_promptmm.nn.item_features import ItemFeatures
from torch_promptmm.nn.prompt import SoftPrompt


class SideBySide(RankingModel):
    r"""The base class of a model that is made of others, its *members*,
    whose scores are added up: rows side by side have the sum of the
    products.

    Args:
        members (list of RankingModel): The :math:`K` models.
        weights (list of float, optional): The weight :math:`\omega_k` of
            each, which can be set again. (default: all the same, for good)
        item_features (ItemFeatures, optional): The features of a part that
            is no member. (default: :obj:`None`)
    """
    def __init__(
        self,
        members: Sequence[RankingModel],
        weights: Sequence[float] | None = None,
        item_features: ItemFeatures | None = None,
    ) -> None:
        members = list(members)
        if not members or not all(isinstance(x, RankingModel)
                                  for x in members):
            raise ValueError(f"'members' must be at least one RankingModel "
                             f"(got {[type(x).__name__ for x in members]})")
        super().__init__(members[0].num_users, members[0].num_items,
                         item_features)
        self.members = torch.nn.ModuleList(members)
        # Members hold their prompts by reference alone.
        self.prompts = torch.nn.ModuleList(
            x.prompt for x in members if x.prompt is not None)
        self._member_weights: Tensor | None
        self.register_buffer('_member_weights', None)
        if weights is not None:
            self._member_weights = torch.ones(len(members),
                                              dtype=torch.double)
            self.member_weights = list(weights)
        self._start_weights = self.member_weights

    def parts_with_features(self) -> list[RankingModel]:
        r"""Returns all models in it that may read features."""
        return list(self.members)  # type: ignore[arg-type]

    @property
    def modalities(self) -> list[str]:
        return list(dict.fromkeys(
            name for part in self.parts_with_features()
            for name in part.modalities))

    @property
    def has_features(self) -> bool:
        return all(part.has_features for part in self.parts_with_features())

    def set_features(self, features: Mapping[str, Tensor],
                     masks: Mapping[str, Tensor] | None = None) -> None:
        if not self.modalities:
            raise ValueError(f"'{type(self).__name__}' reads no features")
        if set(features) != set(self.modalities):
            raise ValueError(f"'features' must have the modalities "
                             f"{self.modalities} (got {list(features)})")
        for part in self.parts_with_features():
            names = part.modalities
            if names:
                part.set_features(
                    {k: x for k, x in features.items() if k in names},
                    {k: x for k, x in (masks or {}).items() if k in names})

    def give_features(self, view: InteractionData) -> None:
        for part in self.parts_with_features():
            part.give_features(view)

    def release_features(self) -> None:
        for part in self.parts_with_features():
            part.release_features()

    def cache_features(self, graph: UserItemGraph | None) -> None:
        for part in self.parts_with_features():
            part.cache_features(graph)

    @property
    def member_weights(self) -> list[float] | None:
        r"""The weight of each member; :obj:`None` where all are the same,
        for good."""
        weights = self._member_weights
        return None if weights is None else weights.tolist()

    @member_weights.setter
    def member_weights(self, weights: Sequence[float]) -> None:
        if self._member_weights is None:
            raise ValueError("The members' weights are all the same: build "
                             "the model with 'member_weights'")
        values = [check_float('member_weights', x) for x in weights]
        if len(values) != len(self.members) or sum(values) == 0.0:
            raise ValueError(f"'member_weights' must have a weight for each "
                             f"of the {len(self.members)} members, not all "
                             f"of them zero (got {values})")
        self._member_weights.copy_(torch.tensor(values, dtype=torch.double))

    @torch.no_grad()
    def member_pairs(self, graph: UserItemGraph) -> list[Pair]:
        r"""Returns users' and items' rows of each member, whose products are
        its cosines. Where one of the members scores by dot products, for
        which a cosine is meaningless, they are the scores of each member,
        standardised: see :func:`standard_pair`."""
        output = [as_output(member(graph)) for member in self.members]
        scores = [member.score for member in self.members]
        if 'dot' not in scores:
            return [(unit_rows(x.user), unit_rows(x.item)) for x in output]
        return [standard_pair(x, score)  # type: ignore[arg-type]
                for x, score in zip(output, scores, strict=True)]

    def joined(self, pairs: Sequence[Pair]) -> Pair:
        r"""Returns the rows of all members side by side, whose product is
        the weighted mean of theirs."""
        weights = self.member_weights or [1.0] * len(pairs)
        total = sum(weights)
        roots = [math.inf if weight == 0.0 else (total / weight)**0.5
                 for weight in weights]
        user, item = (
            torch.cat([x / root for x, root in zip(side, roots, strict=True)],
                      dim=1) for side in zip(*pairs, strict=True))
        return user, item

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the members, and their weights
        to what was given."""
        for part in (*self.members, *self.prompts):
            part.reset_parameters()  # type: ignore[operator]
        if self._start_weights is not None:
            self.member_weights = self._start_weights


def part_config(part: RankingModel | None) -> dict[str, Any] | None:
    r"""Returns :func:`saved_config` of a part, with that of its prompt, which
    is no module of it."""
    config = saved_config(part)
    if config is None or part is None or part.prompt is None:
        return config
    return {**config, 'prompt': part.prompt.config()}


def part_from_config(config: Mapping[str, Any]) -> RankingModel:
    r"""Builds a part from :func:`part_config`, without its weights."""
    arguments = dict(config)
    if 'prompt' in config:
        arguments['prompt'] = SoftPrompt.from_config(config['prompt'])
    return model_from_config(arguments)


@torch.no_grad()
def standard_pair(output: ModelOutput, score: str | None = None) -> Pair:
    r"""Returns rows whose products are the scores of a model, standardised
    for each user over all items,

    .. math::
        \frac{s_{ui} - \textrm{mean}_j \, s_{uj}}
        {\textrm{std}_j \, s_{uj}} = \frac{\mathbf{u}^{\top}}
        {\sqrt{\mathbf{u}^{\top} \mathbf{C} \, \mathbf{u}}}
        (\mathbf{i} - \bar{\mathbf{i}}),

    where :math:`\mathbf{C}` is the covariance of the items' rows. A user
    whose scores are all the same has a zero row.

    Args:
        output (ModelOutput): What the model yields.
        score (str, optional): Its score function, :obj:`"dot"` or
            :obj:`"cosine"`. (default: :obj:`"cosine"`)
    """
    user, item = output.user, output.item
    if score != 'dot':
        user, item = unit_rows(user), unit_rows(item)
    item = item - item.mean(dim=0)
    covariance = item.t() @ item / item.size(0)
    variance = ((user @ covariance) * user).sum(dim=1)
    # Below this share of what is possible it is rounding.
    most = user.square().sum(dim=1) * covariance.diagonal().sum()
    varies = variance > 1e-6 * most
    factor = torch.where(varies, torch.where(varies, variance, 1.0).rsqrt(),
                         0.0)
    return user * factor.view(-1, 1), item
