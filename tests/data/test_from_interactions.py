from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import HeteroData

from torch_promptmm.data import (
    from_interactions,
    from_splits,
    held_out,
    read_graph,
)

UI = ('user', 'interacts', 'item')

sizes = st.integers(1, 8)
edges = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=40)
float_dtypes = st.sampled_from(['float16', 'float32', 'float64', '>f4'])
int_dtypes = st.sampled_from(
    ['int64', 'int32', 'int16', 'int8', 'uint8', 'uint16', 'uint64', '>i8'])


def as_index(value: list[tuple[int, int]], dtype: str = 'int64') -> np.ndarray:
    return np.array(value, dtype=dtype).reshape(-1, 2).T


def as_pairs(index: torch.Tensor) -> list[tuple[int, int]]:
    return [tuple(pair) for pair in index.t().tolist()]


@given(
    known=edges.filter(len),
    labels=st.none() | edges,
    dtype=int_dtypes,
    feature_dtype=float_dtypes,
    as_torch=st.booleans(),
    extra=st.integers(0, 3),
)
def test_from_interactions(
    known: list,
    labels: list | None,
    dtype: str,
    feature_dtype: str,
    as_torch: bool,
    extra: int,
) -> None:
    everything = known + (labels or [])
    num_users = max(user for user, _ in everything) + 1
    num_items = max(item for _, item in everything) + 1 + extra
    visual = np.random.rand(num_items, 3).astype(feature_dtype)

    edge_index = as_index(known, dtype)
    label_index = None if labels is None else as_index(labels, dtype)
    if as_torch:
        edge_index = torch.from_numpy(edge_index.astype('int64'))
        visual = torch.from_numpy(visual.astype('float16'))
    data = from_interactions(edge_index, {'visual': visual},
                             edge_label_index=label_index)

    assert data['user'].num_nodes == num_users
    assert data['item'].num_nodes == num_items
    assert as_pairs(data[UI].edge_index) == sorted(set(known))
    assert data[UI].edge_index.dtype == torch.long
    if labels is None:
        assert 'edge_label_index' not in data[UI]
    else:
        assert as_pairs(data[UI].edge_label_index) == sorted(set(labels))
    assert np.array_equal(data['item'].visual, visual)
    assert isinstance(data, HeteroData)
    data.validate()
    read_graph(data, need_features=True)


@pytest.mark.parametrize('order', ['C', 'F'])
def test_features_are_held_by_reference(order: str) -> None:
    index = [[0, 1], [0, 1]]
    for dtype in [np.float16, np.float32, np.float64]:
        array = np.asarray(np.random.rand(4, 3), dtype=dtype, order=order)
        data = from_interactions(index, {'visual': array})
        assert data['item'].visual.data_ptr() == array.ctypes.data
    tensor = torch.randn(4, 3, dtype=torch.bfloat16, requires_grad=True)
    data = from_interactions(index, {'visual': tensor})
    assert data['item'].visual.data_ptr() == tensor.data_ptr()
    assert not data['item'].visual.requires_grad


def test_a_view_with_steps() -> None:
    array = np.random.rand(4, 6).astype(np.float32)
    data = from_interactions([[0], [1]], {'a': array[:, ::2],
                                          'b': array[::-1]})
    assert np.array_equal(data['item'].a, array[:, ::2])
    assert np.array_equal(data['item'].b, array[::-1])


@pytest.mark.parametrize('mode', ['r', 'c', 'r+'])
def test_memory_map_is_neither_copied_nor_complained_about(
    tmp_path,
    mode: str,
) -> None:
    np.save(tmp_path / 'visual.npy', np.random.rand(4, 3))
    array = np.load(tmp_path / 'visual.npy', mmap_mode=mode)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        data = from_interactions([[0, 1], [0, 1]], {'visual': array})
    assert data['item'].visual.data_ptr() == array.ctypes.data


def test_input_is_left_alone() -> None:
    index = torch.tensor([[1, 0, 1], [0, 0, 0]])
    data = from_interactions(index, {'visual': torch.randn(1, 2)})
    data[UI].edge_index.fill_(0)
    assert index.tolist() == [[1, 0, 1], [0, 0, 0]]


def test_without_features() -> None:
    data = from_interactions([[0, 1], [0, 5]], {})
    assert data['item'].num_nodes == 6
    assert read_graph(data).features == {}


def test_other_names_and_sizes() -> None:
    edge_type = ('customer', 'buys', 'product')
    data = from_interactions([[0], [1]], {'image': torch.randn(3, 2)},
                             num_users=9, num_items=3, edge_type=edge_type)
    graph = read_graph(data)
    assert graph.edge_type == edge_type
    assert (graph.num_users, graph.num_items) == (9, 3)


def test_masks() -> None:
    data = from_interactions(
        [[0], [1]],
        {'visual': torch.randn(3, 2), 'textual': torch.randn(3, 4)},
        masks={'textual': np.array([True, False, True])},
    )
    graph = read_graph(data)
    assert list(graph.features) == ['visual', 'textual']
    assert graph.masks['textual'].tolist() == [True, False, True]
    assert list(graph.masks) == ['textual']


@pytest.mark.filterwarnings('ignore:Validation and test are the same')
@given(
    train=edges.filter(len),
    val=edges,
    test=edges,
    known=st.sampled_from(['train', 'train+val']),
)
def test_from_splits(train: list, val: list, test: list, known: str) -> None:
    visual = np.random.rand(8, 3).astype(np.float16)
    mask = np.random.rand(8) < 0.5
    mask[0] = True
    graphs = from_splits(as_index(train), as_index(val), as_index(test),
                         {'visual': visual}, masks={'visual': mask},
                         known=known)
    assert 'edge_label_index' not in graphs[0][UI]
    for data in graphs[:2]:
        assert as_pairs(data[UI].edge_index) == sorted(set(train))
    assert as_pairs(graphs[1][UI].edge_label_index) == sorted(set(val))
    seen = set(train) | (set(val) if known == 'train+val' else set())
    assert as_pairs(graphs[2][UI].edge_index) == sorted(seen)
    assert as_pairs(graphs[2][UI].edge_label_index) == sorted(set(test))

    for data in graphs:  # One storage.
        assert data['item'].visual.data_ptr() == visual.ctypes.data
        assert data['item'].visual_mask.data_ptr() == mask.ctypes.data
        assert data['user'].num_nodes == graphs[0]['user'].num_nodes
        data.validate()

    # They are three graphs all the same:
    graphs[1]['item'].other = 1
    assert 'other' not in graphs[0]['item']


def test_identical_validation_and_test() -> None:
    val = np.array([[1, 0], [1, 2]])
    with pytest.warns(UserWarning, match='Validation and test are the same 2'):
        from_splits([[0, 1], [0, 0]], val, val[:, [1, 0, 1]], {})
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        from_splits([[0, 1], [0, 0]], val, val[:, :1], {})


def test_held_out_of_a_split() -> None:
    _, val, test = from_splits([[0, 1], [0, 1]], [[0], [2]], [[1, 1], [0, 1]],
                               {})
    assert held_out(read_graph(val)).tolist() == [[0], [2]]
    with pytest.warns(UserWarning, match='1 of 2 positives'):
        assert held_out(read_graph(test)).tolist() == [[1], [0]]
