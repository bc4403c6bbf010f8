from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torch_promptmm.checks import check_int, check_matrix
from torch_promptmm.nn.functional import checked_masks


class _ByReference(dict[str, Tensor]):
    r"""Tensors that copies of a module share."""
    def __deepcopy__(self, memo: dict[int, Any]) -> _ByReference:
        return _ByReference(self)


class ItemFeatures(torch.nn.Module):
    r"""The raw features of all items, for models that read content.

    They are held by reference: they are no buffers, are not in the state,
    stay on their device, and copies of a module share them. A model from a
    file has none: :meth:`require` says so, and :meth:`set` gives them again.

    Args:
        in_channels (dict): The width :math:`d_m` of each modality.
        num_items (int): The number of items :math:`|\mathcal{I}|`.

    Raises:
        ValueError: If there is no modality.
    """
    def __init__(self, in_channels: Mapping[str, int],
                 num_items: int) -> None:
        super().__init__()
        if not isinstance(in_channels, Mapping) or len(in_channels) == 0:
            raise ValueError(f"'in_channels' must map at least one modality "
                             f"name to its width (got {in_channels!r})")
        self.in_channels = dict(in_channels)
        self.num_items = check_int('num_items', num_items, 1)
        self.tensors: dict[str, Tensor] = _ByReference()
        self.masks: dict[str, Tensor] = _ByReference()

    @property
    def modalities(self) -> list[str]:
        r"""The names of the modalities."""
        return list(self.in_channels)

    @property
    def available(self) -> bool:
        r"""Whether the features are set."""
        return len(self.tensors) > 0

    def set(self, features: Mapping[str, Tensor],
            masks: Mapping[str, Tensor] | None = None) -> None:
        r"""Takes the features of all items.

        Args:
            features (dict): Features :math:`(|\mathcal{I}|, d_m)` of each
                modality, in any floating-point type, on any device.
            masks (dict, optional): For some modalities, True where the item
                has it :math:`(|\mathcal{I}|)`. (default: :obj:`None`)

        Raises:
            ValueError: If a modality, a width or a row is missing.
        """
        if set(features) != set(self.in_channels):
            raise ValueError(f"'features' must have the modalities "
                             f"{self.modalities} (got {list(features)})")
        for name, x in features.items():
            check_matrix(f'features[{name!r}]', x, self.in_channels[name])
            if x.size(0) != self.num_items:
                raise ValueError(
                    f"'features[{name!r}]' must have a row for each of the "
                    f"{self.num_items} items (got shape {list(x.shape)})")
        masks = checked_masks(masks, {
            name: self.num_items for name in self.in_channels
        })
        self.tensors = _ByReference(
            {name: features[name] for name in self.in_channels})
        self.masks = _ByReference(masks)

    def rows(self, name: str, item_id: Tensor | None = None
             ) -> tuple[Tensor, Tensor | None]:
        r"""Returns the features and the mask of a modality, of all items or
        of some of them.

        Args:
            name (str): The modality.
            item_id (torch.Tensor, optional): Items :math:`(n)`.
                (default: all)
        """
        self.require()
        x, mask = self.tensors[name], self.masks.get(name)
        if item_id is None:
            return x, mask
        return (x[item_id.to(x.device)],
                None if mask is None else mask[item_id.to(mask.device)])

    def holds(self, features: Mapping[str, Tensor],
              masks: Mapping[str, Tensor]) -> bool:
        r"""Whether just these tensors are here."""
        return all(
            have.keys() == given.keys() and all(
                have[name] is given[name] for name in have)
            for have, given in ((self.tensors, features),
                                (self.masks, masks)))

    def release(self) -> None:
        r"""Lets go of the features."""
        self.tensors, self.masks = _ByReference(), _ByReference()

    def require(self) -> None:
        r"""Raises a :obj:`ValueError` if the features are not set."""
        if not self.available:
            raise ValueError(
                'The model has no item features, which are never saved with '
                "it: give it the data again ('prepare(data)' or 'fit' of the "
                "distiller, or 'set_features')")

    def __repr__(self) -> str:
        widths = ', '.join(f'{k}={v}' for k, v in self.in_channels.items())
        return f'{self.__class__.__name__}({widths})'
