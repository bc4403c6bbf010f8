r"""Datasets that unpack as ``train, val, test``."""

from torch_promptmm.datasets.amazon import AmazonReviews
from torch_promptmm.datasets.authors import Netflix, TikTok
from torch_promptmm.datasets.base import SplitDataset
from torch_promptmm.datasets.blocks import BlockDataset
from torch_promptmm.datasets.fetch import download
from torch_promptmm.datasets.interaction_folder import InteractionFolder
from torch_promptmm.datasets.synthetic import SyntheticMultimodal

__all__ = classes = [
    'AmazonReviews',
    'BlockDataset',
    'InteractionFolder',
    'Netflix',
    'SplitDataset',
    'SyntheticMultimodal',
    'TikTok',
    'download',
]
