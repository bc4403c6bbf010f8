r"""Distillation: what only the two stages of a teacher and its student
need."""

from torch_promptmm.distill.arrivals import Arrivals, read_arrivals
from torch_promptmm.distill.choice import choose_fusion
from torch_promptmm.distill.cold_items import choose_level, learn_content_map
from torch_promptmm.distill.content_stages import EnsembleStage, ListStage
from torch_promptmm.distill.frozen_rows import ConstantTables, PromptTables
from torch_promptmm.distill.list_task import (
    ListDistillationTask,
    compress_into,
)
from torch_promptmm.distill.member_weights import choose_member_weights
from torch_promptmm.distill.projections import Projections
from torch_promptmm.distill.prompt_task import PromptedRankingTask
from torch_promptmm.distill.prompted_scores import PromptedScores
from torch_promptmm.distill.settings import Settings
from torch_promptmm.distill.stages import (
    Parts,
    Stage,
    StudentStage,
    TeacherStage,
    TrainingData,
)
from torch_promptmm.distill.task import DistillationTask
from torch_promptmm.distill.top_lists import (
    ListBatch,
    TopLists,
    UserLoader,
    top_lists,
)
from torch_promptmm.distill.update import Update, add_items, update
from torch_promptmm.distill.update_task import AnchoredTask

__all__ = classes = [
    'Settings',
    'DistillationTask',
    'ListDistillationTask',
    'PromptedRankingTask',
    'Stage',
    'TeacherStage',
    'StudentStage',
    'EnsembleStage',
    'ListStage',
    'Parts',
    'TrainingData',
    'ConstantTables',
    'PromptTables',
    'PromptedScores',
    'Projections',
    'TopLists',
    'ListBatch',
    'UserLoader',
    'top_lists',
    'compress_into',
    'choose_fusion',
    'choose_member_weights',
    'learn_content_map',
    'choose_level',
    'update',
    'Update',
    'AnchoredTask',
    'add_items',
    'Arrivals',
    'read_arrivals',
]
