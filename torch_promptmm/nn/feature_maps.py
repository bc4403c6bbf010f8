from __future__ import annotations

import torch
from torch import Tensor

from torch_promptmm.checks import check_bool, check_int
from torch_promptmm.nn.feature_matmul import row_slices
from torch_promptmm.nn.functional import masked_rows, modality_key
from torch_promptmm.nn.item_features import ItemFeatures
from torch_promptmm.nn.standard_linear import StandardLinear


class FeatureMaps(torch.nn.Module):
    r"""A linear map of the unit rows of each modality,

    .. math::
        \mathbf{h}_m = \frac{\hat{\mathbf{x}}_m}{\| \hat{\mathbf{x}}_m \|}
        \mathbf{W}_m + \mathbf{b}_m,

    where :math:`\hat{\mathbf{x}}_m` is standardised column by column. An item
    without a modality has :math:`\mathbf{b}_m` alone. Neither the
    standardised features nor the unit rows are ever formed: the product with
    the raw ones is shifted and scaled, row by row.

    Args:
        features (ItemFeatures): The features, which the model holds too.
            Call :meth:`fit` when they are set.
        out_channels (int): The width :math:`d` of the output.
        standardize (bool, optional): If :obj:`False`, features are divided
            by their norm as they are. (default: :obj:`True`)
        bias (bool, optional): If :obj:`False`, there is no
            :math:`\mathbf{b}_m`. (default: :obj:`True`)

    Shapes:
        - **input:** the name of a modality and, optionally, items
          :math:`(n)`
        - **output:** :math:`(|\mathcal{I}|, d)` or :math:`(n, d)`
    """
    def __init__(self, features: ItemFeatures, out_channels: int,
                 standardize: bool = True, bias: bool = True) -> None:
        super().__init__()
        self.features = features
        self.out_channels = check_int('out_channels', out_channels, 1)
        self.standardize = check_bool('standardize', standardize)
        self.bias = check_bool('bias', bias)
        self.reductions = torch.nn.ModuleDict()
        for name, width in features.in_channels.items():
            self.reductions[modality_key(name)] = StandardLinear(
                width, out_channels, bias)
        self._scale: dict[str, Tensor] = {}  # Reciprocal norms of rows.

    def __getitem__(self, name: str) -> StandardLinear:
        return self.reductions[modality_key(name)]  # type: ignore

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module; the statistics
        stay."""
        for name in self.features.modalities:
            self[name].reset_parameters()

    @torch.no_grad()
    def fit(self) -> None:
        r"""Takes what it needs of features that are new: the norms of their
        rows and, where there are none yet, means and deviations. A trained
        model keeps those that it was trained with."""
        for name in self.features.modalities:
            x, mask = self.features.rows(name)
            reduction = self[name]
            if not reduction.has_statistics:
                reduction.fit_statistics(x, mask,
                                         standardize=self.standardize)
            self._scale[name] = _reciprocal_norms(x, mask, reduction)

    def forward(self, name: str, item_id: Tensor | None = None) -> Tensor:
        r"""Runs the forward pass.

        Args:
            name (str): The modality.
            item_id (torch.Tensor, optional): Items :math:`(n)`.
                (default: all)
        """
        x, mask = self.features.rows(name, item_id)
        reduction = self[name]
        out = reduction.reduce(x, mask)
        scale = self._scale[name] = self._scale[name].to(out)
        if item_id is not None:
            scale = scale.index_select(0, item_id.to(scale.device))
        out = out * scale.view(-1, 1)
        return out + reduction.bias if self.bias else out

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.features}, '
                f'out_channels={self.out_channels}, '
                f'standardize={self.standardize}, bias={self.bias})')


def _reciprocal_norms(x: Tensor, mask: Tensor | None,
                      reduction: StandardLinear) -> Tensor:
    mean, scale = reduction.mean, reduction.scale
    out = mean.new_empty(x.size(0))
    for rows in row_slices(x):
        block = (x[rows].to(mean) - mean).mul_(scale)
        block = masked_rows(block, None if mask is None else mask[rows])
        out[rows] = torch.linalg.vector_norm(block, dim=1)
    return torch.where(out > 0, out.reciprocal(), 0.0)
