from __future__ import annotations

import numpy as np
import pytest
import reference
import torch

from torch_promptmm.nn import unit_rows
from torch_promptmm.nn.functional import (
    checked_masks,
    masked_rows,
    modality_key,
)


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


def test_masked_rows() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    mask = torch.tensor([True, False, True])
    out = masked_rows(x, mask)
    assert torch.equal(out, x * mask.view(-1, 1))
    assert masked_rows(x, None) is x
    with pytest.raises(ValueError, match=r'boolean tensor of shape \[3\]'):
        masked_rows(x, mask[:1])
    with pytest.raises(ValueError, match='boolean tensor'):
        masked_rows(x, mask.float())


def test_modality_keys_are_names_of_modules_and_stay_apart() -> None:
    names = ['a.b', 'a_dot_b', 'a%2Eb', 'weight', 'type', 'modality_a', 'é']
    keys = [modality_key(name) for name in names]
    assert len(set(keys)) == len(names)
    modules = torch.nn.ModuleDict({key: torch.nn.Identity() for key in keys})
    assert list(modules) == keys


def test_checked_masks() -> None:
    masks = {'visual': torch.tensor([True, False])}
    out = checked_masks(masks, {'visual': 2, 'audio': 3})
    assert out == masks and out is not masks
    assert checked_masks(None, {'visual': 2}) == {}
    with pytest.raises(ValueError, match="'masks' has 'visual', but the mod"):
        checked_masks(masks, {'audio': 2})
    with pytest.raises(ValueError, match=r'of shape .3. .got shape .2.'):
        checked_masks(masks, {'visual': 3})
    with pytest.raises(TypeError, match=r"'masks.'visual'.' must be a torch"):
        checked_masks({'visual': [True]}, {'visual': 1})
