from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import reference
import torch
from graphs import (
    LAYOUTS,
    NUM_ITEMS,
    NUM_USERS,
    WEIGHTED,
    random_edges,
    to_coo,
    to_graph,
    to_sparse_tensor,
)

from torch_promptmm.nn import UserItemGraph
from torch_promptmm.nn import csr as csr_module
from torch_promptmm.nn.graph import CSRMatrix, as_graph


def dense(matrix: CSRMatrix) -> torch.Tensor:
    return matrix.tensor.to_dense().double()


def check(graph: UserItemGraph, edge_index: torch.Tensor,
          weight: torch.Tensor | None = None) -> None:
    want = reference.adjacency(edge_index.numpy(), NUM_USERS, NUM_ITEMS,
                               None if weight is None else weight.numpy())
    want = want[:NUM_USERS, NUM_USERS:]
    np.testing.assert_allclose(dense(graph.user_item), want, atol=1e-7)
    np.testing.assert_allclose(dense(graph.item_user), want.T, atol=1e-7)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('duplicates', [False, True])
def test_every_layout_gives_the_normalised_adjacency(
        layout: str, duplicates: bool) -> None:
    edge_index = random_edges(duplicates=duplicates)
    adj = LAYOUTS[layout](edge_index)
    check(as_graph(adj, NUM_USERS, NUM_ITEMS), edge_index)


@pytest.mark.parametrize('layout', WEIGHTED)
def test_edge_weights(layout: str) -> None:
    edge_index = random_edges()
    weight = torch.rand(edge_index.size(1))
    weight[3] = 0.0
    adj = WEIGHTED[layout](edge_index, weight)
    check(as_graph(adj, NUM_USERS, NUM_ITEMS), edge_index, weight)


def test_csr_with_int32_indices_and_repeated_entries() -> None:
    crow = torch.tensor([0, 3, 4] + [4] * (NUM_USERS - 2), dtype=torch.int32)
    col = torch.tensor([1, 1, 4, 4], dtype=torch.int32)
    adj = torch.sparse_csr_tensor(crow, col, torch.ones(4),
                                  (NUM_USERS, NUM_ITEMS),
                                  check_invariants=False)
    check(UserItemGraph(adj), torch.tensor([[0, 0, 0, 1], [1, 1, 4, 4]]))


def test_properties() -> None:
    edge_index = random_edges()
    graph = to_graph(edge_index)
    assert str(graph) == (
        f'UserItemGraph(num_users={NUM_USERS}, num_items={NUM_ITEMS}, '
        f'num_edges={edge_index.size(1)})')
    assert graph.num_edges == edge_index.size(1)
    assert graph.device == torch.device('cpu')
    assert graph.dtype == torch.float
    assert graph.user_item.col.dtype == torch.int32
    order = (edge_index[0] * NUM_ITEMS + edge_index[1]).argsort()
    assert torch.equal(graph.edge_index, edge_index[:, order])


def test_sizes_are_inferred() -> None:
    edge_index = torch.tensor([[0, 4], [2, 1]])
    graph = UserItemGraph(edge_index)
    assert (graph.num_users, graph.num_items) == (5, 3)
    graph = UserItemGraph(LAYOUTS['EdgeIndex'](edge_index))
    assert (graph.num_users, graph.num_items) == (NUM_USERS, NUM_ITEMS)


def test_edge_index_of_pyg_that_knows_only_what_it_holds() -> None:
    from torch_geometric import EdgeIndex
    adj = EdgeIndex([[0, 4], [2, 1]])
    adj.get_sparse_size()  # Is remembered, and smaller than the graph.
    graph = UserItemGraph(adj, NUM_USERS, NUM_ITEMS)
    assert (graph.num_users, graph.num_items) == (NUM_USERS, NUM_ITEMS)


def test_without_any_edge() -> None:
    graph = UserItemGraph(torch.empty(2, 0, dtype=torch.long), 3, 4)
    assert graph.num_edges == 0
    assert graph.edge_index.shape == (2, 0)
    assert graph.user_item.matmul(torch.randn(4, 2)).abs().sum() == 0


def test_double_precision_is_not_rounded_on_the_way() -> None:
    edge_index = random_edges()
    want = reference.adjacency(edge_index.numpy(), NUM_USERS, NUM_ITEMS)
    for graph in (as_graph(edge_index, NUM_USERS, NUM_ITEMS,
                           dtype=torch.double),
                  UserItemGraph(edge_index, NUM_USERS, NUM_ITEMS,
                                dtype=torch.double)):
        np.testing.assert_allclose(dense(graph.user_item),
                                   want[:NUM_USERS, NUM_USERS:], atol=1e-15)


def test_to(device: torch.device) -> None:
    graph = to_graph(random_edges())
    assert graph.to('cpu') is graph
    assert graph.to('cpu', torch.float) is graph
    moved = graph.to(device, torch.double)
    assert moved.dtype == torch.double
    assert moved.device.type == device.type
    assert graph.dtype == torch.float  # The old one stays.
    assert moved.to(device, torch.double) is moved
    x = torch.randn(NUM_ITEMS, 2, dtype=torch.double)
    assert torch.allclose(
        moved.user_item.matmul(x.to(device)).cpu(),
        dense(graph.user_item) @ x)


def test_is_copied_and_pickled() -> None:
    graph = to_graph(random_edges())
    x = torch.randn(NUM_ITEMS, 2)
    for other in (copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        assert str(other) == str(graph)
        assert torch.equal(other.user_item.matmul(x),
                           graph.user_item.matmul(x))


def test_rows_and_columns() -> None:
    matrix = to_graph(random_edges()).user_item
    rows = torch.tensor([5, 3, 0, 5])
    assert torch.equal(dense(matrix.select_rows(rows)), dense(matrix)[rows])
    none = torch.empty(0, dtype=torch.long)
    assert matrix.select_rows(none).shape == (0, NUM_ITEMS)
    # Columns 10, 2 and 7 are the first three, all others are the last one.
    name = torch.full((NUM_ITEMS, ), 3, dtype=torch.int32)
    cols = torch.tensor([10, 2, 7])
    name[cols] = torch.arange(3, dtype=torch.int32)
    renamed = matrix.rename_cols(name, 4)
    assert renamed.shape == (NUM_USERS, 4)
    x = torch.cat([torch.randn(3, 2), torch.zeros(1, 2)])
    torch.testing.assert_close(renamed.matmul(x),
                               dense(matrix).float()[:, cols] @ x[:3])


def test_matmul() -> None:
    matrix = to_graph(random_edges()).user_item
    x, add = torch.randn(NUM_ITEMS, 3), torch.randn(NUM_USERS, 3)
    want = dense(matrix).float() @ x
    assert torch.allclose(matrix.matmul(x), want, atol=1e-6)
    assert torch.allclose(matrix.matmul(x, add, 3.0), want + 3 * add,
                          atol=1e-6)


@pytest.mark.parametrize('channels', [1, 7, 64, 65])
def test_bags_equal_the_sparse_product(channels: int, monkeypatch) -> None:
    for matrix in (to_graph(random_edges()).user_item,
                   to_graph(random_edges()).item_user,
                   to_graph(random_edges()[:, :0]).user_item):
        x = torch.randn(matrix.shape[1], channels, requires_grad=True)
        add = torch.randn(matrix.shape[0], channels)
        have = matrix.matmul(x), matrix.matmul(x, add, 0.5)
        assert not have[0].requires_grad
        with monkeypatch.context() as patch, torch.no_grad():
            patch.setattr(csr_module, '_sums_bags', lambda x: False)
            want = matrix.matmul(x), matrix.matmul(x, add, 0.5)
        for a, b in zip(have, want, strict=True):
            torch.testing.assert_close(a, b)


def test_a_transposed_matrix_is_an_error() -> None:
    transposed = to_coo(random_edges()).t()
    for adj in (transposed.coalesce(), transposed.to_sparse_csr()):
        with pytest.raises(ValueError, match='It looks transposed'):
            as_graph(adj, NUM_USERS, NUM_ITEMS)
    adj = to_sparse_tensor(random_edges())
    with pytest.raises(ValueError, match=r'\[7, 11\] \(got \[11, 7\]\)'):
        as_graph(adj.t(), NUM_USERS, NUM_ITEMS)


def edges() -> torch.Tensor:
    return random_edges()


@pytest.mark.parametrize('error, match, make', [
    (TypeError, "got 'ndarray'", lambda: UserItemGraph(edges().numpy())),
    (TypeError, 'must hold integers', lambda: UserItemGraph(edges().float())),
    (TypeError, 'must hold integers', lambda: UserItemGraph(edges().bool())),
    (ValueError, r'got \[3, 4\]',
     lambda: UserItemGraph(torch.zeros(3, 4, dtype=torch.long))),
    (ValueError, r'got \[24\]', lambda: UserItemGraph(edges()[0])),
    (ValueError, 'has user id -1',
     lambda: UserItemGraph(torch.tensor([[-1], [0]]))),
    (ValueError, "has user id 6, but there are 5 users .0 to 4.. Users are in row 0",
     lambda: UserItemGraph(edges(), 5, NUM_ITEMS)),
    (ValueError, 'has item id 9, but there are 4 items',
     lambda: UserItemGraph(edges(), NUM_USERS, 4)),
    (ValueError, "'num_users' must be at least 1",
     lambda: UserItemGraph(edges(), 0)),
    (TypeError, "'num_items' must be an integer",
     lambda: UserItemGraph(edges(), 7, 11.0)),
    (ValueError, r"'edge_weight' must be of shape \[24\]",
     lambda: UserItemGraph(edges(), edge_weight=torch.ones(3))),
    (ValueError, 'values of a sparse matrix are its weights',
     lambda: UserItemGraph(to_coo(edges()), edge_weight=torch.ones(24))),
    (ValueError, 'finite and not negative',
     lambda: UserItemGraph(edges(), edge_weight=-torch.ones(24))),
    (ValueError, 'finite and not negative',
     lambda: UserItemGraph(edges(), edge_weight=torch.full((24, ), np.nan))),
    (ValueError, 'must have 7 users and 12 items',
     lambda: as_graph(to_graph(edges()), 7, 12)),
])
def test_bad_input(error: type[Exception], match: str, make) -> None:
    with pytest.raises(error, match=match):
        make()
