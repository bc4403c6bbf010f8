r"""Rows for items that have none of their own, from their content."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from torch_promptmm.nn.content_map import RidgeFit, blocks_of


@torch.no_grad()
def ridge_rows(
    features: Mapping[str, Tensor],
    masks: Mapping[str, Tensor] | None,
    rows: Tensor,
    weight: Tensor,
    l2: float = 30.0,
) -> Tensor:
    r"""Predicts embeddings of items from their content, by the weighted
    ridge regression of :class:`~torch_promptmm.nn.content_map.RidgeFit`.

    Args:
        features (dict): Features :math:`(|\mathcal{I}|, d_m)` of each
            modality, in any floating-point type, on any device.
        masks (dict, optional): For some modalities, True where the item has
            it :math:`(|\mathcal{I}|)`.
        rows (torch.Tensor): Embeddings :math:`(|\mathcal{I}|, w)`.
        weight (torch.Tensor): The weight :math:`c_i` of each item
            :math:`(|\mathcal{I}|)`, such as the root of its number of
            interactions; with 0 its row is not looked at.
        l2 (float, optional): :math:`\lambda`, above zero.
            (default: :obj:`30.0`)

    Returns:
        The predictions :math:`\mathbf{W}^{\top} \mathbf{z}_i + \mathbf{b}`
        of all items :math:`(|\mathcal{I}|, w)`.

    Raises:
        ValueError: If there is no modality, the sizes differ, or no item
            has a weight above zero.
    """
    content = RidgeFit(features, masks, rows, weight, l2).solve()
    out = torch.empty_like(rows)
    for block in blocks_of(features, rows.size(0), rows.size(1)):
        out[block] = content(
            {name: x[block] for name, x in features.items()},
            None if masks is None else
            {name: mask[block] for name, mask in masks.items()})
    return out
