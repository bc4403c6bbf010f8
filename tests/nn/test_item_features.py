from __future__ import annotations

import copy

import pytest
import torch

from torch_promptmm.nn import ItemFeatures

I = 6
X = {'visual': torch.randn(I, 4), 'audio.mfcc': torch.randn(I, 3).half()}
MASK = torch.tensor([True, False, True, True, True, False])


@pytest.fixture
def features() -> ItemFeatures:
    out = ItemFeatures({'visual': 4, 'audio.mfcc': 3}, I)
    out.set(X, {'visual': MASK})
    return out


def test_held_by_reference(features) -> None:
    assert features.modalities == ['visual', 'audio.mfcc']
    for name, x in X.items():
        assert features.tensors[name] is x
    assert features.masks == {'visual': MASK}
    for other in (copy.deepcopy(features), features.double(),
                  features.to('meta')):
        assert other.tensors['visual'] is X['visual']
        assert other.masks['visual'] is MASK
    assert features.state_dict() == {} and not list(features.buffers())


def test_copies_part_when_one_takes_others(features) -> None:
    other = copy.deepcopy(features)
    other.release()
    assert features.available and not other.available
    other.set({name: x + 1 for name, x in X.items()})
    assert features.tensors['visual'] is X['visual']


def test_the_order_is_that_of_the_model(features) -> None:
    features.set(dict(reversed(X.items())))
    assert list(features.tensors) == ['visual', 'audio.mfcc']
    assert features.masks == {}  # Those of before are gone.


def test_what_was_lost_is_asked_for(features) -> None:
    features.require()
    features.release()
    assert not features.available and features.masks == {}
    with pytest.raises(ValueError, match="no item features.*'set_features'"):
        features.require()


def test_holds(features) -> None:
    assert features.holds(X, {'visual': MASK})
    assert not features.holds(X, {})
    assert not features.holds(X, {'visual': MASK.clone()})
    assert not features.holds({'visual': X['visual']}, {'visual': MASK})
    assert not features.holds({**X, 'visual': X['visual'].clone()},
                              {'visual': MASK})
    features.release()
    assert not features.holds(X, {'visual': MASK})


@pytest.mark.parametrize('given', [{}, None, ['visual'], 4])
def test_no_modality(given) -> None:
    with pytest.raises(ValueError, match="'in_channels' must map at least"):
        ItemFeatures(given, I)


@pytest.mark.parametrize('change, error, match', [
    ({'visual': None}, ValueError, r"must have the modalities \['visual'"),
    ({'text': torch.randn(I, 2)}, ValueError, 'must have the modalities'),
    ({'visual': torch.randn(I, 5)}, ValueError, 'must have 4 columns'),
    ({'visual': torch.randn(I + 1, 4)}, ValueError, 'each of the 6 items'),
    ({'visual': torch.ones(I, 4).long()}, ValueError, 'floating-point'),
    ({'visual': [[0.0] * 4] * I}, TypeError, r"'features\['visual'\]'"),
])
def test_what_does_not_fit(features, change, error, match) -> None:
    given = {k: v for k, v in {**X, **change}.items() if v is not None}
    with pytest.raises(error, match=match):
        features.set(given)
    assert features.tensors['visual'] is X['visual']  # As it was.


@pytest.mark.parametrize('masks, match', [
    ({'text': MASK}, "'masks' has 'text'"),
    ({'visual': MASK[1:]}, r'boolean tensor of shape \[6\]'),
    ({'visual': MASK.float()}, 'boolean tensor'),
])
def test_masks_that_do_not_fit(features, masks, match) -> None:
    with pytest.raises(ValueError, match=match):
        features.set(X, masks)
    assert features.masks == {'visual': MASK}
