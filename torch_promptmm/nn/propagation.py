r"""The one sparse kernel of the package: a polynomial of the adjacency."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from torch_promptmm.nn.graph import CSRMatrix, UserItemGraph

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
    return_ego: bool = False,
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
        return_ego (bool, optional): If :obj:`True`, the same rows of the
            inputs are returned as well; their gradient goes the same way,
            without a second dense table. (default: :obj:`False`)

    Returns:
        The users' and the items' rows of :math:`\mathbf{Y}`, and, with
        :obj:`return_ego`, those of :math:`\mathbf{X}`.
    """
    user_row, user_back = _distinct('user_id', user_id, graph.num_users)
    item_row, item_back = _distinct('item_id', item_id, graph.num_items)
    # Sparse products are not there in every type that autocast may choose.
    with torch.autocast(x_item.device.type, enabled=False):
        out = _Propagation.apply(x_user, x_item, graph, tuple(weights),
                                 user_row, item_row, return_ego)
    backs = (user_back, item_back) * (2 if return_ego else 1)
    return tuple(
        x if back is None or x is None else x.index_select(0, back)
        for x, back in zip(out, backs, strict=True))


def _distinct(name: str, index: Tensor | None,
              size: int) -> tuple[Tensor | None, Tensor | None]:
    r"""Returns the distinct rows in order, and where each of :obj:`index` is
    among them."""
    if index is None:
        return None, None
    if index.dim() != 1 or index.dtype not in (torch.long, torch.int):
        raise ValueError(f"'{name}' must be a one-dimensional tensor of "
                         f"integers (got shape {list(index.shape)}, "
                         f"{index.dtype})")
    row, back = torch.unique(index, return_inverse=True)
    if row.numel() > 0:
        low, high = int(row[0]), int(row[-1])
        if low < 0 or high >= size:
            raise ValueError(f"'{name}' must be in [0, {size}) (got "
                             f"{low if low < 0 else high})")
    return row, back


class _Propagation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_user: Tensor | None, x_item: Tensor,
                graph: UserItemGraph, weights: tuple[float, ...],
                user_id: Tensor | None, item_id: Tensor | None,
                return_ego: bool) -> tuple[Tensor | None, ...]:
        ctx.graph, ctx.weights = graph, weights
        ctx.save_for_backward(user_id, item_id)
        ctx.has_user = x_user is not None
        ctx.set_materialize_grads(False)

        h_user: Tensor | None = x_user
        h_item: Tensor | None = x_item
        scale = weights[-1]
        for weight in weights[-2:0:-1]:
            h_user, h_item = (
                _step(graph.user_item, h_item, x_user, scale, weight),
                _step(graph.item_user, h_user, x_item, scale, weight),
            )
            scale = 1.0

        ego_user, ego_item = _rows(x_user, user_id), _rows(x_item, item_id)
        if len(weights) == 1:
            out_user = None if ego_user is None else scale * ego_user
            out_item = None if ego_item is None else scale * ego_item
        else:
            out_user = _step(graph.user_item, h_item, ego_user, scale,
                             weights[0], user_id)
            out_item = _step(graph.item_user, h_user, ego_item, scale,
                             weights[0], item_id)
        if out_user is None:  # Nothing reaches the users.
            num_users = graph.num_users if user_id is None else len(user_id)
            out_user = x_item.new_zeros(num_users, x_item.size(1))
        if not return_ego:
            return out_user, out_item
        # Without rows, the inputs themselves would be returned.
        if x_user is not None and user_id is None:
            ego_user = x_user.view_as(x_user)
        if item_id is None:
            ego_item = x_item.view_as(x_item)
        return out_user, out_item, ego_user, ego_item

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_user: Tensor | None, grad_item: Tensor | None,
                 ego_user: Tensor | None = None,
                 ego_item: Tensor | None = None) -> tuple[Any, ...]:
        graph, weights = ctx.graph, ctx.weights
        user_id, item_id = ctx.saved_tensors
        h_user, h_item = grad_user, grad_item
        user_col, item_col = user_id, item_id
        scale = weights[-1]
        for i in range(len(weights) - 2, -1, -1):
            want_user = i > 0 or (ctx.has_user and ctx.needs_input_grad[0])
            want_item = i > 0 or ctx.needs_input_grad[1]
            h_user, h_item = (
                _step_back(graph.user_item, h_item, item_col, grad_user,
                           user_id, scale, weights[i])
                if want_user else None,
                _step_back(graph.item_user, h_user, user_col, grad_item,
                           item_id, scale, weights[i])
                if want_item else None,
            )
            user_col = item_col = None
            scale = 1.0
        if len(weights) == 1:
            h_user = _scatter(grad_user, user_id, graph.num_users, scale)
            h_item = _scatter(grad_item, item_id, graph.num_items, scale)

        out_user = out_item = None
        if ctx.has_user and ctx.needs_input_grad[0]:
            out_user = _scatter(ego_user, user_id, graph.num_users, 1.0,
                                h_user)
        if ctx.needs_input_grad[1]:
            out_item = _scatter(ego_item, item_id, graph.num_items, 1.0,
                                h_item)
        return out_user, out_item, None, None, None, None, None


def _rows(x: Tensor | None, index: Tensor | None) -> Tensor | None:
    return x if x is None or index is None else x.index_select(0, index)


def _step(matrix: CSRMatrix, x: Tensor | None, add: Tensor | None,
          alpha: float, beta: float,
          row: Tensor | None = None) -> Tensor | None:
    r""":math:`\alpha M x + \beta \, add`, where missing inputs are zero;
    only :obj:`row` of it, :obj:`add` being these rows already."""
    if x is None:
        return None if add is None else beta * add
    if beta == 0.0:
        add = None
    if row is None:
        return matrix.matmul(x, add, alpha, beta)
    if _share(matrix, row) < _RESTRICT_BELOW:
        return matrix.select_rows(row).matmul(x, add, alpha, beta)
    out = matrix.matmul(x, None, alpha).index_select(0, row)
    return out if add is None else out.add_(add, alpha=beta)


def _step_back(matrix: CSRMatrix, grad: Tensor | None, col: Tensor | None,
               add: Tensor | None, add_row: Tensor | None, alpha: float,
               beta: float) -> Tensor | None:
    r"""The same, where :obj:`grad` holds the rows :obj:`col` of a matrix
    that is zero elsewhere, and :obj:`add` the rows :obj:`add_row`."""
    if grad is None:
        return _scatter(add, add_row, matrix.shape[0], beta)
    if col is not None:
        if col.numel() < _RESTRICT_BELOW * matrix.shape[1]:
            matrix = matrix.select_cols(col)
        else:
            grad = _scatter(grad, col, matrix.shape[1], 1.0)
    assert grad is not None
    if add_row is None and add is not None and beta != 0.0:
        return matrix.matmul(grad, add, alpha, beta)
    out = matrix.matmul(grad, None, alpha)
    return out if beta == 0.0 else _scatter(add, add_row, matrix.shape[0],
                                            beta, out)


def _scatter(x: Tensor | None, row: Tensor | None, size: int, alpha: float,
             out: Tensor | None = None) -> Tensor | None:
    r"""Adds :math:`\alpha x` to the rows :obj:`row` of :obj:`out`."""
    if x is None:
        return out
    if row is None:
        return alpha * x if out is None else out.add_(x, alpha=alpha)
    if out is None:
        out = x.new_zeros(size, x.size(1))
    return out.index_add_(0, row, x, alpha=alpha)


def _share(matrix: CSRMatrix, row: Tensor) -> float:
    r"""An estimate of the share of the non-zeros that rows hold, without
    waiting for the device."""
    if matrix.crow.is_cuda:
        return row.numel() / max(matrix.shape[0], 1)
    count = matrix.crow[row + 1] - matrix.crow[row]
    return float(count.sum()) / max(matrix.nnz, 1)
