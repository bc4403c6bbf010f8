r"""The sparse forms of an adjacency that PyG knows, read in one place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.typing import SparseTensor


def is_sparse(adj: Any) -> bool:
    r"""Whether :obj:`adj` is a :obj:`torch.sparse` matrix or a
    :class:`torch_sparse.SparseTensor`."""
    return isinstance(adj, SparseTensor) or (isinstance(adj, Tensor)
                                             and adj.layout != torch.strided)


def sparse_to_coo(
    name: str,
    adj: Any,
) -> tuple[Tensor, Tensor | None, tuple[int, int]]:
    r"""Returns the entries of a sparse matrix :math:`(2, nnz)`, row by row,
    their values and the shape of the matrix.

    Entries that are repeated in compressed rows stay as they are; a matrix
    in :obj:`torch.sparse_coo` layout adds them up.

    Args:
        name (str): The argument.
        adj (torch.Tensor or SparseTensor): The matrix, see
            :func:`is_sparse`.
    """
    if isinstance(adj, SparseTensor):
        row, col, value = adj.coo()
        return (torch.stack([row, col]), value,
                (int(adj.size(0)), int(adj.size(1))))
    if adj.dim() != 2:
        raise ValueError(f"'{name}' must be a matrix (got shape "
                         f"{list(adj.shape)})")
    adj = adj.detach()
    if adj.layout == torch.sparse_coo:
        coo = adj.coalesce()
        index, value = coo.indices(), coo.values()
    else:
        coo = adj.to_sparse_coo()
        index, value = coo._indices(), coo._values()  # Not added up.
    return index, value, (adj.size(0), adj.size(1))
