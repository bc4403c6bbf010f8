r"""The one sparse kernel of the package: a polynomial of the adjacency."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from torch_promptmm.checks import check_range
from torch_promptmm.nn.csr import CSRMatrix, is_exporting
from torch_promptmm.nn.functional import add_rows_
from torch_promptmm.nn.graph import UserItemGraph

# Restricting the last product to the rows of the batch pays if they hold
# less than this share of the non-zeros.
_RESTRICT_BELOW = 0.7


def propagate(
    graph: UserItemGraph,
    x_user: Tensor | None,
    x_item: Tensor,
    weights: tuple[float, ...],
    user_id: Tensor | None = None,
    item_id: Tensor | None = None,
    num_ego: int = 0,
) -> tuple[Tensor, ...]:
    r"""Computes rows of a polynomial of the normalised adjacency,

    .. math::
        \begin{pmatrix} \mathbf{Y}_u \\ \mathbf{Y}_i \end{pmatrix} =
        \sum_{l=0}^{L} w_l \, \mathbf{A}^l
        \begin{pmatrix} \mathbf{X}_u \\ \mathbf{X}_i \end{pmatrix}.

    It is evaluated by Horner's rule, :math:`w_0 \mathbf{X} + \mathbf{A}
    (w_1 \mathbf{X} + \mathbf{A}(\ldots))`, so that no layer's output is
    kept. Since :math:`\mathbf{A}` is symmetric, the backward pass is the
    same polynomial of the gradient. Where rows are given, the last product
    of the forward pass and the first one of the backward pass are
    restricted to them; both are exact.

    Args:
        graph (UserItemGraph): The normalised graph.
        x_user (torch.Tensor or None): Users' inputs
            :math:`(|\mathcal{U}|, d)`; :obj:`None` stands for zeros.
        x_item (torch.Tensor): Items' inputs :math:`(|\mathcal{I}|, d)`.
        weights (tuple of float): :math:`w_0, \ldots, w_L`.
        user_id (torch.Tensor, optional): The users wanted; repeats are
            allowed. (default: all)
        item_id (torch.Tensor, optional): The items wanted. (default: all)
        num_ego (int, optional): If not 0, the same rows of the inputs are
            returned as well, of all users and of so many of the items, from
            the first (of all, where :obj:`item_id` is :obj:`None`); their
            gradient goes the same way, without a second dense table.
            (default: :obj:`0`)

    Returns:
        The users' and the items' rows of :math:`\mathbf{Y}`, and, with
        :obj:`num_ego`, those of :math:`\mathbf{X}`.
    """
    sizes = (graph.num_users if x_user is None else x_user.size(0),
             x_item.size(0))
    if sizes != (graph.num_users, graph.num_items):
        raise ValueError(f"'x_user' and 'x_item' must have a row for each of "
                         f"the {graph.num_users} users and {graph.num_items} "
                         f"items of the graph (got {list(sizes)})")
    if is_exporting() and (user_id is not None or item_id is not None):
        return _propagate_all(graph, x_user, x_item, weights, user_id,
                              item_id, num_ego)
    # A common factor is put in where there are the fewest rows.
    while len(weights) > 1 and weights[-1] == 0.0:
        weights = weights[:-1]
    factor = weights[-1]
    if factor != 0.0:
        weights = tuple(weight / factor for weight in weights)
    user = _select('user_id', user_id, graph.num_users)
    item = _select('item_id', item_id, graph.num_items)
    # Sparse products are not there in every type that autocast may choose.
    # Exported programs with a context that changes nothing cannot be saved.
    device = x_item.device.type
    with (torch.autocast(device, enabled=False)
          if torch.is_autocast_enabled(device) else nullcontext()):
        out = _Propagation.apply(x_user, x_item, graph, weights,
                                 factor, user, item, num_ego)
    return out if num_ego else out[:2]


def _propagate_all(
    graph: UserItemGraph,
    x_user: Tensor | None,
    x_item: Tensor,
    weights: tuple[float, ...],
    user_id: Tensor | None,
    item_id: Tensor | None,
    num_ego: int,
) -> tuple[Tensor, ...]:
    r"""Computes all rows and takes those that are wanted. An exported
    program knows nothing of the ids, not even how many are distinct."""
    ids = [user_id, item_id]
    out: list[Any] = [*propagate(graph, x_user, x_item, weights)]
    if num_ego > 0:
        ids += [user_id, None if item_id is None else item_id[:num_ego]]
        out += [x_user, x_item]
    return tuple(x if x is None or index is None else x.index_select(0, index)
                 for x, index in zip(out, ids, strict=True))


class _Selection(NamedTuple):
    r"""Rows to compute, some of them perhaps asked for several times."""
    asked: Tensor  # As they were asked for.
    row: Tensor  # The distinct ones among them, sorted.
    name: Tensor  # Of each row of the table, its number among those, or n.
    back: Tensor  # asked == row[back]

    def first(self, num: int) -> _Selection:
        r"""The same rows, the first few of them asked for."""
        return self._replace(asked=self.asked[:num], back=self.back[:num])

    def collect(self, grad: Tensor) -> Tensor:
        r"""Adds up the gradients of equal rows. A row of zeros follows, for
        all rows that were not asked for."""
        out = grad.new_zeros(self.row.numel() + 1, grad.size(1))
        return add_rows_(out, self.back, grad)


def _select(name: str, index: Tensor | None,
            size: int) -> _Selection | None:
    if index is None:
        return None
    if index.dim() != 1 or index.dtype not in (torch.long, torch.int):
        raise ValueError(f"'{name}' must be a one-dimensional tensor of "
                         f"integers (got shape {list(index.shape)}, "
                         f"{index.dtype})")
    check_range(name, index, size, name.removesuffix('_id'))
    index = index.long()
    wanted = torch.zeros(size, dtype=torch.bool, device=index.device)
    row = wanted.index_fill_(0, index, True).nonzero().view(-1)
    names = torch.full((size, ), row.numel(), dtype=torch.int32,
                       device=index.device)
    names[row] = torch.arange(row.numel(), dtype=torch.int32,
                              device=index.device)
    return _Selection(index, row, names, names.index_select(0, index).long())


class _Propagation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_user: Tensor | None, x_item: Tensor,
                graph: UserItemGraph, weights: tuple[float, ...],
                factor: float, user: _Selection | None,
                item: _Selection | None,
                num_ego: int) -> tuple[Tensor | None, ...]:
        ctx.graph, ctx.weights, ctx.factor = graph, weights, factor
        ctx.user, ctx.item = user, item
        ctx.has_user = x_user is not None
        ctx.set_materialize_grads(False)

        h_user: Tensor | None = x_user
        h_item: Tensor | None = x_item
        for weight in weights[-2:0:-1]:
            h_user, h_item = (
                _step(graph.user_item, h_item, x_user, weight),
                _step(graph.item_user, h_user, x_item, weight),
            )
        if len(weights) == 1:
            out_user, out_item = [
                None if x is None else factor * x
                for x in (_rows(x_user, user), _rows(x_item, item))
            ]
        else:
            out_user = _last_step(graph.user_item, h_item, x_user, weights[0],
                                  factor, user)
            out_item = _last_step(graph.item_user, h_user, x_item, weights[0],
                                  factor, item)
        if out_user is None:  # Nothing reaches the users.
            num_users = graph.num_users if user is None else len(user.asked)
            out_user = x_item.new_zeros(num_users, x_item.size(1))
        if num_ego == 0:
            return out_user, out_item, None, None
        ego_user = _rows(x_user, user)
        if item is not None:
            item = item.first(num_ego)
        ctx.ego_item, ego_item = item, _rows(x_item, item)
        if user is None and x_user is not None:  # Not the inputs themselves.
            ego_user = x_user.view_as(x_user)
        if item is None:
            ego_item = x_item.view_as(x_item)
        return out_user, out_item, ego_user, ego_item

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_user: Tensor | None, grad_item: Tensor | None,
                 ego_user: Tensor | None,
                 ego_item: Tensor | None) -> tuple[Any, ...]:
        graph, weights, user, item = (ctx.graph, ctx.weights, ctx.user,
                                      ctx.item)
        want_user = ctx.has_user and ctx.needs_input_grad[0]
        want_item = ctx.needs_input_grad[1]
        add_user = h_user = _collect(grad_user, user, ctx.factor)
        add_item = h_item = _collect(grad_item, item, ctx.factor)
        for i in range(len(weights) - 2, -1, -1):
            first = i == len(weights) - 2
            h_user, h_item = (
                _step_back(graph.user_item, h_item, item if first else None,
                           add_user, user, weights[i])
                if i > 0 or want_user else None,
                _step_back(graph.item_user, h_user, user if first else None,
                           add_item, item, weights[i])
                if i > 0 or want_item else None,
            )
        if len(weights) == 1:
            h_user = _add(None, add_user, user, graph.num_users)
            h_item = _add(None, add_item, item, graph.num_items)
        return (
            _add(h_user, _collect(ego_user, user), user, graph.num_users)
            if want_user else None,
            _add(h_item, None if ego_item is None else
                 _collect(ego_item, ctx.ego_item), item, graph.num_items)
            if want_item else None, None, None, None, None, None, None)


def _rows(x: Tensor | None, select: _Selection | None) -> Tensor | None:
    if x is None or select is None:
        return x
    return x.index_select(0, select.asked)


def _collect(grad: Tensor | None, select: _Selection | None,
             factor: float = 1.0) -> Tensor | None:
    if grad is not None and factor != 1.0:
        grad = factor * grad
    return grad if grad is None or select is None else select.collect(grad)


def _step(matrix: CSRMatrix, x: Tensor | None, add: Tensor | None,
          beta: float) -> Tensor | None:
    r""":math:`M x + \beta \, add`, where missing inputs are zero."""
    if x is None:
        return None if add is None else beta * add
    return matrix.matmul(x, add if beta != 0.0 else None, beta)


def _last_step(matrix: CSRMatrix, x: Tensor | None, add: Tensor | None,
               beta: float, factor: float,
               select: _Selection | None) -> Tensor | None:
    r"""The selected rows of it, times :obj:`factor`."""
    if select is None:
        out = _step(matrix, x, add, beta)
        return out if out is None or factor == 1.0 else out.mul_(factor)
    row = select.row
    add = None if add is None else add.index_select(0, row)
    if x is not None and _share(matrix, row) >= _RESTRICT_BELOW:
        out = matrix.matmul(x).index_select(0, row)
        out = out if add is None else out.add_(add, alpha=beta)
    else:
        matrix = matrix if x is None else matrix.select_rows(row)
        out = _step(matrix, x, add, beta)
    if out is None:
        return None
    out = out if factor == 1.0 else out.mul_(factor)
    return out.index_select(0, select.back)


def _step_back(matrix: CSRMatrix, grad: Tensor | None,
               select: _Selection | None, add: Tensor | None,
               add_select: _Selection | None,
               beta: float) -> Tensor | None:
    r"""The same, where :obj:`grad` and :obj:`add` hold the selected rows; all
    other rows are zero."""
    if grad is None:
        return _add(None, add, add_select, matrix.shape[0], beta)
    if select is not None:
        if select.row.numel() < _RESTRICT_BELOW * matrix.shape[1]:
            matrix = matrix.rename_cols(select.name, grad.size(0))
        else:
            grad = cast(Tensor, _add(None, grad, select, matrix.shape[1]))
    out = matrix.matmul(grad)
    return out if beta == 0.0 else _add(out, add, add_select,
                                        matrix.shape[0], beta)


def _add(out: Tensor | None, x: Tensor | None, select: _Selection | None,
         size: int, alpha: float = 1.0) -> Tensor | None:
    r"""Adds :math:`\alpha x`, the selected rows, to :obj:`out`."""
    if x is None:
        return out
    if select is None:
        return alpha * x if out is None else out.add_(x, alpha=alpha)
    if out is None:
        out = x.new_zeros(size, x.size(1))
    x = x[:-1] if alpha == 1.0 else alpha * x[:-1]
    return add_rows_(out, select.row, x)


def _share(matrix: CSRMatrix, row: Tensor) -> float:
    r"""Estimates which share of the non-zeros the rows hold, without waiting
    for the device."""
    if matrix.crow.is_cuda:
        return row.numel() / max(matrix.shape[0], 1)
    count = matrix.crow[row + 1] - matrix.crow[row]
    return float(count.sum()) / max(matrix.nnz, 1)
