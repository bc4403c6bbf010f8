r"""Wide tables in few columns, and the student that yields them."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_promptmm.checks import check_float, check_int, check_matrix
from torch_promptmm.nn.dense import matmul
from torch_promptmm.nn.feature_matmul import row_slices
from torch_promptmm.nn.graph import UserItemGraph, as_graph
from torch_promptmm.nn.propagation import propagate


@torch.no_grad()
def compress(
    user: Tensor,
    item: Tensor,
    channels: int,
    user_weight: Tensor | None = None,
    item_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Keeps the leading joint directions of a user and an item table,

    .. math::
        \mathbf{C} = \sum_{\mathbf{X} \in \{\mathbf{X}_u, \mathbf{X}_i\}}
        \frac{\mathbf{X}^{\top} \mathbf{D}_X \mathbf{X}}
        {\textrm{tr} \, \mathbf{X}^{\top} \mathbf{D}_X \mathbf{X}} =
        \mathbf{Q} \Lambda \mathbf{Q}^{\top}, \qquad
        (\mathbf{X}_u \mathbf{Q}_d, \, \mathbf{X}_i \mathbf{Q}_d),

    with weights :math:`\mathbf{D}_X` of rows. Each table counts as much as
    the other, whatever their sizes and norms. These are the right singular
    vectors of the two tables, scaled and stacked; dot products change by
    what the directions left out carry. The largest entry of each direction
    is positive, so that the result does not depend on the solver.

    Args:
        user (torch.Tensor): The users' table :math:`(|\mathcal{U}|, w)`.
        item (torch.Tensor): The items' table :math:`(|\mathcal{I}|, w)`.
        channels (int): The number :math:`d` of directions; columns beyond
            :math:`w` are zero.
        user_weight (torch.Tensor, optional): Weights of users
            :math:`(|\mathcal{U}|)`. (default: all the same)
        item_weight (torch.Tensor, optional): Weights of items
            :math:`(|\mathcal{I}|)`. (default: all the same)

    Returns:
        Both tables in the new columns, :math:`(|\mathcal{U}|, d)` and
        :math:`(|\mathcal{I}|, d)`, in single precision at least.
    """
    check_int('channels', channels, 1)
    check_matrix('user', user)
    check_matrix('item', item, user.size(1))
    total = _gram('user', user, user_weight)
    total += _gram('item', item, item_weight)
    vector = torch.linalg.eigh(total).eigenvectors
    vector = vector[:, -channels:].flip(1)
    if vector.numel() > 0:
        largest = vector.abs().argmax(dim=0, keepdim=True)
        vector = vector * vector.gather(0, largest).sign()
    pad = (0, channels - vector.size(1))
    vector = torch.nn.functional.pad(vector, pad)
    return _project(user, vector), _project(item, vector)


def _gram(name: str, x: Tensor, weight: Tensor | None) -> Tensor:
    r""":math:`\mathbf{X}^{\top} \mathbf{D} \mathbf{X}` over its trace, summed
    up in double precision."""
    if weight is not None:
        if (not isinstance(weight, Tensor)
                or list(weight.shape) != [x.size(0)]):
            raise ValueError(
                f"'{name}_weight' must be a tensor of shape [{x.size(0)}] "
                f"(got {getattr(weight, 'shape', weight)})")
        if not bool((weight.isfinite() & (weight >= 0)).all()):
            raise ValueError(f"'{name}_weight' must be finite and not "
                             f"negative")
    wide = torch.promote_types(x.dtype, torch.float)
    out = x.new_zeros(x.size(1), x.size(1), dtype=torch.double)
    for rows in row_slices(x):
        block = x[rows].to(wide)
        if weight is not None:
            block = block * weight[rows].to(block).sqrt().view(-1, 1)
        out += matmul(block.t(), block)
    trace = out.diagonal().sum()
    return out / torch.where(trace > 0, trace, 1.0)


def _project(x: Tensor, vector: Tensor) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float)
    vector = vector.to(wide)
    out = x.new_empty(x.size(0), vector.size(1), dtype=wide)
    for rows in row_slices(x):
        out[rows] = matmul(x[rows].to(wide), vector)
    return out


@torch.no_grad()
def solve_ego(
    graph: UserItemGraph,
    user: Tensor,
    item: Tensor,
    num_layers: int = 2,
    num_steps: int = 50,
    tolerance: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    r"""Finds the ego rows of which given tables are the output of a
    LightGCN,

    .. math::
        p(\mathbf{A}) \, \mathbf{E}^{(0)} = \mathbf{Y}, \qquad
        p(x) = \frac{1}{L + 1} \sum_{l=0}^{L} x^l,

    by conjugate gradients, a column each, all at once. The eigenvalues of
    :math:`\mathbf{A}` lie in :math:`[-1, 1]`. There, for an even :math:`L`,
    :math:`p(x) = (1 - x^{L+1}) / ((L + 1) (1 - x)) > 0`, and with two layers
    :math:`p` is in :math:`[1/4, 1]`: a dozen steps do. For an odd :math:`L`,
    :math:`p(-1) = 0`, and not every table is an output.

    Args:
        graph (UserItemGraph): The normalised graph.
        user (torch.Tensor): The users' output :math:`(|\mathcal{U}|, d)`.
        item (torch.Tensor): The items' output :math:`(|\mathcal{I}|, d)`.
        num_layers (int, optional): :math:`L`, even. (default: :obj:`2`)
        num_steps (int, optional): The most steps that are taken.
            (default: :obj:`50`)
        tolerance (float, optional): Stops where the residual of each column
            is below this share of the column. (default: :obj:`1e-6`)

    Returns:
        The users' and the items' ego rows. :func:`ego_residual` says how
        well they do.

    Raises:
        ValueError: If :obj:`num_layers` is odd.
    """
    weights = _mean_of_layers(num_layers)
    if num_layers % 2 == 1:
        raise ValueError(f"'num_layers' must be even (got {num_layers}): the "
                         f"mean of an odd number of layers and the input "
                         f"loses the eigenvalue -1 of a bipartite graph, so "
                         f"not every table is its output. Use a student of "
                         f"{num_layers + 1} or {num_layers - 1} layers")
    check_int('num_steps', num_steps)
    check_float('tolerance', tolerance)
    graph = _check_tables(graph, user, item)
    sizes = [graph.num_users, graph.num_items]

    def product(x: Tensor) -> Tensor:
        x_user, x_item = x.split(sizes)
        return torch.cat(propagate(graph, x_user, x_item, weights))

    y = torch.cat([user, item])
    x = y.clone()  # Of smooth tables not far from the solution.
    residual = y - product(x)
    direction = residual.clone()
    square = residual.square().sum(dim=0)
    enough = tolerance**2 * y.square().sum(dim=0)
    for _ in range(num_steps):
        if bool((square <= enough).all()):
            break
        image = product(direction)
        curvature = (direction * image).sum(dim=0)
        # A column that is solved has neither, and stays.
        step = torch.where(curvature > 0, square / curvature, 0.0)
        x.addcmul_(step, direction)
        residual.addcmul_(step, image, value=-1.0)
        last, square = square, residual.square().sum(dim=0)
        ratio = torch.where(last > 0, square / last, 0.0)
        direction.mul_(ratio).add_(residual)
    user, item = x.split(sizes)
    return user.clone(), item.clone()


@torch.no_grad()
def ego_residual(
    graph: UserItemGraph,
    ego: tuple[Tensor, Tensor],
    user: Tensor,
    item: Tensor,
    num_layers: int = 2,
) -> float:
    r"""Returns the relative residual :math:`\| p(\mathbf{A})
    \mathbf{E}^{(0)} - \mathbf{Y} \|_F / \| \mathbf{Y} \|_F` of what
    :meth:`solve_ego` found.

    Args:
        graph (UserItemGraph): The normalised graph.
        ego (tuple): The users' and the items' ego rows.
        user (torch.Tensor): The users' output :math:`(|\mathcal{U}|, d)`.
        item (torch.Tensor): The items' output :math:`(|\mathcal{I}|, d)`.
        num_layers (int, optional): :math:`L`. (default: :obj:`2`)
    """
    weights = _mean_of_layers(num_layers)
    graph = _check_tables(graph, user, item)
    out = propagate(graph, ego[0], ego[1], weights)
    wrong = sum(float((a - b).double().square().sum())
                for a, b in zip(out, (user, item), strict=True))
    total = sum(float(x.double().square().sum()) for x in (user, item))
    return (wrong / total)**0.5 if total > 0 else wrong**0.5


def _mean_of_layers(num_layers: int) -> tuple[float, ...]:
    check_int('num_layers', num_layers)
    return (1.0 / (num_layers + 1), ) * (num_layers + 1)


def _check_tables(graph: UserItemGraph, user: Tensor,
                  item: Tensor) -> UserItemGraph:
    check_matrix('user', user)
    check_matrix('item', item, user.size(1))
    return as_graph(graph, user.size(0), item.size(0), user.device,
                    user.dtype)
