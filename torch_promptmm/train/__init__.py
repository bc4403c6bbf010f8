r"""Training: tasks and the one loop that trains them."""

from torch_promptmm._moved import lazily
from torch_promptmm.seeding import seeded
from torch_promptmm.threads import use_threads
from torch_promptmm.train.checkpoint import (
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from torch_promptmm.train.fit import fit
from torch_promptmm.train.history import History
from torch_promptmm.train.loop import train
from torch_promptmm.train.memory import kept_memory
from torch_promptmm.train.objective import RankingObjective
from torch_promptmm.train.task import RankingTask, Task
from torch_promptmm.train.validation import Validation

# These live in an upper room, and are found here as well.
_MOVED = {
    'DistillationTask': 'torch_promptmm.distill',
    'Settings': 'torch_promptmm.distill',
}
__getattr__, __dir__ = lazily(__name__, _MOVED)

__all__ = classes = [
    'fit',
    'train',
    'Task',
    'RankingTask',
    'RankingObjective',
    'Validation',
    'History',
    'seeded',
    'kept_memory',
    'use_threads',
    'save_checkpoint',
    'load_checkpoint',
    'load_weights',
]
