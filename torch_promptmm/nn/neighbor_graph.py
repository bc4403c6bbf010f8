from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torch_promptmm.checks import check_int
from torch_promptmm.nn.csr import CSRMatrix
from torch_promptmm.nn.weighted_csr import spmm

Made = tuple[tuple[Tensor, int], ...]


class NeighborGraph(torch.nn.Module):
    r"""A fixed graph of items, or of users, as part of a model's state,

    .. math::
        \mathbf{Y} = \mathbf{A} \mathbf{X},

    with a gradient for :math:`\mathbf{X}`. It is kept in buffers whose size
    does not depend on the number of edges, so that a state fits into every
    model of the same configuration; its transpose, which the backward pass
    needs, is made anew.

    Args:
        num_nodes (int): The number :math:`n` of nodes.
        num_neighbors (int): The most edges that a node has on average.

    Shapes:
        - **input:** :math:`(n, d)`
        - **output:** :math:`(n, d)`
    """
    crow: Tensor
    col: Tensor
    value: Tensor

    def __init__(self, num_nodes: int, num_neighbors: int) -> None:
        super().__init__()
        self.num_nodes = check_int('num_nodes', num_nodes, 1)
        self.num_neighbors = check_int('num_neighbors', num_neighbors, 1)
        size = num_nodes * num_neighbors
        # Row pointers of -1 say that there is no graph yet.
        self.register_buffer(
            'crow', torch.full((num_nodes + 1, ), -1, dtype=torch.int32))
        self.register_buffer('col', torch.zeros(size, dtype=torch.int32))
        self.register_buffer('value', torch.zeros(size))
        self._made_of: Made = ()
        self._matrix: CSRMatrix | None = None

    @property
    def matrix(self) -> CSRMatrix | None:
        r"""The graph, or :obj:`None` if there is none yet."""
        # The buffers change whenever a state is loaded, a best epoch is
        # restored or the module moves. Their versions tell.
        buffers = (self.crow, self.col, self.value)
        if not unchanged(buffers, self._made_of):
            self._matrix = None
            if int(self.crow[0]) >= 0:
                size = int(self.crow[-1])
                self._matrix = CSRMatrix(self.crow, self.col[:size],
                                         self.value[:size], self.num_nodes)
            self._made_of = versions(buffers)
        return self._matrix

    def __getstate__(self) -> dict[str, Any]:
        # What is derived is made again, for copies too.
        return {**self.__dict__, '_made_of': (), '_matrix': None}

    def set(self, matrix: CSRMatrix) -> None:
        r"""Takes a graph.

        Args:
            matrix (CSRMatrix): The square matrix :math:`\mathbf{A}`.
        """
        want = (self.num_nodes, self.num_nodes)
        if matrix.shape != want or matrix.nnz > self.col.numel():
            raise ValueError(f"'matrix' must be of shape {list(want)} with "
                             f"at most {self.col.numel()} entries (got "
                             f"{list(matrix.shape)} with {matrix.nnz})")
        self.crow.copy_(matrix.crow)
        for buffer, given in ((self.col, matrix.col),
                              (self.value, matrix.value)):
            buffer.zero_()
            buffer[:matrix.nnz] = given

    def require(self) -> CSRMatrix:
        r"""Returns the graph, or raises a :obj:`ValueError` if there is none
        yet."""
        matrix = self.matrix
        if matrix is None:
            raise ValueError("The model has no graph of its items yet: give "
                             "it the features ('from_data', 'set_features' "
                             "or 'fit')")
        return matrix

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.require()
        return spmm(matrix, matrix.value, x)

    def __repr__(self) -> str:
        nnz = 0 if self.matrix is None else self.matrix.nnz
        return (f'{self.__class__.__name__}({self.num_nodes}, '
                f'num_neighbors={self.num_neighbors}, num_edges={nnz})')


def versions(buffers: Sequence[Tensor]) -> Made:
    r"""Returns what tells whether tensors have changed since."""
    return tuple((x, x._version) for x in buffers)


def unchanged(buffers: Sequence[Tensor], made_of: Made) -> bool:
    r"""Whether tensors are those of :func:`versions`, and as they were."""
    return len(made_of) == len(buffers) and all(
        x is made and x._version == version
        for x, (made, version) in zip(buffers, made_of, strict=True))
