from __future__ import annotations

import torch
from torch import Tensor

from torch_promptmm.checks import check_bool, check_int
from torch_promptmm.nn.feature_matmul import row_slices
from torch_promptmm.nn.functional import masked_rows, modality_key, take
from torch_promptmm.nn.item_features import ItemFeatures
from torch_promptmm.nn.standard_linear import StandardLinear


class FeatureMaps(torch.nn.Module):
    r"""A :class:`~torch_promptmm.nn.StandardLinear` of each modality, of unit
    rows,

    .. math::
        \mathbf{h}_m = \frac{\hat{\mathbf{x}}_m}{\| \hat{\mathbf{x}}_m \|}
        \mathbf{W}_m + \mathbf{b}_m,

    or of rows as they are, where :math:`\hat{\mathbf{x}}_m` is standardised
    column by column. An item without a modality has :math:`\mathbf{b}_m`
    alone. Neither the standardised features nor the unit rows are ever
    formed: the product with the raw ones is shifted and scaled, row by row.
    Items that are asked for more than once are computed once.

    Args:
        features (ItemFeatures): The features, which the model holds too.
            Call :meth:`fit` when they are set.
        out_channels (int): The width :math:`d` of the output.
        standardize (bool, optional): If :obj:`False`, features are divided
            by their norm as they are. (default: :obj:`True`)
        bias (bool, optional): If :obj:`False`, there is no
            :math:`\mathbf{b}_m`. (default: :obj:`True`)
        normalize (bool, optional): If :obj:`False`, rows keep their length.
            (default: :obj:`True`)

    Shapes:
        - **input:** the name of a modality and, optionally, items
          :math:`(n)`
        - **output:** :math:`(|\mathcal{I}|, d)` or :math:`(n, d)`
    """
    def __init__(self, features: ItemFeatures, out_channels: int,
                 standardize: bool = True, bias: bool = True,
                 normalize: bool = True) -> None:
        super().__init__()
        self.features = features
        self.out_channels = check_int('out_channels', out_channels, 1)
        self.standardize = check_bool('standardize', standardize)
        self.bias = check_bool('bias', bias)
        self.normalize = check_bool('normalize', normalize)
        self.linears = torch.nn.ModuleDict({
            modality_key(name): StandardLinear(width, out_channels, bias)
            for name, width in features.in_channels.items()
        })
        self._scale: dict[str, Tensor] = {}  # Reciprocal norms of rows.

    def __getitem__(self, name: str) -> StandardLinear:
        return self.linears[modality_key(name)]  # type: ignore

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module; the statistics
        stay."""
        for name in self.features.modalities:
            self[name].reset_parameters()

    @property
    def has_statistics(self) -> bool:
        r"""Whether :meth:`fit` was called, or a state with statistics was
        loaded."""
        return all(self[name].has_statistics
                   for name in self.features.modalities)

    @torch.no_grad()
    def fit(self, statistics: bool | None = None) -> None:
        r"""Takes what it needs of features that are new.

        Args:
            statistics (bool, optional): Whether means and deviations are
                among it; the norms of rows always are. (default: where there
                are none yet, since a trained model keeps those that it was
                trained with)
        """
        for name in self.features.modalities:
            x, mask = self.features.rows(name)
            linear = self[name]
            if not linear.has_statistics if statistics is None else statistics:
                linear.fit_statistics(x, mask, self.standardize)
            if self.normalize:
                self._scale[name] = _reciprocal_norms(x, mask, linear)

    def forward(self, name: str, item_id: Tensor | None = None) -> Tensor:
        r"""Runs the forward pass.

        Args:
            name (str): The modality.
            item_id (torch.Tensor, optional): Items :math:`(n)`.
                (default: all)
        """
        back = None
        if item_id is not None:
            item_id, back = item_id.unique(return_inverse=True)
        x, mask = self.features.rows(name, item_id)
        linear = self[name]
        out = linear.reduce(x, mask)
        if self.normalize:
            scale = self._scale[name] = self._scale[name].to(out)
            out = out * take(scale, item_id).view(-1, 1)
        return take(out if linear.bias is None else out + linear.bias, back)

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.features}, '
                f'out_channels={self.out_channels}, '
                f'standardize={self.standardize}, bias={self.bias}, '
                f'normalize={self.normalize})')


def _reciprocal_norms(x: Tensor, mask: Tensor | None,
                      linear: StandardLinear) -> Tensor:
    mean, scale = linear.mean, linear.scale
    out = mean.new_empty(x.size(0))
    for rows in row_slices(x):
        block = (x[rows].to(mean) - mean).mul_(scale)
        block = masked_rows(block, None if mask is None else mask[rows])
        out[rows] = torch.linalg.vector_norm(block, dim=1)
    return torch.where(out > 0, out.reciprocal(), 0.0)
