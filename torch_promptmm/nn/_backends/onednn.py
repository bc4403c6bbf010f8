r"""Dense products by oneDNN.

They are made by two operators that torch does not document, and that its next
version may take away. Nothing else calls them; where one is missing or fails,
torch's own product takes their place.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from torch_promptmm.checks import check_bool

OPERATORS = ('_linear_pointwise', '_reorder_linear_weight')
_OFF = 'TORCH_PROMPTMM_ONEDNN'
_CPUINFO = Path('/proc/cpuinfo')

_switched_on = True


@contextmanager
def use_onednn(enabled: bool = True) -> Iterator[None]:
    r"""Turns dense products by oneDNN on or off inside of a block.

    They are on where oneDNN is the faster library, see
    :func:`~torch_promptmm.nn.dense.matmul`.
    :obj:`TORCH_PROMPTMM_ONEDNN=0` in the environment turns them off for a
    whole process.

    Args:
        enabled (bool, optional): If :obj:`False`, torch's own products are
            made. (default: :obj:`True`)
    """
    global _switched_on
    before, _switched_on = _switched_on, check_bool('enabled', enabled)
    try:
        yield
    finally:
        _switched_on = before


def is_on() -> bool:
    r"""Whether oneDNN makes the products: it is faster here, and nothing
    has turned it off."""
    return (_switched_on and is_faster()
            and bool(torch.backends.mkldnn.enabled)
            and os.environ.get(_OFF) != '0')


@cache
def is_faster() -> bool:
    r"""Whether oneDNN is installed, and faster than MKL on this machine."""
    if not (torch.backends.mkldnn.is_available()
            and torch.backends.mkl.is_available()
            and torch.backends.cpu.get_cpu_capability() == 'AVX512'
            and not missing_operators()):
        return False
    if _CPUINFO.exists():
        return 'AuthenticAMD' in _CPUINFO.read_text()
    return 'AuthenticAMD' in platform.processor()


def missing_operators() -> list[str]:
    r"""Returns the operators that this version of torch does not have."""
    return [x for x in OPERATORS if not hasattr(torch.ops.mkldnn, x)]


def linear(x: Tensor, weight: Tensor) -> Tensor:
    r"""Returns :math:`\mathbf{X} \mathbf{W}^{\top}`.

    Args:
        x (torch.Tensor): :math:`\mathbf{X}` :math:`(m, k)`.
        weight (torch.Tensor): :math:`\mathbf{W}` :math:`(n, k)`, as it is or
            of :func:`packed`.
    """
    try:
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, 'none', [],
                                                  '')
    except RuntimeError:  # It needs memory for its code and work space.
        if weight.is_mkldnn:
            weight = weight.to_dense()
        return torch.mm(x, weight.t())


def packed(weight: Tensor, num_rows: int) -> Tensor | None:
    r"""Returns a matrix in the order that the kernel reads it in;
    :obj:`None` where that fails.

    Args:
        weight (torch.Tensor): :math:`\mathbf{W}` :math:`(n, k)`.
        num_rows (int): The rows of :math:`\mathbf{X}`.
    """
    try:
        return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(),
                                                       num_rows)
    except (AttributeError, RuntimeError):
        return None
