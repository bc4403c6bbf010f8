from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import torch

from torch_promptmm.models import ridge_rows
from torch_promptmm.nn import content_map

NUM_ITEMS = 40


def data() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor],
                    torch.Tensor, torch.Tensor]:
    features = {'a': 5 + 3 * torch.randn(NUM_ITEMS, 6),
                'b': torch.randn(NUM_ITEMS, 4).double() - 4}
    rows = torch.randn(NUM_ITEMS, 3, dtype=torch.double) + 2
    weight = torch.randint(0, 4, (NUM_ITEMS, )).double().sqrt()
    return features, {'b': torch.arange(NUM_ITEMS) % 3 > 0}, rows, weight


def naive(features: dict[str, torch.Tensor], masks: dict[str, torch.Tensor],
          rows: torch.Tensor, weight: torch.Tensor, l2: float) -> Any:
    """Least squares of the system with rows for the penalty added."""
    z = np.concatenate([
        x.size(1)**0.5 * reference.unit_rows(reference.standardise(
            x.numpy(), masks[k].numpy() if k in masks else None))
        for k, x in features.items()
    ], 1)
    c = weight.numpy()
    design = np.concatenate([z, np.ones((NUM_ITEMS, 1))], 1)
    penalty = np.eye(z.shape[1], z.shape[1] + 1) * (l2 * c.mean())**0.5
    left = np.concatenate([c[:, None]**0.5 * design, penalty])
    right = np.concatenate([c[:, None]**0.5 * rows.numpy(),
                            np.zeros((z.shape[1], rows.size(1)))])
    return design @ np.linalg.lstsq(left, right, rcond=None)[0]


@pytest.mark.parametrize('l2', [0.01, 30.0])
@pytest.mark.parametrize('block', [2**22, 50])
def test_equals_least_squares(l2: float, block: int,
                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_map, '_BLOCK_SIZE', block)
    features, masks, rows, weight = data()
    out = ridge_rows(features, masks, rows, weight, l2)
    want = naive(features, masks, rows, weight, l2)
    np.testing.assert_allclose(out.numpy(), want, atol=1e-9)


def test_what_is_not_fitted_is_not_looked_at() -> None:
    features, masks, rows, weight = data()
    want = ridge_rows(features, masks, rows, weight)
    rows[weight == 0] = float('nan')
    assert torch.equal(ridge_rows(features, masks, rows, weight), want)


def test_type_of_the_rows_and_default_l2() -> None:
    features, masks, rows, weight = data()
    out = ridge_rows(features, None, rows.float(), weight.float())
    assert out.dtype == torch.float
    np.testing.assert_allclose(out.numpy(),
                               naive(features, {}, rows, weight, 30.0),
                               atol=1e-5)


def test_bad_input() -> None:
    features, masks, rows, weight = data()
    for changed, message in [
        ({'features': {}}, "'features' must map"),
        ({'features': {'a': features['a'][1:]}}, 'must have a row for each'),
        ({'rows': rows.long()}, "'rows' must be"),
        ({'weight': weight[1:]}, r"'weight' must be a tensor of shape \[40\]"),
        ({'weight': -weight}, 'not negative'),
        ({'weight': 0 * weight}, 'above zero'),
        ({'l2': 0.0}, "'l2' must be"),
        ({'masks': {'c': weight > 0}}, "'masks' has 'c'"),
    ]:
        kwargs = {'features': features, 'masks': None, 'rows': rows,
                  'weight': weight, **changed}
        with pytest.raises(ValueError, match=message):
            ridge_rows(**kwargs)
