r"""Vectors of users nobody has trained, from the items that they have."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torch_promptmm.nn.functional import unit_rows
from torch_promptmm.serve.lists import ItemLists
from torch_promptmm.serve.tables import table_rows

#: How a new user's vector is made.
FOLD_INS = ('propagate', 'mean')


class FoldIn(NamedTuple):
    r"""What items give to users who come new.

    Attributes:
        rows (torch.Tensor): Of each item :math:`(I, d)`; see
            :meth:`LightGCN.fold_rows()
            <torch_promptmm.models.LightGCN.fold_rows>`.
        unit (torch.Tensor): Whether users' vectors have the length 1, as
            with the score :obj:`"cosine"`; a boolean :math:`()`.
    """
    rows: Tensor
    unit: Tensor

    def users(self, histories: ItemLists, num_users: int) -> Tensor:
        r"""Returns vectors of users :math:`(B, d)`: the sum of the rows of
        their :math:`n` items over :math:`\sqrt{n}`."""
        total, count = sum_rows(self.rows, None, histories, num_users)
        out = total * count.rsqrt().view(-1, 1)
        return unit_rows(out) if bool(self.unit) else out


def sum_rows(table: Tensor, scale: Tensor | None, histories: ItemLists,
             num_users: int) -> tuple[Tensor, Tensor]:
    r"""Sums up the rows of each user's items :math:`(B, d)`, and counts
    them :math:`(B)`."""
    row = histories.row
    assert row is not None
    x = table_rows(table, scale, histories.item)
    out = x.new_zeros(num_users, x.size(1)).index_add_(0, row, x)
    return out, torch.bincount(row, minlength=num_users).to(x.dtype)


def mean_rows(table: Tensor, scale: Tensor | None, histories: ItemLists,
              num_users: int) -> Tensor:
    r"""Returns the mean of the rows of each user's items :math:`(B, d)`."""
    total, count = sum_rows(table, scale, histories, num_users)
    return total / count.view(-1, 1)
