from __future__ import annotations

import torch

from torch_promptmm.distill import Projections
from torch_promptmm.distill.projections import FUSED


def test_only_other_widths_need_one() -> None:
    maps = Projections(8)
    keys = maps.keys_of(['visual', 'audio.mfcc'])
    assert list(keys) == ['', 'visual', 'audio.mfcc'] and keys[''] == FUSED
    maps.add({keys['']: 8, keys['visual']: 5, keys['audio.mfcc']: 6})
    assert set(maps) == {keys['visual'], keys['audio.mfcc']}
    x = torch.randn(3, 8)
    assert maps[keys['visual']](x).shape == (3, 5)
    assert [name for name, _ in maps.named_parameters()] == [
        f'{key}.weight' for key in maps]


def test_what_is_there_stays() -> None:
    maps = Projections(4)
    maps.add({'a': 3})
    layer = maps['a']
    maps.add({'a': 5, 'b': 2})
    assert maps['a'] is layer and maps['b'].weight.shape == (2, 4)


def test_a_modality_called_fused() -> None:
    keys = Projections.keys_of(['fused', ''])
    assert len(set(keys.values())) == len(keys)


def test_from_a_state() -> None:
    maps, other = Projections(4), Projections(4)
    maps.add({'a': 3, 'b': 2})
    other.restore(maps)
    for key, value in maps.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)
        assert other.state_dict()[key] is not value
    other.add({'c': 6}, torch.device('meta'))
    assert other['c'].weight.device.type == 'meta'
