r"""The nearest rows of a table, and sparse graphs made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from torch_promptmm.checks import check_choice
from torch_promptmm.nn.csr import CSRMatrix, compress
from torch_promptmm.nn.dense import matmul
from torch_promptmm.nn.feature_matmul import row_slices
from torch_promptmm.nn.standard_rows import StandardRows

NORMS = ('sym', 'row', None)

_BLOCK_SIZE = 2**24  # Elements of a block of similarities: 64 MiB.


class Neighbors(NamedTuple):
    r"""The best columns of each row, best first. Of two that are equally
    good, the one with the smaller number comes first."""
    index: Tensor  # [n, k], -1 where a row has fewer.
    value: Tensor  # [n, k], 0 there.


def nearest_rows(rows: StandardRows, k: int, loop: bool) -> Neighbors:
    r"""Returns the :math:`k` rows of the largest cosine with each row.

    The similarities of a block of rows are made, cut to their best, and
    forgotten: there is never an :math:`(n, n)` matrix. Zero rows, which the
    mask leaves out or which have no features, get no neighbours, and are
    nobody's.

    Args:
        rows (StandardRows): The :math:`n` unit rows.
        k (int): The number of neighbours.
        loop (bool): If :obj:`True`, a row is the first of its own
            :math:`k` neighbours, with a cosine of one; else it is none.
    """
    num_rows, width = rows.x.shape
    present = torch.cat([
        rows(part).any(dim=1) for part in row_slices(rows.x)
    ] or [rows.like.new_zeros(0, dtype=torch.bool)])
    held = None
    if num_rows * width <= _BLOCK_SIZE:  # Else they are made block by block.
        held = rows(slice(0, num_rows))
    step = max(1, _BLOCK_SIZE // max(num_rows, width, 1))
    out = []
    for start in range(0, num_rows, step):
        block = slice(start, min(start + step, num_rows))
        own = rows(block) if held is None else held[block]
        if held is not None:
            similarity = matmul(own, held.t())
        else:
            similarity = own.new_empty(own.size(0), num_rows)
            for part in row_slices(rows.x):
                similarity[:, part] = matmul(own, rows(part).t())
        similarity[:, ~present] = -torch.inf
        diagonal = similarity.diagonal(block.start)
        diagonal.fill_(torch.inf if loop else -torch.inf)
        similarity[~present[block]] = -torch.inf
        best = top_of_rows(similarity, k)
        best.value.clamp_(max=1.0)
        out.append(best)
    if not out:
        empty = rows.like.new_zeros(0, k)
        return Neighbors(empty.long(), empty)
    return Neighbors(torch.cat([x.index for x in out]),
                     torch.cat([x.value for x in out]))


def top_of_rows(x: Tensor, k: int) -> Neighbors:
    r"""Returns the :math:`k` largest entries of each row that are not
    :math:`-\infty`."""
    index = torch.full((x.size(0), k), -1, device=x.device)
    value = x.new_zeros(x.size(0), k)
    if x.numel() == 0:
        return Neighbors(index, value)
    # Which of equal entries `topk` returns is not said, but the smallest
    # value that it returns is certain.
    last = x.topk(min(k, x.size(1)), dim=1).values[:, -1:]
    row, col = ((x >= last) & (x > -torch.inf)).nonzero().unbind(1)
    found = x[row, col]
    order = found.argsort(descending=True, stable=True)
    order = order[row[order].argsort(stable=True)]
    row, col, found = row[order], col[order], found[order]
    start = torch.searchsorted(row, torch.arange(x.size(0), device=x.device))
    rank = torch.arange(row.numel(), device=x.device) - start[row]
    kept = rank < k
    at = row[kept], rank[kept]
    index[at], value[at] = col[kept], found[kept]
    return Neighbors(index, value)


def to_graph(neighbors: Neighbors, num_cols: int) -> CSRMatrix:
    r"""Returns neighbours of a positive value as a sparse matrix."""
    row, at = ((neighbors.index >= 0) & (neighbors.value > 0)).nonzero(
        as_tuple=True)
    return compress(row, neighbors.index[row, at], neighbors.value[row, at],
                    neighbors.index.size(0), num_cols)


def to_neighbors(matrix: CSRMatrix, k: int) -> Neighbors:
    r"""Returns a sparse matrix of at most :math:`k` entries a row in columns
    of neighbours, in the order in which it has them."""
    row, shape = matrix.row, (matrix.shape[0], k)
    at = torch.arange(matrix.nnz, device=row.device) - matrix.crow[row]
    index = torch.full(shape, -1, device=row.device)
    value = matrix.value.new_zeros(shape)
    index[row, at], value[row, at] = matrix.col.long(), matrix.value
    return Neighbors(index, value)


def normalize_graph(matrix: CSRMatrix, norm: str | None = 'sym') -> CSRMatrix:
    r"""Normalises a square matrix by its row sums :math:`d_i`.

    Args:
        matrix (CSRMatrix): The matrix, of values that are not negative.
        norm (str, optional): :obj:`"sym"` for :math:`a_{ij} / \sqrt{d_i
            d_j}`, in which both are sums of rows, also where the matrix is
            not symmetric; :obj:`"row"` for :math:`a_{ij} / d_i`; or
            :obj:`None`. (default: :obj:`"sym"`)
    """
    if check_choice('norm', norm, NORMS) is None:
        return matrix
    row, col = matrix.row, matrix.col.long()
    degree = matrix.value.new_zeros(matrix.shape[0], dtype=torch.double)
    degree.index_add_(0, row, matrix.value.double())
    safe = torch.where(degree > 0, degree, 1.0)
    if norm == 'row':
        scale = safe.reciprocal()[row]
    else:
        scale = (safe.rsqrt() * (degree > 0))
        scale = scale[row] * scale[col]
    return matrix.with_value((matrix.value * scale).to(matrix.value.dtype))


def combine_graphs(
    graphs: Sequence[CSRMatrix],
    weights: Sequence[float] | None = None,
    reduce: str = 'sum',
) -> CSRMatrix:
    r"""Combines graphs over the union of their edges.

    Args:
        graphs (list of CSRMatrix): Matrices of one shape.
        weights (list of float, optional): A factor for each of them.
            (default: all 1)
        reduce (str, optional): :obj:`"sum"` or :obj:`"max"` of the values
            that an edge has. (default: :obj:`"sum"`)
    """
    check_choice('reduce', reduce, ('sum', 'max'))
    if len({graph.shape for graph in graphs}) != 1:
        raise ValueError(f"'graphs' must have at least one graph, all of one "
                         f"shape (got {[graph.shape for graph in graphs]})")
    if weights is None:
        weights = [1.0] * len(graphs)
    if len(weights) != len(graphs):
        raise ValueError(f"'weights' must have a number for each of the "
                         f"{len(graphs)} graphs (got {len(weights)})")
    num_rows, num_cols = graphs[0].shape
    key, inverse = torch.cat([
        graph.row * num_cols + graph.col.long() for graph in graphs
    ]).unique(return_inverse=True)
    value = torch.cat([weight * graph.value for graph, weight in zip(
        graphs, weights, strict=True)])
    out = value.new_zeros(key.numel())
    if reduce == 'sum':
        out.index_add_(0, inverse, value)
    else:
        out.scatter_reduce_(0, inverse, value, 'amax', include_self=False)
    return compress(key // num_cols, key % num_cols, out, num_rows, num_cols)
