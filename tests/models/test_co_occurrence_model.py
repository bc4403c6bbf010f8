"""Items that share users, against dense matrices and an SVD of NumPy."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from graphs import LAYOUTS, NUM_ITEMS, NUM_USERS, random_edges, to_graph
from torch.testing import assert_close

from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.models import CoOccurrence
from torch_promptmm.models.door import model_from_config, saved_config
from torch_promptmm.nn import UserItemGraph

Array = np.ndarray
EDGES = random_edges()


def dense(edges: Array, num_users: int, num_items: int,
          neighbors: int) -> Array:
    """The scores by the formula, before anything is cut off."""
    a = np.zeros((num_users, num_items))
    a[edges[0], edges[1]] = 1.0
    degree = a.sum(1)
    share = np.divide(1.0, degree, out=np.zeros(num_users), where=degree > 0)
    c = a.T @ (share[:, None] * a)
    np.fill_diagonal(c, 0.0)
    for row in c:  # Of equal ones, the first.
        row[np.argsort(-row.round(6), kind='stable')[neighbors:]] = 0.0
    total = c.sum(1)
    scale = np.array([0.0 if x == 0.0 else x**-0.5 for x in total])
    c = scale[:, None] * c * scale[None, :]
    return (share[:, None] * a) @ c.T


def scores(model: CoOccurrence, graph: Any) -> Array:
    out = model(graph)
    return (out.user @ out.item.t()).double().numpy()


@pytest.mark.parametrize('neighbors', [2, 100])
def test_all_directions_are_the_formula(neighbors: int) -> None:
    want = dense(EDGES.numpy(), NUM_USERS, NUM_ITEMS, neighbors)
    model = CoOccurrence(NUM_USERS, NUM_ITEMS, 20, neighbors)
    out = model(to_graph(EDGES))
    assert out.user.shape == (NUM_USERS, 20)
    assert out.item.shape == (NUM_ITEMS, 20) and model.width == 20
    np.testing.assert_allclose(scores(model, to_graph(EDGES)), want,
                               atol=1e-6)
    assert (want > 0).any()
    # What has no interaction says nothing.
    assert (out.user[3].abs() < 1e-6).all()


@pytest.mark.parametrize('rank', [1, 3])
def test_few_directions_are_the_leading_ones(rank: int) -> None:
    want = dense(EDGES.numpy(), NUM_USERS, NUM_ITEMS, 4)
    left, value, right = np.linalg.svd(want)
    want = left[:, :rank] * value[:rank] @ right[:rank]
    have = scores(CoOccurrence(NUM_USERS, NUM_ITEMS, rank, 4),
                  to_graph(EDGES))
    np.testing.assert_allclose(have, want, atol=1e-5)


def test_of_a_larger_graph() -> None:
    """Wider than the range that is looked at."""
    train = SyntheticMultimodal.preset('small', scale=0.25)[0]
    edges = train['user', 'interacts', 'item'].edge_index
    sizes = train['user'].num_nodes, train['item'].num_nodes
    graph = UserItemGraph(edges, *sizes)
    want = dense(edges.numpy(), *sizes, 20)
    value = np.linalg.svd(want, compute_uv=False)
    model = CoOccurrence(*sizes, 8)
    assert min(sizes) > 8 + 16
    error = np.linalg.norm(want - scores(model, graph))
    best = np.linalg.norm(value[8:])
    assert best < error * 1.0001 and error < 1.05 * best


def test_rows_and_every_adjacency() -> None:
    model = CoOccurrence(NUM_USERS, NUM_ITEMS, 4, 3)
    whole = model(to_graph(EDGES))
    user_id, item_id = torch.tensor([5, 3, 5]), torch.tensor([10, 1])
    rows = model(to_graph(EDGES), user_id, item_id)
    assert torch.equal(rows.user, whole.user[user_id])
    assert torch.equal(rows.item, whole.item[item_id])
    for layout in LAYOUTS.values():
        assert_close(model(layout(EDGES)).user, whole.user)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(model(to_graph(EDGES)).user, whole.user)


def test_same_bits_whatever_the_seed() -> None:
    model = CoOccurrence(NUM_USERS, NUM_ITEMS, 4)
    torch.manual_seed(1)
    first = model(to_graph(EDGES))
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(first.user, model(to_graph(EDGES)).user)
    torch.manual_seed(1)
    model(to_graph(EDGES))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_from_data_and_config() -> None:
    train, _, _ = SyntheticMultimodal.blocks(users_per_block=12)
    model = CoOccurrence.from_data(train, 6, neighbors=5)
    assert (model.width, model.neighbors) == (6, 5)
    assert list(model.parameters()) == [] and model.modalities == []
    model.reset_parameters()
    again = model_from_config(saved_config(model) or {})
    assert str(again) == str(copy.deepcopy(model)) == str(model)
    assert str(model) == ('CoOccurrence(48, 36, hidden_channels=6, '
                          'neighbors=5)')


@pytest.mark.parametrize('name', ['num_users', 'num_items', 'hidden_channels',
                                  'neighbors'])
def test_bad_input(name: str) -> None:
    kwargs = {'num_users': 3, 'num_items': 4, name: 0}
    with pytest.raises(ValueError, match=f"'{name}' must be at least 1"):
        CoOccurrence(**kwargs)


def test_on_a_device(device: torch.device) -> None:
    model = CoOccurrence(NUM_USERS, NUM_ITEMS, 4, 3)
    out = model(to_graph(EDGES).to(device))
    assert out.user.device.type == device.type
    np.testing.assert_allclose((out.user @ out.item.t()).cpu().numpy(),
                               scores(model, to_graph(EDGES)), atol=1e-5)
