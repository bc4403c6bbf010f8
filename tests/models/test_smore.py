from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from contrasts import (
    BATCH,
    EDGES,
    GRAPH,
    ITEMS,
    WIDTHS,
    I,
    U,
    array,
    count,
    features,
    light_gcn,
    linear,
    make,
    planted,
    planted_recall,
    shuffled,
)
from item_graphs import feature_graphs, reduced
from test_every_model import GRAPH as BLOCKS
from test_every_model import STORE, TRAIN, D, ModelSuite

from torch_promptmm.models import SMORE
from torch_promptmm.train import RankingObjective, RankingTask, Task


class TestSuite(ModelSuite):
    epochs = 30
    objective, drop, dropout = 'bpr', 0.0, False

    def make(self, seed: int = 0) -> Task:
        model = SMORE.from_data(TRAIN, D, seed=seed, k=5, dropout=self.drop)
        return RankingTask(model, BLOCKS, STORE.edge_index, l2=1e-3,
                           objective=RankingObjective(self.objective,
                                                      num_negatives=16))


class TestWithDropout(TestSuite):
    objective, drop, dropout = 'softmax', 0.1, True


def spectrum(x: np.ndarray) -> np.ndarray:
    """The orthonormal transform by its definition, at all frequencies."""
    d = x.shape[1]
    matrix = np.exp(-2j * np.pi * np.outer(np.arange(d), np.arange(d)) / d)
    return x @ matrix / d**0.5


def filtered(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Of the frequencies that are not given, the conjugates stand in; what
    is imaginary at the first and the middle one does not count.
    """
    d = x.shape[1]
    half = x[:, :d // 2 + 1] * (weight[:, 0] + 1j * weight[:, 1])
    whole = np.zeros_like(x)
    whole[:, :d // 2 + 1] = half
    for f in range(d // 2 + 1, d):
        whole[:, f] = half[:, d - f].conj()
    whole[:, 0] = whole[:, 0].real
    if d % 2 == 0:
        whole[:, d // 2] = whole[:, d // 2].real
    matrix = np.exp(2j * np.pi * np.outer(np.arange(d), np.arange(d)) / d)
    return (whole @ matrix / d**0.5).real


def naive_signals(model: SMORE) -> dict[str, np.ndarray]:
    h = {name: spectrum(x) for name, x in reduced(model).items()}
    out = {name: filtered(x, array(model.filters[f'modality_{name}']))
           for name, x in h.items()}
    product = h['visual'] * h['textual']
    return {**out, 'fusion': filtered(product, array(model.filters['fusion']))}


def naive(model: SMORE) -> dict[str, np.ndarray]:
    p, q = (array(x.weight) for x in (model.backbone.user_embedding,
                                      model.backbone.item_embedding))
    adjacency = reference.adjacency(EDGES.numpy(), U, I)[:U, U:]
    content = np.concatenate(light_gcn(p, q, model.num_layers))
    graphs = feature_graphs(model.k)
    graphs['fusion'] = np.maximum(*graphs.values())
    views = {}
    for name, signal in naive_signals(model).items():
        key = name if name == 'fusion' else f'modality_{name}'
        x = q * reference.sigmoid(linear(model.gates[key], signal))
        for _ in range(model.item_layers):
            x = graphs[name] @ x
        views[name] = np.concatenate([adjacency @ x, x])
    total = reference.sigmoid(linear(model.preferences['fusion'], content))
    total = total * views['fusion']
    for name in WIDTHS:
        first, _, last = model.queries[f'modality_{name}']
        query = np.tanh(linear(first, views['fusion'])) @ array(last.weight).T
        query = np.exp(query) / np.exp(query).sum(1, keepdims=True)
        preference = linear(model.preferences[f'modality_{name}'], content)
        total = total + (reference.sigmoid(preference) * query * views[name])
    return {**views, 'content': content, 'side': total / 3}


@pytest.mark.parametrize('kwargs', [{}, {'item_layers': 2, 'num_layers': 1}])
def test_equals_numpy(kwargs) -> None:
    model = make(SMORE, k=2, **kwargs).eval()
    want, out = naive(model), model(GRAPH)
    for pair, x in [(out[:2], want['content'] + want['side']),
                    ((out.own['user'], out.own['item']), want['content']),
                    ((out.own['user_side'], out.own['item_side']),
                     want['side']),
                    *((out.modalities[k], want[k]) for k in WIDTHS)]:
        np.testing.assert_allclose(np.concatenate([array(y) for y in pair]),
                                   x, atol=1e-6)


@pytest.mark.parametrize('channels', [4, 5, 1])
def test_known_answer(channels: int) -> None:
    # A filter of ones changes nothing, and modalities are convolved.
    model = SMORE(U, I, WIDTHS, channels).double()
    model.set_features(features())
    for weight in model.filters.values():
        weight.data.copy_(torch.tensor([1.0, 0.0]).expand_as(weight))
    signals = model.signals()
    h = [model.maps(name) for name in WIDTHS]
    for name, x in zip(WIDTHS, h, strict=True):
        torch.testing.assert_close(signals[f'modality_{name}'], x)
    want = sum(h[0][:, [i]] * h[1].roll(i, dims=1) for i in range(channels))
    torch.testing.assert_close(signals['fusion'], want / channels**0.5)


def test_contrast() -> None:
    model = make(SMORE).eval()
    out = model.rows(GRAPH, BATCH.user, ITEMS)
    value = model.extra_loss(BATCH, out)['contrast']
    want = model.contrast(out.own['user_side'], out.own['user'], BATCH.user)
    want = want + model.contrast(out.own['item_side'][:3],
                                 out.own['item'][:3], BATCH.positive)
    torch.testing.assert_close(value, 0.01 * want)


def test_number_of_parameters() -> None:
    for d in (4, 5):
        model = SMORE(U, I, WIDTHS, d)
        assert count(model) == ((U + I) * d + (6 + 1) * d + (3 + 1) * d +
                                2 * 3 * (d * d + d) + 2 * (2 * d * d + d) +
                                2 * 3 * (d // 2 + 1))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="'dropout' must be"):
        SMORE(U, I, WIDTHS, dropout=-0.1)
    assert 'dropout=0.1' in str(make(SMORE))


@pytest.mark.slow
def test_content_pays() -> None:
    data, val, test = planted()
    whole, less = (
        planted_recall(SMORE, x, val, test, epochs=30, lr=5e-3,
                       ranking_loss='bpr')[0] for x in (data, shuffled(data)))
    assert whole > less + 0.01
