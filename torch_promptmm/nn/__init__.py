r"""Modules: tensors and adjacency in, tensors out."""

from typing import TYPE_CHECKING

from torch_promptmm._moved import lazily

if TYPE_CHECKING:
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

# Each is imported when it is asked for: what serves needs a few of the files,
# and not PyG.
_FILES = {
    'use_onednn': 'torch_promptmm.nn._backends.onednn',
    'co_occurrence_graph': 'torch_promptmm.nn.co_occurrence',
    'compress': 'torch_promptmm.nn.compression',
    'ego_residual': 'torch_promptmm.nn.compression',
    'solve_ego': 'torch_promptmm.nn.compression',
    'drop_edges': 'torch_promptmm.nn.edge_drop',
    'FeatureMaps': 'torch_promptmm.nn.feature_maps',
    'unit_rows': 'torch_promptmm.nn.functional',
    'UserItemGraph': 'torch_promptmm.nn.graph',
    'ItemFeatures': 'torch_promptmm.nn.item_features',
    'item_knn_graph': 'torch_promptmm.nn.item_graph',
    'LightGCNConv': 'torch_promptmm.nn.light_gcn_conv',
    'MultimodalConv': 'torch_promptmm.nn.multimodal_conv',
    'NeighborGraph': 'torch_promptmm.nn.neighbor_graph',
    'combine_graphs': 'torch_promptmm.nn.neighbors',
    'normalize_graph': 'torch_promptmm.nn.neighbors',
    'NGCFConv': 'torch_promptmm.nn.ngcf_conv',
    'SoftPrompt': 'torch_promptmm.nn.prompt',
    'propagate': 'torch_promptmm.nn.propagation',
    'PromptContext': 'torch_promptmm.nn.reduction',
    'PromptedReduction': 'torch_promptmm.nn.reduction',
    'StandardLinear': 'torch_promptmm.nn.standard_linear',
}
# These live in upper rooms, and are found here as well.
_MOVED = {
    'LightGCNStudent': 'torch_promptmm.models',
    'MultimodalTeacher': 'torch_promptmm.models',
    'TeacherOutput': 'torch_promptmm.models',
    'PropagatedFeatures': 'torch_promptmm.models',
    'ConstantTables': 'torch_promptmm.distill',
    'PromptTables': 'torch_promptmm.distill',
}
__getattr__, __dir__ = lazily(__name__, {**_FILES, **_MOVED})

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
