"""Batches of PyG's neighbour loaders as graphs."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch_geometric.transforms as T
import torch_geometric.typing
from graphs import (
    IU,
    NUM_ITEMS,
    NUM_USERS,
    SEEDS,
    UI,
    hand_made_batch,
    random_edges,
)
from torch import Tensor
from torch.utils import _pytree as pytree
from torch_geometric import EdgeIndex
from torch_geometric.data import HeteroData
from torch_geometric.loader import LinkNeighborLoader, NeighborLoader

from torch_promptmm.nn import LightGCNConv, UserItemGraph, propagate
from torch_promptmm.nn.graph import as_graph

WEIGHTS = (0.2, 0.3, 0.5)  # Two steps.


def full_graph(duplicates: bool = False) -> UserItemGraph:
    return UserItemGraph(random_edges(duplicates=duplicates), NUM_USERS,
                         NUM_ITEMS, dtype=torch.double)


def tables() -> tuple[Tensor, Tensor]:
    return (torch.randn(NUM_USERS, 3, dtype=torch.double, requires_grad=True),
            torch.randn(NUM_ITEMS, 3, dtype=torch.double, requires_grad=True))


def check_seeds(graph: UserItemGraph, full: UserItemGraph,
                seeds: Tensor = SEEDS) -> None:
    """Rows, and gradients, of the seeds are those of the full graph."""
    x_user, x_item = tables()
    rows = torch.arange(len(seeds))
    assert graph.user_n_id is not None
    assert torch.equal(graph.user_n_id[rows], seeds)
    want = propagate(full, x_user, x_item, WEIGHTS)[0][seeds]
    grad = torch.randn_like(want)
    want_grad = torch.autograd.grad(want, (x_user, x_item), grad)
    for user_id in (None, rows):  # All local rows, or some of them.
        out = propagate(graph, *graph.gather(x_user, x_item), WEIGHTS,
                        user_id=user_id)[0][rows]
        torch.testing.assert_close(out, want, rtol=0, atol=1e-14)
        have_grad = torch.autograd.grad(out, (x_user, x_item), grad)
        for a, b in zip(have_grad, want_grad, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


@pytest.mark.parametrize('duplicates', [False, True])
def test_seeds_of_a_whole_neighbourhood(duplicates: bool) -> None:
    edge_index = random_edges(duplicates=duplicates)
    full = full_graph(duplicates)
    graph = UserItemGraph.from_batch(hand_made_batch(edge_index), full)
    assert graph.num_users < NUM_USERS and graph.num_items < NUM_ITEMS
    check_seeds(graph, full)


def as_edge_index(index: Tensor, size: tuple[int, int]) -> Tensor:
    return EdgeIndex(index, sparse_size=size)


def as_csr(index: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.sparse_coo_tensor(index.flip([0]), torch.ones(index.size(1)),
                                   size[::-1]).to_sparse_csr()


def as_sparse_tensor(index: Tensor, size: tuple[int, int]) -> Any:
    if not torch_geometric.typing.WITH_TORCH_SPARSE:
        pytest.skip('torch_sparse is not installed')
    from torch_sparse import SparseTensor
    return SparseTensor(row=index[1], col=index[0], sparse_sizes=size[::-1])


@pytest.mark.parametrize('name, form', [
    ('edge_index', as_edge_index),
    ('adj_t', as_csr),
    ('adj_t', as_sparse_tensor),
])
def test_forms_of_the_edges(name: str, form: Any) -> None:
    batch = hand_made_batch(random_edges())
    want = UserItemGraph.from_batch(batch, full_graph())
    for edge_type in (UI, IU):
        store = batch[edge_type]
        size = tuple(batch[kind].n_id.numel() for kind in edge_type[::2])
        index = store.edge_index
        del store.edge_index
        store[name] = form(index, size)
    graph = UserItemGraph.from_batch(batch, full_graph())
    assert torch.equal(graph.edge_index, want.edge_index)
    assert torch.equal(graph.user_item.value, want.user_item.value)


def test_edges_of_one_direction_and_of_both() -> None:
    batch = hand_made_batch(random_edges())
    both = UserItemGraph.from_batch(batch, full_graph())
    pairs = {
        edge_type: set(zip(*batch[edge_type].edge_index[rows].tolist(),
                           strict=True))
        for edge_type, rows in [(UI, [0, 1]), (IU, [1, 0])]
    }
    assert pairs[IU] < pairs[UI]
    del batch[UI]
    reverse = UserItemGraph.from_batch(batch, full_graph())
    for graph, want in [(both, pairs[UI]), (reverse, pairs[IU])]:
        found = list(zip(*graph.edge_index.tolist(), strict=True))
        assert set(found) == want and len(found) == len(want)
    # A value is that of the full graph, whatever else was sampled.
    dense = full_graph().user_item.tensor.to_dense()
    for graph in (both, reverse):
        user, item = graph.edge_index
        assert torch.equal(
            graph.user_item.value,
            dense[graph.user_n_id[user], graph.item_n_id[item]])


def test_other_names() -> None:
    batch = hand_made_batch(random_edges())
    other = HeteroData()
    other['reader'].n_id, other['book'].n_id = (batch['user'].n_id,
                                                batch['item'].n_id)
    other['reader', 'reads', 'book'].edge_index = batch[UI].edge_index
    graph = UserItemGraph.from_batch(other, full_graph(),
                                     ('reader', 'reads', 'book'))
    check_seeds(graph, full_graph())


def test_a_node_that_is_there_twice() -> None:
    """As in the batches of disjoint=True."""
    batch = HeteroData()
    batch['user'].n_id = torch.tensor([4, 4])
    user, item = random_edges()
    items = item[user == 4]
    batch['item'].n_id = torch.cat([items, items])
    n = len(items)
    batch[IU].edge_index = torch.stack([
        torch.arange(2 * n), torch.arange(2).repeat_interleave(n)])
    full = full_graph()
    graph = UserItemGraph.from_batch(batch, full)
    x_user, x_item = tables()
    out = propagate(graph, *graph.gather(x_user, x_item), (0.0, 1.0))[0]
    want = propagate(full, x_user, x_item, (0.0, 1.0))[0][4]
    torch.testing.assert_close(out, want.expand(2, 3), rtol=0, atol=1e-14)


def test_without_any_item() -> None:
    batch = HeteroData()
    batch['user'].n_id = torch.tensor([3])
    batch['item'].n_id = torch.empty(0, dtype=torch.long)
    batch[IU].edge_index = torch.empty(2, 0, dtype=torch.long)
    graph = UserItemGraph.from_batch(batch, full_graph())
    assert (graph.num_users, graph.num_items, graph.num_edges) == (1, 0, 0)
    x_user, x_item = tables()
    out = propagate(graph, *graph.gather(x_user, x_item), WEIGHTS)
    assert torch.equal(out[0], 0.2 * x_user[3:4])
    assert out[1].shape == (0, 3)


def test_what_the_graph_of_a_batch_carries() -> None:
    batch = hand_made_batch(random_edges())
    graph = UserItemGraph.from_batch(batch, full_graph())
    assert graph.is_batch and not full_graph().is_batch
    assert full_graph().user_n_id is None is full_graph().item_n_id
    assert str(graph).endswith(', full_size=(7, 11))')
    assert 'full_size' not in str(full_graph())
    single = graph.to(dtype=torch.float)
    assert single.dtype == torch.float and graph.to('cpu') is graph
    others = [single, copy.deepcopy(graph),
              pickle.loads(pickle.dumps(graph)),
              pytree.tree_map(lambda x: x, graph)]
    for other in others:
        assert str(other) == str(graph)
        assert torch.equal(other.user_n_id, batch['user'].n_id)
        assert torch.equal(other.item_n_id, batch['item'].n_id)
    away = graph.to('meta')
    assert away.user_n_id.device.type == away.item_n_id.device.type == 'meta'


def test_moves_to_the_device_of_the_graph(device: torch.device) -> None:
    full = full_graph().to(device)
    graph = UserItemGraph.from_batch(hand_made_batch(random_edges()), full)
    assert graph.device == full.device == graph.user_n_id.device
    assert torch.equal(
        graph.user_item.value.cpu(),
        UserItemGraph.from_batch(hand_made_batch(random_edges()),
                                 full_graph()).user_item.value)


def test_gather_of_the_full_graph_copies_nothing() -> None:
    x = tables()
    assert all(a is b for a, b in zip(full_graph().gather(*x), x,
                                      strict=True))


class Model(torch.nn.Module):
    """A model of tables over all users and items."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = (torch.nn.Parameter(x) for x in tables())
        self.conv = LightGCNConv(WEIGHTS)

    def forward(self, graph: UserItemGraph) -> tuple[Tensor, ...]:
        graph = as_graph(graph, NUM_USERS, NUM_ITEMS, batch=True)
        return self.conv(graph.gather(self.user, self.item), graph)


def test_conv_and_export() -> None:
    model = Model()
    graph = UserItemGraph.from_batch(hand_made_batch(random_edges()),
                                     full_graph())
    out, want = model(graph), model(full_graph())
    torch.testing.assert_close(out[0][:2], want[0][SEEDS], rtol=0, atol=1e-14)
    program = torch.export.export(model, (graph, ))
    for a, b in zip(program.module()(graph), out, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def batch_without(kind: str) -> HeteroData:
    batch = hand_made_batch(random_edges())
    del batch[kind].n_id
    return batch


def batch_with(kind: str, value: list[int]) -> HeteroData:
    batch = hand_made_batch(random_edges())
    batch[kind].n_id = torch.tensor(value)
    return batch


def batch_of_edges(edges: list[list[int]]) -> HeteroData:
    batch = hand_made_batch(random_edges())
    batch[UI].edge_index = torch.tensor(edges)
    return batch


def batch_without_edges() -> HeteroData:
    batch = hand_made_batch(random_edges())
    del batch[UI], batch[IU]
    return batch


@pytest.mark.parametrize('match, batch', [
    (r"no batch\['user'\].n_id", lambda: batch_without('user')),
    (r"no batch\['item'\].n_id", lambda: batch_without('item')),
    (r"no batch\['user'\].n_id", HeteroData),
    (r"\['user'\].n_id' has user id 7, but there are 7 users",
     lambda: batch_with('user', [4, 1, 7])),
    (r"\['item'\].n_id' has item id -1", lambda: batch_with('item', [-1])),
    ('edge_index. has user id 99', lambda: batch_of_edges([[99], [0]])),
    ('edge_index. has item id 99', lambda: batch_of_edges([[0], [99]])),
    ('no edges of the type', batch_without_edges),
    ("interaction of user 4 and item 0, which 'graph' does not have",
     lambda: batch_with('item', [0] * 11)),
])
def test_bad_batches(match: str, batch: Any) -> None:
    with pytest.raises(ValueError, match=match):
        UserItemGraph.from_batch(batch(), full_graph())


def test_the_graph_of_a_batch_in_place_of_the_full_one() -> None:
    batch = hand_made_batch(random_edges())
    graph = UserItemGraph.from_batch(batch, full_graph())
    with pytest.raises(ValueError, match='must be the full graph'):
        UserItemGraph.from_batch(batch, graph)
    with pytest.raises(ValueError, match='must be the full graph'):
        as_graph(graph, graph.num_users, graph.num_items)
    assert as_graph(graph, NUM_USERS, NUM_ITEMS, batch=True) is graph
    x_user, x_item = tables()
    with pytest.raises(ValueError, match=r'must have the \[7, 11\] rows of'):
        graph.gather(x_user[:3], x_item)
    for x in (x_user, None):
        with pytest.raises(ValueError, match='row for each of the'):
            propagate(graph, x, x_item, WEIGHTS)


def loader_data() -> HeteroData:
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = NUM_USERS, NUM_ITEMS
    data[UI].edge_index = random_edges()
    return T.ToUndirected()(data)


CAN_SAMPLE = (torch_geometric.typing.WITH_PYG_LIB
              or torch_geometric.typing.WITH_TORCH_SPARSE)


def needs_sampling(test: Any) -> Any:
    """Skips a test where PyG cannot sample, and ignores what it says of
    sampling with torch-sparse."""
    test = pytest.mark.filterwarnings("ignore:Using 'NeighborSampler' withou")(
        test)
    return pytest.mark.skipif(
        not CAN_SAMPLE,
        reason='PyG samples neighbours with pyg-lib or torch-sparse')(test)


@needs_sampling
@pytest.mark.parametrize('adj_t', [False, True])
def test_neighbor_loader(adj_t: bool) -> None:
    data = loader_data()
    if adj_t and not torch_geometric.typing.WITH_TORCH_SPARSE:
        pytest.skip('PyG samples from a SparseTensor of torch-sparse')
    if adj_t:
        data = T.ToSparseTensor()(data)
    loader = NeighborLoader(data, num_neighbors=[-1, -1],
                            input_nodes=('user', None), batch_size=3)
    for batch in loader:
        graph = UserItemGraph.from_batch(batch, full_graph())
        check_seeds(graph, full_graph(), batch['user'].input_id)


@needs_sampling
@pytest.mark.parametrize('disjoint', [False, True])
def test_link_neighbor_loader(disjoint: bool) -> None:
    if disjoint and not torch_geometric.typing.WITH_PYG_LIB:
        pytest.skip('PyG samples disjoint neighbourhoods with pyg-lib')
    data, full = loader_data(), full_graph()
    loader = LinkNeighborLoader(
        data, num_neighbors=[-1, -1], batch_size=5, disjoint=disjoint,
        edge_label_index=(UI, data[UI].edge_index), neg_sampling='binary')
    x = tables()
    want = propagate(full, *x, WEIGHTS)
    for batch in loader:
        graph = UserItemGraph.from_batch(batch, full)
        user, item = batch[UI].edge_label_index
        out = propagate(graph, *graph.gather(*x), WEIGHTS, user, item)
        for a, b, n_id, row in zip(out, want,
                                   (graph.user_n_id, graph.item_n_id),
                                   (user, item), strict=True):
            torch.testing.assert_close(a, b[n_id[row]], rtol=0, atol=1e-14)


@needs_sampling
def test_few_neighbours_are_a_part_of_the_graph() -> None:
    loader = NeighborLoader(loader_data(), num_neighbors=[1, 1],
                            input_nodes=('user', None), batch_size=7)
    graph = UserItemGraph.from_batch(next(iter(loader)), full_graph())
    assert 0 < graph.num_edges < full_graph().num_edges
