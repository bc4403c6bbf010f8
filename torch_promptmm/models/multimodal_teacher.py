from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import (
    check_bool,
    check_choice,
    check_float,
    check_int,
)
from torch_promptmm.data import InteractionData
from torch_promptmm.models.base import ModelOutput, RankingModel, take
from torch_promptmm.models.light_gcn import LightGCN
from torch_promptmm.models.propagated_features import PropagatedFeatures
from torch_promptmm.nn.functional import modality_key, unit_rows
from torch_promptmm.nn.graph import UserItemGraph, as_graph
from torch_promptmm.nn.item_features import ItemFeatures
from torch_promptmm.nn.light_gcn_conv import LightGCNConv
from torch_promptmm.nn.prompt import METHODS, SoftPrompt
from torch_promptmm.nn.reduction import PromptContext, PromptedReduction

TeacherOutput = ModelOutput


class MultimodalTeacher(RankingModel):
    r"""The multimodal graph teacher of `"PromptMM: Multi-Modal Knowledge
    Distillation for Recommendation with Prompt-Tuning"
    <https://arxiv.org/abs/2402.17188>`_ (Eq. 1),

    .. math::
        \begin{pmatrix} \mathbf{F}_m^u \\ \mathbf{F}_m^i \end{pmatrix} =
        \mathbf{T} \begin{pmatrix} \mathbf{0} \\ \mathbf{F}_m
        \end{pmatrix}, \qquad \mathbf{T} = \frac{1}{L + 1} \left( s \,
        \mathbf{I} + \sum_{l=1}^{L} \mathbf{A}^l \right),

    .. math::
        \mathbf{E} = \textrm{LightGCN}(\mathbf{E}^{(0)}) + w \sum_{m \in
        \mathcal{M}} \textrm{row\_norm} \left( \begin{pmatrix}
        \mathbf{F}_m^u \\ \mathbf{F}_m^i \end{pmatrix} \right),

    where :math:`\mathbf{F}_m` are the features of a modality after
    :class:`~torch_promptmm.nn.PromptedReduction`. The self weight :math:`s`
    keeps an item's own features in, without which an item that nobody has
    touched has none.

    The features are given to :meth:`set_features` and held by reference:
    they are no buffers, are not in the state, and stay on their device. The
    prompt is held by reference too, and is no parameter of the teacher.

    Args:
        num_users (int): The number of users :math:`|\mathcal{U}|`.
        num_items (int): The number of items :math:`|\mathcal{I}|`.
        in_channels (dict): The width :math:`d_m` of each modality.
        hidden_channels (int): The width :math:`d` of an embedding.
        num_layers (int, optional): The number :math:`L` of propagation
            steps. (default: :obj:`2`)
        fusion_weight (float, optional): The weight :math:`w` of the
            modalities. (default: :obj:`0.1`)
        self_weight (float, optional): The weight :math:`s` of an item's own
            features. (default: :obj:`1.0`)
        prompt (SoftPrompt, optional): The prompt. (default: :obj:`None`)
        prompt_channels (int, optional): The width of the prompt.
            (default: that of :obj:`prompt`, else :obj:`hidden_channels`)
        **kwargs (optional): Arguments of :class:`PromptedReduction`.

    Shapes:
        - **input:** a user-item graph, any PyG adjacency or a
          :class:`UserItemGraph`
        - **output:** a :class:`TeacherOutput`
    """
    item_features: ItemFeatures
    needs_features = True

    def __init__(
        self,
        num_users: int,
        num_items: int,
        in_channels: Mapping[str, int],
        hidden_channels: int,
        num_layers: int = 2,
        fusion_weight: float = 0.1,
        self_weight: float = 1.0,
        prompt: SoftPrompt | None = None,
        prompt_channels: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_users, num_items,
                         ItemFeatures(in_channels, num_items))
        self.hidden_channels = check_int('hidden_channels', hidden_channels, 1)
        self.fusion_weight = check_float('fusion_weight', fusion_weight)
        self.self_weight = check_float('self_weight', self_weight)
        self.backbone = LightGCN(num_users, num_items, hidden_channels,
                                 num_layers)
        self.num_layers = num_layers
        if prompt_channels is None and prompt is not None:
            prompt_channels = prompt.channels
        self.reductions = torch.nn.ModuleDict({
            modality_key(name):
            PromptedReduction(width, hidden_channels,
                              prompt_channels=prompt_channels, **kwargs)
            for name, width in self.in_channels.items()
        })
        share = 1.0 / (num_layers + 1)
        self.conv = LightGCNConv([share * self.self_weight] +
                                 [share] * num_layers)
        self.propagated: PropagatedFeatures | None = None
        self.prompt = prompt

    @classmethod
    def from_view(
        cls,
        view: InteractionData,
        hidden_channels: int,
        prompt: str | None = 'pca',
        prompt_layers: int = 1,
        standardize: bool = True,
        **kwargs: Any,
    ) -> MultimodalTeacher:
        r"""Builds teacher and prompt from a graph that was read.

        Args:
            view (InteractionData): The training graph.
            hidden_channels (int): The width :math:`d` of an embedding.
            prompt (str, optional): The method of
                :meth:`~torch_promptmm.nn.SoftPrompt.from_features`, or
                :obj:`None`. (default: :obj:`"pca"`)
            prompt_layers (int, optional): Layers of the prompt network.
                (default: :obj:`1`)
            standardize (bool, optional): Standardise the features.
                (default: :obj:`True`)
            **kwargs (optional): Arguments of the model.
        """
        check_choice('prompt', prompt, (*METHODS, None))
        check_int('prompt_layers', prompt_layers, 1)
        check_bool('standardize', standardize)
        soft = None
        if prompt is not None:
            soft = SoftPrompt.from_features(
                view.features, hidden_channels, prompt, view.masks,
                UserItemGraph(view.edge_index, view.num_users,
                              view.num_items), prompt_layers)
        out = cls(view.num_users, view.num_items,
                  {name: x.size(1) for name, x in view.features.items()},
                  hidden_channels, prompt=soft, **kwargs)
        out.set_features(view.features, view.masks, standardize=standardize)
        return out

    def __setattr__(self, name: str, value: Any) -> None:
        if name == 'prompt':  # Assigned modules would become submodules.
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def prompt(self) -> SoftPrompt | None:
        r"""The prompt. It is shared, and so not a submodule."""
        return self.__dict__['_prompt']

    @prompt.setter
    def prompt(self, prompt: SoftPrompt | None) -> None:
        old = self.__dict__.get('_prompt')
        object.__setattr__(self, '_prompt', prompt)
        if prompt is None or prompt is old or not prompt.is_affine:
            return
        for name, x in self.features.items():
            self.reduction(name).fit_gram(x, prompt.basis,
                                          self.masks.get(name))

    def inject(self, prompt: SoftPrompt) -> None:
        r"""Puts another prompt into the teacher, with the statistics that
        depend on it."""
        width = self.reduction(self.modalities[0]).prompt_channels
        if (prompt.num_items, prompt.channels) != (self.num_items, width):
            raise ValueError(f"'prompt' must be of {self.num_items} items and "
                             f"{width} channels, as the teacher (got "
                             f"{prompt.num_items} and {prompt.channels})")
        self.prompt = prompt

    def _apply(self, *args: Any, **kwargs: Any) -> MultimodalTeacher:
        self.propagated = None  # Over a graph where the model was before.
        return super()._apply(*args, **kwargs)

    @property
    def width(self) -> int:
        return self.hidden_channels

    @property
    def in_channels(self) -> dict[str, int]:
        r"""The width of each modality."""
        return self.item_features.in_channels

    @property
    def features(self) -> dict[str, Tensor]:
        r"""The raw features, by reference."""
        return self.item_features.tensors

    @property
    def masks(self) -> dict[str, Tensor]:
        r"""Where items have a modality, by reference."""
        return self.item_features.masks

    def reduction(self, name: str) -> PromptedReduction:
        r"""The reduction of a modality."""
        return self.reductions[modality_key(name)]  # type: ignore

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters; statistics and prompt stay."""
        self.backbone.reset_parameters()
        for name in self.modalities:
            self.reduction(name).reset_parameters()

    def set_features(
        self,
        features: Mapping[str, Tensor],
        masks: Mapping[str, Tensor] | None = None,
        fit: bool = True,
        standardize: bool = True,
    ) -> None:
        r"""Sets the raw features of all items.

        Args:
            features (dict): Features :math:`(|\mathcal{I}|, d_m)` of each
                modality, in any floating-point type, on any device.
            masks (dict, optional): For some modalities, True where the item
                has it :math:`(|\mathcal{I}|)`. (default: :obj:`None`)
            fit (bool, optional): If :obj:`False`, the statistics of the
                reductions stay as they are. (default: :obj:`True`)
            standardize (bool, optional): If :obj:`False`, features are
                taken as they are. (default: :obj:`True`)
        """
        self.item_features.set(features, masks)
        self.propagated = None
        if fit:
            basis = (self.prompt.basis if self.prompt is not None
                     and self.prompt.is_affine else None)
            for name, x in self.features.items():
                self.reduction(name).fit_statistics(x, self.masks.get(name),
                                                    basis, standardize)

    def give_features(self, view: InteractionData) -> None:
        features, masks = self.select_features(view)
        self.set_features(features, masks, fit=not self.has_statistics)

    @property
    def has_statistics(self) -> bool:
        r"""Whether the reductions know the statistics of their features."""
        return all(bool(self.reduction(name).num_items > 0)
                   for name in self.modalities)

    def release_features(self) -> None:
        super().release_features()
        self.propagated = None

    def cache_features(self, graph: UserItemGraph | None) -> None:
        self.propagated = (None if graph is None else
                           PropagatedFeatures(self, graph))

    def config(self) -> dict[str, Any]:
        reduction = self.reduction(self.modalities[0])
        return {
            'num_users': self.num_users,
            'num_items': self.num_items,
            'in_channels': self.in_channels,
            'hidden_channels': self.hidden_channels,
            'num_layers': self.num_layers,
            'fusion_weight': self.fusion_weight,
            'self_weight': self.self_weight,
            'prompt_channels': reduction.prompt_channels,
            'prompt_weight': reduction.prompt_weight,
            'dropout': reduction.dropout,
            'normalize': reduction.normalize,
        }

    def reduced(self, name: str, item_id: Tensor | None = None) -> Tensor:
        r"""Returns :math:`\hat{\mathbf{X}}_m \mathbf{W}_m`
        :math:`(|\mathcal{I}|, d)`, or rows of it, without bias, prompt and
        dropout."""
        x, mask = self.item_features.rows(name, item_id)
        return self.reduction(name).reduce(x, mask)

    def context(self, name: str,
                prompt: Tensor | None) -> PromptContext | None:
        r"""Returns what the prompt does to a modality (from the statistics,
        if the prompt is affine)."""
        if prompt is None or self.prompt is None:
            return None
        reduction = self.reduction(name)
        if self.prompt.is_affine:
            return reduction.affine_context(self.prompt.matrix)
        if reduction.normalize != 'row':
            return None
        x, mask = self.item_features.rows(name)
        return reduction.context(x, prompt, mask)

    def fuse(self, user: Tensor, item: Tensor,
             modalities: dict[str, tuple[Tensor, Tensor]]) -> TeacherOutput:
        r"""Adds the modalities to the ID embeddings, row by row."""
        if self.fusion_weight > 0.0:
            for number, (x_user, x_item) in enumerate(modalities.values()):
                part_user = unit_rows(x_user, self.fusion_weight)
                part_item = unit_rows(x_item, self.fusion_weight)
                # In place on the first sum, which nothing else holds.
                same = user.dtype == part_user.dtype
                add = Tensor.add_ if number > 0 and same else torch.add
                user, item = add(user, part_user), add(item, part_item)
        return ModelOutput(user, item, modalities)

    def propagate(self, x: Mapping[str, Tensor], graph: UserItemGraph,
                  user_id: Tensor | None = None,
                  item_id: Tensor | None = None
                  ) -> dict[str, tuple[Tensor, Tensor]]:
        r"""Applies :math:`\mathbf{T}` to the item features
        :math:`(|\mathcal{I}|, *)` of several modalities, side by side in one
        sparse product."""
        widths = [value.size(1) for value in x.values()]
        user, item = self.conv((None, torch.cat(list(x.values()), dim=1)),
                               graph, user_id, item_id)
        return {
            name: (x_user, x_item)
            for name, x_user, x_item in zip(
                x, user.split(widths, dim=1), item.split(widths, dim=1),
                strict=True)
        }

    def forward(
        self,
        graph: Adj | UserItemGraph,
        user_id: Tensor | None = None,
        item_id: Tensor | None = None,
    ) -> ModelOutput:
        r"""Returns fused embeddings and those of each modality."""
        weight = self.backbone.item_embedding.weight
        graph = as_graph(graph, self.num_users, self.num_items, weight.device,
                         weight.dtype, batch=True)
        user, item = self.backbone(graph, user_id, item_id)
        return self.fuse(user, item,
                         self._modalities(graph, user_id, item_id))

    def rows(
        self,
        graph: UserItemGraph,
        user_id: Tensor,
        item_id: Tensor,
        num_ego: int = 0,
    ) -> ModelOutput:
        ids = self.backbone.rows(graph, user_id, item_id, num_ego)
        out = self.fuse(ids.user, ids.item,
                        self._modalities(graph, user_id, item_id))
        out.ego = ids.ego  # Of the ID embeddings before propagation.
        return out

    def _modalities(
        self,
        graph: UserItemGraph,
        user_id: Tensor | None,
        item_id: Tensor | None,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        if (self.propagated is not None and self.propagated.graph is graph
                and user_id is not None and item_id is not None):
            return self.propagated(self, user_id, item_id)
        # Of a batch's items alone, unless the prompt's part is a sum over
        # all that is not known beforehand.
        n_id, prompt, rows = graph.item_n_id, None, graph.item_n_id
        if self.prompt is not None:
            rows = n_id if self.prompt.is_affine else None
            prompt = self.prompt(rows)
        x = {
            name: self.reduction(name).finish(
                self.reduced(name, rows), prompt, self.context(name, prompt))
            for name in self.in_channels
        }
        if rows is not n_id:
            x = {name: take(value, n_id) for name, value in x.items()}
        return self.propagate(x, graph, user_id, item_id)

    @torch.no_grad()
    def prompt_ratio(self) -> dict[str, float]:
        r"""Returns, for each modality, the norm of the prompt's part of the
        reduced features over that of the features' own part."""
        if self.prompt is None:
            return {name: 0.0 for name in self.in_channels}
        prompt, out = self.prompt(), {}
        for name in self.in_channels:
            y = self.reduced(name)
            part = self.reduction(name).prompt_term(
                prompt, self.context(name, prompt), y)
            out[name] = float(part.norm() / y.norm().clamp(min=1e-30))
        return out

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.num_users}, '
                f'{self.num_items}, in_channels={self.in_channels}, '
                f'hidden_channels={self.hidden_channels}, '
                f'num_layers={self.num_layers})')
