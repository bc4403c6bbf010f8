from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import check_float, check_int, check_matrix
from torch_promptmm.nn.functional import (
    checked_masks,
    modality_key,
    unit_rows,
)
from torch_promptmm.nn.graph import UserItemGraph, as_graph
from torch_promptmm.nn.light_gcn_conv import LightGCNConv
from torch_promptmm.nn.light_gcn_student import LightGCNStudent
from torch_promptmm.nn.prompt import SoftPrompt
from torch_promptmm.nn.reduction import PromptContext, PromptedReduction


class _ByReference(dict[str, Tensor]):
    r"""Raw features, which copies of a module share."""
    def __deepcopy__(self, memo: dict[int, Any]) -> _ByReference:
        return _ByReference(self)


class TeacherOutput(NamedTuple):
    r"""What a teacher yields; a teacher of your own returns this (or a plain
    tuple of the same three) and nothing else.

    Attributes:
        user (torch.Tensor): User embeddings :math:`(|\mathcal{U}|, d)`.
        item (torch.Tensor): Item embeddings :math:`(|\mathcal{I}|, d)`.
        modalities (dict): From the name of a modality to its user and item
            embeddings.
    """
    user: Tensor
    item: Tensor
    modalities: dict[str, tuple[Tensor, Tensor]]


class MultimodalTeacher(torch.nn.Module):
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
    :class:`PromptedReduction`. The self weight :math:`s` keeps an item's own
    features in, without which an item that nobody has touched has none.

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
        super().__init__()
        if not isinstance(in_channels, Mapping) or len(in_channels) == 0:
            raise ValueError(f"'in_channels' must map at least one modality "
                             f"name to its width (got {in_channels!r})")
        self.in_channels = dict(in_channels)
        self.hidden_channels = check_int('hidden_channels', hidden_channels, 1)
        self.fusion_weight = check_float('fusion_weight', fusion_weight)
        self.self_weight = check_float('self_weight', self_weight)
        self.backbone = LightGCNStudent(num_users, num_items, hidden_channels,
                                        num_layers)
        self.num_users, self.num_items = num_users, num_items
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
        self._features = _ByReference()
        self._masks = _ByReference()
        # Of PropagatedFeatures, for training with rows on their graph.
        self.propagated: Any = None
        self.prompt = prompt

    def __setattr__(self, name: str, value: Any) -> None:
        if name == 'prompt':  # Assigned modules would become submodules.
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def prompt(self) -> SoftPrompt | None:
        r"""The prompt, shared with whoever trains it; not a submodule."""
        return self.__dict__['_prompt']

    @prompt.setter
    def prompt(self, prompt: SoftPrompt | None) -> None:
        old = self.__dict__.get('_prompt')
        object.__setattr__(self, '_prompt', prompt)
        if prompt is None or prompt is old or not prompt.is_affine:
            return
        for name, x in self._features.items():
            self.reduction(name).fit_gram(x, prompt.basis,
                                          self._masks.get(name))

    @property
    def modalities(self) -> list[str]:
        r"""The names of the modalities."""
        return list(self.in_channels)

    @property
    def features(self) -> dict[str, Tensor]:
        r"""The raw features, by reference."""
        return self._features

    @property
    def masks(self) -> dict[str, Tensor]:
        r"""Where items have a modality, by reference."""
        return self._masks

    def reduction(self, name: str) -> PromptedReduction:
        r"""The reduction of a modality."""
        return self.reductions[modality_key(name)]  # type: ignore

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module; the statistics of
        the features and the prompt stay."""
        self.backbone.reset_parameters()
        for reduction in self.reductions.values():
            reduction.reset_parameters()  # type: ignore[operator]

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
        if set(features) != set(self.in_channels):
            raise ValueError(f"'features' must have the modalities "
                             f"{self.modalities} (got {list(features)})")
        for name, x in features.items():
            check_matrix(f'features[{name!r}]', x, self.in_channels[name])
            if x.size(0) != self.num_items:
                raise ValueError(
                    f"'features[{name!r}]' must have a row for each of the "
                    f"{self.num_items} items (got shape {list(x.shape)})")
        masks = checked_masks(masks, {
            name: x.size(0) for name, x in features.items()
        })
        self._features = _ByReference(
            {name: features[name] for name in self.in_channels})
        self._masks = _ByReference(masks)
        self.propagated = None
        if fit:
            prompt = self.prompt
            basis = (prompt.basis
                     if prompt is not None and prompt.is_affine else None)
            for name, x in self._features.items():
                self.reduction(name).fit_statistics(x, self._masks.get(name),
                                                    basis, standardize)

    def release_features(self) -> None:
        r"""Lets go of the raw features."""
        self._features, self._masks = _ByReference(), _ByReference()
        self.propagated = None

    def _require_features(self) -> None:
        if not self._features:
            raise ValueError(
                "The teacher has no item features, which are never saved "
                "with it: give it the data again ('prepare(data)' or 'fit' "
                "of the distiller, or 'set_features')")

    def reduced(self, name: str) -> Tensor:
        r"""Returns :math:`\hat{\mathbf{X}}_m \mathbf{W}_m`
        :math:`(|\mathcal{I}|, d)`, without bias, prompt and dropout."""
        self._require_features()
        return self.reduction(name).reduce(self._features[name],
                                           self._masks.get(name))

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
        self._require_features()
        return reduction.context(self._features[name], prompt,
                                 self._masks.get(name))

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
        return TeacherOutput(user, item, modalities)

    def propagate(
        self,
        x: Mapping[str, Tensor],
        graph: UserItemGraph,
        user_id: Tensor | None = None,
        item_id: Tensor | None = None,
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
        return_ego: bool = False,
    ) -> Any:
        r"""Returns user and item embeddings, fused and of each modality.

        Args:
            graph (torch.Tensor or SparseTensor or UserItemGraph): The
                user-item graph.
            user_id (torch.Tensor, optional): Return (and, as far as that
                saves work, compute) these users only.
                (default: :obj:`None`)
            item_id (torch.Tensor, optional): The same for items.
                (default: :obj:`None`)
            return_ego (bool, optional): Also return the same rows of
                :math:`\mathbf{E}^{(0)}`, after the output.
                (default: :obj:`False`)
        """
        weight = self.backbone.item_embedding.weight
        graph = as_graph(graph, self.num_users, self.num_items, weight.device,
                         weight.dtype)
        user, item, *ego = self.backbone(graph, user_id, item_id, return_ego)
        modalities = self._modalities(graph, user_id, item_id)
        out = self.fuse(user, item, modalities)
        return (out, *ego) if return_ego else out

    def _modalities(
        self,
        graph: UserItemGraph,
        user_id: Tensor | None,
        item_id: Tensor | None,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        if (self.propagated is not None and self.propagated.graph is graph
                and user_id is not None and item_id is not None):
            return self.propagated(self, user_id, item_id)
        prompt = None if self.prompt is None else self.prompt()
        return self.propagate(
            {
                name: self.reduction(name).finish(
                    self.reduced(name), prompt, self.context(name, prompt))
                for name in self.in_channels
            }, graph, user_id, item_id)

    @torch.no_grad()
    def prompt_ratio(self) -> dict[str, float]:
        r"""Returns, for each modality, the norm of the prompt's part of the
        reduced features over that of the features' own part."""
        if self.prompt is None:
            return {name: 0.0 for name in self.in_channels}
        prompt, out = self.prompt(), {}
        for name in self.in_channels:
            y, reduction = self.reduced(name), self.reduction(name)
            was_training = reduction.training
            both = reduction.eval().finish(y, prompt,
                                           self.context(name, prompt))
            reduction.train(was_training)
            own = y.norm().clamp(min=1e-30)
            out[name] = float((both - reduction.bias - y).norm() / own)
        return out

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.num_users}, '
                f'{self.num_items}, in_channels={self.in_channels}, '
                f'hidden_channels={self.hidden_channels}, '
                f'num_layers={self.num_layers})')
