r"""Losses: scores and embeddings in, a scalar out."""

from torch_promptmm.loss.embedding import ScaledCosineError
from torch_promptmm.loss.info_nce import InfoNCE
from torch_promptmm.loss.listwise import DisentangledListKD, ListwiseKD
from torch_promptmm.loss.pairwise import PairwiseKD
from torch_promptmm.loss.ranking import BPRLoss, SampledSoftmaxLoss
from torch_promptmm.loss.score import as_scored, default_temperature
from torch_promptmm.loss.top_list import TopListKD

__all__ = classes = [
    'BPRLoss',
    'SampledSoftmaxLoss',
    'PairwiseKD',
    'ListwiseKD',
    'DisentangledListKD',
    'TopListKD',
    'InfoNCE',
    'ScaledCosineError',
    'as_scored',
    'default_temperature',
]
