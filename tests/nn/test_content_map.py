"""A map from content to embeddings, fitted in closed form."""

from __future__ import annotations

import pytest
import torch

from torch_promptmm.nn.content_map import ContentMap, RidgeFit

N = 50


def data() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    features = {'a': 3 + torch.randn(N, 6, dtype=torch.double),
                'b.c': torch.randn(N, 4, dtype=torch.double)}
    return features, torch.randn(N, 3, dtype=torch.double)


def test_items_that_come_later_are_placed_as_those_that_were_there() -> None:
    """Statistics are those of the items that it was fitted to."""
    features, rows = data()
    fitted = RidgeFit(features, None, rows, torch.ones(N)).solve()
    whole = fitted(features)
    part = fitted({name: x[7:9] for name, x in features.items()})
    torch.testing.assert_close(part, whole[7:9])


def test_a_linear_truth_is_found() -> None:
    features, _ = data()
    truth = ContentMap({'a': 6, 'b.c': 4}, 3).double()
    for buffer in truth.buffers():
        buffer.copy_(torch.randn_like(buffer).abs())
    truth.level.fill_(1.0)
    fit = RidgeFit(features, None, torch.zeros(N, 3).double(), torch.ones(N),
                   l2=1e-9)
    kept = fit.solve()
    for name, part in truth.parts.items():
        part.mean.copy_(kept.parts[name].mean)
        part.scale.copy_(kept.parts[name].scale)
    rows = truth(features)
    found = RidgeFit(features, None, rows, torch.ones(N), l2=1e-9).solve()
    torch.testing.assert_close(found(features), rows, atol=1e-6, rtol=1e-6)


def test_left_out_items_are_not_looked_at() -> None:
    features, rows = data()
    held = torch.arange(N) % 5 == 0
    fit = RidgeFit(features, None, rows, torch.ones(N), held=held)
    want = RidgeFit(features, None, rows, torch.ones(N)).solve()
    torch.testing.assert_close(fit.solve()(features), want(features))
    out = fit.solve(leave_out=True)(features)
    changed = rows.clone()
    changed[held] += 100.0
    again = RidgeFit(features, None, changed, torch.ones(N), held=held)
    torch.testing.assert_close(again.solve(leave_out=True)(features), out)
    assert not torch.allclose(again.solve()(features), want(features))


def test_masks_levels_and_one_modality() -> None:
    features, rows = data()
    fitted = RidgeFit(features, None, rows, torch.ones(N)).solve()
    mask = torch.arange(N) < 10
    without = fitted(features, {'b.c': mask})
    alone = fitted({'a': features['a']})
    torch.testing.assert_close(without[10:], alone[10:])
    torch.testing.assert_close(without[:10], fitted(features)[:10])
    fitted.level.fill_(0.5)
    torch.testing.assert_close(fitted(features),
                               fitted(features, calibrate=False) / 2)
    state = ContentMap(**fitted.config()).double()
    state.load_state_dict(fitted.state_dict())
    assert torch.equal(state(features), fitted(features))


def test_bad_features() -> None:
    features, rows = data()
    fitted = RidgeFit(features, None, rows, torch.ones(N)).solve()
    nan = features['a'].clone()
    nan[3, 0] = float('nan')
    for wrong, message in [
        ({}, 'must map at least one'),
        ({'c': nan}, "has 'c'"),
        ({'a': nan}, 'must be finite'),
        ({'a': features['a'][:, 1:]}, r"'features\['a'\]'"),
        ({**features, 'a': features['a'][1:]}, 'a row for each item'),
    ]:
        with pytest.raises(ValueError, match=message):
            fitted(wrong)
    out = fitted({'a': nan}, {'a': torch.arange(N) != 3})
    assert bool(out.isfinite().all())
