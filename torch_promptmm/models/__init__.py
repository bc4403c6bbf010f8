r"""Models: whole recommenders, one file each, on one protocol."""

from torch_promptmm.models.base import ModelOutput, RankingModel, as_output
from torch_promptmm.models.bm3 import BM3
from torch_promptmm.models.clcrec import CLCRec
from torch_promptmm.models.co_occurrence import CoOccurrence
from torch_promptmm.models.content_expert import ContentExpert
from torch_promptmm.models.door import (
    ForeignModel,
    as_model,
    check_output,
    embed,
)
from torch_promptmm.models.ensemble import Ensemble
from torch_promptmm.models.freedom import FREEDOM
from torch_promptmm.models.fusion import Fusion
from torch_promptmm.models.gcn import GCN
from torch_promptmm.models.grcn import GRCN
from torch_promptmm.models.lattice import LATTICE
from torch_promptmm.models.light_gcn import LightGCN
from torch_promptmm.models.mf import MF
from torch_promptmm.models.mgcn import MGCN
from torch_promptmm.models.mlp import MLP
from torch_promptmm.models.mmgcn import MMGCN
from torch_promptmm.models.multimodal_teacher import (
    MultimodalTeacher,
    TeacherOutput,
)
from torch_promptmm.models.ngcf import NGCF
from torch_promptmm.models.propagated_features import PropagatedFeatures
from torch_promptmm.models.ridge import ridge_rows
from torch_promptmm.models.side_by_side import standard_pair
from torch_promptmm.models.slmrec import SLMRec
from torch_promptmm.models.smore import SMORE
from torch_promptmm.models.vbpr import VBPR

# The name that the paper gives it, for its role.
LightGCNStudent = LightGCN

__all__ = classes = [
    'RankingModel',
    'ModelOutput',
    'ForeignModel',
    'MF',
    'NGCF',
    'LightGCN',
    'LightGCNStudent',
    'VBPR',
    'GCN',
    'MLP',
    'MMGCN',
    'GRCN',
    'LATTICE',
    'FREEDOM',
    'MGCN',
    'SMORE',
    'MultimodalTeacher',
    'TeacherOutput',
    'CLCRec',
    'SLMRec',
    'BM3',
    'PropagatedFeatures',
    'ContentExpert',
    'CoOccurrence',
    'Ensemble',
    'Fusion',
    'ridge_rows',
    'standard_pair',
    'as_model',
    'as_output',
    'check_output',
    'embed',
]
