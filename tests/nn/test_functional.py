from __future__ import annotations

import numpy as np
import pytest
import reference
import torch

from torch_promptmm.nn import unit_rows


def test_unit_rows_equals_numpy() -> None:
    x = torch.randn(6, 4, dtype=torch.double)
    x[2] = 0.0
    np.testing.assert_allclose(unit_rows(x).numpy(),
                               reference.unit_rows(x.numpy()), atol=1e-15)


def test_unit_rows_gradient() -> None:
    x = torch.randn(3, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(unit_rows, x)
    assert torch.autograd.gradgradcheck(unit_rows, x)


def test_unit_rows_of_another_length() -> None:
    x = torch.randn(3, 4, dtype=torch.double, requires_grad=True)
    torch.testing.assert_close(unit_rows(x, 0.1), 0.1 * unit_rows(x))
    assert torch.autograd.gradcheck(lambda x: unit_rows(x, 0.1), x)
    assert torch.autograd.gradgradcheck(lambda x: unit_rows(x, 0.1), x)


def test_zero_rows_have_a_zero_gradient() -> None:
    x = torch.zeros(2, 4, requires_grad=True)
    out = unit_rows(x)
    assert (out == 0).all()
    (out * torch.randn(2, 4)).sum().backward()
    assert (x.grad == 0).all()  # F.normalize gives 1e12


@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16])
@pytest.mark.parametrize('size', [1e-3, 1.0, 3e3])
def test_half_precision_keeps_its_range(dtype: torch.dtype,
                                        size: float) -> None:
    x = (size * torch.randn(5, 8)).to(dtype)
    out = unit_rows(x)
    assert out.dtype == dtype
    assert torch.allclose(out.float().norm(dim=1), torch.ones(5), atol=1e-2)


def test_more_dimensions(device: torch.device) -> None:
    x = torch.randn(2, 3, 4, device=device)
    out = unit_rows(x)
    assert out.shape == x.shape
    assert torch.allclose(out.norm(dim=-1), torch.ones(2, 3, device=device))
