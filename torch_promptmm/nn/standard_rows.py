from __future__ import annotations

import torch
from torch import Tensor

from torch_promptmm.checks import check_choice, check_mask, check_matrix
from torch_promptmm.nn.column_statistics import column_statistics
from torch_promptmm.nn.dense import matmul
from torch_promptmm.nn.functional import masked_rows, unit_rows
from torch_promptmm.nn.whitening import whitening_matrix

#: How features may be scaled. Files hold the number of a name in it.
SCALINGS = ('standardize', 'raw', 'whiten')


class StandardRows:
    r"""The unit rows of scaled features,

    .. math::
        \hat{\mathbf{x}}_i = \frac{\mathbf{W}^{\top} \mathbf{D}
        (\mathbf{x}_i - \mu)} {\| \mathbf{W}^{\top} \mathbf{D} (\mathbf{x}_i
        - \mu) \|},

    made block by block of features that stay where they are. Rows that the
    mask leaves out are zero, and are not in :math:`\mu`, :math:`\mathbf{D}`
    and :math:`\mathbf{W}`.

    Args:
        x (torch.Tensor): Features :math:`(n, d_m)` in any floating-point
            type, on any device.
        mask (torch.Tensor, optional): True where the item has the modality
            :math:`(n)`. (default: :obj:`None`)
        like (torch.Tensor, optional): Computes on the device and in the type
            of this tensor. (default: CPU, single precision)
        scaling (str, optional): :obj:`"standardize"`, where
            :math:`\mathbf{W}` is the identity; :obj:`"raw"`, where
            :math:`\mathbf{D}` is too, and :math:`\mu` zero; or
            :obj:`"whiten"`, see
            :func:`~torch_promptmm.nn.whitening.whitening_matrix`.
            (default: :obj:`"standardize"`)
    """
    def __init__(self, x: Tensor, mask: Tensor | None = None,
                 like: Tensor | None = None,
                 scaling: str = 'standardize') -> None:
        self.x, self.mask = check_matrix('x', x), mask
        if mask is not None:
            check_mask('mask', mask, x.size(0))
        check_choice('scaling', scaling, SCALINGS)
        self.like = torch.empty(0) if like is None else like
        self.statistics = self.matrix = None
        if scaling != 'raw':
            self.statistics = column_statistics(x, mask, self.like)
        if scaling == 'whiten' and self.statistics is not None:
            self.matrix = whitening_matrix(x, mask, self.statistics)

    def __call__(self, rows: slice) -> Tensor:
        r"""Returns the rows of a slice."""
        out = self.x[rows].to(self.like.device, self.like.dtype)
        if self.statistics is not None:
            out = (out - self.statistics.mean).mul_(self.statistics.scale)
        mask = None if self.mask is None else self.mask[rows]
        if self.matrix is not None:
            # What the mask leaves out may be anything, NaN too.
            out = matmul(masked_rows(out, mask), self.matrix)
        return unit_rows(masked_rows(out, mask))
