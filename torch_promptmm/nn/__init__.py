r"""Modules: tensors and adjacency in, tensors out."""

from torch_promptmm._moved import lazily
from torch_promptmm.nn._backends.onednn import use_onednn
from torch_promptmm.nn.compression import (
    compress,
    ego_residual,
    solve_ego,
)
from torch_promptmm.nn.feature_maps import FeatureMaps
from torch_promptmm.nn.functional import unit_rows
from torch_promptmm.nn.graph import UserItemGraph
from torch_promptmm.nn.item_features import ItemFeatures
from torch_promptmm.nn.light_gcn_conv import LightGCNConv
from torch_promptmm.nn.multimodal_conv import MultimodalConv
from torch_promptmm.nn.prompt import SoftPrompt
from torch_promptmm.nn.propagation import propagate
from torch_promptmm.nn.reduction import PromptContext, PromptedReduction

# These live in upper rooms, and are found here as well.
_MOVED = {
    'LightGCNStudent': 'torch_promptmm.models',
    'MultimodalTeacher': 'torch_promptmm.models',
    'TeacherOutput': 'torch_promptmm.models',
    'PropagatedFeatures': 'torch_promptmm.models',
    'ConstantTables': 'torch_promptmm.distill',
    'PromptTables': 'torch_promptmm.distill',
}
__getattr__ = lazily(__name__, _MOVED)

__all__ = classes = [
    'UserItemGraph',
    'LightGCNConv',
    'SoftPrompt',
    'PromptContext',
    'PromptedReduction',
    'MultimodalConv',
    'ItemFeatures',
    'FeatureMaps',
    'propagate',
    'compress',
    'solve_ego',
    'ego_residual',
    'unit_rows',
    'use_onednn',
]
