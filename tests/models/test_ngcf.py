from __future__ import annotations

from typing import Any

import pytest
import torch
from graphs import NUM_ITEMS, NUM_USERS, random_edges, to_graph
from test_every_model import GRAPH, STORE, TRAIN, D, ModelSuite
from torch.testing import assert_close

from torch_promptmm.models import NGCF
from torch_promptmm.train import RankingObjective, RankingTask, Task


class TestNGCF(ModelSuite):
    dropout = True
    kwargs: dict[str, Any] = {'num_layers': 2}

    def make(self, seed: int = 0) -> Task:
        return RankingTask(
            NGCF.from_data(TRAIN, D, seed=seed, **self.kwargs), GRAPH,
            STORE.edge_index, l2=1e-3, objective=RankingObjective('bpr'))


class TestNGCFAsInTheCode(TestNGCF):
    dropout = False
    kwargs = {'num_layers': 2, 'norm': 'mean', 'bilinear_self': True,
              'dropout': 0.0, 'node_dropout': 0.0}


@pytest.mark.parametrize('num_layers', [0, 1, 3])
def test_all_layers_side_by_side(num_layers: int) -> None:
    graph = to_graph(random_edges())
    model = NGCF(NUM_USERS, NUM_ITEMS, 4, num_layers).eval()
    x = model.user_embedding.weight, model.item_embedding.weight
    wanted = [(table, ) for table in x]
    for conv in model.convs:
        x = conv(x, graph)
        # What goes on is not normalised, what comes out is.
        wanted = [(*part, torch.nn.functional.normalize(y))
                  for part, y in zip(wanted, x, strict=True)]
    user, item = model(graph)
    assert user.size(1) == model.width == 4 * (num_layers + 1)
    assert_close(user, torch.cat(wanted[0], dim=1))
    assert_close(item, torch.cat(wanted[1], dim=1))


@pytest.mark.parametrize('num_layers, count', [
    (0, 18 * 4), (1, 18 * 4 + 2 * 16 + 8), (3, 18 * 4 + 3 * (2 * 16 + 8))])
def test_number_of_parameters(num_layers: int, count: int) -> None:
    model = NGCF(NUM_USERS, NUM_ITEMS, 4, num_layers)
    assert sum(p.numel() for p in model.parameters()) == count
    assert not list(model.buffers())


def test_an_isolated_node_knows_itself() -> None:
    graph = to_graph(random_edges())
    model = NGCF(NUM_USERS, NUM_ITEMS, 4, 1).eval()
    conv = model.convs[0]
    x = model.user_embedding.weight[3]  # Without an edge.
    y = torch.nn.functional.leaky_relu(
        x @ conv.sum.weight.t() + conv.sum.bias + conv.product.bias, 0.2)
    assert_close(model(graph)[0][3, 4:], y / y.norm())


def test_messages_are_dropped_in_training_alone() -> None:
    graph = to_graph(random_edges())
    model = NGCF(NUM_USERS, NUM_ITEMS, 64, 2, dropout=0.5, node_dropout=0.0)
    user, _ = model(graph)
    for layer in user[:, 64:].split(64, dim=1):
        assert 0.4 < (layer == 0).float().mean() < 0.6
    assert torch.equal(user[:, :64], model.user_embedding.weight)
    model.eval()
    assert (model(graph)[0] != 0).all()


def test_l2_falls_on_the_output() -> None:
    model = NGCF(NUM_USERS, NUM_ITEMS, 4)
    assert model.rows(to_graph(random_edges()), torch.tensor([1]),
                      torch.tensor([2]), 1).ego is None


@pytest.mark.parametrize('match, kwargs', [
    ("'num_layers' must be at least 0", {'num_layers': -1}),
    ("'dropout' must be", {'dropout': 2.0}),
    ("'node_dropout' must be", {'node_dropout': -0.1}),
    ("'norm' must be one of", {'norm': 'row'}),
])
def test_bad_input(match: str, kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=match):
        NGCF(2, 3, 4, **kwargs)
