from __future__ import annotations

import os

import pytest
import torch

from torch_promptmm.train import (
    History,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)

STATE = {
    'name': 'run', 'notes': {}, 'kinds': ['Adam', None], 'optimizer': {},
    'module': {'x': torch.arange(3)}, 'history': '{}', 'stopped': False,
    'best_value': 0.5, 'rng': {},
}


def test_round_trip(tmp_path):
    path = tmp_path / 'deep' / 'x'
    assert load_checkpoint(path) is None
    save_checkpoint(path, STATE)
    state = load_checkpoint(str(path))
    assert torch.equal(state.pop('module')['x'], torch.arange(3))
    assert state.items() >= {k: v for k, v in STATE.items()
                             if k != 'module'}.items()
    assert os.listdir(path.parent) == ['x']


def test_every_flipped_bit_of_a_tensor_is_noticed(tmp_path):
    path = tmp_path / 'x'
    save_checkpoint(path, {**STATE, 'module': {'x': torch.randn(500)}})
    whole = path.read_bytes()
    start = whole.index(load_checkpoint(path)['module']['x'].numpy().tobytes())
    for at in range(start, start + 2000, 97):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
        with pytest.raises(ValueError, match='checksum'):
            load_checkpoint(path)


def test_load_weights_is_all_or_nothing():
    a, b = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    load_weights(a, b.state_dict(), 'x')
    assert torch.equal(a.weight, b.weight)
    good = {k: torch.zeros_like(v) for k, v in b.state_dict().items()}
    for state, message in [
        ({'weight': good['weight']}, "x is of another model.*'bias' is miss"),
        ({**good, 'more': torch.ones(1)}, "'more' is unknown"),
        ({**good, 'bias': torch.ones(4)}, r"'bias' is of shape \[4\]"),
        ({**good, 'bias': 'text'}, 'x does not fit'),
    ]:
        with pytest.raises(ValueError, match=message):
            load_weights(a, state, 'x')
        if 'does not fit' not in message:
            assert torch.equal(a.weight, b.weight)


def test_history():
    history = History([{'epoch': 1, 'loss': 0.1 + 0.2}, {'epoch': 2}], 1)
    again = History.from_state(history.state())
    assert again == history and again.best_epoch == 1
    assert again.values('loss') == [0.1 + 0.2]
    assert again.state() == history.state()
