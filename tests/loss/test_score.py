from __future__ import annotations

import numpy as np
import pytest
import reference
import torch

from torch_promptmm.loss import as_scored, default_temperature


def test_as_scored() -> None:
    x = torch.randn(5, 3, dtype=torch.double)
    x[1] = 0.0
    assert as_scored(x, 'dot') is x
    np.testing.assert_allclose(as_scored(x, 'cosine'),
                               reference.unit_rows(x.numpy()))
    with pytest.raises(ValueError, match="'score' must be one of 'dot', 'c"):
        as_scored(x, 'euclid')
    for score in ('dot', 'cosine'):
        with pytest.raises(TypeError, match="'x' must be a torch.Tensor"):
            as_scored(x.tolist(), score)
        with pytest.raises(ValueError, match="'x' must be a floating-point"):
            as_scored(x.long(), score)


def test_default_temperature() -> None:
    assert default_temperature('dot') == 1.0
    assert default_temperature('cosine') == 0.2
    with pytest.raises(ValueError, match="'score'"):
        default_temperature('')
