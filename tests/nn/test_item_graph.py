from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from allocations import Largest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from torch_promptmm.nn import (
    combine_graphs,
    feature_matmul,
    graph_cache,
    item_knn_graph,
    neighbors,
    normalize_graph,
)
from torch_promptmm.nn.csr import CSRMatrix, compress
from torch_promptmm.nn.neighbors import to_neighbors, top_of_rows

Array = np.ndarray
TOY = torch.tensor([[1, 0], [1, .5], [0, 1], [-1, 0]], dtype=torch.double)


def dense(matrix: CSRMatrix) -> Tensor:
    return matrix.tensor.to_dense()


def knn(x: Array, k: int, mask: Array | None, loop: bool, binary: bool,
        standardize: bool) -> Array:
    """The kept similarities, row by row, in the obvious way."""
    n = len(x)
    mask = np.ones(n, bool) if mask is None else mask
    mask = mask & (x != 0).any(1)
    if standardize:
        x = reference.standardise(x, mask)
    x = reference.unit_rows(np.where(mask[:, None], x, 0.0))
    there = (x != 0).any(1)
    out = np.zeros((n, n))
    for i in range(n):
        if not there[i]:
            continue
        others = [j for j in range(n) if there[j] and j != i]
        others.sort(key=lambda j: (-(x[i] @ x[j]), j))
        for j in ([i] + others)[:k] if loop else others[:k]:
            out[i, j] = 1.0 if binary else max(0.0, x[i] @ x[j])
    return out


def normalised(x: Array, norm: str | None) -> Array:
    degree = x.sum(1)
    safe = np.where(degree > 0, degree, 1.0)
    if norm == 'row':
        return x / safe[:, None]
    if norm == 'sym':
        root = np.where(degree > 0, safe**-0.5, 0.0)
        return root[:, None] * x * root[None, :]
    return x


# The known answers of the LATTICE and FREEDOM papers' graphs.


def test_known_answer() -> None:
    kept = dense(item_knn_graph(TOY, 2, norm=None, standardize=False))
    want = [[1, .8944272, 0, 0], [.8944272, 1, 0, 0], [0, .4472136, 1, 0],
            [0, 0, 0, 1]]
    assert_close(kept, torch.tensor(want, dtype=torch.double), atol=1e-7,
                 rtol=0)
    graph = dense(item_knn_graph(TOY, 2, standardize=False))
    for at, value in {(0, 1): .4721360, (2, 1): .2700907, (2, 2): .6909830,
                      (1, 2): 0.0}.items():
        assert float(graph[at]) == pytest.approx(value, abs=1e-7), at


def test_known_answer_of_a_binary_graph() -> None:
    # The fourth item has two neighbours as well, one at a cosine of zero.
    graph = item_knn_graph(TOY, 2, weight='binary', standardize=False)
    assert graph.nnz == 8
    assert_close(graph.value, torch.full((8, ), 0.5, dtype=torch.double))


@pytest.mark.parametrize('loop', [True, False])
@pytest.mark.parametrize('weight', ['cosine', 'binary'])
@pytest.mark.parametrize('norm', ['sym', 'row', None])
@pytest.mark.parametrize('standardize', [True, False])
def test_equals_numpy(loop: bool, weight: str, norm: str | None,
                      standardize: bool,
                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, '_BLOCK_SIZE', 100)
    monkeypatch.setattr(feature_matmul, '_BLOCK_SIZE', 20)
    x = torch.randn(23, 5, dtype=torch.double) + 1
    x[7] = x[11] = x[3]
    mask = torch.arange(23) % 4 > 0
    x[~mask] = torch.nan  # Is not looked at.
    x[5] = 0.0
    want = normalised(knn(np.nan_to_num(x.numpy()), 4, mask.numpy(), loop,
                          weight == 'binary', standardize), norm)
    out = item_knn_graph(x, 4, mask, loop, weight, norm, standardize)
    np.testing.assert_allclose(dense(out).numpy(), want, atol=1e-12)


@given(st.integers(1, 7), st.integers(1, 3), st.integers(1, 9),
       st.booleans(), st.integers(0, 2**31), st.data())
def test_odd_shapes(num_items: int, width: int, k: int, loop: bool,
                    seed: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Few values: many zero rows and many ties.
    x = torch.randint(-1, 2, (num_items, width), generator=generator).double()
    mask = torch.tensor(data.draw(st.lists(
        st.booleans(), min_size=num_items, max_size=num_items)))
    out = dense(item_knn_graph(x, k, mask, loop, 'binary', None, False))
    want = knn(x.numpy(), k, mask.numpy(), loop, True, False)
    assert_close(out.sum(1), torch.from_numpy(want.sum(1)))
    there = mask & (x != 0).any(1)
    assert not out[~there].any() and not out[:, ~there].any()
    assert bool((out.diagonal()[there] == float(loop)).all())


def test_items_without_the_modality() -> None:
    x, mask = torch.randn(12, 3) + 1, torch.arange(12) != 4
    x[7] = 0.0  # Which is no zero row when standardised.
    x[9] = x[3]
    for weight in ('cosine', 'binary'):
        out = dense(item_knn_graph(x, 12, mask, weight=weight))
        for i in (4, 7):
            assert not out[i].any() and not out[:, i].any()
    want = item_knn_graph(x[(mask & (x != 0).any(1))], 12)
    assert out.count_nonzero(1).max() == 10 and want.shape == (10, 10)


def test_equal_cosines_are_taken_in_order() -> None:
    x = torch.tensor([[1., 0.]] * 6)
    out = dense(item_knn_graph(x, 3, loop=False, norm=None,
                               standardize=False))
    assert out[5].nonzero().view(-1).tolist() == [0, 1, 2]
    assert out[0].nonzero().view(-1).tolist() == [1, 2, 3]
    # The item itself stays, although others are equal to it.
    out = dense(item_knn_graph(x, 3, norm=None, standardize=False))
    assert out[5].nonzero().view(-1).tolist() == [0, 1, 5]


def test_top_of_rows() -> None:
    inf = float('inf')
    x = torch.tensor([[1., 3., 3., 2.], [-inf, 0., -inf, 0.],
                      [-inf] * 4, [5., 5., 5., 5.]])
    out = top_of_rows(x, 3)
    assert out.index.tolist() == [[1, 2, 3], [1, 3, -1], [-1] * 3, [0, 1, 2]]
    assert out.value.tolist() == [[3, 3, 2], [0, 0, 0], [0] * 3, [5] * 3]
    assert top_of_rows(x[:, :2], 3).index[0].tolist() == [1, 0, -1]
    assert top_of_rows(x[:0], 3).index.shape == (0, 3)


def test_relabelling_permutes() -> None:
    x, perm = torch.randn(30, 6, dtype=torch.double), torch.randperm(30)
    a, b = dense(item_knn_graph(x, 5)), dense(item_knn_graph(x[perm], 5))
    assert_close(b, a[perm][:, perm])


@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16, torch.float])
def test_types(dtype: torch.dtype) -> None:
    x = torch.randn(20, 6).to(dtype)
    out = item_knn_graph(x, 5)
    assert out.value.dtype == torch.float
    assert_close(dense(out), dense(item_knn_graph(x.float(), 5)))


def test_a_mean_makes_no_hubs() -> None:
    # Without standardised columns, the item nearest to the mean is near all.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 4, generator=generator) * torch.rand(
        200, 1, generator=generator) + 10
    raw = dense(item_knn_graph(x, 5, weight='binary', norm=None,
                               standardize=False)).sum(0).max()
    out = dense(item_knn_graph(x, 5, weight='binary', norm=None)).sum(0).max()
    assert int(out) < 30 and int(raw) < 200


def test_memory() -> None:
    num_items = 20_000
    x = torch.randn(num_items, 4)
    with Largest(x) as largest:
        graph = item_knn_graph(x, 10)
    assert graph.nnz <= 10 * num_items
    assert largest.numel <= 2**24 < num_items**2 / 20


@pytest.mark.parametrize('kwargs, match', [
    ({'k': 0}, "'k' must be at least 1"),
    ({'weight': 'dot'}, "'weight' must be one of"),
    ({'norm': 'col'}, "'norm' must be one of"),
    ({'mask': torch.ones(4)}, "'mask' must be a boolean tensor"),
    ({'x': torch.ones(4)}, "'x' must be a two-dimensional"),
])
def test_bad_arguments(kwargs: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        item_knn_graph(**{'x': TOY, **kwargs})


# Cache


@pytest.fixture(params=['memory', 'folder'])
def cache(request: pytest.FixtureRequest, tmp_path: Path):
    graph_cache._memory.clear()
    yield request.param if request.param == 'memory' else tmp_path / 'new'
    graph_cache._memory.clear()


def test_cache(cache, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    plain = neighbors.nearest_rows
    monkeypatch.setattr('torch_promptmm.nn.item_graph.nearest_rows',
                        lambda *args: made.append(0) or plain(*args))
    x, mask = torch.randn(20, 6), torch.arange(20) > 0
    want = item_knn_graph(x, 5)
    for _ in range(2):
        out = item_knn_graph(x, 5, cache=cache)
        assert torch.equal(dense(out), dense(want))
        assert out.crow.dtype == want.crow.dtype
    assert len(made) == 2
    other = x.clone()
    other[19, 5] = torch.nextafter(x[19, 5], torch.tensor(9.0))
    another = mask.clone()
    another[3] = False
    for number, (args, kwargs) in enumerate([
            ((other, 5), {}), ((x, 4), {}), ((x, 5, mask), {}),
            ((x, 5, another), {}), ((x, 5), {'loop': False}),
            ((x, 5), {'weight': 'binary'}), ((x, 5), {'norm': 'row'}),
            ((x, 5), {'standardize': False}), ((x.double(), 5), {}),
            ((x.view(-1, 3), 5), {})]):
        for _ in range(2):
            item_knn_graph(*args, **kwargs, cache=cache)
            assert len(made) == 3 + number


def test_memory_keeps_the_last_few(monkeypatch) -> None:
    graph_cache._memory.clear()
    monkeypatch.setattr(graph_cache, '_NUM_KEPT', 2)
    x = torch.randn(8, 2)
    for k in (1, 2, 1, 3):
        item_knn_graph(x, k, cache='memory')
    assert sorted(graph.nnz for graph in graph_cache._memory.values()) == [
        item_knn_graph(x, k).nnz for k in (1, 3)]
    graph_cache._memory.clear()


# Sums and norms


def random_graph(seed: int, shape: tuple[int, int] = (6, 6)) -> CSRMatrix:
    generator = torch.Generator().manual_seed(seed)
    value = torch.rand(shape, generator=generator, dtype=torch.double)
    value *= torch.rand(shape, generator=generator) < 0.4
    row, col = value.nonzero(as_tuple=True)
    return compress(row, col, value[row, col], *shape)


def test_combined_graphs() -> None:
    graphs = [random_graph(seed) for seed in range(3)]
    a, b, c = (dense(graph) for graph in graphs)
    out = combine_graphs(graphs, [0.5, 1.0, 2.0])
    assert_close(dense(out), 0.5 * a + b + 2 * c)
    assert out.nnz == int(((a + b + c) > 0).sum())
    assert_close(dense(combine_graphs(graphs)), a + b + c)
    assert_close(dense(combine_graphs(graphs, reduce='max')),
                 torch.stack([a, b, c]).amax(0))
    for wrong, weights, match in [([], None, 'at least one graph'),
                                  (graphs, [1.0], 'each of the 3 graphs'),
                                  ([random_graph(0, (6, 5)), graphs[0]],
                                   None, 'all of one shape')]:
        with pytest.raises(ValueError, match=match):
            combine_graphs(wrong, weights)


@pytest.mark.parametrize('norm', ['sym', 'row', None])
def test_norms(norm: str | None) -> None:
    graph = random_graph(0)
    graph.value[graph.crow[2]:graph.crow[3]] = 0.0  # A row without a sum.
    np.testing.assert_allclose(dense(normalize_graph(graph, norm)).numpy(),
                               normalised(dense(graph).numpy(), norm))


def test_columns_of_neighbours() -> None:
    graph = random_graph(0, (6, 4))
    index, value = to_neighbors(graph, 4)
    out = torch.zeros(6, 5, dtype=torch.double).scatter_(
        1, torch.where(index < 0, 4, index), value)
    assert torch.equal(out[:, :4], dense(graph)) and not out[:, 4].any()
