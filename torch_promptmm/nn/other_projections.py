r"""Reductions of features that the prompt can be made of in place of
principal components, to see what those are worth."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from sklearn.decomposition import FastICA
from torch import Tensor

from torch_promptmm.nn.feature_projections import (
    FeatureProjection,
    _pad,
    _Standardised,
)

Projections = dict[str, FeatureProjection]


def _unit_variance(operator: _Standardised, weight: Tensor,
                   channels: int) -> Projections:
    r"""Applies a matrix to the standardised features of one modality, each
    column scaled to unit variance; one that hardly varies is zero."""
    z = operator.matmul(weight)
    deviation = (z.square().sum(dim=0) / operator.num_present).sqrt()
    kept = deviation > 1e-4 * deviation.max().clamp(min=1e-30)
    factor = torch.where(kept, 1.0 / torch.where(kept, deviation, 1.0), 0.0)
    return operator.projections(_pad(weight * factor, channels))


@torch.no_grad()
def random_projections(
    features: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    channels: int,
) -> Projections:
    r"""Random directions of each modality: a Gaussian matrix, drawn from
    torch's global generator."""
    out: Projections = {}
    for name, x in features.items():
        operator = _Standardised({name: x}, masks)
        weight = torch.randn(x.size(1), channels)
        out.update(_unit_variance(operator, weight, channels))
    return out


@torch.no_grad()
def mean_projections(
    features: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    channels: int,
) -> Projections:
    r"""Mean pooling of each modality: :math:`d` runs of neighbouring
    columns, as equally long as they can be, are averaged."""
    out: Projections = {}
    for name, x in features.items():
        operator = _Standardised({name: x}, masks)
        width = x.size(1)
        num = min(channels, width)
        group = torch.arange(width) * num // width
        weight = torch.nn.functional.one_hot(group, num).float()
        out.update(_unit_variance(operator, weight / weight.sum(dim=0),
                                  channels))
    return out


@torch.no_grad()
def ica_projections(
    features: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    channels: int,
) -> Projections:
    r"""The independent components of each modality, by scikit-learn's
    FastICA on the whitened leading components: a rotation of these."""
    out: Projections = {}
    for name, x in features.items():
        operator = _Standardised({name: x}, masks)
        vector, value = operator.leading(channels)
        whitening = vector * value.rsqrt()
        z = operator.matmul(whitening).double()
        if masks.get(name) is not None:
            z = z[masks[name].to(z.device)]
        seed = int(torch.randint(2**31 - 1, (1, )))
        fast = FastICA(whiten=False, max_iter=1000, tol=1e-4,
                       random_state=seed).fit(z.cpu().numpy())
        rotation = torch.from_numpy(fast.components_).to(whitening)
        out.update(
            operator.projections(_pad(whitening @ rotation.t(), channels)))
    return out
