r"""Row-wise functions that modules and losses share."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_rows(x: Tensor) -> Tensor:
    r"""Divides each row of :obj:`x` by its L2 norm.

    A zero row stays zero and has a zero gradient, where
    :func:`torch.nn.functional.normalize` gives a gradient of
    :math:`10^{12}`.

    Shapes:
        - **input:** :math:`(*, d)`
        - **output:** :math:`(*, d)`
    """
    # In half precision squares above 65,504 are infinite.
    wide = x.float() if x.dtype in (torch.half, torch.bfloat16) else x
    square = wide.square().sum(dim=-1, keepdim=True)
    positive = square > torch.finfo(wide.dtype).tiny
    inverse = torch.where(positive, square, 1.0).rsqrt()
    return (wide * torch.where(positive, inverse, 0.0)).to(x.dtype)
