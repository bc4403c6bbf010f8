r"""Modules: tensors and adjacency in, tensors out."""

from torch_promptmm._moved import lazily
from torch_promptmm.nn._backends.onednn import use_onednn
from torch_promptmm.nn.co_occurrence import co_occurrence_graph
from torch_promptmm.nn.compression import (
    compress,
    ego_residual,
    solve_ego,
)
from torch_promptmm.nn.edge_drop import drop_edges
from torch_promptmm.nn.feature_maps import FeatureMaps
from torch_promptmm.nn.functional import unit_rows
from torch_promptmm.nn.graph import UserItemGraph
from torch_promptmm.nn.item_features import ItemFeatures
from torch_promptmm.nn.item_graph import item_knn_graph
from torch_promptmm.nn.light_gcn_conv import LightGCNConv
from torch_promptmm.nn.multimodal_conv import MultimodalConv
from torch_promptmm.nn.neighbor_graph import NeighborGraph
from torch_promptmm.nn.neighbors import combine_graphs, normalize_graph
from torch_promptmm.nn.ngcf_conv import NGCFConv
from torch_promptmm.nn.prompt import SoftPrompt
from torch_promptmm.nn.propagation import propagate
from torch_promptmm.nn.reduction import PromptContext, PromptedReduction
from torch_promptmm.nn.standard_linear import StandardLinear

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
    'NGCFConv',
    'StandardLinear',
    'SoftPrompt',
    'PromptContext',
    'PromptedReduction',
    'MultimodalConv',
    'ItemFeatures',
    'NeighborGraph',
    'item_knn_graph',
    'co_occurrence_graph',
    'combine_graphs',
    'normalize_graph',
    'drop_edges',
    'FeatureMaps',
    'propagate',
    'compress',
    'solve_ego',
    'ego_residual',
    'unit_rows',
    'use_onednn',
]
