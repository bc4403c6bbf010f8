from __future__ import annotations

import torch
from torch import Tensor

from torch_promptmm.checks import check_mask, check_matrix
from torch_promptmm.nn.column_statistics import column_statistics
from torch_promptmm.nn.functional import masked_rows, unit_rows


class StandardRows:
    r"""The unit rows of standardised features,

    .. math::
        \hat{\mathbf{x}}_i = \frac{\mathbf{D} (\mathbf{x}_i - \mu)}
        {\| \mathbf{D} (\mathbf{x}_i - \mu) \|},

    made block by block of features that stay where they are. Rows that the
    mask leaves out are zero, and are not in :math:`\mu` and
    :math:`\mathbf{D}`.

    Args:
        x (torch.Tensor): Features :math:`(n, d_m)` in any floating-point
            type, on any device.
        mask (torch.Tensor, optional): True where the item has the modality
            :math:`(n)`. (default: :obj:`None`)
        like (torch.Tensor, optional): Computes on the device and in the type
            of this tensor. (default: CPU, single precision)
        standardize (bool, optional): If :obj:`False`, :math:`\mu` is zero
            and :math:`\mathbf{D}` the identity. (default: :obj:`True`)
    """
    def __init__(self, x: Tensor, mask: Tensor | None = None,
                 like: Tensor | None = None,
                 standardize: bool = True) -> None:
        self.x, self.mask = check_matrix('x', x), mask
        if mask is not None:
            check_mask('mask', mask, x.size(0))
        self.like = torch.empty(0) if like is None else like
        self.statistics = (column_statistics(x, mask, self.like)
                           if standardize else None)

    def __call__(self, rows: slice) -> Tensor:
        r"""Returns the rows of a slice."""
        out = self.x[rows].to(self.like.device, self.like.dtype)
        if self.statistics is not None:
            out = (out - self.statistics.mean).mul_(self.statistics.scale)
        mask = None if self.mask is None else self.mask[rows]
        return unit_rows(masked_rows(out, mask))
