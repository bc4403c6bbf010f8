from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter

from torch_promptmm.checks import check_bool, check_int, check_matrix
from torch_promptmm.nn.column_statistics import column_statistics
from torch_promptmm.nn.feature_matmul import features_matmul
from torch_promptmm.nn.functional import masked_rows


class StandardLinear(torch.nn.Module):
    r"""A linear map of standardised features,

    .. math::
        \mathbf{Y} = (\mathbf{X} - \mathbf{1} \mu^{\top}) \mathbf{D}
        \mathbf{W} + \mathbf{1} \mathbf{b}^{\top} .

    The features stay where they are, and their standardised form never comes
    to be. A new module takes features as they are; :meth:`fit_statistics`
    sets :math:`\mu` and :math:`\mathbf{D}`, which are kept in the state.

    Args:
        in_channels (int): The width :math:`d_m` of the features.
        out_channels (int): The width :math:`d` of the output.
        bias (bool, optional): If :obj:`False`, there is no
            :math:`\mathbf{b}`. (default: :obj:`False`)

    Shapes:
        - **input:** features :math:`(n, d_m)`
        - **output:** :math:`(n, d)`
    """
    bias: Tensor | None
    mean: Tensor
    scale: Tensor
    num_items: Tensor

    def __init__(self, in_channels: int, out_channels: int,
                 bias: bool = False) -> None:
        super().__init__()
        self.in_channels = check_int('in_channels', in_channels, 1)
        self.out_channels = check_int('out_channels', out_channels, 1)
        self.weight = Parameter(torch.empty(in_channels, out_channels))
        self.register_parameter('bias', Parameter(
            torch.empty(out_channels)) if check_bool('bias', bias) else None)
        self.register_buffer('mean', torch.zeros(in_channels))
        self.register_buffer('scale', torch.ones(in_channels))
        self.register_buffer('num_items', torch.zeros((), dtype=torch.long))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module; the statistics
        stay."""
        torch.nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            torch.nn.init.zeros_(self.bias)

    @torch.no_grad()
    def fit_statistics(self, x: Tensor, mask: Tensor | None = None,
                       standardize: bool = True) -> None:
        r"""Computes :math:`\mu` and :math:`\mathbf{D}`.

        Args:
            x (torch.Tensor): The features of all items
                :math:`(|\mathcal{I}|, d_m)`.
            mask (torch.Tensor, optional): True where the item has the
                modality :math:`(|\mathcal{I}|)`. (default: :obj:`None`)
            standardize (bool, optional): If :obj:`False`, :math:`\mu` and
                :math:`\mathbf{D}` are zero and one.
                (default: :obj:`True`)
        """
        check_matrix('x', x, self.in_channels)
        if standardize:
            self.mean, self.scale = column_statistics(x, mask, self.mean)
        else:
            self.mean = torch.zeros_like(self.mean)
            self.scale = torch.ones_like(self.scale)
        self.num_items.fill_(x.size(0))

    @property
    def has_statistics(self) -> bool:
        r"""Whether :meth:`fit_statistics` was called."""
        return bool(self.num_items > 0)

    def reduce(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        r"""Returns the output without its bias :math:`(n, d)`, the part that
        touches the raw features. The rows of items that lack the modality
        are zero."""
        check_matrix('x', x, self.in_channels)
        weight = self.scale.view(-1, 1) * self.weight
        return masked_rows(features_matmul(x, weight) - self.mean @ weight,
                           mask)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        r"""Runs the forward pass.

        Args:
            x (torch.Tensor): The features :math:`(n, d_m)`.
            mask (torch.Tensor, optional): True where the item has the
                modality; other rows are the bias :math:`(n)`.
                (default: :obj:`None`)
        """
        out = self.reduce(x, mask)
        return out if self.bias is None else out + self.bias

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.in_channels}, '
                f'{self.out_channels}, bias={self.bias is not None})')
