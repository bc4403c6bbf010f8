"""The students of Table 9 beside LightGCN: GCN and MLP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
import torch
from graphs import LAYOUTS, NUM_ITEMS, NUM_USERS, random_edges
from test_every_model import GRAPH, STORE, D, I, ModelSuite, U
from torch.testing import assert_close

from torch_promptmm.models import GCN, MLP, LightGCN
from torch_promptmm.models.tables import TableModel
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.train import RankingObjective, RankingTask, Task

CHANNELS = 3


class TestGCN(ModelSuite):
    cls: type[TableModel] = GCN
    epochs = 30

    def make(self, seed: int = 0) -> Task:
        torch.manual_seed(seed)
        return RankingTask(self.cls(U, I, D), GRAPH, STORE.edge_index,
                           objective=RankingObjective(num_negatives=16),
                           l2=1e-3)


class TestMLP(TestGCN):
    cls = MLP
    epochs = 60


def gcn(model: GCN, x_user: np.ndarray,
        x_item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    square = reference.adjacency(random_edges().numpy(), NUM_USERS, NUM_ITEMS)
    r = square[:NUM_USERS, NUM_USERS:]
    users, items = [x_user], [x_item]
    for w_user, w_item in zip(model.user_weight, model.item_weight,
                              strict=True):
        u, i = users[-1], items[-1]
        users.append(np.maximum(r @ (i @ w_item.detach().numpy()), 0))
        items.append(np.maximum(r.T @ (u @ w_user.detach().numpy()), 0))
    return np.mean(users, axis=0), np.mean(items, axis=0)


def mlp(model: MLP, x_user: np.ndarray,
        x_item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    def run(x: np.ndarray, weights: Any) -> np.ndarray:
        for weight in weights:
            y = x @ weight.detach().numpy()
            x = x + np.where(y > 0, y, 0.5 * y)
        return x

    return run(x_user, model.user_weight), run(x_item, model.item_weight)


CASES: list[tuple[type[TableModel], Callable[..., Any]]] = [
    (GCN, gcn), (MLP, mlp)]


def build(cls: type[TableModel], num_layers: int) -> TableModel:
    torch.manual_seed(2)
    model = cls(NUM_USERS, NUM_ITEMS, CHANNELS, num_layers).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize('num_layers', [0, 1, 2, 3])
@pytest.mark.parametrize('cls, numpy', CASES)
def test_known_answer(cls: type[TableModel], numpy: Callable[..., Any],
                      num_layers: int) -> None:
    model = build(cls, num_layers)
    want = numpy(model, model.user_embedding.weight.detach().numpy(),
                 model.item_embedding.weight.detach().numpy())
    for make in LAYOUTS.values():
        out = model.float()(make(random_edges()))
        for a, b in zip(out, want, strict=True):
            np.testing.assert_allclose(a.detach().numpy(), b, rtol=1e-4,
                                       atol=1e-4)
    graph = UserItemGraph(random_edges(), NUM_USERS, NUM_ITEMS,
                          dtype=torch.double)
    model = build(cls, num_layers)
    for a, b in zip(model(graph), want, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b, rtol=1e-9,
                                   atol=1e-9)


@pytest.mark.parametrize('num_layers', [0, 1, 2])
@pytest.mark.parametrize('cls', [GCN, MLP])
def test_rows_values_and_gradients(cls: type[TableModel],
                                   num_layers: int) -> None:
    model = build(cls, num_layers)
    graph = UserItemGraph(random_edges(), NUM_USERS, NUM_ITEMS,
                          dtype=torch.double)
    user_id, item_id = torch.tensor([3, 0, 3]), torch.tensor([10, 2, 2, 5])
    whole = model(graph)
    want = [whole[0][user_id], whole[1][item_id],
            model.user_embedding.weight[user_id],
            model.item_embedding.weight[item_id[:3]]]
    rows = model.rows(graph, user_id, item_id, num_ego=3)
    out = [rows.user, rows.item, *rows.ego]
    seeds = [torch.randn_like(x) for x in want]
    parameters = list(model.parameters())
    for a, b in zip(out, want, strict=True):
        assert_close(a, b)
    for a, b in zip(torch.autograd.grad(out, parameters, seeds),
                    torch.autograd.grad(want, parameters, seeds),
                    strict=True):
        assert_close(a, b)
    assert model.rows(graph, user_id, item_id).ego is None


@pytest.mark.parametrize('cls, per_layer', [(LightGCN, 0), (GCN, 2), (MLP, 2)])
@pytest.mark.parametrize('num_layers', [0, 1, 3])
def test_number_of_parameters(cls: type[TableModel], per_layer: int,
                              num_layers: int) -> None:
    # Table 9 counts 2 * 32 * 32 of the GCN, without the tables.
    model = cls(7, 11, 32, num_layers)
    have = sum(p.numel() for p in model.parameters())
    assert have == (7 + 11) * 32 + num_layers * per_layer * 32 * 32
    if num_layers == 1 and cls is GCN:
        assert have - (7 + 11) * 32 == 2048


@pytest.mark.parametrize('cls', [GCN, MLP])
def test_users_and_items_have_weights_of_their_own(
        cls: type[TableModel]) -> None:
    model, graph = build(cls, 1), random_edges()
    user, item = build(cls, 1).float()(graph)
    with torch.no_grad():
        model.item_weight[0].zero_()
    out = model.float()(graph)
    # Items give to users in a graph; without one they are on their own.
    changed = 0 if cls is GCN else 1
    assert not torch.allclose(out[changed], (user, item)[changed])
    assert_close(out[1 - changed], (user, item)[1 - changed])


def test_start_from_given_tables() -> None:
    graph = UserItemGraph(random_edges(), NUM_USERS, NUM_ITEMS)
    user, item = torch.randn(NUM_USERS, 3), torch.randn(NUM_ITEMS, 3)
    for cls in (GCN, MLP):
        model = cls(NUM_USERS, NUM_ITEMS, 3)
        model.start_from(graph, user, item)
        assert torch.equal(model.user_embedding.weight, user)
        assert torch.equal(model.item_embedding.weight, item)
    exact = LightGCN(NUM_USERS, NUM_ITEMS, 3)
    exact.start_from(graph, user, item)
    assert_close(exact(graph), (user, item), rtol=0, atol=1e-4)
    odd = LightGCN(NUM_USERS, NUM_ITEMS, 3, 1)
    odd.start_from(graph, user, item)
    assert torch.equal(odd.user_embedding.weight, user)
