from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import torch_geometric.transforms as T
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import HeteroData

from torch_promptmm.data import (
    LeaveOneOutSplit,
    RandomUserSplit,
    TemporalSplit,
    add_features,
    item_ids,
    read_graph,
    read_interactions,
    user_ids,
)

EDGE = ('user', 'interacts', 'item')


def make(rows: list) -> HeteroData:
    table = pd.DataFrame(rows, columns=['user', 'item']).drop_duplicates()
    table['time'] = (table.user * 7 + table.item * 3) % 11
    data = read_interactions(table, time='time')
    ids = item_ids(data).to_list()
    x = np.array([[i, 1.0] for i in ids], dtype=np.float32)
    return add_features(data, 'visual', x, ids=ids)


def pairs(index: torch.Tensor) -> set:
    return set(map(tuple, index.t().tolist()))


rows_of = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)),
                   min_size=3, max_size=60)
SPLITS = [
    RandomUserSplit(0.2, 0.2), RandomUserSplit(0.0, 0.3, seed=1),
    RandomUserSplit(0.2, 0.2, known='train+val'), LeaveOneOutSplit(),
    LeaveOneOutSplit('random'), TemporalSplit(0.2, 0.2),
    TemporalSplit(0.1, 0.1, known='train+val'),
    TemporalSplit(val_time=5000, test_time=8000),
]


@pytest.mark.parametrize('split', SPLITS, ids=repr)
@given(rows=rows_of)
def test_nothing_is_lost_and_nothing_leaks(split, rows: list) -> None:
    data = make(rows)
    try:
        train, val, test = split(data)
    except ValueError as error:
        assert 'left to train on' in str(error)  # All at one moment.
        return
    parts = [pairs(train[EDGE].edge_index),
             pairs(val[EDGE].edge_label_index),
             pairs(test[EDGE].edge_label_index)]
    assert set.union(*parts) == pairs(data[EDGE].edge_index)
    assert sum(map(len, parts)) == data[EDGE].num_edges
    known = parts[0] | (parts[1] if split.known == 'train+val' else set())
    assert pairs(val[EDGE].edge_index) == parts[0]
    assert pairs(test[EDGE].edge_index) == known
    time = dict(zip(map(tuple, data[EDGE].edge_index.t().tolist()),
                    data[EDGE].time.tolist(), strict=True))
    for part in (train, val, test):
        read_graph(part)
        assert part['item'].visual is data['item'].visual
        assert user_ids(part) == user_ids(data)
        edges = part[EDGE].edge_index.t().tolist()
        assert [time[tuple(x)] for x in edges] == part[EDGE].time.tolist()
    if isinstance(split, TemporalSplit):
        for a, b in ((0, 1), (0, 2), (1, 2)):
            if parts[a] and parts[b]:
                assert (max(time[x] for x in parts[a])
                        < min(time[x] for x in parts[b]))
    if isinstance(split, LeaveOneOutSplit) and split.order == 'time':
        for user in {x[0] for x in parts[2]}:
            own = [x for x in parts[2] if x[0] == user]
            assert len(own) == 1
            assert all(time[own[0]] >= time[x] for x in parts[0] | parts[1]
                       if x[0] == user)
    assert 'edge_label_index' not in data[EDGE]


def test_random_split_of_each_user() -> None:
    data = make([(u, i) for u in range(5) for i in range(10)])
    train, val, test = RandomUserSplit(0.1, 0.2)(data)
    for part, count in [(val, 1), (test, 2)]:
        users = part[EDGE].edge_label_index[0]
        assert users.bincount().tolist() == [count] * 5
    again = RandomUserSplit(0.1, 0.2)(data)[2]
    assert torch.equal(test[EDGE].edge_label_index,
                       again[EDGE].edge_label_index)
    other = RandomUserSplit(0.1, 0.2, seed=1)(data)[2]
    assert not torch.equal(test[EDGE].edge_label_index,
                           other[EDGE].edge_label_index)
    few = make([(0, 0), (0, 1), (1, 0)])
    assert RandomUserSplit()(few)[0].report.count('too few') == 2


def test_leave_one_out_counts_who_is_left_out() -> None:
    data = make([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)])
    train, val, test = LeaveOneOutSplit()(data)
    assert train.report.count('fewer than three') == 2
    assert val[EDGE].edge_label_index[0].tolist() == [0]
    assert test[EDGE].edge_label_index[0].tolist() == [0, 1]


def test_temporal_split_counts_cold_ones() -> None:
    table = pd.DataFrame({'user': [1, 2, 3], 'item': [1, 1, 2],
                          'time': [1, 2, 3]})
    data = read_interactions(table, time='time')
    train, _, test = TemporalSplit(0.0, 0.34)(data)
    assert train.report.count('users of validation and test') == 1
    assert train.report.count('items of validation and test') == 1
    assert test['item'].num_nodes == 2


def test_split_errors() -> None:
    data = make([(0, 0), (0, 1), (1, 1)])
    train, val, test = RandomUserSplit(0.2, 0.4)(data)
    with pytest.raises(ValueError, match='not split yet'):
        LeaveOneOutSplit()(test)
    both = T.ToUndirected()(make([(0, 0), (0, 1), (1, 1)]))
    with pytest.raises(ValueError, match='rev_interacts.*they leak'):
        RandomUserSplit()(both)
    del data[EDGE].time
    with pytest.raises(ValueError, match='needs the times'):
        TemporalSplit()(data)
    data[EDGE].edge_index = data[EDGE].edge_index.repeat(1, 2)
    with pytest.raises(ValueError, match='3 interactions are there more than'):
        RandomUserSplit()(data)
    with pytest.raises(ValueError, match='something to train on'):
        RandomUserSplit(0.5, 0.5)
    with pytest.raises(ValueError, match="'order' must be"):
        LeaveOneOutSplit('date')
    with pytest.raises(ValueError, match='must be given together'):
        TemporalSplit(val_time=3)
    with pytest.raises(ValueError, match='must not be after'):
        TemporalSplit(val_time=3, test_time=2)
    with pytest.raises(ValueError, match="'known' must be"):
        RandomUserSplit(known='all')(make([(0, 0), (0, 1)]))


@pytest.mark.parametrize('split', [RandomUserSplit(0.3, 0.6),
                                   RandomUserSplit(0.6, 0.3),
                                   RandomUserSplit(0.0, 0.9),
                                   RandomUserSplit(0.9, 0.0)], ids=repr)
def test_random_split_leaves_one_to_train_on(split: RandomUserSplit) -> None:
    # Of one or two interactions these shares would round to all of them.
    data = make([(u, i) for u in range(6) for i in range(u + 1)])
    train, val, test = split(data)
    assert train[EDGE].edge_index[0].bincount().min() == 1
    assert user_ids(train)[0] == 0
    size = torch.arange(1, 7)
    for part, share, left in [(test, split.test, size - 1),
                              (val, split.val, None)]:
        held = part[EDGE].edge_label_index[0].bincount(minlength=6)
        if left is None:
            left = size - 1 - test[EDGE].edge_label_index[0].bincount(
                minlength=6)
        assert held.tolist() == torch.minimum(
            (size * share).round().long(), left).tolist()


def test_ties_of_leave_one_out_go_to_the_higher_item() -> None:
    # All at one moment; the rows of the items go against their order of time.
    table = pd.DataFrame([(0, i, 5) for i in (2, 0, 3, 1)]
                         + [(1, 3, 7), (1, 0, 7), (1, 2, 6)],
                         columns=['user', 'item', 'time'])
    data = read_interactions(table, time='time', items=range(4))
    train, val, test = LeaveOneOutSplit()(data)
    assert test[EDGE].edge_label_index.tolist() == [[0, 1], [3, 3]]
    assert val[EDGE].edge_label_index.tolist() == [[0, 1], [2, 0]]
    assert train[EDGE].edge_index.tolist() == [[0, 0, 1], [0, 1, 2]]
    # However the interactions are ordered.
    store = data[EDGE]
    store.edge_index, store.time = store.edge_index.flip(1), store.time.flip(0)
    again = LeaveOneOutSplit()(data)[2]
    assert pairs(again[EDGE].edge_label_index) == {(0, 3), (1, 3)}


def test_all_that_edges_have_goes_along() -> None:
    data = make([(u, i) for u in range(4) for i in range(5)])
    edges = data[EDGE].edge_index
    data[EDGE].edge_attr = edges.t().float()
    data[EDGE].note = [f'{u}-{i}' for u, i in edges.t().tolist()]
    data[EDGE].array = edges.t().numpy()
    data['item', 'like', 'item'].edge_index = torch.tensor([[0, 1], [1, 2]])
    for part in RandomUserSplit(0.2, 0.2)(data):
        now = part[EDGE].edge_index.t()
        assert part[EDGE].edge_attr.tolist() == now.tolist()
        assert part[EDGE].note == [f'{u}-{i}' for u, i in now.tolist()]
        assert part[EDGE].array.tolist() == now.tolist()
        assert part['item', 'like', 'item'].num_edges == 2
    assert data[EDGE].num_edges == 20


def test_a_random_split_names_its_seed() -> None:
    # A dataset's folder is named after its split.
    assert repr(LeaveOneOutSplit('random', seed=3)) == (
        "LeaveOneOutSplit(order='random', seed=3)")
    assert repr(LeaveOneOutSplit('time')) == "LeaveOneOutSplit(order='time')"
