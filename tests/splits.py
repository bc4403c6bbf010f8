"""Splits to write and to read back."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from torch_promptmm.data import from_splits, read_graph, set_ids

EDGE = ('user', 'interacts', 'item')


def make_splits(ids: bool = False) -> tuple:
    """Five users, six items; the last of each has no interaction."""
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    mask = {'visual': np.arange(6) != 3} if ids else None
    splits = from_splits(
        np.array([[0, 0, 1, 3], [0, 1, 1, 4]]), np.array([[1], [2]]),
        np.array([[2, 0], [1, 4]]),
        {'visual': x, 'odd name': x[:, :1].astype(np.float16)}, 5, 6, mask)
    for data in splits if ids else ():
        set_ids(data, ['a', 'b\t"1"', 'ü', '007', '7'], list('uvwxyz'))
    return splits


@st.composite
def splits_of(draw: st.DrawFn) -> tuple:
    """Any split: each pair of user and item in one part or in none."""
    num_users, num_items = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    part = draw(st.lists(st.integers(0, 3), min_size=num_users * num_items,
                         max_size=num_users * num_items))
    part[draw(st.integers(0, len(part) - 1))] = 0
    part = np.array(part)
    index = np.stack(np.divmod(np.arange(len(part)), num_items))
    kind = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    names = draw(st.lists(st.sampled_from(['visual', 'acoustic', 'x']),
                          unique=True))
    x = np.random.RandomState(0).random_sample((num_items, 3)).astype(kind)
    return from_splits(*(index[:, part == i] for i in range(3)),
                       dict.fromkeys(names, x), num_users, num_items)


def same_splits(a: tuple, b: tuple) -> None:
    """Checks that two splits have identical tensors."""
    assert len(a) == len(b) == 3
    for x, y in zip(map(read_graph, a), map(read_graph, b), strict=True):
        assert (x.num_users, x.num_items) == (y.num_users, y.num_items)
        assert torch.equal(x.edge_index, y.edge_index)
        assert (x.label_index is None) == (y.label_index is None)
        if x.label_index is not None:
            assert torch.equal(x.label_index, y.label_index)
        for old, new in [(x.features, y.features), (x.masks, y.masks)]:
            assert set(old) == set(new)
            for name, value in old.items():
                assert value.dtype == new[name].dtype
                assert torch.equal(value, new[name])
