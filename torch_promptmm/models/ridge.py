r"""Rows for items that have none of their own, from their content."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from torch_promptmm.checks import check_float, check_matrix
from torch_promptmm.nn.functional import checked_masks
from torch_promptmm.nn.standard_rows import StandardRows

_BLOCK_SIZE = 2**22  # Elements of a block: 32 MiB in double precision.


@torch.no_grad()
def ridge_rows(
    features: Mapping[str, Tensor],
    masks: Mapping[str, Tensor] | None,
    rows: Tensor,
    weight: Tensor,
    l2: float = 30.0,
) -> Tensor:
    r"""Predicts embeddings of items from their content, by a weighted ridge
    regression with an intercept,

    .. math::
        \min_{\mathbf{W}, \mathbf{b}} \sum_i c_i \left\| \mathbf{e}_i -
        \mathbf{W}^{\top} \mathbf{z}_i - \mathbf{b} \right\|^2 + \lambda
        \bar{c} \, \| \mathbf{W} \|^2, \qquad
        \mathbf{z}_i = \big\Vert_m \sqrt{d_m} \, \hat{\mathbf{x}}^m_i,

    where :math:`\hat{\mathbf{x}}^m_i` are the rows of
    :class:`~torch_promptmm.nn.standard_rows.StandardRows`, several
    modalities stand side by side, and :math:`\bar{c}` is the mean of the
    weights. It is solved by the normal equations in double precision; the
    features are read in blocks of rows, twice, and once for their
    statistics.

    Args:
        features (dict): Features :math:`(|\mathcal{I}|, d_m)` of each
            modality, in any floating-point type, on any device.
        masks (dict, optional): For some modalities, True where the item has
            it :math:`(|\mathcal{I}|)`.
        rows (torch.Tensor): Embeddings :math:`(|\mathcal{I}|, w)`.
        weight (torch.Tensor): The weight :math:`c_i` of each item
            :math:`(|\mathcal{I}|)`, such as the root of its number of
            interactions; with 0 its row is not looked at.
        l2 (float, optional): :math:`\lambda`, above zero.
            (default: :obj:`30.0`)

    Returns:
        The predictions :math:`\mathbf{W}^{\top} \mathbf{z}_i + \mathbf{b}`
        of all items :math:`(|\mathcal{I}|, w)`.

    Raises:
        ValueError: If there is no modality, the sizes differ, or no item
            has a weight above zero.
    """
    _check(features, rows, weight)
    check_float('l2', l2, exclusive=True)
    masks = checked_masks(masks, dict.fromkeys(features, rows.size(0)))
    like = rows.new_empty(0, dtype=torch.double)
    parts = [StandardRows(x, masks.get(name), like)
             for name, x in features.items()]
    width = sum(x.size(1) for x in features.values())
    step = max(1, _BLOCK_SIZE // max(width, rows.size(1)))

    def blocks() -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, rows.size(0), step):
            block = slice(start, start + step)
            yield block, torch.cat([
                part.x.size(1)**0.5 * part(block) for part in parts
            ], dim=1)

    weight = weight.to(like)
    matrix, bias = _fit(blocks, rows, weight, l2 * float(weight.mean()),
                        width)
    out = torch.empty_like(rows)
    for block, z in blocks():
        out[block] = torch.addmm(bias, z, matrix).to(rows.dtype)
    return out


def _check(features: Mapping[str, Tensor], rows: Tensor,
           weight: Tensor) -> None:
    if not isinstance(features, Mapping) or len(features) == 0:
        raise ValueError(f"'features' must map at least one modality name to "
                         f"its features (got {features!r:.80})")
    num_items = check_matrix('rows', rows).size(0)
    for name, x in features.items():
        if check_matrix(f'features[{name!r}]', x).size(0) != num_items:
            raise ValueError(f"'features[{name!r}]' must have a row for each "
                             f"of the {num_items} rows of 'rows' (got shape "
                             f"{list(x.shape)})")
    if not isinstance(weight, Tensor) or list(weight.shape) != [num_items]:
        raise ValueError(f"'weight' must be a tensor of shape [{num_items}] "
                         f"(got {getattr(weight, 'shape', weight)})")
    if (not bool((weight.isfinite() & (weight >= 0)).all())
            or not bool((weight > 0).any())):
        raise ValueError("'weight' must be finite and not negative, and above "
                         "zero for at least one item")


def _fit(
    blocks: Callable[[], Iterator[tuple[slice, Tensor]]],
    rows: Tensor,
    weight: Tensor,
    l2: float,
    width: int,
) -> tuple[Tensor, Tensor]:
    r"""The matrix :math:`(D, w)` and the intercept :math:`(w)`."""
    gram = weight.new_zeros(width, width)
    cross = weight.new_zeros(width, rows.size(1))
    mean_z, mean_row = weight.new_zeros(width), weight.new_zeros(rows.size(1))
    for block, z in blocks():
        c = weight[block].view(-1, 1)
        # What is not fitted may be anything, NaN too.
        y = torch.where(c > 0, rows[block].to(weight.dtype), 0.0)
        weighted = c * z
        gram.addmm_(z.t(), weighted)
        cross.addmm_(weighted.t(), y)
        mean_z += weighted.sum(dim=0)
        mean_row += (c * y).sum(dim=0)
    total = weight.sum()
    mean_z, mean_row = mean_z / total, mean_row / total
    gram.addr_(mean_z, mean_z * total, alpha=-1.0)
    cross.addr_(mean_z, mean_row * total, alpha=-1.0)
    gram.diagonal().add_(l2)
    matrix = torch.cholesky_solve(cross, torch.linalg.cholesky(gram))
    return matrix, mean_row - mean_z @ matrix
