from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import torch
from allocations import Largest
from graphs import NUM_ITEMS, NUM_USERS, random_edges, to_graph
from numpy.typing import NDArray
from torch.testing import assert_close

from torch_promptmm.models import LightGCN
from torch_promptmm.nn import (
    UserItemGraph,
    compress,
    ego_residual,
    feature_matmul,
    solve_ego,
)

WIDTH = 9


def tables(dtype: torch.dtype = torch.double) -> tuple[Any, Any]:
    scale = torch.linspace(1, 3, WIDTH, dtype=dtype)
    return (scale * torch.randn(30, WIDTH, dtype=dtype),
            7 * torch.randn(20, WIDTH, dtype=dtype) + 1)


def directions(user: NDArray[Any], item: NDArray[Any],
               user_weight: NDArray[Any], item_weight: NDArray[Any],
               channels: int) -> NDArray[Any]:
    """Right singular vectors of the scaled tables, stacked."""
    parts = []
    for x, w in ((user, user_weight), (item, item_weight)):
        scaled = w[:, None]**0.5 * x
        parts.append(scaled / np.linalg.norm(scaled))
    right = np.linalg.svd(np.concatenate(parts), full_matrices=False)[2]
    right = right[:channels].T
    largest = np.abs(right).argmax(0)
    return right * np.sign(right[largest, np.arange(right.shape[1])])


@pytest.mark.parametrize('channels', [1, 4, WIDTH])
@pytest.mark.parametrize('weighted', [False, True])
def test_equals_the_singular_vectors(channels: int, weighted: bool,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_matmul, '_BLOCK_SIZE', 7 * WIDTH)
    user, item = tables()
    weights = [torch.rand(len(x), dtype=torch.double) for x in (user, item)]
    weights[0][:3] = 0
    out = compress(user, item, channels, *(weights if weighted else ()))
    q = directions(user.numpy(), item.numpy(),
                   *(w.numpy() if weighted else np.ones(len(w))
                     for w in weights), channels)
    for got, x in zip(out, (user, item), strict=True):
        np.testing.assert_allclose(got.numpy(), x.numpy() @ q, atol=1e-9)


def test_scores_are_kept_at_full_width() -> None:
    user, item = tables(torch.float)
    a, b = compress(user, item, WIDTH)
    assert_close(a @ b.t(), user @ item.t(), atol=1e-3, rtol=1e-4)


def test_neither_size_nor_norm_of_a_table_counts() -> None:
    user, item = tables()
    want = compress(user, item, 3)
    again = compress(torch.cat([10 * user, 10 * user]), item, 3)
    assert_close(again[0][:30], 10 * want[0])
    assert_close(again[1], want[1])


def test_columns_beyond_the_width_are_zero() -> None:
    user, item = tables()
    want, out = compress(user, item, WIDTH), compress(user, item, WIDTH + 4)
    for a, b in zip(want, out, strict=True):
        assert b.size(1) == WIDTH + 4 and b[:, WIDTH:].abs().sum() == 0
        assert_close(a, b[:, :WIDTH])


def test_no_table_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_matmul, '_BLOCK_SIZE', 2000)
    user, item = torch.randn(3000, 16).half(), torch.randn(2000, 16).half()
    weight = torch.rand(3000)
    with Largest(user, item, weight) as largest:
        compress(user, item, 2, weight)
    assert largest.numel == 3000 * 2  # What it returns.


def test_narrow_tables_and_empty_ones() -> None:
    user, item = tables(torch.float)
    want = compress(user.half().float(), item.half().float(), 3)
    out = compress(user.half(), item.half(), 3)
    assert out[0].dtype == torch.float
    assert_close(out, want)
    out = compress(torch.zeros_like(user), item, 3)
    assert out[0].abs().sum() == 0 and out[1].isfinite().all()


@pytest.mark.parametrize('args, message', [
    ((torch.randn(3, 2), torch.randn(3, 3), 2), "'item' must have 2 columns"),
    ((torch.randn(3, 2), torch.randn(4, 2), 0), "'channels' must be"),
    ((torch.randn(3, 2), torch.randn(4, 2), 2, torch.ones(4)),
     r"'user_weight' must be a tensor of shape \[3\]"),
    ((torch.randn(3, 2), torch.randn(4, 2), 2, None, -torch.ones(4)),
     "'item_weight' must be finite and not negative"),
])
def test_bad_input(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compress(*args)


# The solver


def outputs(dtype: torch.dtype, channels: int = 5) -> tuple[Any, Any]:
    return (torch.randn(NUM_USERS, channels, dtype=dtype),
            100 * torch.randn(NUM_ITEMS, channels, dtype=dtype))


@pytest.mark.parametrize('num_layers', [0, 2, 4, 6])
def test_equals_a_dense_solve(num_layers: int) -> None:
    edges = random_edges(duplicates=True)
    graph = UserItemGraph(edges, NUM_USERS, NUM_ITEMS, dtype=torch.double)
    user, item = outputs(torch.double)
    user[:, 1], item[:, 1] = 0, 0  # As columns that pad.
    out = solve_ego(graph, user, item, num_layers, 200, 1e-12)
    adj = reference.adjacency(edges.numpy(), NUM_USERS, NUM_ITEMS)
    matrix = reference.polynomial(
        adj, np.eye(len(adj)), [1 / (num_layers + 1)] * (num_layers + 1))
    want = np.linalg.solve(matrix, torch.cat([user, item]).numpy())
    np.testing.assert_allclose(torch.cat(out).numpy(), want, atol=1e-8)
    assert ego_residual(graph, out, user, item, num_layers) < 1e-11


@pytest.mark.parametrize('num_layers', [2, 4])
def test_the_student_yields_the_tables(num_layers: int) -> None:
    graph = UserItemGraph(
        torch.stack([torch.randint(200, (3000, )),
                     torch.randint(150, (3000, ))]), 200, 150)
    user, item = torch.randn(200, 8), torch.randn(150, 8)
    ego = solve_ego(graph, user, item, num_layers)
    assert ego_residual(graph, ego, user, item, num_layers) < 1e-5
    student = LightGCN(200, 150, 8, num_layers)
    with torch.no_grad():
        student.user_embedding.weight.copy_(ego[0])
        student.item_embedding.weight.copy_(ego[1])
        out = student(graph)
    assert_close(out, (user, item), atol=1e-4, rtol=1e-4)


def test_it_stops_where_the_residual_is_small_and_not_before() -> None:
    graph, (user, item) = to_graph(random_edges()), outputs(torch.float)
    few = solve_ego(graph, user, item, num_steps=1)
    assert ego_residual(graph, few, user, item) > 1e-3
    rough = solve_ego(graph, user, item, tolerance=1e-2)
    assert 1e-6 < ego_residual(graph, rough, user, item) < 1e-2
    # It does not go on until rounding breaks it.
    many = solve_ego(graph, user, item, num_steps=10_000)
    assert ego_residual(graph, many, user, item) < 2e-6
    none = solve_ego(graph, user, item, num_steps=0)
    assert torch.equal(none[0], user) and none[0] is not user


def test_residual_equals_numpy() -> None:
    edges = random_edges()
    graph = UserItemGraph(edges, NUM_USERS, NUM_ITEMS, dtype=torch.double)
    user, item = outputs(torch.double)
    adj = reference.adjacency(edges.numpy(), NUM_USERS, NUM_ITEMS)
    y = torch.cat([user, item]).numpy()
    want = np.linalg.norm(reference.polynomial(adj, y, [1 / 3] * 3) - y)
    assert ego_residual(graph, (user, item), user, item) == pytest.approx(
        want / np.linalg.norm(y))


@pytest.mark.parametrize('num_layers', [1, 3])
def test_an_odd_number_of_layers_is_refused(num_layers: int) -> None:
    graph, (user, item) = to_graph(random_edges()), outputs(torch.float)
    with pytest.raises(ValueError, match="'num_layers' must be even"):
        solve_ego(graph, user, item, num_layers)


def test_the_graph_must_fit() -> None:
    graph, (user, item) = to_graph(random_edges()), outputs(torch.float)
    with pytest.raises(ValueError, match="'graph' must have 6 users"):
        solve_ego(graph, user[1:], item)


def test_on_a_device(device: torch.device) -> None:
    graph, (user, item) = to_graph(random_edges()), outputs(torch.float)
    wide = compress(user.to(device), item.to(device), 3)
    ego = solve_ego(graph.to(device), *wide)
    assert ego[0].device.type == device.type
    assert ego_residual(graph.to(device), ego, *wide) < 1e-5
