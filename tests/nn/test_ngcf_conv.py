"""The layer of NGCF against plain NumPy, on the square matrix of all nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from graphs import (
    LAYOUTS,
    NUM_ITEMS,
    NUM_USERS,
    UI,
    hand_made_batch,
    random_edges,
    to_graph,
)
from torch.testing import assert_close

from torch_promptmm.nn import NGCFConv, UserItemGraph

FORMS = [('sym', False), ('sym', True), ('mean', False), ('mean', True)]


def square(edge_index: torch.Tensor, num_users: int,
           num_items: int) -> np.ndarray:
    out = np.zeros((num_users + num_items, ) * 2)
    for u, i in edge_index.t().tolist():
        out[u, num_users + i] += 1.0
        out[num_users + i, u] += 1.0
    return out


def reference(conv: NGCFConv, a: np.ndarray, x: np.ndarray) -> np.ndarray:
    w1, b1, w2, b2 = (p.detach().numpy() for p in (
        conv.sum.weight, conv.sum.bias, conv.product.weight,
        conv.product.bias))
    degree = a.sum(axis=1)
    if conv.norm == 'sym':
        root = np.divide(1.0, np.sqrt(degree), where=degree > 0,
                         out=np.zeros_like(degree))
        near, own = (root[:, None] * a * root) @ x, x
    else:
        near, own = a @ x / (degree + 1)[:, None], x / (degree + 1)[:, None]
    pair = (near + own if conv.bilinear_self else near) * x
    y = (near + own) @ w1.T + b1 + pair @ w2.T + b2
    return np.where(y > 0, y, 0.2 * y)


def ones(norm: str, bilinear_self: bool) -> NGCFConv:
    conv = NGCFConv(1, 1, norm, bilinear_self).double()
    with torch.no_grad():
        for linear in (conv.sum, conv.product):
            linear.weight.fill_(1.0)
            linear.bias.zero_()
    return conv


@pytest.mark.parametrize('norm, bilinear_self, users, items', [
    ('sym', False, [11.6569, 12.6066, 3.0], [7.5355, 16.4853, 6.0]),
    ('mean', True, [6.6667, 10.5, 12.0], [12.5, 16.0, 42.0]),
])
def test_known_answer(norm: str, bilinear_self: bool, users: list[float],
                      items: list[float]) -> None:
    edge_index = torch.tensor([[0, 0, 1], [0, 1, 1]])
    graph = UserItemGraph(edge_index, 3, 3, dtype=torch.double)
    x = (torch.tensor([[1.0], [2.0], [3.0]]).double(),
         torch.tensor([[4.0], [5.0], [6.0]]).double())
    conv = ones(norm, bilinear_self)
    out = torch.cat(conv(x, graph)).view(-1)
    # As printed, to its four places; and what these stand for.
    assert_close(out, torch.tensor(users + items).double(), rtol=0, atol=6e-5)
    wanted = reference(conv, square(edge_index, 3, 3), torch.cat(x).numpy())
    assert_close(out, torch.from_numpy(wanted).view(-1), rtol=0, atol=1e-6)


@pytest.mark.parametrize('duplicates', [False, True])
@pytest.mark.parametrize('norm, bilinear_self', FORMS)
def test_equals_plain_numpy(norm: str, bilinear_self: bool,
                            duplicates: bool) -> None:
    edge_index = random_edges(duplicates=duplicates)
    conv = NGCFConv(4, 3, norm, bilinear_self).double()
    torch.nn.init.normal_(conv.sum.bias)
    x = torch.randn(NUM_USERS + NUM_ITEMS, 4, dtype=torch.double)
    wanted = torch.from_numpy(reference(
        conv, square(edge_index, NUM_USERS, NUM_ITEMS), x.numpy()))
    graph = UserItemGraph(edge_index, NUM_USERS, NUM_ITEMS,
                          dtype=torch.double)
    pair = x.split([NUM_USERS, NUM_ITEMS])
    user, item = conv(pair, graph)
    assert_close(torch.cat([user, item]), wanted, rtol=0, atol=1e-6)
    ids = torch.tensor([6, 3, 6]), torch.tensor([0, 10])
    rows = conv(pair, graph, *ids)
    assert_close(rows, (user[ids[0]], item[ids[1]]))


@pytest.mark.parametrize('norm, bilinear_self', FORMS)
def test_gradients(norm: str, bilinear_self: bool) -> None:
    graph = UserItemGraph(random_edges(), NUM_USERS, NUM_ITEMS,
                          dtype=torch.double)
    conv = NGCFConv(2, 2, norm, bilinear_self).double()
    x = [torch.randn(n, 2, dtype=torch.double, requires_grad=True)
         for n in (NUM_USERS, NUM_ITEMS)]
    ids = torch.tensor([6, 3]), torch.tensor([0, 4, 4])
    assert torch.autograd.gradcheck(
        lambda user, item: conv((user, item), graph, *ids), x)
    assert torch.autograd.gradcheck(
        lambda user, item: conv((user, item), graph), x)


def test_a_mean_counts_an_edge_once() -> None:
    edge_index = random_edges()
    conv = NGCFConv(3, 3, 'mean')
    x = torch.randn(NUM_USERS, 3), torch.randn(NUM_ITEMS, 3)
    weight = torch.rand(edge_index.size(1)) + 0.1
    assert_close(conv(x, to_graph(edge_index, weight)),
                 conv(x, to_graph(edge_index)))
    conv = NGCFConv(3, 3, 'sym')
    assert not torch.equal(conv(x, to_graph(edge_index, weight))[0],
                           conv(x, to_graph(edge_index))[0])


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout(layout: str) -> None:
    conv = NGCFConv(3, 2, 'mean')
    x = torch.randn(NUM_USERS, 3), torch.randn(NUM_ITEMS, 3)
    assert_close(conv(x, LAYOUTS[layout](random_edges())),
                 conv(x, random_edges()))


def test_nodes_are_silenced_in_training_alone() -> None:
    conv = NGCFConv(1, 1, node_dropout=0.5).double()
    with torch.no_grad():  # The neighbours' part alone is seen.
        conv.sum.weight.fill_(1.0)
        conv.product.weight.zero_()
    x = (torch.zeros(NUM_USERS, 1).double(),
         torch.ones(NUM_ITEMS, 1).double())
    graph = UserItemGraph(random_edges(), NUM_USERS, NUM_ITEMS,
                          dtype=torch.double)
    conv.eval()
    quiet, _ = conv(x, graph)
    assert torch.equal(conv(x, graph)[0], quiet)
    conv.train()
    draws = torch.stack([conv(x, graph)[0] for _ in range(2000)])
    assert not torch.equal(draws[0], draws[1])
    # On average nothing changes, and what a node says itself is not lost.
    assert_close(draws.mean(dim=0), quiet, rtol=0.1, atol=1e-9)
    # A node says it to all of its neighbours or to none.
    user, item = random_edges()
    some = int(torch.bincount(item).argmax())
    near = user[item == some]
    x = x[0], torch.zeros(NUM_ITEMS, 1).double()
    x[1][some] = 1.0
    for _ in range(20):
        heard = conv(x, graph)[0][near] > 0
        assert heard.all() or not heard.any()


def test_a_batch_of_nodes() -> None:
    edge_index = random_edges()
    graph = to_graph(edge_index)
    batch = UserItemGraph.from_batch(hand_made_batch(edge_index), graph, UI)
    x = torch.randn(NUM_USERS, 3), torch.randn(NUM_ITEMS, 3)
    conv = NGCFConv(3, 3)
    part = conv(batch.gather(*x), batch)[0]
    # All items of the batch's first users are in it.
    assert_close(part[:2], conv(x, graph)[0][batch.user_n_id[:2]])


@pytest.mark.parametrize('error, match, kwargs', [
    (ValueError, "'norm' must be one of", {'norm': 'max'}),
    (TypeError, "'bilinear_self' must be", {'bilinear_self': 1}),
    (ValueError, "'node_dropout' must be", {'node_dropout': 1.5}),
])
def test_bad_input(error: type[Exception], match: str,
                   kwargs: dict[str, Any]) -> None:
    with pytest.raises(error, match=match):
        NGCFConv(2, 2, **kwargs)


def test_representation() -> None:
    assert str(NGCFConv(3, 2)) == ("NGCFConv(3, 2, norm='sym', bilinear_self="
                                   "False, node_dropout=0.0)")
