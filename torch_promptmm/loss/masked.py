r"""Means over what a mask admits."""

from __future__ import annotations

import torch
from torch import Tensor


def check_valid(mask: Tensor, values: Tensor) -> None:
    r"""Checks that a mask fits what it masks."""
    if not isinstance(mask, Tensor):
        raise TypeError(f"'mask' must be a torch.Tensor (got "
                        f"'{type(mask).__name__}')")
    if mask.dtype != torch.bool or mask.shape != values.shape:
        raise ValueError(f"'mask' must be a boolean tensor of shape "
                         f"{list(values.shape)} (got shape "
                         f"{list(mask.shape)}, {mask.dtype})")


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    r"""The mean over valid entries; zero where there are none."""
    if mask is None:
        return values.mean() if values.numel() > 0 else values.sum()
    check_valid(mask, values)
    total = torch.where(mask, values, 0.0).sum()
    return total / mask.sum().clamp(min=1)
