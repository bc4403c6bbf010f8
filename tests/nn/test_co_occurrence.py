from __future__ import annotations

import numpy as np
import pytest
import torch
from allocations import Largest
from graphs import NUM_ITEMS, NUM_USERS, random_edges, to_graph
from hypothesis import given
from hypothesis import strategies as st

from torch_promptmm.nn import UserItemGraph, co_occurrence, co_occurrence_graph


def reference(edges: np.ndarray, shape: tuple[int, int], k: int, side: str,
              weighted: bool, max_degree: int | None) -> np.ndarray:
    a = np.zeros(shape)
    np.add.at(a, tuple(edges), 1.0)
    a = a.T if side == 'item' else a  # [nodes, what they share]
    degree = a.sum(0)
    weight = 1 / np.maximum(degree, 1) if weighted else np.ones(len(degree))
    if max_degree is not None:
        weight = weight * (degree <= max_degree)
    # Sums that differ by rounding alone are equal.
    full = np.einsum('iu,u,ju->ij', a, weight, a).astype(np.float32)
    np.fill_diagonal(full, 0.0)
    out = np.zeros_like(full)
    for i, row in enumerate(full):
        best = np.argsort(-row, kind='stable')[:k]
        out[i, best] = row[best]
    return out


@pytest.mark.parametrize('side', ['item', 'user'])
@pytest.mark.parametrize('weighted', [True, False])
@pytest.mark.parametrize('max_degree', [None, 3])
@pytest.mark.parametrize('blocks', [(2**23, 2**22), (25, 2**22), (2**23, 7)])
def test_equals_numpy(side, weighted, max_degree, blocks, monkeypatch):
    monkeypatch.setattr(co_occurrence, '_BLOCK_SIZE', blocks[0])
    monkeypatch.setattr(co_occurrence, '_MOST_PATHS', blocks[1])
    edges = random_edges(duplicates=True)
    want = reference(edges.numpy(), (NUM_USERS, NUM_ITEMS), 3, side, weighted,
                     max_degree)
    out = co_occurrence_graph(to_graph(edges), 3, side, weighted, max_degree,
                              norm=None)
    np.testing.assert_allclose(out.tensor.to_dense().numpy(), want,
                               rtol=1e-6)
    rows = co_occurrence_graph(to_graph(edges), 3, side, weighted, max_degree,
                               norm='row').tensor.to_dense().sum(1)
    np.testing.assert_allclose(rows, want.sum(1) > 0, rtol=1e-6)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 15),
       st.integers(1, 8), st.sampled_from(['item', 'user']),
       st.integers(0, 2**31))
def test_odd_shapes(num_users, num_items, num_edges, k, side, seed):
    generator = torch.Generator().manual_seed(seed)
    edges = torch.stack([
        torch.randint(size, (num_edges, ), generator=generator)
        for size in (num_users, num_items)])
    graph = UserItemGraph(edges, num_users, num_items)
    out = co_occurrence_graph(graph, k, side, norm=None)
    want = reference(edges.numpy(), (num_users, num_items), k, side, True,
                     None)
    np.testing.assert_allclose(out.tensor.to_dense().numpy(), want,
                               rtol=1e-6)


def test_the_weight_is_in_the_type_of_the_graph():
    graph = to_graph(random_edges()).to(dtype=torch.double)
    out = co_occurrence_graph(graph, 3)
    assert out.value.dtype == torch.double
    assert out.shape == (NUM_ITEMS, NUM_ITEMS)


@pytest.mark.parametrize('side', ['item', 'user'])
def test_memory(side):
    num = 20_000
    edges = torch.stack([torch.randint(num, (60_000, )) for _ in range(2)])
    edges[0, :2_000] = 7  # A user with many interactions,
    edges[1, 2_000:4_000] = 9  # and an item.
    graph = UserItemGraph(edges, num, num)
    with Largest() as largest:
        out = co_occurrence_graph(graph, 10, side)
    assert 0 < out.nnz <= 10 * num
    assert largest.numel <= 2**23 < num**2 / 40


@pytest.mark.parametrize('kwargs, match', [
    ({'k': 0}, "'k' must be at least 1"),
    ({'side': 'both'}, "'side' must be one of"),
    ({'max_degree': 0}, "'max_degree' must be at least 1"),
    ({'norm': 'x'}, "'norm' must be one of"),
])
def test_bad_arguments(kwargs, match):
    with pytest.raises(ValueError, match=match):
        co_occurrence_graph(to_graph(random_edges()), **kwargs)
