from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
import torch_geometric.transforms as T
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import HeteroData
from torch_geometric.typing import WITH_TORCH_SPARSE

from torch_promptmm.data import (
    KCore,
    RandomUserSplit,
    from_interactions,
    held_out,
    read_graph,
)
from torch_promptmm.data.contract import (
    check_same_entities,
    known_interactions,
    supervision,
    warn_identical_splits,
)

UI = ('user', 'interacts', 'item')
IU = ('item', 'rev_interacts', 'user')


def pairs(index: Tensor) -> set[tuple[int, int]]:
    return {tuple(pair) for pair in index.t().tolist()}


def build(
    edge_index: Tensor,
    num_users: int = 5,
    num_items: int = 4,
    edge_type: tuple[str, str, str] = UI,
) -> HeteroData:
    data = HeteroData()
    data[edge_type[0]].num_nodes = num_users
    data[edge_type[2]].num_nodes = num_items
    data[edge_type[2]].visual = torch.randn(num_items, 3)
    data[edge_type].edge_index = edge_index
    return data


@st.composite
def graphs(draw: st.DrawFn) -> HeteroData:
    num_users = draw(st.integers(1, 7))
    num_items = draw(st.integers(1, 7))
    edge = st.tuples(st.integers(0, num_users - 1),
                     st.integers(0, num_items - 1))
    known = draw(st.lists(edge, min_size=1, max_size=30))
    data = build(torch.tensor(known).t(), num_users, num_items)
    if draw(st.booleans()):
        label_index = draw(st.lists(edge, max_size=30))
        data[UI].edge_label_index = torch.tensor(
            label_index, dtype=torch.long).view(-1, 2).t()
        if draw(st.booleans()):
            data[UI].edge_label = torch.tensor(
                [draw(st.sampled_from([-1.0, 0.0, 1.0, 4.0]))
                 for _ in label_index])
    return data


@given(data=graphs())
def test_read_graph_is_the_set_of_interactions(data: HeteroData) -> None:
    before = copy.deepcopy(data)
    graph = read_graph(data)

    assert graph.edge_type == UI
    assert graph.num_users == data['user'].num_nodes
    assert graph.num_items == data['item'].num_nodes
    assert pairs(graph.edge_index) == pairs(data[UI].edge_index)

    if 'edge_label_index' in data[UI]:
        labels = data[UI].edge_label_index
        if 'edge_label' in data[UI]:
            labels = labels[:, data[UI].edge_label > 0]
        assert graph.label_index is not None
        assert pairs(graph.label_index) == pairs(labels)
    else:
        assert graph.label_index is None
    for index in [graph.edge_index, graph.label_index]:
        if index is not None:
            assert index.dtype == torch.long
            listed = [tuple(pair) for pair in index.t().tolist()]
            assert listed == sorted(pairs(index))  # Each once.

    # The graph that came in is as it was, and its features are not copied.
    assert data.to_dict().keys() == before.to_dict().keys()
    for store, old in zip(data.stores, before.stores, strict=True):
        assert list(store.keys()) == list(old.keys())
        for key, value in store.items():
            assert key == 'num_nodes' or torch.equal(value, old[key])
    assert graph.features['visual'] is data['item'].visual


@given(data=graphs())
def test_training_and_held_out(data: HeteroData) -> None:
    graph = read_graph(data)
    known = pairs(graph.edge_index)
    labels = set()
    if graph.label_index is not None:
        labels = pairs(graph.label_index)

    assert pairs(known_interactions(graph)) == known | labels
    if graph.label_index is None:
        assert supervision(graph) is graph.edge_index
    elif not labels:
        with pytest.raises(ValueError, match='edge_label_index'):
            supervision(graph)
    else:
        assert pairs(supervision(graph)) == labels

    if not labels - known:
        with pytest.raises(ValueError, match='edge_label_index'):
            held_out(graph)
    elif labels & known:
        message = f'{len(labels & known)} of {len(labels)} positives'
        with pytest.warns(UserWarning, match=message):
            assert pairs(held_out(graph)) == labels - known
    else:
        assert pairs(held_out(graph)) == labels


def test_edge_type_is_found() -> None:
    index = torch.tensor([[0, 1, 4], [0, 3, 1]])

    data = build(index, edge_type=('customer', 'buys', 'product'))
    assert read_graph(data).edge_type == ('customer', 'buys', 'product')
    data = T.ToUndirected()(data)
    assert len(data.edge_types) == 2
    assert read_graph(data).edge_type == ('customer', 'buys', 'product')

    # The default name wins over others; any other has to be named.
    data = build(index)
    data['user', 'views', 'item'].edge_index = index[:, :1]
    assert pairs(read_graph(data).edge_index) == pairs(index)
    graph = read_graph(data, ('user', 'views', 'item'))
    assert pairs(graph.edge_index) == {(0, 0)}

    del data[UI]
    data['user', 'likes', 'item'].edge_index = index
    with pytest.raises(ValueError, match=r"'views'.*'likes'.*edge_type="):
        read_graph(data)


@pytest.mark.parametrize('add_negatives', [False, True])
def test_random_link_split(add_negatives: bool) -> None:
    dense = torch.rand(30, 20) < 0.3
    data = T.ToUndirected()(build(dense.nonzero().t(), 30, 20))
    kwargs = {} if add_negatives else dict(neg_sampling_ratio=0.0,
                                           add_negative_train_samples=False)
    splits = T.RandomLinkSplit(0.1, 0.2, edge_types=[UI],
                               rev_edge_types=[IU], **kwargs)(data)
    train, val, test = (read_graph(split) for split in splits)

    # The negatives are not among the positives:
    size = int(dense.sum())
    assert train.edge_index.size(1) == size - int(0.1 * size) - int(0.2 * size)
    assert pairs(supervision(train)) == pairs(train.edge_index)
    assert held_out(val).size(1) == int(0.1 * size)
    assert held_out(test).size(1) == int(0.2 * size)
    assert (pairs(train.edge_index) | pairs(held_out(val))
            | pairs(held_out(test))) == pairs(dense.nonzero().t())
    assert val.features['visual'].data_ptr() == data['item'].visual.data_ptr()
    check_same_entities(train, val)


def test_random_link_split_with_disjoint_supervision() -> None:
    dense = torch.rand(30, 20) < 0.3
    data = build(dense.nonzero().t(), 30, 20)
    split = T.RandomLinkSplit(0.1, 0.2, edge_types=[UI],
                              disjoint_train_ratio=0.3)(data)[0]
    graph = read_graph(split)
    known, labels = pairs(graph.edge_index), pairs(supervision(graph))
    assert not known & labels
    assert pairs(known_interactions(graph)) == known | labels


@pytest.mark.parametrize('kwargs', [dict(split_labels=True), dict(key='y')])
def test_random_link_split_under_other_names(kwargs: dict) -> None:
    data = build((torch.rand(30, 20) < 0.3).nonzero().t(), 30, 20)
    split = T.RandomLinkSplit(0.1, 0.2, edge_types=[UI], **kwargs)(data)[1]
    with pytest.raises(ValueError, match="key='edge_label'") as info:
        read_graph(split)
    assert 'split_labels=False' in str(info.value)


def test_an_attribute_that_is_no_split_is_ignored() -> None:
    data = build(torch.tensor([[0, 1], [0, 1]]))
    data[UI].time_index = torch.tensor([3, 5])
    assert read_graph(data).label_index is None


@pytest.mark.parametrize('dtype', [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
])
def test_precision_is_kept(dtype: torch.dtype) -> None:
    data = build(torch.tensor([[0, 1], [0, 1]]))
    data['item'].visual = data['item'].visual.to(dtype)
    assert read_graph(data).features['visual'] is data['item'].visual
    data['item'].visual[2, 1] = float('nan')
    with pytest.raises(ValueError, match='got nan in row 2, column 1'):
        read_graph(data)
    read_graph(data, check_finite=False)


def test_search_for_infinities_goes_over_all_blocks() -> None:
    data = build(torch.tensor([[0, 1], [0, 1]]), num_items=3000)
    data['item'].visual = torch.zeros(3000, 1024)
    data['item'].visual[2999, 1023] = -float('inf')
    with pytest.raises(ValueError, match='-inf in row 2999, column 1023'):
        read_graph(data)


def test_memory_map(tmp_path) -> None:
    value = np.random.rand(4, 3).astype(np.float16)
    np.save(tmp_path / 'visual.npy', value)
    array = np.load(tmp_path / 'visual.npy', mmap_mode='c')
    data = build(torch.tensor([[0, 1], [0, 1]]))
    data['item'].visual = torch.from_numpy(array)
    feature = read_graph(data).features['visual']
    assert feature.data_ptr() == array.ctypes.data
    assert np.array_equal(feature.numpy(), value)


def test_modalities() -> None:
    data = build(torch.tensor([[0, 1], [0, 1]]))
    data['item'].textual = torch.randn(4, 2)
    data['item'].textual_mask = torch.tensor([True, False, True, True])
    data['item'].other_mask = torch.rand(4, 2)  # A mask of nothing.
    data['item'].price = torch.rand(4)
    data['item'].brand = torch.tensor([[0, 1, 2, 3]])
    data['item'].title = ['a', 'b', 'c', 'd']
    data['item'].train_mask = torch.ones(4, dtype=torch.bool)

    graph = read_graph(data)
    assert list(graph.features) == ['visual', 'textual']
    assert list(graph.masks) == ['textual']
    assert graph.masks['textual'] is data['item'].textual_mask

    graph = read_graph(data, modalities=['textual', 'visual'])
    assert list(graph.features) == ['textual', 'visual']
    graph = read_graph(data, modalities=('visual', ))
    assert list(graph.features) == ['visual'] and not graph.masks
    assert read_graph(data, modalities=[]).features == {}

    # One that is not asked for may be anything.
    data['item'].textual[0, 0] = float('nan')
    read_graph(data, modalities=['visual'])
    with pytest.raises(ValueError, match='textual'):
        read_graph(data)


def test_graph_without_features() -> None:
    data = build(torch.tensor([[0, 1], [0, 1]]))
    del data['item'].visual
    assert read_graph(data).features == {}
    with pytest.raises(ValueError, match='no modality'):
        read_graph(data, need_features=True)


def test_number_of_nodes_from_attributes() -> None:
    data = build(torch.tensor([[0, 1], [0, 1]]))
    del data['item'].num_nodes, data['user'].num_nodes
    data['user'].node_id = torch.arange(6)
    graph = read_graph(data)
    assert (graph.num_users, graph.num_items) == (6, 4)
    data['user'].num_nodes = torch.tensor(7)
    assert read_graph(data).num_users == 7


LAYOUTS = {
    'torch_sparse': None,  # What ToSparseTensor takes where it is installed.
    'CSR': torch.sparse_csr,
    'COO': torch.sparse_coo,
}


def sparse(data: HeteroData, layout: str, keep: bool = False) -> HeteroData:
    if layout == 'torch_sparse' and not WITH_TORCH_SPARSE:
        pytest.skip('torch_sparse is not installed')
    return T.ToSparseTensor(remove_edge_index=not keep,
                            layout=LAYOUTS[layout])(data)


@pytest.mark.parametrize('keep', [False, True])
@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_after_to_sparse_tensor(layout: str, weighted: bool,
                                keep: bool) -> None:
    index = (torch.rand(9, 6) < 0.4).nonzero().t()
    data = build(index, 9, 6)
    if weighted:  # A weight of zero is an interaction all the same.
        data[UI].edge_weight = torch.arange(index.size(1)).float()
    data[UI].edge_label_index = torch.tensor([[8], [5]])
    want = read_graph(data)
    data = sparse(T.ToUndirected()(data), layout, keep)
    assert ('edge_index' in data[UI]) == keep
    before = data[UI].adj_t
    graph = read_graph(data)
    assert graph.edge_type == UI
    for name in ['edge_index', 'label_index']:
        assert torch.equal(getattr(graph, name), getattr(want, name))
    assert data[UI].adj_t is before


def test_a_square_adjacency_is_read_as_pyg_transposes_it() -> None:
    data = build(torch.tensor([[0, 1, 1], [2, 0, 3]]), 4, 4)
    graph = read_graph(sparse(data, 'CSR'))
    assert pairs(graph.edge_index) == {(0, 2), (1, 0), (1, 3)}


def test_bad_adjacency() -> None:
    data = sparse(build(torch.tensor([[0, 1, 1], [2, 0, 3]])), 'CSR')
    adj_t = data[UI].adj_t
    for error, match, bad in [
        (ValueError, r'adj_t.*num_items, num_users\] = \[4, 5\].*\[5, 4\]',
         adj_t.to_dense().t().to_sparse_csr()),
        (TypeError, 'adj_t.*ToSparseTensor.*got Tensor', adj_t.to_dense()),
        (ValueError, r'adj_t.*must be a matrix .got shape \[4, 5, 1\]',
         adj_t.to_dense().view(4, 5, 1).to_sparse()),
        (ValueError, 'adj_t. is empty', torch.zeros(4, 5).to_sparse_csr()),
    ]:
        data[UI].adj_t = bad
        with pytest.raises(error, match=match):
            read_graph(data)


@pytest.mark.parametrize('keep', [False, True])
def test_those_who_choose_among_interactions_take_adj_t(keep: bool) -> None:
    index = (torch.rand(30, 20) < 0.4).nonzero().t()
    data = build(index, 30, 20)
    data[UI].time = index[0] * 100 + index[1]
    data = sparse(data, 'CSR', keep)
    core = KCore(5)(data)
    splits = RandomUserSplit(0.2, 0.2, seed=0)(data)
    for out in (core, *splits):
        assert 'adj_t' not in out[UI]
        assert out[UI].edge_index.size(1) == out[UI].time.size(0)
    assert 'adj_t' in data[UI] and ('edge_index' in data[UI]) == keep
    train, val, test = (read_graph(split) for split in splits)
    found = [pairs(train.edge_index), pairs(val.label_index),
             pairs(test.label_index)]
    assert sum(map(len, found)) == index.size(1)
    assert set.union(*found) == pairs(index)
    for split in splits:  # Attributes are still those of their edges.
        user, item = split[UI].edge_index
        assert torch.equal(split[UI].time, user * 100 + item)


def test_edge_index_class() -> None:
    index = torch.tensor([[0, 1, 4], [0, 3, 1]])
    data = build(EdgeIndex(index, sparse_size=(5, 4)))
    graph = read_graph(data)
    assert type(graph.edge_index) is Tensor
    assert pairs(graph.edge_index) == pairs(index)
    graph = read_graph(build(EdgeIndex([[4], [3]])))  # One edge.
    assert type(graph.edge_index) is Tensor
    assert graph.edge_index.tolist() == [[4], [3]]


def test_integers_of_any_width() -> None:
    index = torch.tensor([[0, 1, 4], [0, 3, 1]])
    for dtype in [torch.int32, torch.int16, torch.uint8]:
        graph = read_graph(build(index.to(dtype)))
        assert graph.edge_index.dtype == torch.long
        assert pairs(graph.edge_index) == pairs(index)


def test_check_same_entities() -> None:
    index = torch.tensor([[0, 1], [0, 1]])
    graph = read_graph(build(index))
    check_same_entities(graph, graph)
    with pytest.raises(ValueError, match="'train_data' has 4 items but "
                       "'val_data' has 5"):
        check_same_entities(graph, read_graph(build(index, num_items=5)))
    with pytest.raises(ValueError, match="'a' has 5 users but 'b' has 6"):
        check_same_entities(graph, read_graph(build(index, num_users=6)),
                            names=('a', 'b'))


def test_large_ids_do_not_overflow() -> None:
    index = torch.tensor([[2**31, 2**31, 0], [2**31 - 1, 0, 2**31 - 1]])
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = 2**31 + 1, 2**31
    data[UI].edge_index = index
    assert pairs(read_graph(data).edge_index) == pairs(index)


def test_reading_what_was_built() -> None:
    data = from_interactions([[0, 1, 1], [2, 0, 0]],
                             {'visual': np.zeros((3, 2), np.float32)})
    graph = read_graph(data, need_features=True)
    assert graph.edge_index.tolist() == [[0, 1], [2, 0]]


def test_warning_of_identical_splits() -> None:
    index = torch.tensor([[0, 1], [2, 3]])
    with pytest.warns(UserWarning, match='are the same 2 interactions'):
        warn_identical_splits(index, index.clone())
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        warn_identical_splits(index, index[:, :1])
        warn_identical_splits(index, index.flip([0]))
        warn_identical_splits(index[:, :0], index[:, :0])
        warn_identical_splits(None, None)
        warn_identical_splits(None, index)
