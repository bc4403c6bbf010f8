"""Means and deviations of columns, in row blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from torch_promptmm.nn import feature_matmul
from torch_promptmm.nn.column_statistics import column_statistics

DTYPES = [torch.half, torch.bfloat16, torch.float, torch.double]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_matmul, '_BLOCK_SIZE', 16)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('masked', [False, True])
def test_column_statistics(dtype: torch.dtype, masked: bool) -> None:
    x = (3 * torch.randn(40, 5) + 50).to(dtype)
    mask = torch.rand(40) < 0.6 if masked else None
    want = x.double().numpy()
    want = want if mask is None else want[mask.numpy()]
    mean, scale = column_statistics(x, mask)
    assert mean.dtype == scale.dtype == torch.float
    np.testing.assert_allclose(mean, want.mean(0), rtol=1e-6)
    np.testing.assert_allclose(scale, 1 / want.std(0), rtol=1e-5)


def test_column_statistics_where_means_are_far_away() -> None:
    x = torch.randn(200, 3, dtype=torch.double) + 1e6
    mean, scale = column_statistics(x, like=torch.empty(0).double())
    np.testing.assert_allclose(mean, x.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(scale, 1 / x.numpy().std(0), rtol=1e-6)


def test_column_statistics_of_half_precision_modules() -> None:
    x = 300 * torch.randn(100, 3)  # Squares are beyond half precision.
    mean, scale = column_statistics(x, like=torch.empty(0).half())
    assert scale.dtype == torch.half
    np.testing.assert_allclose(scale.float(), 1 / x.numpy().std(0),
                               rtol=1e-2)


def test_constant_columns_have_no_scale() -> None:
    x = torch.randn(10, 3)
    x[:, 1] = 0.1  # No binary fraction.
    mean, scale = column_statistics(x)
    assert scale[1] == 0
    assert (scale[[0, 2]] > 0).all()


def test_no_row_at_all() -> None:
    x = torch.randn(10, 5)
    mean, scale = column_statistics(x, torch.zeros(10, dtype=torch.bool))
    assert (mean == 0).all()
    assert (scale == 0).all()
    with pytest.raises(ValueError, match='boolean tensor'):
        column_statistics(x, torch.ones(9, dtype=torch.bool))
