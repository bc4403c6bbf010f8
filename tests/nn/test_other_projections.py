"""Reductions of features in place of principal components."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from torch import Tensor

from torch_promptmm import PromptMMDistiller
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.nn import SoftPrompt
from torch_promptmm.nn.feature_projections import pca_projections
from torch_promptmm.nn.other_projections import (
    ica_projections,
    mean_projections,
    random_projections,
)

METHODS = ['ica', 'random', 'mean']
N = 60


def features(width: int = 7) -> Tensor:
    torch.manual_seed(0)
    return torch.rand(N, 4) @ torch.randn(4, width) * 3 + torch.randn(
        N, width) + 10 * torch.randn(width)


def standard(x: Tensor, mask: Tensor | None = None) -> np.ndarray:
    return reference.standardise(
        x.double().numpy(), None if mask is None else mask.numpy())


@pytest.mark.parametrize('width, channels', [(7, 3), (6, 3), (2, 4)])
def test_mean_of_neighbouring_columns(width: int, channels: int) -> None:
    x = features(width)
    z = mean_projections({'x': x}, {}, channels)['x'](x).double().numpy()
    num = min(width, channels)
    group = np.arange(width) * num // width
    side = standard(x)
    want = np.stack([side[:, group == g].mean(1) for g in range(num)], 1)
    want /= want.std(0)
    np.testing.assert_allclose(z[:, :num], want, atol=1e-4)
    assert (z[:, num:] == 0).all()


def test_random_directions() -> None:
    x = features()
    torch.manual_seed(3)
    z = random_projections({'x': x}, {}, 5)['x'](x).double().numpy()
    torch.manual_seed(3)
    want = standard(x) @ torch.randn(7, 5).double().numpy()
    np.testing.assert_allclose(z, want / want.std(0), atol=1e-4)
    other = random_projections({'x': x}, {}, 5)['x'](x).double().numpy()
    assert not np.allclose(z, other)


def test_independent_components() -> None:
    # Two independent signals that are mixed are found again.
    torch.manual_seed(0)
    signals = torch.rand(2000, 2).double() - 0.5
    x = (signals @ torch.tensor([[1.0, 2.0, 0.5], [1.5, -1.0, 1.0]]).double()
         ).float()
    z = ica_projections({'x': x}, {}, 2)['x'](x).double()
    both = np.abs(np.corrcoef(z.numpy().T, signals.numpy().T)[:2, 2:])
    assert both.max(0).min() > 0.99
    pca = pca_projections({'x': x}, {}, 2)['x'](x).double()
    both = np.abs(np.corrcoef(pca.numpy().T, signals.numpy().T)[:2, 2:])
    assert both.max(0).min() < 0.95


def test_independent_components_are_a_rotation() -> None:
    # Of one modality, P P^T is the same as with principal components.
    x = features()
    a, b = (SoftPrompt.from_features({'x': x}, 4, method)()
            for method in ('pca', 'ica'))
    assert not torch.allclose(a, b, atol=1e-2)
    torch.testing.assert_close(a @ a.t(), b @ b.t(), rtol=0, atol=1e-2)


@pytest.mark.parametrize('method', METHODS)
def test_masked_items_take_no_part(method: str) -> None:
    make = {'ica': ica_projections, 'random': random_projections,
            'mean': mean_projections}[method]
    x, mask = features(), torch.ones(N, dtype=torch.bool)
    mask[5:20] = False
    torch.manual_seed(1)
    out = make({'x': x}, {'x': mask}, 3)['x'](x, mask)
    assert (out[5:20] == 0).all()
    variance = out[mask].square().mean(dim=0)
    torch.testing.assert_close(variance, torch.ones(3), rtol=0, atol=1e-3)
    if method == 'ica':  # Of these features there is no one rotation.
        return
    torch.manual_seed(1)
    want = make({'x': x[mask]}, {}, 3)['x'](x[mask])
    torch.testing.assert_close(out[mask], want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('channels', [3, 12])
def test_prompts(method: str, channels: int) -> None:
    x = {'a': features(), 'b': features(4).flip(0)}
    prompt = SoftPrompt.from_features(x, channels, method)
    basis = prompt.basis.double()
    assert prompt().shape == (N, channels) and basis.isfinite().all()
    deviation = basis.std(dim=0, unbiased=False)
    assert ((deviation - 1).abs() < 1e-3)[:3].all()
    # Items that come later are reduced in the same way.
    torch.testing.assert_close(
        prompt.encode({k: v[:9] for k, v in x.items()}), prompt.basis[:9])


@pytest.mark.parametrize('method', METHODS)
def test_through_the_front_door(method: str) -> None:
    train = SyntheticMultimodal.blocks()[0]
    a, b = (PromptMMDistiller.from_data(train, 4, seed=0, prompt=method)
            for _ in range(2))
    assert torch.equal(a.prompt.basis, b.prompt.basis)
    pca = PromptMMDistiller.from_data(train, 4, seed=0)
    assert not torch.allclose(a.prompt.basis, pca.prompt.basis, atol=1e-2)
    a.fit(train, epochs=1, seed=0, progress=False)
    with pytest.raises(ValueError, match="'prompt' must be one of"):
        PromptMMDistiller.from_data(train, 4, prompt='tsne')


def test_configuration_of_a_prompt() -> None:
    prompt = SoftPrompt.from_features({'a': features(), 'b.c': features(4)},
                                      3, num_layers=2)
    other = SoftPrompt.from_config(prompt.config())
    other.load_state_dict(prompt.state_dict())
    torch.testing.assert_close(other(), prompt())
    new = {'a': features()[:2], 'b.c': features(4)[:2]}
    torch.testing.assert_close(other.transform(new), prompt.transform(new))
