from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import reference
import torch
from torch import Tensor
from torch.testing import assert_close

from torch_promptmm.nn import FeatureMaps, ItemFeatures, feature_matmul

MASK = torch.arange(9) % 4 > 0


def make(mask: bool = True, double: bool = True,
         **kwargs: Any) -> tuple[FeatureMaps, dict[str, Tensor]]:
    x = {'a.b': 5 + 3 * torch.randn(9, 6), 'c': torch.randn(9, 3) - 4}
    x['c'][7] = 0.0
    features = ItemFeatures({'a.b': 6, 'c': 3}, 9)
    features.set(x, {'a.b': MASK} if mask else {})
    maps = FeatureMaps(features, 4, **kwargs)
    maps = maps.double() if double else maps
    maps.reset_parameters()
    for parameter in maps.parameters():
        torch.nn.init.normal_(parameter)
    maps.fit()
    return maps, x


def naive(maps: FeatureMaps, name: str, x: Tensor, mask: Tensor | None,
          standardize: bool) -> np.ndarray:
    array = x.double().numpy()
    rows = None if mask is None else mask.numpy()
    if standardize:
        array = reference.standardise(array, rows)
    elif rows is not None:
        array = array * rows[:, None]
    if maps.normalize:
        array = reference.unit_rows(array)
    out = array @ maps[name].weight.detach().numpy()
    return out + maps[name].bias.detach().numpy() if maps.bias else out


@pytest.mark.parametrize('standardize', [True, False])
@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('normalize', [True, False])
@pytest.mark.parametrize('blocks', [True, False])
def test_equals_numpy(standardize: bool, bias: bool, normalize: bool,
                      blocks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if blocks:
        monkeypatch.setattr(feature_matmul, '_BLOCK_SIZE', 12)
    maps, x = make(standardize=standardize, bias=bias, normalize=normalize)
    item_id = torch.tensor([8, 0, 0, 7])
    for name, mask in (('a.b', MASK), ('c', None)):
        want = naive(maps, name, x[name], mask, standardize)
        np.testing.assert_allclose(maps(name).detach().numpy(), want,
                                   atol=1e-6)
        np.testing.assert_allclose(maps(name, item_id).detach().numpy(),
                                   want[item_id], atol=1e-6)
    assert len(list(maps.parameters())) == (4 if bias else 2)


def test_gradients() -> None:
    maps, _ = make()
    index = torch.tensor([8, 0, 3])

    def run(weight: Tensor, bias: Tensor) -> Tensor:
        maps['a.b'].weight.data, maps['a.b'].bias.data = weight, bias
        return torch.func.functional_call(
            maps, {'linears.modality_a%2Eb.weight': weight,
                   'linears.modality_a%2Eb.bias': bias}, ('a.b', index))

    inputs = tuple(p.detach().clone().requires_grad_()
                   for p in maps['a.b'].parameters())
    assert torch.autograd.gradcheck(run, inputs)


def test_what_an_item_lacks_does_not_matter() -> None:
    maps, x = make()
    want = maps('a.b')
    assert_close(want[0], maps['a.b'].bias)
    x['a.b'] = torch.where(MASK.view(-1, 1), x['a.b'], 1e6)
    maps.features.set(x, {'a.b': MASK})
    maps['a.b'].num_items.zero_()
    maps.fit()
    assert_close(maps('a.b'), want)


def test_statistics_are_those_of_the_first_features() -> None:
    maps, x = make(mask=False)
    mean = maps['c'].mean.clone()
    more = {name: torch.cat([value[:4], 7 * value[:5]])
            for name, value in x.items()}
    maps.features.set(more)
    maps.fit()
    assert torch.equal(maps['c'].mean, mean)
    other, _ = make(mask=False)
    other.load_state_dict(maps.state_dict())
    other.features.set(more)
    other.fit()
    assert_close(other('c'), maps('c'))
    # Rows have unit length whatever the statistics.
    norm = ((maps('c') - maps['c'].bias) @ torch.linalg.pinv(
        maps['c'].weight)).norm(dim=1)
    assert_close(norm, torch.ones(9, dtype=torch.double))


def test_statistics_may_be_taken_again_or_left() -> None:
    maps, x = make(mask=False)
    assert maps.has_statistics
    maps.features.set({name: 2 * value for name, value in x.items()})
    old = {name: maps[name].scale.clone() for name in x}
    maps.fit(statistics=False)
    assert all(maps[name].scale.equal(old[name]) for name in x)
    maps.fit(statistics=True)
    for name in x:
        assert_close(maps[name].scale, old[name] / 2)
    new = FeatureMaps(maps.features, 2)
    new.fit(statistics=False)
    assert not new.has_statistics


def test_an_item_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, read = make()[0], []
    rows = maps.features.rows
    monkeypatch.setattr(maps.features, 'rows', lambda name, item_id: (
        read.append(item_id), rows(name, item_id))[1])
    maps('c', torch.tensor([7, 0, 7, 7]))
    assert [x.tolist() for x in read] == [[0, 7]]


@pytest.mark.parametrize('dtype', [torch.half, torch.double])
def test_features_in_other_types(dtype: torch.dtype) -> None:
    maps, x = make(mask=False, double=False)
    want = maps('a.b')
    maps.features.set({name: value.to(dtype) for name, value in x.items()})
    maps.fit()
    assert_close(maps('a.b'), want, rtol=1e-2, atol=1e-2)


def test_copies_and_devices(device: torch.device) -> None:
    maps, _ = make(double=False)
    want = maps('c')
    other = copy.deepcopy(maps).to(device)
    assert other.features.tensors['c'] is maps.features.tensors['c']
    out = other('c', torch.tensor([3, 1], device=device))
    assert out.device.type == device.type
    assert_close(out.cpu(), want[[3, 1]])
    assert str(maps).endswith('out_channels=4, standardize=True, bias=True, '
                              'normalize=True)')


def test_without_features() -> None:
    maps = FeatureMaps(ItemFeatures({'a': 3}, 5), 2)
    for call in (maps.fit, lambda: maps('a')):
        with pytest.raises(ValueError, match='has no item features'):
            call()
    with pytest.raises(ValueError, match="'out_channels' must be at least 1"):
        FeatureMaps(ItemFeatures({'a': 3}, 5), 0)
