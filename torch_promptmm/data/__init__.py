r"""The data contract: :class:`~torch_geometric.data.HeteroData` in and out."""

from .contract import (
    InteractionData,
    check_same_entities,
    held_out,
    known_interactions,
    read_graph,
    supervision,
)
from .features import add_feature_folder, add_features
from .filtering import KCore, k_core
from .formats import read_mmrec, read_promptmm, write_mmrec, write_promptmm
from .ids import IdMap, id_maps, item_ids, set_ids, user_ids
from .interactions import from_interactions, from_splits
from .npy import load_npy, read_array, save_npy
from .read import read_interactions
from .report import Report
from .text import HashingTfidf, SentenceEncoder
from .transforms import (
    InteractionSplit,
    LeaveOneOutSplit,
    RandomUserSplit,
    TemporalSplit,
)
from .unpickle import read_pickle

__all__ = [
    'add_feature_folder',
    'add_features',
    'check_same_entities',
    'from_interactions',
    'from_splits',
    'HashingTfidf',
    'held_out',
    'IdMap',
    'InteractionData',
    'InteractionSplit',
    'id_maps',
    'item_ids',
    'k_core',
    'KCore',
    'known_interactions',
    'LeaveOneOutSplit',
    'load_npy',
    'RandomUserSplit',
    'read_array',
    'read_graph',
    'read_interactions',
    'read_mmrec',
    'read_pickle',
    'read_promptmm',
    'Report',
    'save_npy',
    'SentenceEncoder',
    'set_ids',
    'supervision',
    'TemporalSplit',
    'user_ids',
    'write_mmrec',
    'write_promptmm',
]

classes = __all__
