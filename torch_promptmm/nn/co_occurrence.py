r"""Graphs of items that users share, and of users that items share."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from torch_promptmm.checks import check_bool, check_choice, check_int
from torch_promptmm.nn.csr import CSRMatrix
from torch_promptmm.nn.graph import UserItemGraph
from torch_promptmm.nn.neighbors import (
    NORMS,
    Neighbors,
    normalize_graph,
    to_graph,
    top_of_rows,
)

_BLOCK_SIZE = 2**23  # Elements of a block, in double precision.
_MOST_PATHS = 2**22  # Paths that are added up at a time.


@torch.no_grad()
def co_occurrence_graph(
    graph: UserItemGraph,
    k: int = 10,
    side: str = 'item',
    weighted: bool = True,
    max_degree: int | None = None,
    norm: str | None = 'sym',
) -> CSRMatrix:
    r"""Returns the graph in which each item has an edge to the :math:`k`
    items that it shares the most users with,

    .. math::
        C_{ij} = \sum_{u \in \mathcal{N}(i) \cap \mathcal{N}(j)}
        \frac{1}{|\mathcal{N}(u)|}, \qquad i \neq j,

    or, with :obj:`side="user"`, the same of users that share items. A weight
    of one over its degree keeps a user with many interactions, each of which
    says little, from filling the graph. Products are made in blocks of rows.
    Of equal counts, the smaller number comes first.

    Args:
        graph (UserItemGraph): The interactions. Each counts once, whatever
            its weight.
        k (int, optional): The number of neighbours. (default: :obj:`10`)
        side (str, optional): :obj:`"item"` or :obj:`"user"`.
            (default: :obj:`"item"`)
        weighted (bool, optional): If :obj:`False`, shared nodes are counted,
            each as one. (default: :obj:`True`)
        max_degree (int, optional): Leaves out shared nodes of more
            interactions than this. (default: :obj:`None`)
        norm (str, optional): See :func:`item_knn_graph`.
            (default: :obj:`"sym"`)
    """
    check_int('k', k, 1)
    check_choice('side', side, ('item', 'user'))
    check_bool('weighted', weighted)
    check_choice('norm', norm, NORMS)
    there, back = graph.user_item, graph.item_user
    if side == 'item':
        there, back = back, there
    degree = back.crow.diff().long()
    weight = degree.clamp(min=1).double().reciprocal()
    weight = weight if weighted else torch.ones_like(weight)
    if max_degree is not None:
        wanted = degree <= check_int('max_degree', max_degree, 1)
        degree, weight = degree * wanted, weight * wanted
    num_nodes = there.shape[0]
    # Paths i -> u -> j by their first edge.
    row, count = there.row, degree[there.col.long()]
    paths = count.new_zeros(num_nodes).index_add_(0, row, count)
    out = [
        _block(there, back, row, count, weight, start, stop, k)
        for start, stop in _blocks(paths, max(1, _BLOCK_SIZE // num_nodes))
    ]
    neighbors = Neighbors(torch.cat([x.index for x in out]),
                          torch.cat([x.value for x in out]).to(graph.dtype))
    return normalize_graph(to_graph(neighbors, num_nodes), norm)


def _blocks(paths: Tensor, most_rows: int) -> Iterator[tuple[int, int]]:
    total = paths.cumsum(0)
    start, num_rows = 0, paths.numel()
    while start < num_rows:
        before = int(total[start - 1]) if start > 0 else 0
        stop = int(torch.searchsorted(total, before + _MOST_PATHS,
                                      right=True))
        stop = min(max(stop, start + 1), start + most_rows, num_rows)
        yield start, stop
        start = stop


def _block(there: CSRMatrix, back: CSRMatrix, row: Tensor, count: Tensor,
           weight: Tensor, start: int, stop: int, k: int) -> Neighbors:
    r"""The neighbours of the rows from :obj:`start` to :obj:`stop`."""
    num_nodes = there.shape[0]
    entries = slice(int(there.crow[start]), int(there.crow[stop]))
    middle, count = there.col[entries].long(), count[entries]
    num_paths = int(count.sum())
    # The entries of `back` in the row of each middle node.
    first = back.crow[middle].long() - count.cumsum(0) + count
    index = first.repeat_interleave(count, output_size=num_paths)
    index += torch.arange(num_paths, device=index.device)
    flat = ((row[entries] - start) * num_nodes).repeat_interleave(
        count, output_size=num_paths)
    flat += back.col[index].long()
    out = weight.new_zeros((stop - start) * num_nodes)
    out.scatter_add_(0, flat, weight[middle].repeat_interleave(
        count, output_size=num_paths))
    # Sums that differ by the order of their terms alone become equal.
    shared = out.view(stop - start, num_nodes).float()
    shared.masked_fill_(shared == 0, -torch.inf)
    shared.diagonal(start).fill_(-torch.inf)
    return top_of_rows(shared, k)
