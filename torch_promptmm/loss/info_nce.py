from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_promptmm.checks import (
    check_bool,
    check_float,
    check_ids,
    check_matrix,
)
from torch_promptmm.loss.score import check_one_shape
from torch_promptmm.nn.dense import matmul
from torch_promptmm.nn.functional import unit_rows


class InfoNCE(torch.nn.Module):
    r"""The contrastive loss of `"Representation Learning with Contrastive
    Predictive Coding" <https://arxiv.org/abs/1807.03748>`_: each row of
    :math:`\mathbf{A}` is to find its partner among the rows of
    :math:`\mathbf{B}`,

    .. math::
        \mathcal{L} = - \frac{1}{B} \sum_b \log \frac{\exp(\mathbf{a}_b
        \cdot \mathbf{b}_b / \tau)}{\sum_{k \in \mathcal{N}_b \cup \{b\}}
        \exp(\mathbf{a}_b \cdot \mathbf{b}_k / \tau)}.

    Rows are divided by their L2 norm first. :math:`\mathcal{N}_b` are all
    other rows, or, with ids, those that share none with row :math:`b`: a user
    who is in a batch twice is no negative of itself. It is computed in log
    space, in single precision at least.

    Args:
        temperature (float, optional): :math:`\tau`. (default: :obj:`0.2`)
        normalize (bool, optional): If :obj:`False`, rows are taken as they
            are. (default: :obj:`True`)
        symmetric (bool, optional): If :obj:`True`, the mean of both
            directions: the rows of :math:`\mathbf{B}` are to find theirs in
            :math:`\mathbf{A}` as well. (default: :obj:`False`)

    Shapes:
        - **input:** two tables :math:`(B, d)` whose rows belong together
          and, optionally, ids :math:`(B)`
        - **output:** a scalar, zero where there is no row
    """
    def __init__(self, temperature: float = 0.2, normalize: bool = True,
                 symmetric: bool = False) -> None:
        super().__init__()
        self.temperature = check_float('temperature', temperature,
                                       exclusive=True)
        self.normalize = check_bool('normalize', normalize)
        self.symmetric = check_bool('symmetric', symmetric)

    def forward(self, anchor: Tensor, positive: Tensor,
                *ids: Tensor) -> Tensor:
        r"""Runs the forward pass.

        Args:
            anchor (torch.Tensor): :math:`\mathbf{A}` :math:`(B, d)`.
            positive (torch.Tensor): :math:`\mathbf{B}` :math:`(B, d)`.
            *ids (torch.Tensor): What the rows are of :math:`(B)`, such as
                users, or users and items of interactions. Rows that have one
                of these in common are no negatives of each other.
        """
        check_matrix('anchor', anchor)
        check_matrix('positive', positive)
        check_one_shape('anchor', anchor, 'positive', positive)
        logits = self._logits(anchor, positive)
        if ids:
            same = torch.zeros_like(logits, dtype=torch.bool)
            for index in ids:
                _check_index('ids', index, anchor)
                same |= index.view(-1, 1) == index
            logits = logits.masked_fill(same.fill_diagonal_(False),
                                        float('-inf'))
        target = torch.arange(anchor.size(0), device=anchor.device)
        value = _cross_entropy(logits, target)
        if self.symmetric:
            value = (value + _cross_entropy(logits.t(), target)) / 2
        return value

    def of_table(self, anchor: Tensor, table: Tensor,
                 index: Tensor) -> Tensor:
        r"""The same of a batch of rows against a whole table: all rows of
        the table but one's own are negatives.

        Args:
            anchor (torch.Tensor): Rows :math:`(B, d)`.
            table (torch.Tensor): The rows of all nodes :math:`(N, d)`.
            index (torch.Tensor): Which node each row is to find
                :math:`(B)`.
        """
        check_matrix('anchor', anchor)
        check_matrix('table', table, anchor.size(1))
        _check_index('index', index, anchor)
        check_ids('index', index, table.size(0), 'node')
        if self.symmetric:
            raise ValueError("'symmetric' must be False where a table is "
                             "searched: its rows have no partner each")
        return _cross_entropy(self._logits(anchor, table), index.long())

    def _logits(self, a: Tensor, b: Tensor) -> Tensor:
        # Norms and logarithms of sums leave the range of half precision.
        wide = torch.promote_types(a.dtype, torch.float)
        a, b = a.to(wide), b.to(wide)
        if self.normalize:
            a, b = unit_rows(a, 1.0 / self.temperature), unit_rows(b)
        else:
            a = a / self.temperature
        return matmul(a, b.t()).to(wide)

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}(temperature={self.temperature}, '
                f'normalize={self.normalize}, symmetric={self.symmetric})')


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    total = F.cross_entropy(logits, target, reduction='sum')
    return total / max(target.numel(), 1)


def _check_index(name: str, index: Tensor, rows: Tensor) -> None:
    if not isinstance(index, Tensor):
        raise TypeError(f"'{name}' must be a torch.Tensor (got "
                        f"'{type(index).__name__}')")
    if index.shape != rows.shape[:1] or index.is_floating_point():
        raise ValueError(f"'{name}' must hold an integer for each of the "
                         f"{rows.size(0)} rows (got shape "
                         f"{list(index.shape)}, {index.dtype})")
