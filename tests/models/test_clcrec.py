from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import torch
from contrasts import (
    BATCH,
    GRAPH,
    ITEMS,
    WIDTHS,
    I,
    U,
    array,
    count,
    linear,
    make,
    planted,
    planted_recall,
    shuffled,
    unit_features,
)
from test_every_model import GRAPH as BLOCKS
from test_every_model import STORE, TRAIN, D, ModelSuite

from torch_promptmm.loader import Batch, BatchSpec
from torch_promptmm.models import CLCRec, ModelOutput
from torch_promptmm.train import RankingObjective, RankingTask, Task


class TestSuite(ModelSuite):
    epochs = 60
    objective = 'own'

    def make(self, seed: int = 0) -> Task:
        model = CLCRec.from_data(TRAIN, D, seed=seed, encoder_channels=16,
                                 num_negatives=16, norm_weight=1e-3)
        return RankingTask(model, BLOCKS, STORE.edge_index,
                           objective=RankingObjective(self.objective,
                                                      num_negatives=16))

    def test_on_device(self, device):
        if device.type == 'cpu':
            pytest.skip('each step draws which vector an item has')
        task = self.make().to(device)
        user, item = task.embeddings()
        torch.testing.assert_close(user.cpu(), self.make().embeddings()[0])


class TestBPR(TestSuite):
    objective = 'bpr'


def naive_content(model: CLCRec, standardize: bool = True) -> np.ndarray:
    hidden = array(model.bias)
    for name, x in unit_features(standardize).items():
        hidden = hidden + x @ array(model.maps[name].weight)
    hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
    return linear(model.linear, hidden)


@pytest.mark.parametrize('standardize', [True, False])
def test_equals_numpy(standardize: bool) -> None:
    model = make(CLCRec, encoder_channels=7, standardize=standardize)
    content = naive_content(model, standardize)
    out = model(GRAPH)
    # Nothing is trained yet: all items have content alone.
    np.testing.assert_allclose(array(out.item), content, atol=1e-6)
    np.testing.assert_allclose(array(out.user),
                               array(model.user_embedding.weight))
    model.on_epoch_start(1, GRAPH)
    item = array(model.item_embedding.weight).copy()
    item[4] = content[4]  # Has no interaction.
    np.testing.assert_allclose(array(model(GRAPH).item), item, atol=1e-6)


def naive_loss(anchor: np.ndarray, item: np.ndarray, shared: bool,
               temperature: float) -> float:
    values = []
    for b in range(3):
        rows = ([9 + k for k in range(3) if BATCH.shared_mask[b, k]] if shared
                else [3 + 3 * k + b for k in range(2)
                      if BATCH.negative_mask[b, k]])
        scores = np.array([anchor[b] @ item[k] for k in [b, *rows]])
        values.append(-np.log(reference.softmax(scores / temperature)[0]))
    return float(np.mean(values))


@pytest.mark.parametrize('hybrid', [0.0, 1.0])
@pytest.mark.parametrize('shared', [True, False])
def test_losses_equal_numpy(hybrid: float, shared: bool) -> None:
    model = make(CLCRec, hybrid=hybrid, shared_negatives=shared,
                 temperature=0.7, content_weight=0.3, norm_weight=0.2)
    out = model.rows(GRAPH, BATCH.user, ITEMS)
    free = array(model.item_embedding.weight)[ITEMS]
    content = naive_content(model)[ITEMS]
    user = array(model.user_embedding.weight)[BATCH.user]
    rank = naive_loss(user, content if hybrid else free, shared, 0.7)
    assert model.own_loss(BATCH, out).item() == pytest.approx(0.7 * rank,
                                                              abs=1e-6)
    terms = model.extra_loss(BATCH, out)
    value = naive_loss(reference.unit_rows(free), reference.unit_rows(content),
                       shared, 0.7)
    assert terms['content'].item() == pytest.approx(0.3 * value, abs=1e-6)
    norms = [np.linalg.norm(x, axis=1).mean() for x in (user, free)]
    assert terms['norm'].item() == pytest.approx(0.1 * sum(norms), abs=1e-9)
    # What the first loss reaches.
    grads = torch.autograd.grad(
        model.own_loss(BATCH, model.rows(GRAPH, BATCH.user, ITEMS)),
        (model.item_embedding.weight, model.linear.weight), allow_unused=True)
    reached = [grad is not None and bool(grad.abs().sum() > 0)
               for grad in grads]
    assert reached == ([False, True] if hybrid else [True, False])


@pytest.mark.parametrize('temperature, wanted', [(1.0, .3133), (2.0, .4741)])
def test_known_answer(temperature: float, wanted: float) -> None:
    model = make(CLCRec, content_weight=1.0, temperature=temperature)
    eye = torch.eye(2, dtype=torch.double)
    none = torch.empty(1, 0).long()
    batch = Batch(torch.tensor([0]), torch.tensor([0]), none, none.bool(),
                  torch.tensor([1]), torch.ones(1, 1).bool(),
                  torch.empty(0).long())
    out = ModelOutput(eye[:1], eye, ego=(eye[:1], eye), own={'content': eye})
    value = model.extra_loss(batch, out)['content'].item()
    assert value == pytest.approx(math.log1p(math.exp(-1 / temperature)))
    assert value == pytest.approx(wanted, abs=5e-5)
    # 200 would overflow without a logarithm; lambda is one, then a half.
    assert model.own_loss(batch, out).item() == 0.0
    model.content_weight = 0.5
    far = ModelOutput(200 * eye[:1], eye.flip(0), own={'content': eye})
    assert model.own_loss(batch, far).item() == pytest.approx(
        100 / temperature)


def test_half_of_the_rows_are_content() -> None:
    model = make(CLCRec, hybrid=0.5)
    ids = torch.arange(4000) % I
    rows = model.rows(GRAPH, torch.tensor([0]), ids)
    content = (rows.item == rows.own['content']).all(dim=1)
    assert ((rows.item == rows.ego[1]).all(dim=1) | content).all()
    assert content.double().mean() == pytest.approx(0.5, abs=0.03)


def test_negatives_are_warm_and_unknown_to_training() -> None:
    model = make(CLCRec, num_negatives=3)
    assert model.batch_spec(BatchSpec()) == BatchSpec(0, 3, 0, True)
    assert model.batch_spec(BatchSpec(1, 7)) == BatchSpec(1, 7, 0, True)
    model = make(CLCRec, num_negatives=3, shared_negatives=False)
    assert model.batch_spec(BatchSpec()) == BatchSpec(3, 0, 0, True)


def test_a_trained_vector_stays_trained() -> None:
    model = make(CLCRec)
    model.on_epoch_start(1, GRAPH)
    assert model.warm.tolist() == [True] * 4 + [False]
    other = make(CLCRec)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(None).item, model(None).item)
    model.reset_parameters()
    assert not model.warm.any()


def test_number_of_parameters() -> None:
    widths = sum(WIDTHS.values())
    for c in (7, 256):
        model = make(CLCRec, encoder_channels=c)
        assert count(model) == (U + I) * 4 + c * widths + c + 4 * c + 4


@pytest.mark.parametrize('kwargs, message', [
    ({'content_weight': 1.5}, "'content_weight' must be"),
    ({'hybrid': -0.1}, "'hybrid' must be"),
    ({'temperature': 0.0}, "'temperature' must be"),
    ({'num_negatives': 0}, "'num_negatives' must be at least 1"),
    ({'in_channels': {}}, "'in_channels' must map"),
])
def test_bad_input(kwargs, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CLCRec(**{'num_users': U, 'num_items': I, 'in_channels': WIDTHS,
                  **kwargs})
    assert str(make(CLCRec)).startswith('CLCRec(4, 5, ItemFeatures(visual=6')


@pytest.mark.slow
def test_content_pays_on_cold_items_too() -> None:
    data, val, test = planted()
    options = {'epochs': 40, 'lr': 5e-3, 'ranking_loss': 'own',
               'build': {'norm_weight': 1e-3}}
    whole, cold = planted_recall(CLCRec, data, val, test, **options)
    less, less_cold = planted_recall(CLCRec, shuffled(data), val, test,
                                     **options)
    assert whole > less + 0.02
    assert cold > less_cold + 0.1
