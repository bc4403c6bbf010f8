r"""From embeddings to recommendations, and into files and back."""

from torch_promptmm.serve.recommend import recommend
from torch_promptmm.serve.recommender import Recommender
from torch_promptmm.serve.store import load_student, save_student

__all__ = classes = [
    'Recommender',
    'recommend',
    'save_student',
    'load_student',
]
