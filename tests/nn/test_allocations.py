"""The instrument itself."""

from __future__ import annotations

import torch
from allocations import Largest


def test_it_sees_what_it_should() -> None:
    x = torch.randn(10, 10)
    with Largest(x) as largest:
        x[:5].t()
    assert largest.numel == 0
    y = torch.randn(10, requires_grad=True)
    with Largest(x) as largest:
        out = (x * y).sum()
    assert largest.numel == 100
    with Largest(x) as largest:
        out.backward()  # Holds the product with `x` before it is summed.
    assert largest.numel == 100
