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
    KCore,
    LeaveOneOutSplit,
    RandomUserSplit,
    TemporalSplit,
    add_features,
    item_ids,
    k_core,
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


def slow_core(rows: set, user_k: int, item_k: int) -> set:
    while True:
        keep = {x for x in rows
                if sum(y[0] == x[0] for y in rows) >= user_k
                and sum(y[1] == x[1] for y in rows) >= item_k}
        if keep == rows:
            return keep
        rows = keep


@given(rows=rows_of, user_k=st.integers(0, 4), item_k=st.integers(0, 4))
def test_k_core_is_a_fixed_point(rows: list, user_k: int, item_k: int) -> None:
    data = make(rows)
    raw = {(user_ids(data)[u], item_ids(data)[i])
           for u, i in pairs(data[EDGE].edge_index)}
    expected = slow_core(raw, user_k, item_k)
    if not expected:
        with pytest.raises(ValueError, match='No interaction is left'):
            KCore(user_k, item_k)(data)
        return
    out = KCore(user_k, item_k)(data)
    read_graph(out)
    users, items = user_ids(out), item_ids(out)
    assert {(users[u], items[i])
            for u, i in pairs(out[EDGE].edge_index)} == expected
    assert len(users) == len({x[0] for x in expected})
    assert out['item'].visual[:, 0].tolist() == items.to_list()
    assert out.report.count('interactions are not') == len(raw) - len(expected)
    time = {x: (x[0] * 7 + x[1] * 3) % 11 * 1000 for x in expected}
    assert [time[users[u], items[i]]
            for u, i in out[EDGE].edge_index.t().tolist()
            ] == out[EDGE].time.tolist()


def test_k_core_peels_step_by_step() -> None:
    # Taking item 2 away leaves user 2 with one interaction, and so on.
    user = np.array([0, 0, 1, 1, 2, 2, 3, 3, 2])
    item = np.array([0, 1, 0, 1, 1, 2, 0, 1, 3])
    rows = k_core(user, item, 2, 2)
    assert rows.tolist() == [0, 1, 2, 3, 6, 7]
    assert str(KCore(3)) == 'KCore(user_k=3, item_k=3)'
