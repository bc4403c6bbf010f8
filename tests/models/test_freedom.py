from __future__ import annotations

import copy

import numpy as np
import pytest
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
    make,
    planted,
    planted_recall,
    shuffled,
)
from item_graphs import feature_graphs, reduced
from test_every_model import GRAPH as BLOCKS
from test_every_model import STORE, TRAIN, D, ModelSuite, graph_of

from torch_promptmm.models import FREEDOM
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.train import RankingObjective, RankingTask, Task, fit


class TestSuite(ModelSuite):
    epochs = 20
    objective, edge_keep = 'bpr', 0.8

    def make(self, seed: int = 0) -> Task:
        model = FREEDOM.from_data(TRAIN, D, seed=seed, k=5,
                                  edge_keep=self.edge_keep)
        return self.task(model, BLOCKS, STORE.edge_index)

    def task(self, model, graph, edges) -> RankingTask:
        return RankingTask(model, graph, edges, l2=1e-3, modality_weight=0.1,
                           objective=RankingObjective(self.objective,
                                                      num_negatives=16))

    def other_task(self, model, data) -> RankingTask:
        return self.task(model, graph_of(data),
                         data['user', 'interacts', 'item'].edge_index)


    def test_on_device(self, device):
        self.edge_keep = 1.0  # Two tasks would draw two times.
        super().test_on_device(device)


class TestSoftmax(TestSuite):
    objective = 'softmax'


@pytest.mark.parametrize('kwargs', [
    {}, {'item_layers': 2, 'num_layers': 1}, {'item_layers': 0},
    {'graph_weights': {'visual': 0.1, 'textual': 0.9}}, {'loop': False},
])
def test_equals_numpy(kwargs) -> None:
    model = make(FREEDOM, k=2, **kwargs)
    p, q = (array(x.weight) for x in (model.backbone.user_embedding,
                                      model.backbone.item_embedding))
    user, item = light_gcn(p, q, kwargs.get('num_layers', 2))
    weights = kwargs.get('graph_weights', {'visual': 0.5, 'textual': 0.5})
    graph = sum(weights[name] * x for name, x in feature_graphs(
        2, True, kwargs.get('loop', True)).items())
    for _ in range(kwargs.get('item_layers', 1)):
        q = graph @ q
    out = model(GRAPH)
    np.testing.assert_allclose(array(out.user), user, atol=1e-6)
    np.testing.assert_allclose(array(out.item), item + q, atol=1e-6)
    for name, x in reduced(model).items():
        np.testing.assert_allclose(array(out.modalities[name][0]), user,
                                   atol=1e-6)
        np.testing.assert_allclose(array(out.modalities[name][1]), x,
                                   atol=1e-6)


def test_known_answer() -> None:
    # Each item has k neighbours, and each of them counts the same.
    model = make(FREEDOM, k=2, graph_weights={'visual': 1.0, 'textual': 0.0})
    value = model.item_graph.require().tensor.to_dense()
    assert ((value == 0) | (value == 0.5)).all()
    assert (value.sum(1) == 1).all() and (value.diagonal() == 0.5).all()


def test_a_step_sees_some_interactions_and_evaluation_all() -> None:
    model = make(FREEDOM, k=2, edge_keep=0.5)
    torch.manual_seed(0)
    model.on_epoch_start(1, GRAPH)
    kept = model.kept[1]
    assert kept.num_edges == 3 and GRAPH.num_edges == 6
    model.train()
    out = model.rows(GRAPH, BATCH.user, ITEMS, 3)
    want = model(kept, BATCH.user, ITEMS)
    torch.testing.assert_close(out.user, want.user)
    torch.testing.assert_close(out.item, want.item)
    # The L2 term falls on the tables.
    table = model.backbone.item_embedding.weight
    assert torch.equal(out.ego[1], table[ITEMS[:3]])
    whole = model(GRAPH)
    assert not torch.allclose(out.user, whole.user[BATCH.user])
    other = UserItemGraph(EDGES[:, :4], U, I, dtype=torch.double)
    for graph in (GRAPH, other):
        model.train(graph is other)  # Of which nothing was drawn.
        torch.testing.assert_close(model.rows(graph, BATCH.user, ITEMS).user,
                                   model(graph).user[BATCH.user])
    model.train()
    model.on_epoch_start(2, GRAPH)
    assert not torch.equal(model.kept[1].edge_index, kept.edge_index)
    assert copy.deepcopy(model).kept is None
    model.edge_keep = 1.0
    model.on_epoch_start(3, GRAPH)
    assert model.kept[1] is GRAPH


def test_a_step_reads_its_items_alone(monkeypatch) -> None:
    model, read = make(FREEDOM), []
    rows = model.item_features.rows
    monkeypatch.setattr(model.item_features, 'rows', lambda name, item_id: (
        read.append(item_id), rows(name, item_id))[1])
    model.rows(GRAPH, BATCH.user, ITEMS)
    assert all(x.equal(ITEMS.unique()) for x in read) and len(read) == 2


def test_a_loaded_model_needs_no_features() -> None:
    model = make(FREEDOM).eval()
    other = FREEDOM.from_config(model.config()).double().eval()
    with pytest.raises(ValueError, match='no graph of its items yet'):
        other(GRAPH)
    other.load_state_dict(model.state_dict())
    out, want = other(GRAPH), model(GRAPH)
    assert torch.equal(out.user, want.user) and not out.modalities
    assert torch.equal(out.item, want.item)


def test_features_that_are_given_again_keep_the_graph() -> None:
    model = FREEDOM.from_data(TRAIN, D, seed=0)
    other = FREEDOM.from_config(model.config())
    other.load_state_dict(model.state_dict())
    moved = TRAIN.clone()
    moved['item'].visual = TRAIN['item'].visual.flip(0).contiguous()
    fit(other, moved, epochs=0, progress=False)
    for name in ('crow', 'col', 'value'):
        assert torch.equal(getattr(other.item_graph, name),
                           getattr(model.item_graph, name))
    other.set_features({k: moved['item'][k] for k in other.modalities})
    assert not torch.equal(other.item_graph.col, model.item_graph.col)


def test_number_of_parameters() -> None:
    assert count(make(FREEDOM)) == (U + I) * 4 + (6 + 1) * 4 + (3 + 1) * 4


@pytest.mark.parametrize('kwargs, match', [
    ({'edge_keep': 1.5}, "'edge_keep' must be"),
    ({'k': 0}, "'k' must be at least 1"),
    ({'item_layers': -1}, "'item_layers' must be at least 0"),
    ({'graph_weights': {'visual': 1.0}}, "'graph_weights' must have"),
    ({'graph_weights': {'visual': 1.0, 'textual': -1.0}},
     r"'graph_weights\['textual'\]' must be"),
    ({'in_channels': {}}, "'in_channels' must map"),
])
def test_bad_input(kwargs, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        FREEDOM(**{'num_users': U, 'num_items': I, 'in_channels': WIDTHS,
                   **kwargs})
    assert str(make(FREEDOM)).startswith("FREEDOM(4, 5, in_channels={'visual'")


@pytest.mark.slow
def test_content_pays() -> None:
    data, val, test = planted()
    options = {'epochs': 30, 'lr': 5e-3, 'ranking_loss': 'bpr',
               'build': {'edge_keep': 0.8}}
    whole, _ = planted_recall(FREEDOM, data, val, test, **options)
    options['build'] = {'edge_keep': 0.8}
    less, _ = planted_recall(FREEDOM, shuffled(data), val, test, **options)
    assert whole > less + 0.01
