from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from torch_promptmm.data import InteractionData
from torch_promptmm.models.base import RankingModel
from torch_promptmm.nn.feature_maps import FeatureMaps
from torch_promptmm.nn.item_features import ItemFeatures


class FeatureModel(RankingModel):
    r"""The base class of models that read features through
    :class:`~torch_promptmm.nn.FeatureMaps`, which a subclass sets as
    :obj:`maps`."""
    item_features: ItemFeatures
    maps: FeatureMaps
    needs_features = True

    def set_features(
        self,
        features: Mapping[str, Tensor],
        masks: Mapping[str, Tensor] | None = None,
        fit: bool = True,
    ) -> None:
        r"""Sets the raw features of all items.

        Args:
            features (dict): Features :math:`(|\mathcal{I}|, d_m)` of each
                modality, in any floating-point type, on any device.
            masks (dict, optional): For some modalities, True where the item
                has it :math:`(|\mathcal{I}|)`. (default: :obj:`None`)
            fit (bool, optional): If :obj:`False`, their statistics stay as
                they are. (default: :obj:`True`)
        """
        self.item_features.set(features, masks)
        self.maps.fit(statistics=fit)

    def give_features(self, view: InteractionData) -> None:
        features, masks = self.select_features(view)
        if not self.item_features.holds(features, masks):
            # A trained model keeps the statistics that it was trained with.
            self.set_features(features, masks,
                              fit=not self.maps.has_statistics)
