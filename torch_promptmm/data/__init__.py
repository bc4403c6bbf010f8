r"""The data contract: :class:`~torch_geometric.data.HeteroData` in and out."""

from torch_promptmm.data.contract import InteractionData, held_out, read_graph
from torch_promptmm.data.features import add_feature_folder, add_features
from torch_promptmm.data.filtering import KCore
from torch_promptmm.data.formats import (
    read_mmrec,
    read_promptmm,
    write_mmrec,
    write_promptmm,
)
from torch_promptmm.data.ids import IdMap, id_maps, item_ids, set_ids, user_ids
from torch_promptmm.data.interactions import from_interactions, from_splits
from torch_promptmm.data.read import read_interactions
from torch_promptmm.data.report import Report
from torch_promptmm.data.subgraph import subgraph
from torch_promptmm.data.text import SentenceEncoder, TfidfSVD
from torch_promptmm.data.transforms import (
    InteractionSplit,
    LeaveOneOutSplit,
    RandomUserSplit,
    TemporalSplit,
)

__all__ = classes = [
    'add_feature_folder',
    'add_features',
    'from_interactions',
    'from_splits',
    'held_out',
    'IdMap',
    'InteractionData',
    'InteractionSplit',
    'id_maps',
    'item_ids',
    'KCore',
    'LeaveOneOutSplit',
    'RandomUserSplit',
    'read_graph',
    'read_interactions',
    'read_mmrec',
    'read_promptmm',
    'Report',
    'SentenceEncoder',
    'set_ids',
    'subgraph',
    'TemporalSplit',
    'TfidfSVD',
    'user_ids',
    'write_mmrec',
    'write_promptmm',
]
