from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_promptmm.checks import (
    check_choice,
    check_float,
    check_int,
    check_matrix,
)
from torch_promptmm.nn.dense import matmul
from torch_promptmm.nn.feature_matmul import features_t_matmul
from torch_promptmm.nn.functional import masked_rows
from torch_promptmm.nn.standard_linear import StandardLinear

_EPSILON = 1e-12  # Added to squared norms.


class PromptContext(NamedTuple):
    r"""What a prompt does to a modality, the same for all rows.

    Attributes:
        matrix (torch.Tensor): :math:`\mathbf{C} = \mathbf{P}^{\top}
            \hat{\mathbf{X}}_m` of all items :math:`(d, d_m)`.
        num_items (int): The number of items that it was summed over.
    """
    matrix: Tensor
    num_items: int


class PromptedReduction(StandardLinear):
    r"""The feature reduction of `"PromptMM: Multi-Modal Knowledge
    Distillation for Recommendation with Prompt-Tuning"
    <https://arxiv.org/abs/2402.17188>`_ (Eq. 4), into which a soft prompt
    is injected,

    .. math::
        \mathbf{F}_m = \textrm{dropout} \left( \left( \hat{\mathbf{X}}_m +
        \lambda_1 \, \textrm{norm}(\mathbf{P} \mathbf{P}^{\top}
        \hat{\mathbf{X}}_m) \right) \mathbf{W}_m + \mathbf{b}_m \right).

    It is computed in the cheap order :math:`\hat{\mathbf{X}} \mathbf{W} +
    \lambda_1 \, \textrm{norm}(\mathbf{P} (\mathbf{P}^{\top} \hat{\mathbf{X}}
    \mathbf{W}))`, which needs neither an :math:`(|\mathcal{I}|, d_m)` prompt
    nor an :math:`(|\mathcal{I}|, |\mathcal{I}|)` product.

    :math:`\hat{\mathbf{X}} = (\mathbf{X} - \mathbf{1}\mu^{\top})\mathbf{D}`
    are the standardised features of a
    :class:`~torch_promptmm.nn.StandardLinear`, which are never formed either.

    Args:
        in_channels (int): The width :math:`d_m` of the features.
        out_channels (int): The width :math:`d` of the output.
        prompt_weight (float, optional): :math:`\lambda_1`.
            (default: :obj:`1.0`)
        dropout (float, optional): Dropout probability.
            (default: :obj:`0.0`)
        normalize (bool or str, optional): How :math:`\mathbf{P}
            \mathbf{P}^{\top} \hat{\mathbf{X}}` is normalised: :obj:`False`
            not at all, as printed; :obj:`"size"` by the number of items;
            :obj:`"row"` (or :obj:`True`) each row by its L2 norm.
            (default: :obj:`"size"`)
        prompt_channels (int, optional): The width of the prompt.
            (default: :obj:`out_channels`)

    Shapes:
        - **input:** features :math:`(n, d_m)`, prompt :math:`(n, d)` or
          :obj:`None`
        - **output:** reduced features :math:`(n, d)`
    """
    bias: Tensor  # type: ignore[assignment]
    gram: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        prompt_weight: float = 1.0,
        dropout: float = 0.0,
        normalize: bool | str = 'size',
        prompt_channels: int | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, bias=True)
        if prompt_channels is None:
            prompt_channels = out_channels
        self.prompt_channels = check_int('prompt_channels', prompt_channels, 1)
        self.prompt_weight = check_float('prompt_weight', prompt_weight)
        self.dropout = check_float('dropout', dropout, 0.0, 1.0)
        check_choice('normalize', normalize, (False, True, 'size', 'row'))
        self.normalize = 'row' if normalize is True else normalize
        self.register_buffer(
            'gram', torch.zeros(self.prompt_channels + 1, in_channels))

    @torch.no_grad()
    def fit_statistics(  # type: ignore[override]
        self,
        x: Tensor,
        mask: Tensor | None = None,
        basis: Tensor | None = None,
        standardize: bool = True,
    ) -> None:
        r"""Computes the statistics that are kept of the features.

        These are the mean, the scale, the number of items and, with the
        basis :math:`\mathbf{Z}` of an affine prompt, :math:`\mathbf{G} =
        [\mathbf{Z}, \mathbf{1}]^{\top} \hat{\mathbf{X}}`, from which
        :meth:`affine_context` derives everything else.

        Args:
            x (torch.Tensor): The features of all items
                :math:`(|\mathcal{I}|, d_m)`.
            mask (torch.Tensor, optional): True where the item has the
                modality :math:`(|\mathcal{I}|)`. (default: :obj:`None`)
            basis (torch.Tensor, optional): :math:`\mathbf{Z}`
                :math:`(|\mathcal{I}|, d)`. Without it, :math:`\mathbf{G}`
                is zero, and an affine prompt adds nothing.
                (default: :obj:`None`)
            standardize (bool, optional): If :obj:`False`, :math:`\mu` and
                :math:`\mathbf{D}` stay zero and one.
                (default: :obj:`True`)
        """
        super().fit_statistics(x, mask, standardize)
        if basis is None:
            self.gram = torch.zeros_like(self.gram)
        else:
            self.fit_gram(x, basis, mask)

    @torch.no_grad()
    def fit_gram(self, x: Tensor, basis: Tensor,
                 mask: Tensor | None = None) -> None:
        r"""Computes :math:`\mathbf{G}` alone, for another prompt.

        Args:
            x (torch.Tensor): The features of all items
                :math:`(|\mathcal{I}|, d_m)`.
            basis (torch.Tensor): :math:`\mathbf{Z}`
                :math:`(|\mathcal{I}|, d)`.
            mask (torch.Tensor, optional): True where the item has the
                modality :math:`(|\mathcal{I}|)`. (default: :obj:`None`)
        """
        check_matrix('x', x, self.in_channels)
        _check_rows('basis', basis, x, self.prompt_channels)
        basis = basis.to(self.mean)
        one = basis.new_ones(basis.size(0), 1)
        self.gram = self._project(x, torch.cat([basis, one], 1), mask)

    def _project(self, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        r""":math:`\mathbf{Y}^{\top} \hat{\mathbf{X}}`."""
        y = masked_rows(y, mask)
        out = features_t_matmul(x, y)
        return (out - torch.outer(y.sum(dim=0), self.mean)) * self.scale

    def context(self, x: Tensor, prompt: Tensor,
                mask: Tensor | None = None) -> PromptContext:
        r"""Returns the context of a prompt over all items, so that some of
        them can be reduced alone later.

        Args:
            x (torch.Tensor): The features of all items
                :math:`(|\mathcal{I}|, d_m)`.
            prompt (torch.Tensor): The prompt of all items
                :math:`(|\mathcal{I}|, d)`.
            mask (torch.Tensor, optional): True where the item has the
                modality :math:`(|\mathcal{I}|)`. (default: :obj:`None`)
        """
        check_matrix('x', x, self.in_channels)
        _check_rows('prompt', prompt, x)
        return PromptContext(self._project(x, prompt, mask), x.size(0))

    def affine_context(self, matrix: Tensor) -> PromptContext:
        r"""Returns the context of an affine prompt :math:`\mathbf{P} =
        [\mathbf{Z}, \mathbf{1}] \, \mathbf{B}` from the statistics alone,
        :math:`\mathbf{C} = \mathbf{B}^{\top} \mathbf{G}`.

        Args:
            matrix (torch.Tensor): :math:`\mathbf{B}` :math:`(d + 1, d)`.
        """
        if int(self.num_items) == 0:
            raise ValueError("This reduction has no statistics yet: call "
                             "'fit_statistics(x, basis=...)' first")
        if matrix.size(0) != self.gram.size(0):
            raise ValueError(f"'matrix' must have {self.gram.size(0)} rows, "
                             f"one more than the prompt is wide (got shape "
                             f"{list(matrix.shape)})")
        return PromptContext(matrix.t() @ self.gram, int(self.num_items))

    def prompt_scale(self, num_items: int) -> float:
        r"""Returns :math:`\lambda_1`; with :obj:`normalize="size"` it is
        divided by the number of items in the prompt's context."""
        if self.normalize == 'size':
            return self.prompt_weight / max(num_items, 1)
        return self.prompt_weight

    def prompt_matrix(self, context: PromptContext) -> Tensor:
        r"""Returns what the prompt is multiplied with, :math:`\lambda_1
        \mathbf{C} \mathbf{W}` with :meth:`prompt_scale` for
        :math:`\lambda_1` :math:`(d, d)`."""
        scale = self.prompt_scale(context.num_items)
        return scale * (context.matrix @ self.weight)

    def prompt_term(self, prompt: Tensor, context: PromptContext | None = None,
                    y: Tensor | None = None) -> Tensor:
        r"""Returns what the prompt adds, :math:`\lambda_1 \,
        \textrm{norm}(\mathbf{P} \mathbf{P}^{\top} \hat{\mathbf{X}})
        \mathbf{W}` :math:`(n, d)`.

        Args:
            prompt (torch.Tensor): The prompt of some rows :math:`(n, d)`.
            context (PromptContext, optional): The context of the prompt.
                (default: :obj:`None`)
            y (torch.Tensor, optional): Where there is no context,
                :meth:`reduce`'s result for all items; rows must not be
                normalised then. (default: :obj:`None`)
        """
        if context is None:
            if y is None or self.normalize == 'row':
                raise ValueError(f"normalize={self.normalize!r} needs a "
                                 f"'context'")
            scale = self.prompt_scale(y.size(0))
            return matmul(prompt, scale * matmul(prompt.t(), y))
        term = matmul(prompt, self.prompt_matrix(context))
        if self.normalize == 'row':
            gram = context.matrix @ context.matrix.t()
            square = (matmul(prompt, gram) * prompt).sum(dim=-1, keepdim=True)
            # Rounding can make the square of a small norm negative.
            term = term * (square.clamp(min=0.0) + _EPSILON).rsqrt()
        return term

    def finish(self, y: Tensor, prompt: Tensor | None = None,
               context: PromptContext | None = None) -> Tensor:
        r"""Adds prompt, bias and dropout to :meth:`reduce`'s result.

        Args:
            y (torch.Tensor): :math:`\hat{\mathbf{X}} \mathbf{W}`
                :math:`(n, d)`.
            prompt (torch.Tensor, optional): The prompt of these rows
                :math:`(n, d)`. (default: :obj:`None`)
            context (PromptContext, optional): The context of the prompt.
                Without it, :obj:`y` must hold all items and rows must not
                be normalised. (default: :obj:`None`)
        """
        out = y
        if prompt is not None and self.prompt_weight > 0.0:
            out = out + self.prompt_term(prompt, context, y)
        out = out + self.bias
        return F.dropout(out, self.dropout, self.training)

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        prompt: Tensor | None = None,
        context: PromptContext | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        r"""Runs the forward pass.

        Args:
            x (torch.Tensor): The features :math:`(n, d_m)`.
            prompt (torch.Tensor, optional): The prompt of the same rows
                :math:`(n, d)`. (default: :obj:`None`)
            context (PromptContext, optional): The prompt's context over all
                items (see :meth:`context`). Without it, :obj:`x` must hold
                all items. (default: :obj:`None`)
            mask (torch.Tensor, optional): True where the item has the
                modality :math:`(n)`. (default: :obj:`None`)
        """
        if prompt is not None:
            check_matrix('x', x, self.in_channels)
            _check_rows('prompt', prompt, x)
            if context is None and self.normalize == 'row':
                context = self.context(x, prompt, mask)
        return self.finish(self.reduce(x, mask), prompt, context)

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.in_channels}, '
                f'{self.out_channels}, prompt_weight={self.prompt_weight}, '
                f'dropout={self.dropout}, normalize={self.normalize!r})')


def _check_rows(name: str, value: Tensor, x: Tensor,
                num_cols: int | None = None) -> None:
    check_matrix(name, value, num_cols)
    if value.size(0) != x.size(0):
        raise ValueError(f"'{name}' must have a row for each of the "
                         f"{x.size(0)} items (got shape "
                         f"{list(value.shape)})")
