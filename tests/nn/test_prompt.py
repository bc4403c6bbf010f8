from __future__ import annotations

import copy

import numpy as np
import pytest
import reference
import torch
from allocations import Largest
from graphs import NUM_ITEMS, NUM_USERS, random_edges, to_coo, to_graph
from torch import Tensor

from torch_promptmm.nn import (
    SoftPrompt,
    feature_matmul,
    feature_projections,
)
from torch_promptmm.nn.functional import modality_key

NUM = 40


def random_features(dtype: torch.dtype = torch.float) -> dict[str, Tensor]:
    """Correlated columns with means far from zero."""
    return {
        'visual': (torch.randn(NUM, 6) @ torch.randn(6, 9) + 30).to(dtype),
        'textual': (torch.randn(NUM, 7) @ torch.randn(7, 7) - 5).to(dtype),
        'audio.mfcc': (5 * torch.randn(NUM, 3)).to(dtype),
    }


def some_masks() -> dict[str, Tensor]:
    masks = {
        'visual': torch.rand(NUM) < 0.7,
        'audio.mfcc': torch.rand(NUM) < 0.5,
    }
    masks['visual'][0] = masks['audio.mfcc'][1] = False
    return masks


def as_numpy(x: dict[str, Tensor]) -> list[np.ndarray]:
    return [y.double().numpy() for y in x.values()]


@pytest.mark.parametrize('names', [['visual'], ['visual', 'textual'],
                                   ['visual', 'textual', 'audio.mfcc']])
@pytest.mark.parametrize('channels', [1, 4, 12])
@pytest.mark.parametrize('masked', [False, True])
def test_equals_numpy(names: list[str], channels: int, masked: bool) -> None:
    x = {name: random_features()[name] for name in names}
    masks = {name: mask for name, mask in some_masks().items()
             if name in names} if masked else {}
    prompt = SoftPrompt.from_features(x, channels, masks=masks)
    want = reference.basis(
        as_numpy(x), channels,
        [masks[name].numpy() if name in masks else None for name in names])
    np.testing.assert_allclose(prompt.basis, want, atol=2e-3)
    assert torch.equal(prompt(), prompt.basis)  # A = 1, a = 0


@pytest.mark.parametrize('channels', [3, 16])
def test_columns_are_standardised_or_zero(channels: int) -> None:
    x = random_features()
    z = SoftPrompt.from_features(x, channels).basis
    width = min(channels, 7)  # What the richest modality has.
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-5)
    std = z.std(0, unbiased=False)
    np.testing.assert_allclose(std[:width], 1, atol=1e-4)
    assert (z[:, width:] == 0).all()


def test_fewer_items_than_channels() -> None:
    x = {'visual': torch.randn(4, 20)}
    z = SoftPrompt.from_features(x, 8).basis
    assert z.shape == (4, 8)
    np.testing.assert_allclose(z[:, :3].std(0, unbiased=False), 1, atol=1e-4)
    assert (z[:, 3:] == 0).all()  # Three components pass through four points.


def test_constant_features() -> None:
    x = {'visual': torch.full((5, 3), 0.7), 'textual': torch.randn(5, 3)}
    assert SoftPrompt.from_features(x, 2).basis.isfinite().all()
    del x['textual']
    prompt = SoftPrompt.from_features(x, 2)
    assert (prompt.basis == 0).all()
    assert (prompt.transform(x) == 0).all()


def test_what_an_item_lacks_takes_no_part() -> None:
    x, masks = random_features(), some_masks()
    garbage = {name: y.clone() for name, y in x.items()}
    for name, mask in masks.items():
        garbage[name][~mask] = 1e4
    one = SoftPrompt.from_features(x, 4, masks=masks)
    two = SoftPrompt.from_features(garbage, 4, masks=masks)
    for (key, a), b in zip(one.state_dict().items(),
                           two.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    # The components are those of the items that have the modality.
    mask = masks['visual']
    alone = SoftPrompt.from_features({'visual': x['visual'][mask]}, 4)
    name = modality_key('visual')
    for key in ('weight', 'offset'):
        torch.testing.assert_close(getattr(one.projections[name], key),
                                   getattr(alone.projections[name], key),
                                   atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize('num_layers', [1, 3])
@pytest.mark.parametrize('dtype', [torch.float, torch.half])
@pytest.mark.parametrize('method', ['pca', 'graph'])
def test_transform_of_the_same_items_equals_forward(
        num_layers: int, dtype: torch.dtype, method: str) -> None:
    x, masks = random_features(dtype), some_masks()
    edges = torch.stack([torch.arange(100) % 9, torch.arange(100) % NUM])
    prompt = SoftPrompt.from_features(x, 5, method, masks, edges, num_layers)
    for p in prompt.parameters():
        torch.nn.init.normal_(p)
    torch.testing.assert_close(prompt.transform(x, masks), prompt(),
                               atol=1e-4, rtol=1e-4)
    index = torch.tensor([7, 0, 7])
    new = {name: y[index] for name, y in x.items()}
    new_masks = {name: mask[index] for name, mask in masks.items()}
    torch.testing.assert_close(prompt.transform(new, new_masks),
                               prompt(index), atol=1e-4, rtol=1e-4)


def test_affine_layer_equals_numpy() -> None:
    prompt = SoftPrompt(torch.randn(6, 4, dtype=torch.double))
    torch.nn.init.normal_(prompt.weight)
    torch.nn.init.normal_(prompt.bias)
    z, a, b = (x.detach().numpy()
               for x in (prompt.basis, prompt.weight, prompt.bias))
    np.testing.assert_allclose(prompt().detach(), z @ a + b)
    np.testing.assert_allclose(prompt.matrix.detach(),
                               np.concatenate([a, b[None]]))
    assert prompt.is_affine

    def run(*parameters: Tensor) -> Tensor:
        return torch.func.functional_call(
            prompt, dict(zip(('weight', 'bias'), parameters, strict=True)))

    assert torch.autograd.gradcheck(run, (prompt.weight, prompt.bias))


def test_a_deeper_network_starts_where_the_affine_one_does() -> None:
    prompt = SoftPrompt(torch.randn(6, 4), num_layers=3)
    assert not prompt.is_affine
    torch.testing.assert_close(prompt(), prompt.basis)
    assert len([x for x in prompt.hidden
                if isinstance(x, torch.nn.Linear)]) == 3
    prompt().square().sum().backward()
    assert prompt.hidden[-1].weight.grad.abs().sum() > 0
    z = prompt.basis.double().numpy()
    for p in prompt.parameters():
        torch.nn.init.normal_(p)
    want = z @ prompt.weight.double().detach().numpy()
    want = want + prompt.bias.double().detach().numpy()
    h = torch.from_numpy(z)
    for i, layer in enumerate((prompt.hidden[0], prompt.hidden[2],
                               prompt.hidden[4])):
        h = h @ layer.weight.double().t() + layer.bias.double()
        if i < 2:
            h = h * 0.5 * (1 + torch.erf(h / 2**0.5))
    torch.testing.assert_close(prompt().double(),
                               h + torch.from_numpy(want), atol=1e-4,
                               rtol=1e-4)


def test_the_directions_that_the_graph_is_smooth_over() -> None:
    x = {'visual': torch.randn(NUM_ITEMS, 4) + 20,
         'textual': torch.randn(NUM_ITEMS, 3)}
    edge_index = random_edges()
    prompt = SoftPrompt.from_features(x, 2, 'graph',
                                      graph=to_graph(edge_index))
    side = np.concatenate([reference.standardise(y)
                           for y in as_numpy(x)], axis=1)
    left, _, _ = np.linalg.svd(side, full_matrices=False)
    z = left * NUM_ITEMS**0.5
    r = reference.adjacency(edge_index.numpy(), NUM_USERS,
                            NUM_ITEMS)[:NUM_USERS, NUM_USERS:]
    y = r @ z
    smooth = y.T @ y - z.T @ np.diag(np.diag(r.T @ r)) @ z
    value, vector = np.linalg.eigh(smooth)
    want = z @ vector[:, ::-1][:, :2]
    have = prompt.basis.double().numpy()
    sign = np.sign((have * want).sum(0))
    np.testing.assert_allclose(have, sign * want, atol=1e-3)
    for other in (edge_index, to_coo(edge_index)):
        again = SoftPrompt.from_features(x, 2, 'graph', graph=other)
        torch.testing.assert_close(again.basis, prompt.basis, atol=1e-4,
                                   rtol=1e-4)


def test_wide_features(monkeypatch: pytest.MonkeyPatch) -> None:
    x = {'visual': torch.randn(60, 5) @ torch.randn(5, 40)
         + 0.1 * torch.randn(60, 40) + 3}
    exact = SoftPrompt.from_features(x, 4)
    monkeypatch.setattr(feature_projections, '_EXACT_WIDTH', 10)
    state = torch.random.get_rng_state()
    near = SoftPrompt.from_features(x, 4)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.testing.assert_close(near.basis, exact.basis, atol=1e-3, rtol=1e-3)
    assert torch.equal(near.basis, SoftPrompt.from_features(x, 4).basis)


@pytest.mark.parametrize('exact', [True, False])
@pytest.mark.parametrize('dtype', [torch.float, torch.half])
def test_never_holds_the_features_again(exact: bool, dtype: torch.dtype,
                                        monkeypatch) -> None:
    num, width, channels = 3000, 64, 4
    monkeypatch.setattr(feature_projections, '_EXACT_WIDTH',
                        2000 if exact else 1)
    for module in (feature_projections, feature_matmul):
        monkeypatch.setattr(module, '_BLOCK_SIZE', 1000)
    x = (torch.randn(num, width) + 3).to(dtype)
    with Largest(x) as largest:
        prompt = SoftPrompt.from_features({'visual': x}, channels)
        prompt.transform({'visual': x}).sum().backward()
    assert largest.numel <= num * (channels + feature_projections._OVERSAMPLING)
    assert largest.numel < num * width


def test_no_raw_features_in_the_state() -> None:
    x = random_features()
    prompt = SoftPrompt.from_features(x, 4)
    state = prompt.state_dict()
    assert not any(NUM in value.shape and max(value.shape[1:], default=0) > 4
                   for value in state.values())
    assert {name for name, _ in prompt.named_parameters()} == {
        'weight', 'bias'}
    other = SoftPrompt.from_features(random_features(), 4)
    other.load_state_dict(state)
    torch.testing.assert_close(other.transform(x), prompt(), atol=1e-4,
                               rtol=1e-4)
    assert torch.equal(copy.deepcopy(prompt)(), prompt())


def test_names_stay_apart() -> None:
    names = ['a.b', 'a_dot_b', 'a%2Eb', 'weight', 'type', 'modality_a', 'é']
    x = {name: torch.randn(20, 2 + i) for i, name in enumerate(names)}
    prompt = SoftPrompt.from_features(x, 2)
    assert prompt.modalities == names
    torch.testing.assert_close(prompt.transform(x), prompt(), atol=1e-4,
                               rtol=1e-4)


def test_reset_parameters() -> None:
    for num_layers in (1, 2):
        prompt = SoftPrompt(torch.randn(5, 3), num_layers)
        for p in prompt.parameters():
            torch.nn.init.normal_(p)
        prompt.reset_parameters()
        torch.testing.assert_close(prompt(), prompt.basis)


def test_gradient_at_the_start_is_not_zero() -> None:
    prompt = SoftPrompt.from_features(random_features(), 4)
    p = prompt()
    (p @ (p.t() @ torch.randn(NUM, 3))).square().sum().backward()
    assert prompt.weight.grad.abs().sum() > 0
    assert prompt.bias.grad.abs().sum() > 0


def test_representation() -> None:
    prompt = SoftPrompt.from_features({'visual': torch.randn(9, 3)}, 4)
    assert str(prompt) == ("SoftPrompt(9, channels=4, num_layers=1, "
                           "modalities=['visual'])")


def test_double_precision_and_device(device: torch.device) -> None:
    x = random_features()
    prompt = SoftPrompt.from_features(x, 4).to(device, torch.double)
    assert prompt().dtype == torch.double
    out = prompt.transform(x)
    assert out.device.type == device.type
    torch.testing.assert_close(out, prompt(), atol=1e-4, rtol=1e-4)
    assert SoftPrompt(torch.randn(3, 2).double(), 2)().dtype == torch.double


def test_compiles() -> None:
    torch._dynamo.reset()
    prompt = SoftPrompt.from_features(random_features(), 4, num_layers=2)
    compiled = torch.compile(prompt, backend='aot_eager', fullgraph=True)
    torch.testing.assert_close(compiled(), prompt())


VISUAL = {'visual': torch.randn(9, 3)}
NOT_FINITE = {'visual': VISUAL['visual'], 'audio': torch.ones(9, 4)}
NOT_FINITE['audio'][2] = float('nan')
NOT_FINITE['audio'][7, 1] = -float('inf')
MASKED = {'audio': NOT_FINITE['audio'].isfinite().all(dim=1)}


@pytest.mark.parametrize('dtype', [torch.float, torch.half])
@pytest.mark.parametrize('method', ['pca', 'graph'])
@pytest.mark.parametrize('masks', [None, MASKED])
@pytest.mark.parametrize('width', [1024, 1])
def test_features_that_are_not_finite(monkeypatch, dtype, method: str, masks,
                                      width: int) -> None:
    monkeypatch.setattr(feature_projections, '_EXACT_WIDTH', width)
    monkeypatch.setattr(feature_matmul, '_BLOCK_SIZE', 8)  # Two rows.
    edges = torch.stack([torch.arange(9) % 3, torch.arange(9)])
    x = {name: y.to(dtype) for name, y in NOT_FINITE.items()}
    match = r"'features\['audio'\]' has 2 rows with NaN or infinite entries"
    with pytest.raises(ValueError, match=match):
        SoftPrompt.from_features(x, 2, method, masks, edges)
    # Written as the message says, they are taken.
    x['audio'] = x['audio'].nan_to_num(0.0, 0.0, 0.0)
    prompt = SoftPrompt.from_features(x, 2, method, masks, edges)
    assert prompt.basis.isfinite().all()
    with pytest.raises(ValueError, match=match):
        prompt.transform(NOT_FINITE, masks)



@pytest.mark.parametrize('error, match, make', [
    (ValueError, 'at least one modality',
     lambda: SoftPrompt.from_features({}, 4)),
    (ValueError, 'at least one modality',
     lambda: SoftPrompt.from_features(torch.randn(3, 2), 4)),
    (TypeError, r"'features\['visual'\]' must be a torch.Tensor",
     lambda: SoftPrompt.from_features({'visual': np.ones((3, 2))}, 4)),
    (ValueError, 'two-dimensional floating-point',
     lambda: SoftPrompt.from_features({'visual': torch.ones(3).int()}, 4)),
    (ValueError, 'a row for each item',
     lambda: SoftPrompt.from_features(
         {**VISUAL, 'textual': torch.randn(8, 2)}, 4)),
    (ValueError, "'channels' must be at least 1",
     lambda: SoftPrompt.from_features(VISUAL, 0)),
    (ValueError, "'method' must be one of 'pca', 'ica', 'random', 'mean', "
     "'graph' .got 'svd'",
     lambda: SoftPrompt.from_features(VISUAL, 2, 'svd')),
    (ValueError, 'needs the training interactions',
     lambda: SoftPrompt.from_features(VISUAL, 2, 'graph')),
    (ValueError, "'graph' has 11 items, but the features have 9 rows",
     lambda: SoftPrompt.from_features(VISUAL, 2, 'graph',
                                      graph=to_graph(random_edges()))),
    (ValueError, r'boolean tensor of shape \[9\] .got shape \[8\]',
     lambda: SoftPrompt.from_features(
         VISUAL, 2, masks={'visual': torch.ones(8).bool()})),
    (ValueError, "'masks' has 'audio', but the modalities are",
     lambda: SoftPrompt.from_features(
         VISUAL, 2, masks={'audio': torch.ones(9).bool()})),
    (ValueError, "must have the modalities .'visual'.",
     lambda: SoftPrompt.from_features(VISUAL, 2).transform(
         {'textual': VISUAL['visual']})),
    (ValueError, r"a row for each item .* .got rows .'visual': 9, 'te",
     lambda: SoftPrompt.from_features(
         {**VISUAL, 'textual': torch.randn(9, 2)}, 2).encode(
             {**VISUAL, 'textual': torch.randn(1, 2)})),
    (TypeError, r"'features\['visual'\]' must be a torch.Tensor",
     lambda: SoftPrompt.from_features(VISUAL, 2).encode(
         {'visual': [[1.0, 2.0, 3.0]]})),
    (ValueError, "'masks' has 'audio', but the modalities are",
     lambda: SoftPrompt.from_features(VISUAL, 2).encode(
         VISUAL, {'audio': torch.ones(9).bool()})),
    (ValueError, "'num_layers' must be at least 1",
     lambda: SoftPrompt(torch.randn(3, 2), 0)),
    (ValueError, "'basis' must be a two-dim",
     lambda: SoftPrompt(torch.randn(3))),
])
def test_bad_input(error: type[Exception], match: str, make) -> None:
    with pytest.raises(error, match=match):
        make()
