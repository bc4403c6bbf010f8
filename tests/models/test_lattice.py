from __future__ import annotations

import copy

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
    light_gcn,
    make,
    planted,
    planted_recall,
    shuffled,
)
from item_graphs import by_row_sums, feature_graphs, kept, mask_of, reduced
from test_every_model import GRAPH as BLOCKS
from test_every_model import STORE, TRAIN, VAL, D, ModelSuite

from torch_promptmm.evaluate import evaluate
from torch_promptmm.models import LATTICE
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.train import RankingObjective, RankingTask, Task, fit


class TestSuite(ModelSuite):
    epochs = 20
    objective = 'bpr'
    kwargs = {}

    def make(self, seed: int = 0) -> Task:
        model = LATTICE.from_data(TRAIN, D, seed=seed, k=5, **self.kwargs)
        return RankingTask(model, BLOCKS, STORE.edge_index, l2=1e-3,
                           objective=RankingObjective(self.objective,
                                                      num_negatives=16))

    def epoch(self, task, batch_size=64):
        left = super().epoch(task, batch_size)
        if len(task.model.modalities) == 1:  # Its weight is 1.
            left -= {'model.modality_weight'}
        return left


class TestAsPublished(TestSuite):
    objective = 'softmax'
    kwargs = {'graph_grad': 'epoch', 'graph_norm': 'sum'}


def naive_graph(model: LATTICE, loop: bool = True) -> np.ndarray:
    alpha = array(model.modality_weight)
    alpha = dict(zip(WIDTHS, np.exp(alpha) / np.exp(alpha).sum(),
                     strict=True))
    learnt = {name: kept(h, model.k, mask_of(name), loop=loop)
              for name, h in reduced(model).items()}
    if model.graph_norm == 'sum':
        second = by_row_sums(sum(alpha[k] * x for k, x in learnt.items()))
    else:
        second = sum(alpha[k] * by_row_sums(x) for k, x in learnt.items())
    first = sum(alpha[k] * x for k, x in feature_graphs(
        model.k, loop=loop).items())
    return model.feature_weight * first + (1 - model.feature_weight) * second


def graph_of(model: LATTICE) -> torch.Tensor:
    edges, value = model._item_graph()
    out = torch.zeros(I, I, dtype=torch.double)
    return out.index_put((edges.row, edges.col.long()), value,
                         accumulate=True)


@pytest.mark.parametrize('kwargs', [
    {}, {'graph_norm': 'sum'}, {'item_layers': 2, 'num_layers': 0},
    {'feature_weight': 0.0}, {'loop': False, 'k': 3},
    {'graph_grad': 'epoch'}, {'graph_grad': None},
])
def test_equals_numpy(kwargs) -> None:
    model = make(LATTICE, **{'k': 2, 'feature_weight': 0.6, **kwargs})
    model.find_neighbors()  # By the weights that it was given.
    p, q = (array(x.weight) for x in (model.backbone.user_embedding,
                                      model.backbone.item_embedding))
    user, item = light_gcn(p, q, model.num_layers)
    graph = naive_graph(model, kwargs.get('loop', True))
    np.testing.assert_allclose(graph_of(model).detach(), graph, atol=1e-6)
    for _ in range(model.item_layers):
        q = graph @ q
    for training in (True, False):
        out = model.train(training)(GRAPH)
        np.testing.assert_allclose(array(out.user), user, atol=1e-6)
        np.testing.assert_allclose(array(out.item),
                                   item + reference.unit_rows(q), atol=1e-6)


def test_known_answer() -> None:
    x = torch.tensor([[1, 0], [1, .5], [0, 1], [-1, 0]], dtype=torch.double)
    model = LATTICE(2, 4, {'a': 2}, 2, k=2, feature_weight=0.0,
                    standardize=False).double()
    with torch.no_grad():  # What is learnt are the features themselves.
        model.maps['a'].weight.copy_(torch.eye(2))
    model.set_features({'a': x})
    edges, value = model._item_graph()
    out = torch.zeros(4, 4, dtype=torch.double).index_put(
        (edges.row, edges.col.long()), value, accumulate=True)
    for at, want in {(0, 1): .4721360, (2, 1): .2700907, (2, 2): .6909830,
                     (1, 2): 0.0, (3, 2): 0.0}.items():
        assert out[at].item() == pytest.approx(want, abs=1e-6), at
    model.feature_weight = 1.0
    model.find_neighbors()
    edges, value = model._item_graph()
    assert torch.allclose(out, torch.zeros_like(out).index_put(
        (edges.row, edges.col.long()), value, accumulate=True))


def test_gradients_of_the_graph() -> None:
    model = make(LATTICE, k=2, feature_weight=0.3)
    model.find_neighbors()
    parameters = [model.modality_weight, model.maps['visual'].weight,
                  model.maps['textual'].bias,
                  model.backbone.item_embedding.weight]

    out = torch.randn(I, 4, dtype=torch.double)
    grads = torch.autograd.grad((model(GRAPH).item * out).sum(), parameters)
    for parameter, grad in zip(parameters, grads, strict=True):
        step = torch.randn_like(parameter)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(step, alpha=sign * 1e-6)
            values.append((model(GRAPH).item * out).sum().item())
            with torch.no_grad():
                parameter.sub_(step, alpha=sign * 1e-6)
        want = (values[0] - values[1]) / 2e-6
        assert float((grad * step).sum()) == pytest.approx(want, rel=1e-4,
                                                           abs=1e-6)


def learnt(model: LATTICE) -> list[bool]:
    """Whether each of three steps of an epoch reaches what makes the graph;
    the loss of a step can be used twice.
    """
    model.train()
    model.on_epoch_start(1, GRAPH)
    out = []
    for _ in range(3):
        model.zero_grad()
        loss = model.rows(GRAPH, BATCH.user, ITEMS).item.square().sum()
        loss.backward()
        grad = model.maps['visual'].weight.grad
        out.append(grad is not None and bool(grad.any()))
    return out


def test_when_the_graph_has_a_gradient() -> None:
    for graph_grad, want in (('step', [True] * 3),
                             ('epoch', [True, False, False]),
                             (None, [False] * 3)):
        model = make(LATTICE, k=2, graph_grad=graph_grad)
        for _ in range(2):
            assert learnt(model) == want, graph_grad


def test_neighbours_change_between_epochs() -> None:
    model = make(LATTICE, k=2)
    model.on_epoch_start(1, GRAPH)
    index, value = model.learnt_index.clone(), model.value.clone()
    with torch.no_grad():
        for name in WIDTHS:
            model.maps[name].weight.normal_()
    model.eval()
    assert torch.equal(model.value, value)  # Until then it stays.
    model.on_epoch_start(2, GRAPH)
    assert not torch.equal(model.learnt_index, index)
    assert not torch.equal(model.value, value)
    np.testing.assert_allclose(graph_of(model).detach(), naive_graph(model),
                               atol=1e-6)


def test_evaluation_takes_the_graph_of_the_last_step() -> None:
    model = make(LATTICE, k=2).train()
    model.on_epoch_start(1, GRAPH)
    old = model.value.clone()
    with torch.no_grad():
        model.maps['visual'].weight.mul_(-0.5).add_(0.1)
    out = model.rows(GRAPH, BATCH.user, ITEMS)
    assert not torch.equal(model.value, old) and not model.value.requires_grad
    assert torch.equal(model.eval().rows(GRAPH, BATCH.user, ITEMS).item,
                       out.item)


def test_the_best_epoch_has_its_graph() -> None:
    # Its neighbours come back, and so do the places that are made of them.
    model, states = LATTICE.from_data(TRAIN, D, seed=0, k=5), []
    history = fit(model, TRAIN, VAL, epochs=8, lr=0.05, seed=0, batch_size=64,
                  progress=False, patience=None, callback=lambda record:
                  states.append(copy.deepcopy(model.state_dict())))
    best = history.best_epoch
    assert best < 8
    want = states[best - 1]
    for name, x in model.state_dict().items():
        assert torch.equal(x, want[name]), name
    assert not torch.equal(want['learnt_index'], states[-1]['learnt_index'])
    other = LATTICE.from_config(model.config())
    other.load_state_dict(want)
    other.keep_score(model.score)
    assert evaluate(other, VAL, k=5) == evaluate(model, VAL, k=5)


def test_a_loaded_model_needs_no_features() -> None:
    model = make(LATTICE).eval()
    other = LATTICE.from_config(model.config()).double().eval()
    with pytest.raises(ValueError, match='no graph of its items yet'):
        other(GRAPH)
    other.load_state_dict(model.state_dict())
    for a, b in zip(other(GRAPH)[:2], model(GRAPH)[:2], strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match='give it the data again'):
        other.on_epoch_start(1, GRAPH)


def test_a_cold_item_is_what_its_neighbours_are() -> None:
    model = make(LATTICE, k=2, loop=False).eval()
    cold = I - 1  # It has no interaction.
    graph = graph_of(model).detach()
    assert graph[cold].any() and not graph.diagonal().any()
    before = model(GRAPH).item[cold].clone()
    table = model.backbone.item_embedding.weight
    with torch.no_grad():
        change = torch.randn(4, dtype=torch.double)
        table[cold] += change
    torch.testing.assert_close(model(GRAPH).item[cold], before + change / 3)


def test_number_of_parameters() -> None:
    assert count(make(LATTICE)) == ((U + I) * 4 + (6 + 1) * 4 + (3 + 1) * 4 +
                                    2)


def test_it_works_on_a_batch_of_neighbours() -> None:
    model = make(LATTICE).eval()
    batch = copy.copy(GRAPH)
    batch.user_n_id, batch.item_n_id = torch.arange(U), torch.arange(I)
    want = model(GRAPH)
    assert isinstance(batch, UserItemGraph) and batch.is_batch
    torch.testing.assert_close(model(batch).item, want.item)


@pytest.mark.parametrize('kwargs, match', [
    ({'feature_weight': 1.5}, "'feature_weight' must be"),
    ({'graph_grad': 'batch'}, "'graph_grad' must be one of"),
    ({'graph_norm': 'row'}, "'graph_norm' must be one of"),
])
def test_bad_input(kwargs, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        LATTICE(U, I, WIDTHS, **kwargs)
    assert "graph_grad='step'" in str(make(LATTICE))


@pytest.mark.slow
def test_content_pays() -> None:
    data, val, test = planted()
    out = [planted_recall(LATTICE, x, val, test, epochs=30, lr=5e-3,
                          ranking_loss='bpr', build={'loop': False})
           for x in (data, shuffled(data))]
    assert out[0][0] > out[1][0] + 0.01  # Over all items,
    assert out[0][1] > out[1][1] + 0.05  # and among cold ones.
