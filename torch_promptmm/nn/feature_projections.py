r"""Fixed projections of features: principal components, and directions that
are smooth over the graph."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from torch_promptmm.nn.column_statistics import (
    ColumnStatistics,
    column_statistics,
)
from torch_promptmm.nn.feature_matmul import (
    features_matmul,
    features_t_matmul,
)
from torch_promptmm.nn.functional import masked_rows
from torch_promptmm.nn.graph import UserItemGraph

# Up to this width the covariance is decomposed; above it, subspace
# iteration reads the features a few times more.
_EXACT_WIDTH = 1024
_OVERSAMPLING, _NUM_ITERATIONS = 16, 5
_BLOCK_SIZE = 2**20  # Elements of a block that is standardised.
# Components with less than this share of the largest variance are noise.
_NEGLIGIBLE = 1e-6
_GRAPH_CANDIDATES = 128


class FeatureProjection(torch.nn.Module):
    r"""A fixed reduction of a modality, :math:`\eta(\mathbf{X}) =
    \mathbf{X} \mathbf{V} - \mathbf{1} \mathbf{v}^{\top}`; zero for items
    without the modality.

    Args:
        weight (torch.Tensor): :math:`\mathbf{V}` :math:`(d_m, d)`.
        offset (torch.Tensor): :math:`\mathbf{v}` :math:`(d)`.
    """
    weight: Tensor
    offset: Tensor

    def __init__(self, weight: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.register_buffer('weight', weight)
        self.register_buffer('offset', offset)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        out = features_matmul(x, self.weight) - self.offset
        return masked_rows(out, mask)


class _Standardised:
    r"""The standardised features of some modalities, side by side, as a
    linear operator."""
    def __init__(self, features: Mapping[str, Tensor],
                 masks: Mapping[str, Tensor]) -> None:
        self.parts: list[tuple[str, Tensor, Tensor | None,
                               ColumnStatistics]] = []
        for name, x in features.items():
            mask = masks.get(name)
            self.parts.append((name, x, mask, column_statistics(x, mask)))
        self.widths = [x.size(1) for x in features.values()]
        self.num_rows = next(iter(features.values())).size(0)
        # Rows without any of the modalities take no part in variances.
        present = torch.zeros(self.num_rows, dtype=torch.bool)
        for name in features:
            mask = masks.get(name)
            present |= True if mask is None else mask.cpu()
        self.num_present = max(int(present.sum()), 1)

    def matmul(self, weight: Tensor) -> Tensor:
        out = weight.new_zeros(self.num_rows, weight.size(1))
        for (_, x, mask, (mean, scale)), part in zip(
                self.parts, weight.split(self.widths), strict=True):
            part = scale.view(-1, 1) * part
            out += masked_rows(features_matmul(x, part) - mean @ part, mask)
        return out

    def t_matmul(self, y: Tensor) -> Tensor:
        outs = []
        for _, x, mask, (mean, scale) in self.parts:
            part = masked_rows(y, mask)
            out = features_t_matmul(x, part)
            outs.append((out - torch.outer(part.sum(0), mean)) * scale)
        return torch.cat(outs, dim=1).t()

    def covariance(self) -> Tensor:
        r"""Returns the covariance :math:`(D, D)` in double precision."""
        width = sum(self.widths)
        out = torch.zeros(width, width, dtype=torch.double)
        step = max(1, _BLOCK_SIZE // width)
        for start in range(0, self.num_rows, step):
            rows = slice(start, start + step)
            block = torch.cat([
                masked_rows((x[rows].to(mean) - mean) * scale,
                            None if mask is None else mask[rows])
                for _, x, mask, (mean, scale) in self.parts
            ], dim=1)
            out += block.t() @ block
        return out / self.num_present

    def leading(self, channels: int) -> tuple[Tensor, Tensor]:
        r"""Returns the leading eigenvectors of the covariance :math:`(D,
        k)` and their variances :math:`(k)`, largest first; :math:`k` is
        smaller than :obj:`channels` where there are not so many."""
        width = sum(self.widths)
        if width <= _EXACT_WIDTH:
            value, vector = torch.linalg.eigh(self.covariance())
        else:
            generator = torch.Generator().manual_seed(0)
            size = min(channels + _OVERSAMPLING, width)
            basis = torch.randn(width, size, generator=generator)
            for _ in range(_NUM_ITERATIONS):
                basis = torch.linalg.qr(basis).Q
                basis = self.t_matmul(self.matmul(basis))
            basis = torch.linalg.qr(basis).Q
            inner = self.matmul(basis).double()
            value, vector = torch.linalg.eigh(
                inner.t() @ inner / self.num_present)
            vector = basis.double() @ vector
        value, vector = value.flip(0)[:channels], vector.flip(1)[:, :channels]
        kept = (value > _NEGLIGIBLE * value.max().clamp(min=1e-30)).sum()
        value, vector = value[:kept], vector[:, :kept]
        sign = vector.gather(0, vector.abs().argmax(0, keepdim=True)).sign()
        return (vector * sign).float(), value.float()

    def projections(self, weight: Tensor) -> dict[str, FeatureProjection]:
        r"""Splits a matrix :math:`(D, d)` that is applied to the
        standardised features into one projection a modality."""
        out = {}
        for (name, _, _, (mean, scale)), part in zip(
                self.parts, weight.split(self.widths), strict=True):
            part = scale.view(-1, 1) * part
            out[name] = FeatureProjection(part, mean @ part)
        return out


def _pad(weight: Tensor, channels: int) -> Tensor:
    return torch.nn.functional.pad(weight, (0, channels - weight.size(1)))


@torch.no_grad()
def pca_projections(
    features: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    channels: int,
) -> dict[str, FeatureProjection]:
    r"""The whitened principal components of each modality."""
    out = {}
    for name, x in features.items():
        operator = _Standardised({name: x}, masks)
        vector, value = operator.leading(channels)
        out.update(
            operator.projections(_pad(vector * value.rsqrt(), channels)))
    return out


@torch.no_grad()
def graph_projections(
    features: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    channels: int,
    graph: UserItemGraph,
) -> dict[str, FeatureProjection]:
    r"""The directions of the features that are smoothest over the graph.

    Within the whitened leading components :math:`\mathbf{Z}` of all
    modalities, these are the leading eigenvectors of :math:`\mathbf{Y}^{\top}
    \mathbf{Y} - \mathbf{Z}^{\top} \textrm{diag}(\mathbf{R}^{\top}\mathbf{R})
    \mathbf{Z}` with :math:`\mathbf{Y} = \mathbf{R} \mathbf{Z}`: how much
    items share with *other* items of the same users.
    """
    operator = _Standardised(features, masks)
    if graph.num_items != operator.num_rows:
        raise ValueError(f"'graph' has {graph.num_items} items, but the "
                         f"features have {operator.num_rows} rows")
    vector, value = operator.leading(max(_GRAPH_CANDIDATES, channels))
    whitening = vector * value.rsqrt()
    z = operator.matmul(whitening)
    graph = graph.to('cpu', z.dtype)
    y = graph.user_item.matmul(z).double()
    own = graph.user_item.value.square()
    own = own.new_zeros(graph.num_items).index_add_(
        0, graph.user_item.col.long(), own)
    smooth = y.t() @ y - z.double().t() @ (own.view(-1, 1) * z).double()
    _, vector = torch.linalg.eigh((smooth + smooth.t()) / 2)
    vector = vector.flip(1)[:, :channels].float()
    # The mean over modalities divides by their number; standardisation of
    # its columns takes that back.
    return operator.projections(_pad(whitening @ vector, channels))
