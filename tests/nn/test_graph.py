from __future__ import annotations

import copy
import io
import pickle
import warnings

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
from torch.utils import _pytree as pytree

from torch_promptmm.nn import LightGCNStudent, UserItemGraph
from torch_promptmm.nn.csr import CSRMatrix
from torch_promptmm.nn.graph import as_graph


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


@pytest.mark.parametrize('sizes', [dict(), dict(sparse_size=(5, 3))])
def test_edge_index_of_pyg_with_one_edge(sizes: dict) -> None:
    from torch_geometric import EdgeIndex
    graph = UserItemGraph(EdgeIndex([[4], [2]], **sizes))
    assert (graph.num_users, graph.num_items) == (5, 3)
    assert type(graph.edge_index) is torch.Tensor
    assert graph.edge_index.tolist() == [[4], [2]]
    assert graph.user_item.value.tolist() == [1.0]


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


@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16, torch.double])
def test_to_another_device_keeps_the_dtype(dtype: torch.dtype) -> None:
    graph = UserItemGraph(random_edges(), NUM_USERS, NUM_ITEMS, dtype=dtype)
    moved = graph.to('meta')
    assert moved.device.type == 'meta'
    for matrix in (moved.user_item, moved.item_user):
        assert matrix.value.dtype == dtype
        assert matrix.col.dtype == matrix.crow.dtype == torch.int32


def test_is_copied_and_pickled() -> None:
    graph = to_graph(random_edges())
    x = torch.randn(NUM_ITEMS, 2)
    for other in (copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        assert str(other) == str(graph)
        assert torch.equal(other.user_item.matmul(x),
                           graph.user_item.matmul(x))


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
    (ValueError, 'has user id 6, but there are 5 users .0 to 4.. Users are in',
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


def test_is_a_pytree() -> None:
    graph = to_graph(random_edges())
    leaves, spec = pytree.tree_flatten(graph)
    assert len(leaves) == 8 and leaves[6:] == [None, None]
    back = pytree.tree_unflatten(leaves, spec)
    assert str(back) == str(graph) and back.full_size == graph.full_size
    assert torch.equal(back.edge_index, graph.edge_index)
    doubled = pytree.tree_map_only(torch.Tensor, lambda x: x + x, graph)
    assert torch.equal(doubled.item_user.value, 2 * graph.item_user.value)
    # Leaves may be anything, such as what `torch.export` asks about them.
    kinds = pytree.tree_map(type, graph)
    assert kinds.user_item.crow is torch.Tensor
    paths = [pytree.keystr(path)
             for path, _ in pytree.tree_leaves_with_path(graph)]
    assert paths[0] == '.user_item.crow' and paths[6] == '.user_n_id'


class Rows(torch.nn.Module):
    """The rows of a step, with those of the L2 term."""
    def __init__(self, student: LightGCNStudent) -> None:
        super().__init__()
        self.student = student

    def forward(self, *args):
        out = self.student.rows(*args, num_ego=1)
        return out.user, out.item, *out.ego


IDS = (torch.tensor([5, 0, 5]), torch.tensor([2, 9]))


@pytest.mark.parametrize('strict', [False, True])
@pytest.mark.parametrize('with_ego', [False, True])
@pytest.mark.parametrize('ids', [(), IDS, (None, IDS[1])])
def test_export_of_a_student(ids: tuple, with_ego: bool,
                             strict: bool) -> None:
    student: torch.nn.Module = LightGCNStudent(NUM_USERS, NUM_ITEMS, 4)
    if with_ego:
        if len(ids) < 2 or ids[0] is None:
            pytest.skip('a step names its rows')
        student = Rows(student)
    args = (to_graph(random_edges()), *ids)
    program = torch.export.export(student, args, strict=strict)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        torch.export.save(program, file)
        file.seek(0)
        loaded = torch.export.load(file)
    # Of the same sizes, with as many edges, but others.
    other = (to_graph(random_edges(seed=2)), *ids)
    for inputs in (args, other):
        want = student(*inputs)
        for module in (program.module(), loaded.module()):
            for a, b in zip(module(*inputs), want, strict=True):
                torch.testing.assert_close(a, b)
    if not ids:
        assert not torch.equal(student(*args)[0], student(*other)[0])


def test_example_inputs_of_a_program_are_read_without_running_them() -> None:
    file = io.BytesIO()
    torch.save(to_graph(random_edges()), file)
    file.seek(0)
    graph = torch.load(file, weights_only=True)
    assert torch.equal(graph.edge_index, to_graph(random_edges()).edge_index)
