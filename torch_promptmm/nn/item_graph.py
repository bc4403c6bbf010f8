r"""Graphs of items whose features are alike."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from torch_promptmm.checks import (
    check_bool,
    check_choice,
    check_int,
    check_mask,
    check_matrix,
)
from torch_promptmm.nn.csr import CSRMatrix
from torch_promptmm.nn.feature_matmul import row_slices
from torch_promptmm.nn.graph_cache import cached_graph
from torch_promptmm.nn.neighbors import (
    NORMS,
    Neighbors,
    nearest_rows,
    normalize_graph,
    to_graph,
)
from torch_promptmm.nn.standard_rows import StandardRows

WEIGHTS = ('cosine', 'binary')


@torch.no_grad()
def item_knn_graph(
    x: Tensor,
    k: int = 10,
    mask: Tensor | None = None,
    loop: bool = True,
    weight: str = 'cosine',
    norm: str | None = 'sym',
    standardize: bool = True,
    cache: str | os.PathLike | None = None,
) -> CSRMatrix:
    r"""Returns the graph in which each item has an edge to the :math:`k`
    items whose features have the largest cosine with its own,

    .. math::
        S_{ij} = \begin{cases} \max(0, \hat{\mathbf{x}}_i^{\top}
        \hat{\mathbf{x}}_j) & j \in \textrm{top-}k(i) \\ 0 & \textrm{else,}
        \end{cases} \qquad
        A_{ij} = \frac{S_{ij}}{\sqrt{d_i d_j}}, \quad d_i = \sum_j S_{ij}.

    Features are standardised column by column, without which a large mean
    makes a few items everybody's neighbours. Similarities are made in blocks
    of rows, never as an :math:`(|\mathcal{I}|, |\mathcal{I}|)` matrix. An
    item without the modality (by the mask, or with a zero row) gets no
    neighbours and is nobody's. Of equal cosines, items with the smaller
    number come first. The graph need not be symmetric.

    Args:
        x (torch.Tensor): Features :math:`(|\mathcal{I}|, d_m)`; the cosines
            are computed in their type, in single precision at least.
        k (int, optional): The number of neighbours. (default: :obj:`10`)
        mask (torch.Tensor, optional): True where the item has the modality
            :math:`(|\mathcal{I}|)`. (default: :obj:`None`)
        loop (bool, optional): If :obj:`True`, an item is the first of its
            own :math:`k` neighbours; else it is none of them.
            (default: :obj:`True`)
        weight (str, optional): :obj:`"cosine"`, or :obj:`"binary"` for
            :math:`S_{ij} \in \{0, 1\}`. (default: :obj:`"cosine"`)
        norm (str, optional): :obj:`"sym"` as above, :obj:`"row"` for
            :math:`S_{ij} / d_i`, or :obj:`None`. (default: :obj:`"sym"`)
        standardize (bool, optional): If :obj:`False`, features are taken as
            they are. (default: :obj:`True`)
        cache (str, optional): A folder that keeps the graph, or
            :obj:`"memory"` for the last few graphs of the process. It is
            found again by a hash of the features and all arguments.
            (default: :obj:`None`)
    """
    check_matrix('x', x)
    if mask is not None:
        check_mask('mask', mask, x.size(0))
    arguments: dict[str, Any] = {
        'k': check_int('k', k, 1),
        'loop': check_bool('loop', loop),
        'weight': check_choice('weight', weight, WEIGHTS),
        'norm': check_choice('norm', norm, NORMS),
        'standardize': check_bool('standardize', standardize),
    }

    def make() -> CSRMatrix:
        like = x.new_empty(0, dtype=torch.promote_types(x.dtype, torch.float))
        rows = StandardRows(x, with_features(x, mask), like,
                            'standardize' if standardize else 'raw')
        index, value = nearest_rows(rows, k, loop)
        if weight == 'binary':
            value = (index >= 0).to(value)
        return normalize_graph(to_graph(Neighbors(index, value), x.size(0)),
                               norm)

    return cached_graph(cache, make, x, mask, arguments)


def with_features(x: Tensor, mask: Tensor | None) -> Tensor:
    r"""Returns which items have a modality: those whose row is not zero, of
    those that the mask admits."""
    # Standardised, zero rows would all be one and the same.
    out = torch.cat([(x[rows] != 0).any(dim=1) for rows in row_slices(x)]
                    or [x.new_zeros(0, dtype=torch.bool)])
    return out if mask is None else out & mask.to(out.device)
