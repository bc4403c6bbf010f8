from __future__ import annotations

import numpy as np
import pytest
import reference
import torch

from torch_promptmm.nn import feature_matmul
from torch_promptmm.nn.standard_rows import StandardRows


@pytest.mark.parametrize('standardize', [True, False])
@pytest.mark.parametrize('masked', [False, True])
def test_equals_numpy(standardize: bool, masked: bool,
                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_matmul, '_BLOCK_SIZE', 10)
    x = 3 + 2 * torch.randn(9, 4, dtype=torch.double)
    mask = torch.arange(9) % 3 > 0
    if masked:
        x[~mask] = float('nan')  # Is not looked at.
    like = torch.empty(0, dtype=torch.double)
    rows = StandardRows(x, mask if masked else None, like, standardize)
    want = np.nan_to_num(x.numpy())
    if standardize:
        want = reference.standardise(want, mask.numpy() if masked else None)
    want = reference.unit_rows(want)
    out = torch.cat([rows(slice(0, 2)), rows(slice(2, 9))])
    np.testing.assert_allclose(out.numpy(), want, atol=1e-12)


def test_bad_mask() -> None:
    with pytest.raises(ValueError, match="'mask' must be a boolean tensor"):
        StandardRows(torch.randn(3, 2), torch.ones(3))
