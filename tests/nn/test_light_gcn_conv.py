from __future__ import annotations

import copy

import pytest
import torch
from graphs import (
    LAYOUTS,
    NUM_ITEMS,
    NUM_USERS,
    WEIGHTED,
    random_edges,
    square,
    to_coo,
)
from torch import Tensor
from torch_geometric.nn import LGConv

from torch_promptmm.nn import LightGCNConv, UserItemGraph


def features(dtype: torch.dtype = torch.double) -> tuple[Tensor, Tensor]:
    return (torch.randn(NUM_USERS, 4, dtype=dtype, requires_grad=True),
            torch.randn(NUM_ITEMS, 4, dtype=dtype, requires_grad=True))


def check_same(out: tuple[Tensor, ...], want: tuple[Tensor, ...],
               x: tuple[Tensor, ...]) -> None:
    seeds = [torch.randn_like(y) for y in want]
    have_grad = torch.autograd.grad(out, x, seeds)
    want_grad = torch.autograd.grad(want, x, seeds)
    for a, b in zip((*out, *have_grad), (*want, *want_grad), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('duplicates', [False, True])
@pytest.mark.parametrize('dtype', [torch.float, torch.double])
def test_equals_lg_conv(layout: str, duplicates: bool,
                        dtype: torch.dtype) -> None:
    edge_index = random_edges(duplicates=duplicates)
    x = features(dtype)
    want = LGConv()(torch.cat(x), square(edge_index))
    adj = LAYOUTS[layout](edge_index)
    if isinstance(adj, UserItemGraph):
        adj = UserItemGraph(edge_index, NUM_USERS, NUM_ITEMS, dtype=dtype)
    out = LightGCNConv()(x, adj)
    check_same(out, (want[:NUM_USERS], want[NUM_USERS:]), x)


@pytest.mark.parametrize('layout', WEIGHTED)
def test_equals_lg_conv_with_edge_weights(layout: str) -> None:
    edge_index = random_edges()
    weight = torch.rand(edge_index.size(1))
    x = features(torch.float)
    want = LGConv()(torch.cat(x), square(edge_index), weight.repeat(2))
    out = LightGCNConv()(x, WEIGHTED[layout](edge_index, weight))
    check_same(out, (want[:NUM_USERS], want[NUM_USERS:]), x)


def test_several_steps_at_once() -> None:
    x, edge_index = features(), random_edges()
    step, whole = LightGCNConv(), LightGCNConv([0.5, 0.3, 0.2])
    one = step(x, edge_index)
    two = step(one, edge_index)
    want = tuple(0.5 * a + 0.3 * b + 0.2 * c
                 for a, b, c in zip(x, one, two, strict=True))
    check_same(whole(x, edge_index), want, x)


def test_rows() -> None:
    x, edge_index = features(), random_edges()
    user_id, item_id = torch.tensor([3, 1, 1]), torch.tensor([0, 9])
    want = LightGCNConv()(x, edge_index)
    out = LightGCNConv()(x, edge_index, user_id, item_id, num_ego=2)
    check_same(out, (want[0][user_id], want[1][item_id], x[0][user_id],
                     x[1][item_id]), x)


@pytest.mark.parametrize('layout', ['CSR', 'COO', 'EdgeIndex', 'SparseTensor',
                                    'UserItemGraph'])
def test_without_users_features(layout: str) -> None:
    _, x_item = features(torch.float)
    x_user = torch.zeros(NUM_USERS, 4)
    adj = LAYOUTS[layout](random_edges())
    out = LightGCNConv([0.5, 0.5])((None, x_item), adj)
    want = LightGCNConv([0.5, 0.5])((x_user, x_item), adj)
    check_same(out, want, (x_item, ))


def test_representation() -> None:
    conv = LightGCNConv()
    conv.reset_parameters()
    assert str(conv) == 'LightGCNConv(weights=(0, 1))'
    assert list(conv.state_dict()) == []
    assert copy.deepcopy(conv).weights == conv.weights


def test_bad_input() -> None:
    x_user, x_item = features()
    edge_index = random_edges()
    conv = LightGCNConv()
    with pytest.raises(ValueError, match="'x' must be a tuple"):
        conv(x_item, edge_index)
    with pytest.raises(ValueError, match='no item features'):
        conv((x_user, None), edge_index)
    with pytest.raises(ValueError, match='at least one number'):
        LightGCNConv([])
    with pytest.raises(ValueError, match='looks transposed'):
        conv((x_user, x_item), to_coo(edge_index).t().coalesce())
    with pytest.raises(ValueError, match='must have 11 users and 7 items'):
        conv((x_item, x_user), UserItemGraph(edge_index, NUM_USERS,
                                             NUM_ITEMS))


def test_compiles() -> None:
    torch._dynamo.reset()
    x = features(torch.float)
    graph = UserItemGraph(random_edges(), NUM_USERS, NUM_ITEMS)
    conv = LightGCNConv()
    out = torch.compile(conv, backend='aot_eager')(x, graph)
    check_same(out, conv(x, graph), x)
