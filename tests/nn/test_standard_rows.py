from __future__ import annotations

import numpy as np
import pytest
import reference
import torch

from torch_promptmm.nn import feature_matmul
from torch_promptmm.nn.column_statistics import column_statistics
from torch_promptmm.nn.standard_rows import SCALINGS, StandardRows
from torch_promptmm.nn.whitening import whitening_matrix


@pytest.mark.parametrize('scaling', SCALINGS)
@pytest.mark.parametrize('masked', [False, True])
def test_equals_numpy(scaling: str, masked: bool,
                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_matmul, '_BLOCK_SIZE', 10)
    x = 3 + 2 * torch.randn(9, 4, dtype=torch.double)
    mask = torch.arange(9) % 3 > 0
    if masked:
        x[~mask] = float('nan')  # Is not looked at.
    like = torch.empty(0, dtype=torch.double)
    rows = StandardRows(x, mask if masked else None, like, scaling)
    want = np.nan_to_num(x.numpy())
    want = reference.unit_rows(reference.scaled(
        want, scaling, mask.numpy() if masked else None))
    out = torch.cat([rows(slice(0, 2)), rows(slice(2, 9))]).numpy()
    # Of rows, no more than the products are seen.
    np.testing.assert_allclose(out @ out.T, want @ want.T, atol=1e-12)
    if scaling != 'whiten':
        np.testing.assert_allclose(out, want, atol=1e-12)


@pytest.mark.parametrize('shrinkage', [0.01, 0.1, 1.0])
def test_whitening(shrinkage: float,
                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_matmul, '_BLOCK_SIZE', 40)
    x = torch.randn(50, 3, dtype=torch.double) @ torch.randn(
        3, 6, dtype=torch.double) + 0.1 * torch.randn(50, 6).double()
    x[:, 4] = 7.0  # A constant column.
    statistics = column_statistics(x, None, x)
    matrix = whitening_matrix(x, None, statistics, shrinkage).numpy()
    z = reference.standardise(x.numpy())
    shrunk = (1 - shrinkage) * z.T @ z / 50 + shrinkage * np.eye(6)
    np.testing.assert_allclose(matrix @ matrix.T, np.linalg.inv(shrunk),
                               rtol=1e-9, atol=1e-9)
    # With all of the shrinkage nothing is left of it.
    if shrinkage == 1.0:
        np.testing.assert_allclose(matrix, np.eye(6), atol=1e-12)
    else:  # The same products as those of ZCA.
        value, vector = np.linalg.eigh(shrunk)
        other = z @ (vector * value**-0.5) @ vector.T
        out = z @ matrix
        np.testing.assert_allclose(out @ out.T, other @ other.T, atol=1e-9)


def test_whitened_columns_are_uncorrelated() -> None:
    x = torch.randn(400, 5, dtype=torch.double) @ torch.randn(
        5, 5, dtype=torch.double)
    statistics = column_statistics(x, None, x)
    out = ((x - statistics.mean) * statistics.scale @ whitening_matrix(
        x, None, statistics, 1e-9)).numpy()
    np.testing.assert_allclose(out.T @ out / 400, np.eye(5), atol=1e-5)


@pytest.mark.parametrize('shrinkage', [0.0, -0.1, 1.5])
def test_bad_shrinkage(shrinkage: float) -> None:
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match="'shrinkage' must be"):
        whitening_matrix(x, None, column_statistics(x), shrinkage)


def test_bad_scaling() -> None:
    with pytest.raises(ValueError, match="'scaling' must be one of"):
        StandardRows(torch.randn(3, 2), scaling='centre')


def test_bad_mask() -> None:
    with pytest.raises(ValueError, match="'mask' must be a boolean tensor"):
        StandardRows(torch.randn(3, 2), torch.ones(3))
