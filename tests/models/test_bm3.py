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
    MASK,
    WIDTHS,
    I,
    U,
    array,
    count,
    light_gcn,
    linear,
    make,
    unit_features,
)
from test_every_model import GRAPH as BLOCKS
from test_every_model import STORE, TRAIN, D, ModelSuite

from torch_promptmm.loader import BatchSpec
from torch_promptmm.models import BM3, ModelOutput
from torch_promptmm.train import RankingObjective, RankingTask, Task


class TestSuite(ModelSuite):
    # Without negatives, longer is not better: all vectors drift together
    # once the pairs are found, and the blocks dissolve.
    epochs = 30
    objective = 'own'
    targets = 0.0

    def make(self, seed: int = 0) -> Task:
        model = BM3.from_data(TRAIN, D, seed=seed, dropout=self.targets)
        return RankingTask(model, BLOCKS, STORE.edge_index, l2=0.01,
                           objective=RankingObjective(self.objective,
                                                      num_negatives=16))


class TestSoftmax(TestSuite):
    epochs = 10
    objective = 'softmax'


def naive(model: BM3) -> dict[str, np.ndarray]:
    """Users, items and content before the predictor."""
    tables = [array(x.weight) for x in (model.user_embedding,
                                        model.item_embedding)]
    user, item = light_gcn(*tables, model.num_layers)
    out = {'user': user, 'item': item + tables[1]}
    for name, x in unit_features().items():
        reduction = model.maps[name]
        out[name] = x @ array(reduction.weight) + array(reduction.bias)
    return out


@pytest.mark.parametrize('num_layers', [0, 1, 2])
def test_equals_numpy(num_layers: int) -> None:
    model = make(BM3, num_layers=num_layers)
    out, want = model(GRAPH), naive(model)
    for x, y in ((out.user, want['user']), (out.item, want['item']),
                 *((out.modalities[k][1], want[k]) for k in WIDTHS),
                 *((out.modalities[k][0], want['user']) for k in WIDTHS)):
        np.testing.assert_allclose(array(x), linear(model.predictor, y),
                                   atol=1e-6)
    for x, y in zip(out.ego, (want['user'], want['item']), strict=True):
        np.testing.assert_allclose(array(x), y, atol=1e-6)


def naive_error(found: np.ndarray, target: np.ndarray,
                mask: np.ndarray | None = None) -> float:
    cosine = (reference.unit_rows(found) * reference.unit_rows(target)).sum(1)
    error = 1 - cosine
    return float(error.mean() if mask is None else error[mask].mean())


def test_losses_equal_numpy() -> None:
    model = make(BM3, dropout=0.0, content_weight=0.5)
    x = naive(model)
    out = model.rows(GRAPH, BATCH.user, ITEMS)
    user, item = x['user'][BATCH.user], x['item'][BATCH.positive]
    want = (naive_error(linear(model.predictor, user), item) +
            naive_error(linear(model.predictor, item), user))
    assert model.own_loss(BATCH, out).item() == pytest.approx(want, abs=1e-6)
    total = 0.0
    for name in WIDTHS:
        content = x[name][BATCH.positive]
        mask = MASK.numpy()[BATCH.positive] if name == 'textual' else None
        found = linear(model.predictor, content)
        total += naive_error(found, item, mask)
        total += naive_error(found, content, mask)
    value = model.extra_loss(BATCH, out)['content'].item()
    assert value == pytest.approx(0.5 * total, abs=1e-6)


def test_identical_pairs_have_no_loss() -> None:
    model = make(BM3, dropout=0.0)
    x = torch.randn(3, 4, dtype=torch.double)
    out = ModelOutput(2 * x, 3 * x, {k: (x, 4 * x) for k in WIDTHS},
                      ego=(x, x), own=dict.fromkeys(WIDTHS, x))
    assert model.own_loss(BATCH, out).item() == pytest.approx(0, abs=1e-12)
    value = model.extra_loss(BATCH, out)['content'].item()
    assert value == pytest.approx(0, abs=1e-12)


def test_no_gradient_reaches_the_targets() -> None:
    model = make(BM3)
    leaves = [torch.randn(3, 4, dtype=torch.double, requires_grad=True)
              for _ in range(5)]
    user, item, visual, textual, found = leaves
    out = ModelOutput(found, found, {k: (found, found) for k in WIDTHS},
                      ego=(user, item),
                      own={'visual': visual, 'textual': textual})
    total = model.own_loss(BATCH, out) + sum(
        model.extra_loss(BATCH, out).values())
    grads = torch.autograd.grad(total, leaves, allow_unused=True)
    assert grads[:4] == (None, ) * 4 and grads[4].abs().sum() > 0


def test_targets_have_dropout_in_training_alone() -> None:
    model = make(BM3, dropout=0.5)
    out = model(GRAPH, BATCH.user, ITEMS)
    for training in (True, False):
        model.train(training)
        losses = {model.own_loss(BATCH, out).item() for _ in range(4)}
        assert (len(losses) > 1) == training
    torch.testing.assert_close(model.train()(GRAPH).user, model(GRAPH).user)


def test_no_negatives_are_drawn() -> None:
    model = make(BM3).float()
    task = RankingTask(model, GRAPH.to(dtype=torch.float), EDGES,
                       objective=RankingObjective('own'), l2=0.1)
    assert task.batch_spec == BatchSpec()
    batch = next(iter(task.loader(4)))
    assert batch.negative.numel() == batch.shared.numel() == 0
    total, terms = task(batch)
    assert total.isfinite() and set(terms) == {'rank', 'l2', 'content'}


def test_number_of_parameters() -> None:
    assert count(make(BM3)) == (U + I) * 4 + (6 + 1) * 4 + (3 + 1) * 4 + 20


@pytest.mark.parametrize('kwargs, message', [
    ({'dropout': 1.5}, "'dropout' must be"),
    ({'content_weight': -1.0}, "'content_weight' must be"),
    ({'num_layers': -1}, "'num_layers' must be at least 0"),
    ({'in_channels': {}}, "'in_channels' must map"),
])
def test_bad_input(kwargs, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BM3(**{'num_users': U, 'num_items': I, 'in_channels': WIDTHS,
               **kwargs})
    assert str(make(BM3)).startswith('BM3(4, 5, ItemFeatures(visual=6')
