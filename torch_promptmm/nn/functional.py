r"""Functions of rows, masks and modality names that modules share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torch_promptmm.checks import check_mask


def unit_rows(x: Tensor, length: float = 1.0) -> Tensor:
    r"""Divides each row of :obj:`x` by its L2 norm, and multiplies it by
    :obj:`length`.

    A zero row stays zero and has a zero gradient, where
    :func:`torch.nn.functional.normalize` gives a gradient of
    :math:`10^{12}`.

    Shapes:
        - **input:** :math:`(*, d)`
        - **output:** :math:`(*, d)`
    """
    return _UnitRows.apply(x, length)


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, length: float) -> Tensor:
        # In half precision squares above 65,504 are infinite.
        wide = x.float() if x.dtype in (torch.half, torch.bfloat16) else x
        inverse = _inverse_norm(wide, length)
        out = wide * inverse
        ctx.length = length
        ctx.save_for_backward(wide, out, inverse)
        return out.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        wide, out, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():  # For a second derivative.
            inverse = _inverse_norm(wide, ctx.length)
            out = wide * inverse
        wide_grad = grad.to(out.dtype)
        along = (wide_grad * out).sum(dim=-1, keepdim=True)
        along = along / ctx.length**2
        wide_grad = torch.addcmul(wide_grad, out, along, value=-1.0)
        if torch.is_grad_enabled():
            return (wide_grad * inverse).to(grad.dtype), None
        return wide_grad.mul_(inverse).to(grad.dtype), None


def _inverse_norm(x: Tensor, length: float) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    positive = norm > torch.finfo(x.dtype).tiny**0.5
    return torch.where(positive, length / torch.where(positive, norm, 1.0),
                       0.0)


def take(x: Tensor, index: Tensor | None) -> Tensor:
    r"""Returns rows of a table; all of them where no index is given."""
    return x if index is None else x.index_select(0, index)


def add_rows_(out: Tensor, row: Tensor, x: Tensor) -> Tensor:
    r"""Adds :obj:`x` :math:`(n, d)` to the rows :obj:`row` :math:`(n)` of
    :obj:`out`, in place."""
    if out.device.type == 'cpu':  # Four times as fast as index_add_.
        return out.scatter_add_(0, row.view(-1, 1).expand_as(x), x)
    return out.index_add_(0, row, x)


def masked_rows(x: Tensor, mask: Tensor | None) -> Tensor:
    r"""Sets the rows to zero where :obj:`mask` is :obj:`False`."""
    if mask is None:
        return x
    check_mask('mask', mask, x.size(0))
    return torch.where(mask.to(x.device).view(-1, 1), x, 0.0)


def modality_key(name: str) -> str:
    r"""The name under which a modality's module is registered."""
    # A module's name has no dot; the mapping stays one to one.
    return 'modality_' + name.replace('%', '%25').replace('.', '%2E')


def checked_masks(masks: Mapping[str, Tensor] | None,
                  sizes: Mapping[str, int]) -> dict[str, Tensor]:
    r"""Returns the masks of some modalities, of which :obj:`sizes` are the
    numbers of rows."""
    out = dict(masks or {})
    for name, mask in out.items():
        if name not in sizes:
            raise ValueError(f"'masks' has {name!r}, but the modalities are "
                             f"{list(sizes)}")
        check_mask(f'masks[{name!r}]', mask, sizes[name])
    return out
