r"""Dense products, by the faster one of torch's two libraries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torch_promptmm.nn._backends import onednn

_SMALLEST = 2**22  # Multiplications from which the detour pays.
# Of two matrices with their common dimension in rows one is copied into order:
# the width of the other one from which that pays.
_WIDE_ENOUGH = 256
_LARGEST_COPY = 2**22  # Elements with gaps between them that are copied.


def matmul(a: Tensor, b: Tensor) -> Tensor:
    r"""Returns :math:`\mathbf{A} \mathbf{B}` of two matrices.

    On a CPU, torch multiplies in single precision by MKL, which runs at half
    of what AMD's processors with AVX-512 can do; there oneDNN, which torch
    brings along, takes its place. It is single precision as well: results
    differ in the order of summation alone.
    :func:`~torch_promptmm.nn.use_onednn` turns it off.

    Args:
        a (torch.Tensor): :math:`\mathbf{A}` :math:`(m, k)`.
        b (torch.Tensor): :math:`\mathbf{B}` :math:`(k, n)`.
    """
    return _MatMul.apply(a, b) if _pays(a, b) else a @ b


def _pays(a: Tensor, b: Tensor) -> bool:
    return (a.dim() == b.dim() == 2
            and a.size(1) == b.size(0)  # torch's own error, if not.
            and a.dtype == b.dtype and a.device == b.device
            and _applies(a, a.size(0) * a.size(1) * b.size(1))
            and _is_usable(a) and _is_usable(b)
            and (a.is_contiguous()
                 or max(a.size(0), b.size(1)) >= _WIDE_ENOUGH))


def _applies(x: Tensor, multiplications: int) -> bool:
    return (not torch.compiler.is_compiling()
            and x.dtype == torch.float and x.device.type == 'cpu'
            and multiplications >= max(_SMALLEST, 1)
            and onednn.is_on()
            and not torch.is_autocast_enabled('cpu'))


def _is_usable(x: Tensor) -> bool:
    return _is_dense(x) or x.numel() <= _LARGEST_COPY


def _is_dense(x: Tensor) -> bool:
    return x.is_contiguous() or x.t().is_contiguous()


class _MatMul(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        a, b = (x if _is_dense(x) else x.contiguous() for x in (a, b))
        if not a.is_contiguous() and a.size(0) > b.size(1):
            # The first argument is copied into order, the second one is not.
            return onednn.linear(b.t(), a).t().clone(
                memory_format=torch.contiguous_format)
        return onednn.linear(a, b.t())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor],
                      output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        return (matmul(grad, b.t()) if ctx.needs_input_grad[0] else None,
                matmul(a.t(), grad) if ctx.needs_input_grad[1] else None)

    @staticmethod
    def jvp(ctx: Any, a_tangent: Tensor | None,
            b_tangent: Tensor | None) -> Tensor | None:
        a, b = ctx.saved_tensors
        parts = [] if a_tangent is None else [a_tangent @ b]
        parts += [] if b_tangent is None else [a @ b_tangent]
        return sum(parts[1:], parts[0]) if parts else None


class FixedProduct:
    r"""Products :math:`\mathbf{X} \mathbf{W}^{\top}` of many matrices with the
    same one, without a gradient; see :func:`matmul`.

    Args:
        weight (torch.Tensor): :math:`\mathbf{W}` :math:`(n, k)`.
        num_rows (int): How many rows :math:`\mathbf{X}` has most of the
            time.
    """
    def __init__(self, weight: Tensor, num_rows: int) -> None:
        self.weight = weight.detach()
        self._packed: Tensor | None = None
        if _applies(weight, num_rows * weight.numel()):
            self._packed = onednn.packed(self.weight, num_rows)

    def __call__(self, x: Tensor) -> Tensor:
        if self._packed is None:
            return matmul(x.detach(), self.weight.t())
        return onednn.linear(x.detach(), self._packed)
