r"""Where the rows of new users and items start, in a student with tables."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_promptmm.models import RankingModel
from torch_promptmm.models.base import Pair
from torch_promptmm.models.tables import TableModel
from torch_promptmm.nn import UserItemGraph, unit_rows


@torch.no_grad()
def start_new_rows(
    student: RankingModel,
    graph: UserItemGraph,
    users: Tensor,
    items: Tensor,
    placed: Pair | None = None,
) -> None:
    r"""Starts the table rows of new users from their items, those of new
    items from where content placed them, or else from their users, each as
    long as the rows of others are,

    .. math::
        \mathbf{e}^{(0)}_u = c \, (\mathbf{R} \mathbf{E}^{(0)}_i)_u, \qquad
        c = \frac{\langle \mathbf{E}^{(0)}_u, \mathbf{R} \mathbf{E}^{(0)}_i
        \rangle}{\| \mathbf{R} \mathbf{E}^{(0)}_i \|^2},

    where :math:`c` is that of the rows that were trained. Rows of what has
    no interaction stay zero.

    Args:
        student (RankingModel): The student.
        graph (UserItemGraph): What is propagated over now.
        users (torch.Tensor): True for new users :math:`(|\mathcal{U}|)`.
        items (torch.Tensor): True for new items :math:`(|\mathcal{I}|)`.
        placed (tuple, optional): Items that content has placed :math:`(n)`,
            and the embeddings :math:`(n, d)` that they had.
            (default: :obj:`None`)
    """
    if not isinstance(student, TableModel):
        return
    user = student.user_embedding.weight
    item = student.item_embedding.weight
    users, items = users.to(user.device), items.to(item.device)
    from_items = graph.user_item.matmul(item)
    _fill(user, from_items, users, graph.user_item.crow.diff() > 0)
    _fill(item, graph.item_user.matmul(torch.where(
        users.view(-1, 1), 0.0, user)), items,
        graph.item_user.crow.diff() > 0)
    if placed is None or placed[0].numel() == 0:
        return
    index, rows = placed[0].to(item.device), placed[1].to(item)
    warm = ~items & (graph.item_user.crow.diff() > 0)
    item[index] = unit_rows(rows, float(item[warm].norm(dim=1).mean()))


def _fill(table: Tensor, propagated: Tensor, new: Tensor,
          warm: Tensor) -> None:
    old, own = propagated[~new & warm], table[~new & warm]
    square = old.square().sum()
    ratio = (own * old).sum() / square.clamp(min=1e-30)
    table[new & warm] = ratio * propagated[new & warm]
