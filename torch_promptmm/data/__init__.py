r"""The data contract: :class:`~torch_geometric.data.HeteroData` in and out."""

from .contract import (
    InteractionData,
    check_same_entities,
    held_out,
    known_interactions,
    read_graph,
    supervision,
)
from .interactions import from_interactions, from_splits
from .npy import load_npy, save_npy

__all__ = [
    'InteractionData',
    'check_same_entities',
    'from_interactions',
    'from_splits',
    'held_out',
    'known_interactions',
    'load_npy',
    'read_graph',
    'save_npy',
    'supervision',
]

classes = __all__
