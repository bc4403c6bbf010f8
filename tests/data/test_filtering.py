from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import HeteroData

from torch_promptmm.data import (
    KCore,
    add_features,
    item_ids,
    read_graph,
    read_interactions,
    user_ids,
)
from torch_promptmm.data.filtering import k_core

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
