r"""Datasets that unpack as ``train, val, test``."""

from .amazon import AmazonReviews
from .authors import Netflix, TikTok
from .base import SplitDataset
from .blocks import BlockDataset
from .fetch import download
from .interaction_folder import InteractionFolder
from .synthetic import SyntheticMultimodal

__all__ = [
    'AmazonReviews',
    'BlockDataset',
    'InteractionFolder',
    'Netflix',
    'SplitDataset',
    'SyntheticMultimodal',
    'TikTok',
    'download',
]

classes = __all__
