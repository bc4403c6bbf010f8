from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch_geometric.typing import Adj

from torch_promptmm.checks import (
    check_choice,
    check_int,
    check_matrix,
)
from torch_promptmm.nn.dense import matmul
from torch_promptmm.nn.feature_matmul import row_slices
from torch_promptmm.nn.feature_projections import (
    FeatureProjection,
    graph_projections,
    pca_projections,
)
from torch_promptmm.nn.functional import checked_masks, modality_key
from torch_promptmm.nn.graph import UserItemGraph
from torch_promptmm.nn.other_projections import (
    ica_projections,
    mean_projections,
    random_projections,
)

_OF_FEATURES = {
    'pca': pca_projections,
    'ica': ica_projections,
    'random': random_projections,
    'mean': mean_projections,
}
#: The reductions that a prompt can be made of.
METHODS = (*_OF_FEATURES, 'graph')


class SoftPrompt(torch.nn.Module):
    r"""The soft prompt of `"PromptMM: Multi-Modal Knowledge Distillation for
    Recommendation with Prompt-Tuning" <https://arxiv.org/abs/2402.17188>`_
    (Eq. 3),

    .. math::
        \mathbf{P} = \textrm{FFN}(\mathbf{Z}), \qquad \mathbf{Z} =
        \frac{1}{|\mathcal{M}|} \sum_{m \in \mathcal{M}} \eta(\mathbf{X}_m),

    where :math:`\eta` reduces the features of a modality to :math:`d`
    whitened components, once, and the columns of the mean are standardised
    again. The feed-forward layer is affine, :math:`\mathbf{P} = \mathbf{Z}
    \mathbf{A} + \mathbf{1} \mathbf{a}^{\top}`, and starts at the identity:
    at :math:`\mathbf{P} = \mathbf{0}` its gradient would be exactly zero.

    Use :meth:`from_features` to build one.

    Args:
        basis (torch.Tensor): :math:`\mathbf{Z}`
            :math:`(|\mathcal{I}|, d)`.
        num_layers (int, optional): Layers of the feed-forward network. With
            more than one, a network of GELU layers that starts at zero is
            added to the affine one. (default: :obj:`1`)
        projections (dict, optional): The reduction of each modality, for
            items that come later. (default: :obj:`None`)
        shift (torch.Tensor, optional): Subtracted from the mean of the
            reduced modalities :math:`(d)`. (default: :obj:`None`)
        scale (torch.Tensor, optional): Multiplies what is left :math:`(d)`.
            (default: :obj:`None`)

    Shapes:
        - **output:** the prompt :math:`(|\mathcal{I}|, d)`
    """
    basis: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        basis: Tensor,
        num_layers: int = 1,
        projections: Mapping[str, FeatureProjection] | None = None,
        shift: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> None:
        super().__init__()
        check_matrix('basis', basis)
        self.num_layers = check_int('num_layers', num_layers, 1)
        self.num_items, self.channels = basis.shape
        self.register_buffer('basis', basis)
        channels = self.channels
        self.register_buffer(
            'shift', basis.new_zeros(channels) if shift is None else shift)
        self.register_buffer(
            'scale', basis.new_ones(channels) if scale is None else scale)
        self.modalities = list(projections or {})
        self.projections = torch.nn.ModuleDict({
            modality_key(name): projection
            for name, projection in (projections or {}).items()
        })
        self.weight = Parameter(basis.new_empty(channels, channels))
        self.bias = Parameter(basis.new_empty(channels))
        self.hidden = torch.nn.Sequential()
        for layer in range(num_layers if num_layers > 1 else 0):
            if layer > 0:
                self.hidden.append(torch.nn.GELU())
            self.hidden.append(
                torch.nn.Linear(channels, channels, device=basis.device,
                                dtype=basis.dtype))
        self.reset_parameters()

    @classmethod
    def from_features(
        cls,
        features: Mapping[str, Tensor],
        channels: int,
        method: str = 'pca',
        masks: Mapping[str, Tensor] | None = None,
        graph: Adj | UserItemGraph | None = None,
        num_layers: int = 1,
    ) -> SoftPrompt:
        r"""Builds the prompt from the features of all items.

        Args:
            features (dict): Features :math:`(|\mathcal{I}|, d_m)` of each
                modality. They are read in blocks and not kept.
            channels (int): The width :math:`d` of the prompt. It may be
                larger than the width of a modality or the number of items:
                components that do not exist are zero.
            method (str, optional): :obj:`"pca"`, the whitened principal
                components of each modality, averaged; :obj:`"graph"`,
                the directions within the 128 leading components of all
                modalities that are smoothest over co-interactions, which
                suits wide features with many cold items; or, to compare
                with, :obj:`"ica"`, independent components,
                :obj:`"random"`, random directions, and :obj:`"mean"`, means
                over neighbouring columns.
                (default: :obj:`"pca"`)
            masks (dict, optional): For some modalities, True where the item
                has it :math:`(|\mathcal{I}|)`. (default: :obj:`None`)
            graph (torch.Tensor or SparseTensor or UserItemGraph, optional):
                The training interactions that :obj:`"graph"` needs.
                (default: :obj:`None`)
            num_layers (int, optional): See :class:`SoftPrompt`.
                (default: :obj:`1`)
        """
        check_int('channels', channels, 1)
        check_choice('method', method, METHODS)
        num_items, masks = _check_features(features, masks)
        if method in _OF_FEATURES:
            projections = _OF_FEATURES[method](features, masks, channels)
        elif graph is None:
            raise ValueError("method='graph' needs the training interactions: "
                             "pass 'graph=UserItemGraph(...)'")
        else:
            if not isinstance(graph, UserItemGraph):
                graph = UserItemGraph(graph, None, num_items)
            projections = graph_projections(features, masks, channels, graph)
        mean = _mean_projection(projections, features, masks)
        shift = mean.mean(dim=0)
        deviation = mean.std(dim=0, unbiased=False)
        kept = deviation > 1e-4
        scale = torch.where(kept, 1.0 / torch.where(kept, deviation, 1.0), 0.0)
        basis = (mean - shift) * scale
        return cls(basis, num_layers, projections, shift, scale)

    def config(self) -> dict[str, Any]:
        r"""Returns plain values: :meth:`from_config` makes a prompt of the
        same shapes of them."""
        return {
            'num_items': self.num_items,
            'channels': self.channels,
            'num_layers': self.num_layers,
            'in_channels': {
                name: self.projections.get_buffer(
                    f'{modality_key(name)}.weight').size(0)
                for name in self.modalities
            },
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SoftPrompt:
        r"""Builds a prompt from :meth:`config`, without its values."""
        channels = config['channels']
        return cls(torch.zeros(config['num_items'], channels),
                   config['num_layers'], {
                       name: FeatureProjection(torch.zeros(width, channels),
                                               torch.zeros(channels))
                       for name, width in config['in_channels'].items()
                   })

    def reset_parameters(self) -> None:
        r"""Resets the feed-forward layer to the identity; :math:`\mathbf{Z}`
        stays."""
        torch.nn.init.eye_(self.weight)
        torch.nn.init.zeros_(self.bias)
        for layer in self.hidden:
            if isinstance(layer, torch.nn.Linear):
                layer.reset_parameters()
        if len(self.hidden) > 0:
            for parameter in self.hidden[-1].parameters():
                torch.nn.init.zeros_(parameter)

    @property
    def is_affine(self) -> bool:
        r"""Whether :math:`\mathbf{P} = [\mathbf{Z}, \mathbf{1}]
        \mathbf{B}`."""
        return len(self.hidden) == 0

    @property
    def matrix(self) -> Tensor:
        r""":math:`\mathbf{B} = [\mathbf{A}; \mathbf{a}^{\top}]`
        :math:`(d + 1, d)` of an affine prompt."""
        return torch.cat([self.weight, self.bias.view(1, -1)])

    def network(self, z: Tensor) -> Tensor:
        r"""Returns the prompt of rows :math:`(n, d)` of the kind of
        :math:`\mathbf{Z}`."""
        out = matmul(z, self.weight) + self.bias
        return out if self.is_affine else out + self.hidden(z)

    def forward(self, item_id: Tensor | None = None) -> Tensor:
        r"""Returns the prompt of all items, or of :obj:`item_id`.

        Args:
            item_id (torch.Tensor, optional): Items. (default: all)
        """
        return self.network(
            self.basis if item_id is None else self.basis[item_id])

    def encode(
        self,
        features: Mapping[str, Tensor],
        masks: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        r"""Returns :math:`\mathbf{Z}` of items that come later, from their
        features :math:`(n, d_m)` of each modality."""
        if set(features) != set(self.modalities):
            raise ValueError(f"'features' must have the modalities "
                             f"{self.modalities} (got {list(features)})")
        _, masks = _check_features(features, masks)
        mean = _mean_projection(
            {
                name: self.projections[modality_key(name)]
                for name in self.modalities
            }, features, masks)
        return (mean - self.shift) * self.scale

    def transform(
        self,
        features: Mapping[str, Tensor],
        masks: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        r"""Returns the prompt of items that come later, from their features
        :math:`(n, d_m)` of each modality."""
        return self.network(self.encode(features, masks))

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.num_items}, '
                f'channels={self.channels}, num_layers={self.num_layers}, '
                f'modalities={self.modalities})')


def _check_features(
    features: Mapping[str, Tensor],
    masks: Mapping[str, Tensor] | None,
) -> tuple[int, dict[str, Tensor]]:
    r"""Returns the number of items and their masks."""
    if not isinstance(features, Mapping) or len(features) == 0:
        raise ValueError(f"'features' must map at least one modality name to "
                         f"its features (got {features!r:.80})")
    for name, x in features.items():
        check_matrix(f'features[{name!r}]', x)
    sizes = {name: x.size(0) for name, x in features.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"'features' must have a row for each item in every "
                         f"modality (got rows {sizes})")
    for name, x in features.items():
        bad = sum(int((~x[rows].isfinite().all(dim=1)).sum())
                  for rows in row_slices(x))
        if bad > 0:
            raise ValueError(
                f"'features[{name!r}]' has {bad} rows with NaN or infinite "
                f"entries; where an item lacks the modality, write zeros "
                f"into its row and False into the modality's mask")
    return max(sizes.values()), checked_masks(masks, sizes)


def _mean_projection(
    projections: Mapping[str, torch.nn.Module],
    features: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
) -> Tensor:
    parts = [
        projection(features[name], masks.get(name))
        for name, projection in projections.items()
    ]
    return sum(parts[1:], parts[0]) / len(parts)
