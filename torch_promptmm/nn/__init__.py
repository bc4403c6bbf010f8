r"""Modules: tensors and adjacency in, tensors out."""

from torch_promptmm.nn._backends.onednn import use_onednn
from torch_promptmm.nn.functional import unit_rows
from torch_promptmm.nn.graph import UserItemGraph
from torch_promptmm.nn.light_gcn_conv import LightGCNConv
from torch_promptmm.nn.light_gcn_student import LightGCNStudent
from torch_promptmm.nn.multimodal_conv import MultimodalConv
from torch_promptmm.nn.prompt import SoftPrompt
from torch_promptmm.nn.propagated import PropagatedFeatures
from torch_promptmm.nn.propagation import propagate
from torch_promptmm.nn.reduction import PromptContext, PromptedReduction
from torch_promptmm.nn.tables import ConstantTables, PromptTables
from torch_promptmm.nn.teacher import MultimodalTeacher, TeacherOutput

__all__ = classes = [
    'UserItemGraph',
    'LightGCNConv',
    'LightGCNStudent',
    'SoftPrompt',
    'PromptContext',
    'PromptedReduction',
    'MultimodalConv',
    'MultimodalTeacher',
    'TeacherOutput',
    'ConstantTables',
    'PromptTables',
    'PropagatedFeatures',
    'propagate',
    'unit_rows',
    'use_onednn',
]
