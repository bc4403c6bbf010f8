r"""Training: tasks and the one loop that trains them."""

from torch_promptmm.seeding import seeded
from torch_promptmm.threads import use_threads
from torch_promptmm.train.checkpoint import (
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from torch_promptmm.train.distillation import DistillationTask
from torch_promptmm.train.history import History
from torch_promptmm.train.loop import train
from torch_promptmm.train.memory import kept_memory
from torch_promptmm.train.objective import RankingObjective
from torch_promptmm.train.settings import Settings
from torch_promptmm.train.task import RankingTask, Task

__all__ = classes = [
    'train',
    'Task',
    'RankingTask',
    'DistillationTask',
    'RankingObjective',
    'Settings',
    'History',
    'seeded',
    'kept_memory',
    'use_threads',
    'save_checkpoint',
    'load_checkpoint',
    'load_weights',
]
