from __future__ import annotations

import pytest
import torch
from graphs import NUM_ITEMS, NUM_USERS, random_edges, to_graph
from torch.utils import _pytree as pytree

from torch_promptmm.nn import csr as csr_module
from torch_promptmm.nn.csr import CSRMatrix


def dense(matrix: CSRMatrix) -> torch.Tensor:
    return matrix.tensor.to_dense().double()


def test_rows_and_columns() -> None:
    matrix = to_graph(random_edges()).user_item
    rows = torch.tensor([5, 3, 0, 5])
    assert torch.equal(dense(matrix.select_rows(rows)), dense(matrix)[rows])
    none = torch.empty(0, dtype=torch.long)
    assert matrix.select_rows(none).shape == (0, NUM_ITEMS)
    # Columns 10, 2 and 7 are the first three, all others are the last one.
    name = torch.full((NUM_ITEMS, ), 3, dtype=torch.int32)
    cols = torch.tensor([10, 2, 7])
    name[cols] = torch.arange(3, dtype=torch.int32)
    renamed = matrix.rename_cols(name, 4)
    assert renamed.shape == (NUM_USERS, 4)
    x = torch.cat([torch.randn(3, 2), torch.zeros(1, 2)])
    torch.testing.assert_close(renamed.matmul(x),
                               dense(matrix).float()[:, cols] @ x[:3])


def test_matmul() -> None:
    matrix = to_graph(random_edges()).user_item
    x, add = torch.randn(NUM_ITEMS, 3), torch.randn(NUM_USERS, 3)
    want = dense(matrix).float() @ x
    assert torch.allclose(matrix.matmul(x), want, atol=1e-6)
    assert torch.allclose(matrix.matmul(x, add, 3.0), want + 3 * add,
                          atol=1e-6)


@pytest.mark.parametrize('channels', [1, 7, 64, 65])
def test_bags_equal_the_sparse_product(channels: int, monkeypatch) -> None:
    for matrix in (to_graph(random_edges()).user_item,
                   to_graph(random_edges()).item_user,
                   to_graph(random_edges()[:, :0]).user_item):
        x = torch.randn(matrix.shape[1], channels, requires_grad=True)
        add = torch.randn(matrix.shape[0], channels)
        have = matrix.matmul(x), matrix.matmul(x, add, 0.5)
        assert not have[0].requires_grad
        with monkeypatch.context() as patch, torch.no_grad():
            patch.setattr(csr_module, '_sums_bags', lambda x: False)
            want = matrix.matmul(x), matrix.matmul(x, add, 0.5)
        for a, b in zip(have, want, strict=True):
            torch.testing.assert_close(a, b)


def test_is_a_pytree() -> None:
    matrix = to_graph(random_edges()).user_item
    leaves, spec = pytree.tree_flatten(matrix)
    assert len(leaves) == 3
    back = pytree.tree_unflatten(leaves, spec)
    assert back.shape == (NUM_USERS, NUM_ITEMS)
    assert torch.equal(dense(back), dense(matrix))
    assert pytree.treespec_loads(pytree.treespec_dumps(spec)) == spec


def test_the_tensor_is_where_the_values_are() -> None:
    matrix = to_graph(random_edges()).user_item
    with torch.device('meta'):
        assert matrix.tensor.device == matrix.value.device
