"""The leading components of wide features, by subspace iteration."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch

from torch_promptmm.nn import feature_projections
from torch_promptmm.nn.feature_projections import pca_projections


def slow_spectrum(num: int, width: int) -> torch.Tensor:
    """Columns whose i-th largest variance is i^-1.2: a pass over them leaves
    much of the smaller ones among the leading.
    """
    left = torch.randn(num, width, dtype=torch.double)
    left = torch.linalg.qr(left - left.mean(0)).Q
    right = torch.linalg.qr(torch.randn(width, width, dtype=torch.double)).Q
    deviation = torch.arange(1, width + 1).double()**-0.6
    return (left * deviation @ right).float()


def test_a_slow_spectrum_needs_every_iteration(
        monkeypatch: pytest.MonkeyPatch) -> None:
    x = slow_spectrum(300, 80)
    monkeypatch.setattr(feature_projections, '_EXACT_WIDTH', 1)
    projection = pca_projections({'visual': x}, {}, 4)['visual']
    # The subspace of the standardised columns, and the angle to the exact
    # one: 1e-4 after five iterations, 6e-4 after four, 0.2 after one.
    have, _ = np.linalg.qr(projection(x).double().numpy())
    side = reference.standardise(x.double().numpy())
    want, _, _ = np.linalg.svd(side, full_matrices=False)
    cosine = np.linalg.svd(have.T @ want[:, :4])[1].min()
    assert (1 - min(cosine, 1.0)**2)**0.5 < 2.5e-4
