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

from torch_promptmm.models import MGCN, ModelOutput
from torch_promptmm.train import RankingObjective, RankingTask, Task


class TestSuite(ModelSuite):
    epochs = 20
    objective = 'bpr'

    def make(self, seed: int = 0) -> Task:
        model = MGCN.from_data(TRAIN, D, seed=seed, k=5)
        return RankingTask(model, BLOCKS, STORE.edge_index, l2=1e-3,
                           objective=RankingObjective(self.objective,
                                                      num_negatives=16))


    def epoch(self, task, batch_size=64):
        left = super().epoch(task, batch_size)
        if len(task.model.modalities) == 1:
            # Its weight is 1, and nothing of it is private.
            left = {x for x in left if 'attention' not in x
                    and 'preferences' not in x}
        return left


class TestSoftmax(TestSuite):
    objective = 'softmax'


def naive(model: MGCN) -> dict[str, np.ndarray]:
    """Rows of all nodes, users before items."""
    p, q = (array(x.weight) for x in (model.backbone.user_embedding,
                                      model.backbone.item_embedding))
    adjacency = reference.adjacency(EDGES.numpy(), U, I)[:U, U:]
    content = np.concatenate(light_gcn(p, q, model.num_layers))
    out, h = {'content': content}, reduced(model)
    for name, graph in feature_graphs(model.k).items():
        gate = model.gates[f'modality_{name}']
        x = q * reference.sigmoid(linear(gate, h[name]))
        for _ in range(model.item_layers):
            x = graph @ x
        out[name] = np.concatenate([adjacency @ x, x])
    first, _, last = model.attention
    score = np.concatenate([
        np.tanh(linear(first, out[name])) @ array(last.weight).T
        for name in WIDTHS], axis=1)
    weight = np.exp(score) / np.exp(score).sum(1, keepdims=True)
    common = sum(weight[:, [i]] * out[name] for i, name in enumerate(WIDTHS))
    side = common
    for name in WIDTHS:
        preference = model.preferences[f'modality_{name}']
        side = side + (reference.sigmoid(linear(preference, content)) *
                       (out[name] - common))
    return {**out, 'side': side / 3}


@pytest.mark.parametrize('kwargs', [{}, {'item_layers': 2, 'num_layers': 1},
                                    {'item_layers': 0}])
def test_equals_numpy(kwargs) -> None:
    model = make(MGCN, k=2, **kwargs)
    want, out = naive(model), model(GRAPH)
    for pair, x in [(out[:2], want['content'] + want['side']),
                    ((out.own['user'], out.own['item']), want['content']),
                    ((out.own['user_side'], out.own['item_side']),
                     want['side']),
                    *((out.modalities[k], want[k]) for k in WIDTHS)]:
        np.testing.assert_allclose(np.concatenate([array(y) for y in pair]),
                                   x, atol=1e-6)


def test_known_answer() -> None:
    # With equal views nothing is private.
    model = make(MGCN)
    content, view = torch.randn(2, 6, 4, dtype=torch.double)
    out = model.side(content, dict.fromkeys(model.gates, view))
    torch.testing.assert_close(out, view / 3)


def test_one_modality() -> None:
    model = MGCN(U, I, {'visual': 6}, 4).double()
    content, view = torch.randn(2, 6, 4, dtype=torch.double)
    torch.testing.assert_close(model.side(
        content, {'modality_visual': view}), view / 2)


def naive_contrast(a: np.ndarray, b: np.ndarray, ids: np.ndarray) -> float:
    logits = reference.unit_rows(a) @ reference.unit_rows(b).T / 0.2
    total = 0.0
    for i, row in enumerate(logits):
        there = (ids != ids[i]) | (np.arange(len(ids)) == i)
        total += np.log(np.exp(row[there]).sum()) - row[i]
    return total / len(ids)


def test_contrast_equals_numpy() -> None:
    model = make(MGCN, k=2, contrast_weight=0.5)
    out, want = model.rows(GRAPH, BATCH.user, ITEMS), naive(model)
    users, items = BATCH.user.numpy(), BATCH.positive.numpy()
    total = 0.0
    for rows, ids in ((users, users), (U + items, items)):
        total += naive_contrast(want['side'][rows], want['content'][rows],
                                ids)
    value = model.extra_loss(BATCH, out)['contrast'].item()
    assert value == pytest.approx(0.5 * total, abs=1e-6)
    model.contrast_weight = 0.0
    assert model.extra_loss(BATCH, out) == {}


def test_known_answer_of_the_contrast() -> None:
    model, one = make(MGCN, contrast_weight=1.0), torch.eye(3)[:2].double()
    batch = BATCH._replace(user=torch.tensor([0, 3]),
                           positive=torch.tensor([0, 2]))
    names = ('user', 'item', 'user_side', 'item_side')
    out = ModelOutput(one, one, own=dict.fromkeys(names, one))
    value = model.extra_loss(batch, out)['contrast'].item()
    assert value == pytest.approx(2 * np.log1p(np.exp(-5)), abs=1e-9)


def test_l2_falls_on_the_output() -> None:
    assert make(MGCN).rows(GRAPH, BATCH.user, ITEMS, 3).ego is None


def test_a_loaded_model_keeps_its_graphs() -> None:
    model = make(MGCN).eval()
    other = MGCN.from_config(model.config()).double().eval()
    other.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match='give it the data again'):
        other(GRAPH)
    other.set_features(model.item_features.tensors,
                       model.item_features.masks, fit=False)
    for a, b in zip(other(GRAPH)[:2], model(GRAPH)[:2], strict=True):
        assert torch.equal(a, b)


def test_number_of_parameters() -> None:
    assert count(make(MGCN)) == ((U + I) * 4 + (6 + 1) * 4 + (3 + 1) * 4 +
                                 2 * 2 * (16 + 4) + 16 + 2 * 4)


@pytest.mark.parametrize('kwargs, match', [
    ({'contrast_weight': -1.0}, "'contrast_weight' must be"),
    ({'temperature': 0.0}, "'temperature' must be"),
    ({'item_layers': -1}, "'item_layers' must be at least 0"),
])
def test_bad_input(kwargs, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        MGCN(U, I, WIDTHS, **kwargs)
    assert 'contrast_weight=0.01' in str(make(MGCN))


@pytest.mark.slow
def test_content_pays() -> None:
    data, val, test = planted()
    whole, less = (
        planted_recall(MGCN, x, val, test, epochs=30, lr=5e-3,
                       ranking_loss='bpr')[0] for x in (data, shuffled(data)))
    assert whole > less + 0.01
