from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from graphs import LAYOUTS, NUM_ITEMS, NUM_USERS, UI, hand_made_batch
from graphs import random_edges as edges
from test_every_model import GRAPH, STORE, TRAIN, VAL, D, ModelSuite
from torch.testing import assert_close

from torch_promptmm.evaluate import evaluate
from torch_promptmm.loader import Batch
from torch_promptmm.models import MF
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.train import RankingObjective, RankingTask, Task, fit


class TestMF(ModelSuite):
    epochs = 100
    kwargs: dict[str, Any] = {}
    ranking_loss = 'bpr'

    def make(self, seed: int = 0) -> Task:
        return RankingTask(
            MF.from_data(TRAIN, D, seed=seed, **self.kwargs), GRAPH,
            STORE.edge_index, l2=1e-3, objective=RankingObjective(
                self.ranking_loss, num_negatives=16))


class TestMFSoftmax(TestMF):
    ranking_loss = 'softmax'


class TestMFWithBiases(TestMF):
    kwargs = {'bias': True}


def known(bias: bool = True) -> MF:
    """One user; the item that it has, and one that it has not."""
    model = MF(1, 2, 2, bias=bias).double()
    with torch.no_grad():
        model.user_embedding.weight.copy_(torch.tensor([[1.0, 0.0]]))
        model.item_embedding.weight.copy_(torch.eye(2))
    return model


def step(model: MF, l2: float) -> dict[str, float]:
    edge_index = torch.tensor([[0], [0]])
    task = RankingTask(model, UserItemGraph(edge_index, 1, 2,
                                            dtype=torch.double), edge_index,
                       objective=RankingObjective('bpr'), l2=l2)
    one = torch.tensor([0])
    none = torch.empty(0, dtype=torch.long)
    total, terms = task(Batch(one, one, torch.tensor([[1]]),
                              torch.tensor([[True]]), none,
                              torch.empty(1, 0, dtype=torch.bool), none))
    return {k: float(v.detach()) for k, v in {'total': total, **terms}.items()}


@pytest.mark.parametrize('bias', [False, True])
def test_known_answer(bias: bool) -> None:
    model = known(bias)
    out = step(model, 0.5)
    assert out['rank'] == pytest.approx(math.log1p(math.exp(-1.0)), abs=1e-6)
    assert out['rank'] == pytest.approx(0.3133, abs=1e-4)
    # Three unit rows; the column of ones has no weight.
    assert out['l2'] == pytest.approx(1.5)
    assert out['total'] == pytest.approx(out['rank'] + 0.5 * 1.5)
    with torch.no_grad():  # It is squared: twice the rows, four times of it.
        for parameter in model.parameters():
            parameter.mul_(2.0)
    assert step(model, 0.5)['l2'] == pytest.approx(6.0)


def test_a_bias_is_one_more_column() -> None:
    model = MF(5, 7, 3, bias=True).double()
    with torch.no_grad():
        model.item_bias.normal_()
    user, item, _ = model(None)
    wanted = (model.user_embedding.weight @ model.item_embedding.weight.t()
              + model.item_bias.view(1, -1))
    assert_close(user @ item.t(), wanted, rtol=0, atol=1e-6)
    assert (user[:, 3] == 1).all()
    # A bias of users shifts all scores of a user.
    step_before = step(known(), 0.0)['rank']
    model = known()
    with torch.no_grad():
        model.item_bias.add_(3.0)
    assert step(model, 0.0)['rank'] == pytest.approx(step_before)
    with torch.no_grad():
        model.item_bias[1] -= 2.0
    assert step(model, 0.0)['rank'] == pytest.approx(
        math.log1p(math.exp(-3.0)))
    assert step(model, 0.5)['l2'] == pytest.approx(1.5 + (9.0 + 1.0) / 2)


@pytest.mark.parametrize('bias, count', [(False, 12 * 4), (True, 12 * 4 + 7)])
def test_number_of_parameters(bias: bool, count: int) -> None:
    model = MF(5, 7, 4, bias)
    assert sum(p.numel() for p in model.parameters()) == count
    assert not list(model.buffers())


def test_biases_need_dot_products() -> None:
    model = MF.from_data(TRAIN, D, seed=0, bias=True)
    assert model.score == 'dot'
    for options in ({}, {'ranking_loss': 'softmax'}):
        fit(model, TRAIN, VAL, epochs=1, progress=False, seed=0, **options)
        assert model.score == 'dot'
    with pytest.raises(ValueError, match="'score' must be 'dot' for 'MF'"):
        fit(model, TRAIN, epochs=1, ranking_loss='softmax', score='cosine')
    model = MF.from_data(TRAIN, D, seed=0)
    fit(model, TRAIN, epochs=1, ranking_loss='softmax', progress=False)
    assert model.score == 'cosine'
    assert evaluate(model, VAL, k=5)['recall@5'] >= 0.0


def test_rows_of_a_batch_of_nodes() -> None:
    edge_index = edges()
    graph = LAYOUTS['UserItemGraph'](edge_index)
    batch = UserItemGraph.from_batch(hand_made_batch(edge_index), graph, UI)
    model = MF(NUM_USERS, NUM_ITEMS, 3, bias=True)
    whole, part = model(graph), model(batch)
    assert torch.equal(part.user, whole.user[batch.user_n_id])
    assert torch.equal(part.item, whole.item[batch.item_n_id])
    assert torch.equal(model(batch, torch.tensor([1])).user[0],
                       whole.user[batch.user_n_id[1]])


@pytest.mark.parametrize('error, match, args', [
    (ValueError, "'num_users' must be at least 1", (0, 1)),
    (ValueError, "'hidden_channels' must be at least 1", (1, 1, 0)),
    (TypeError, "'bias' must be", (1, 1, 1, 'yes')),
])
def test_bad_input(error: type[Exception], match: str,
                   args: tuple[Any, ...]) -> None:
    with pytest.raises(error, match=match):
        MF(*args)
