from __future__ import annotations

import copy

import pytest
import torch
from torch.testing import assert_close

from torch_promptmm.nn import NeighborGraph, item_knn_graph


def make(dtype: torch.dtype = torch.float, seed: int = 0) -> NeighborGraph:
    generator = torch.Generator().manual_seed(seed)
    out = NeighborGraph(9, 4)
    x = torch.randn(9, 3, generator=generator)
    out.set(item_knn_graph(x, 3))
    return out.to(dtype)


def dense(graph: NeighborGraph) -> torch.Tensor:
    return graph.require().tensor.to_dense()


@pytest.mark.parametrize('dtype', [torch.float, torch.double])
def test_product_and_gradient(dtype: torch.dtype) -> None:
    graph = make(dtype)
    x = torch.randn(9, 5, dtype=dtype, requires_grad=True)
    y = torch.randn(9, 5, dtype=dtype)
    a = dense(graph)
    assert not torch.equal(a, a.t())
    out = graph(x)
    assert_close(out, a @ x)
    out.backward(y)
    assert_close(x.grad, a.t() @ y)


def test_gradcheck() -> None:
    graph = make(torch.double)
    x = torch.randn(9, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(graph, x)
    assert torch.autograd.gradgradcheck(graph, x)


def test_state_of_any_graph_fits() -> None:
    a, b, new = make(), make(seed=1), NeighborGraph(9, 4)
    shapes = {k: v.shape for k, v in a.state_dict().items()}
    assert shapes == {k: v.shape for k, v in new.state_dict().items()}
    x, y = torch.randn(9, 2), torch.randn(9, 2)
    for other in (b, new):
        if other.matrix is not None:
            _ = other.matrix.t  # What is derived from the old state.
        other.load_state_dict(a.state_dict())
        z = x.clone().requires_grad_()
        out = other(z)
        assert torch.equal(out, a(x))
        out.backward(y)  # By the transpose of what was loaded.
        assert_close(z.grad, dense(a).t() @ y)


def test_buffers_that_are_written_to_count() -> None:
    # As a best epoch is restored.
    a, b = make(), make(seed=1)
    _ = b.require().t
    with torch.no_grad():
        for mine, other in zip(b.buffers(), a.buffers(), strict=True):
            mine.copy_(other)
    x = torch.randn(9, 2, requires_grad=True)
    assert torch.equal(b(x), a(x))
    b(x).sum().backward()
    assert_close(x.grad, dense(a).sum(0).view(-1, 1).expand(9, 2))


def test_not_set() -> None:
    graph = NeighborGraph(9, 4)
    assert graph.matrix is None and 'num_edges=0' in repr(graph)
    with pytest.raises(ValueError, match='no graph of its items yet'):
        graph(torch.randn(9, 2))
    # Neither is one that loads the state of such a one.
    other = make()
    other.load_state_dict(graph.state_dict())
    assert other.matrix is None
    # A graph without an edge is a graph.
    graph.set(item_knn_graph(torch.zeros(9, 2)))
    assert not graph(torch.ones(9, 2)).any()


def test_copies_are_their_own() -> None:
    graph = make()
    other = copy.deepcopy(graph)
    other.set(item_knn_graph(torch.randn(9, 3), 2))
    assert not torch.equal(dense(graph), dense(other))
    assert torch.equal(dense(graph), dense(make()))


def test_autocast() -> None:
    graph, x = make(), torch.randn(9, 2)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert_close(graph(x), graph.require().matmul(x))
        assert graph(x.bfloat16()).dtype == torch.float


def test_too_many_edges() -> None:
    graph = NeighborGraph(9, 2)
    with pytest.raises(ValueError, match='at most 18 entries'):
        graph.set(make().require())
    with pytest.raises(ValueError, match=r'of shape \[9, 9\]'):
        graph.set(item_knn_graph(torch.randn(8, 3), 2))
