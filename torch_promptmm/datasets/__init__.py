r"""Datasets that unpack as ``train, val, test``."""

from .base import SplitDataset
from .blocks import BlockDataset
from .interaction_folder import InteractionFolder
from .synthetic import SyntheticMultimodal

__all__ = [
    'BlockDataset',
    'InteractionFolder',
    'SplitDataset',
    'SyntheticMultimodal',
]

classes = __all__
