r"""From embeddings to recommendations, and into files and back. Importing it
imports no PyG."""

from typing import TYPE_CHECKING

from torch_promptmm._moved import lazily
from torch_promptmm.serve.faiss_index import FaissIndex
from torch_promptmm.serve.fold_in import FoldIn
from torch_promptmm.serve.recommend import recommend
from torch_promptmm.serve.recommender import Recommender

if TYPE_CHECKING:
    from torch_promptmm.serve.store import load_student, save_student

# A student is a model.
_FILES = {
    'load_student': 'torch_promptmm.serve.store',
    'save_student': 'torch_promptmm.serve.store',
}
__getattr__, __dir__ = lazily(__name__, _FILES)

__all__ = classes = [
    'Recommender',
    'FoldIn',
    'FaissIndex',
    'recommend',
    'save_student',
    'load_student',
]
