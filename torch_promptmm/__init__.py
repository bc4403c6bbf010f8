r"""Multimodal knowledge distillation for recommendation on PyTorch
Geometric."""

from typing import TYPE_CHECKING

from torch_promptmm._moved import lazily

if TYPE_CHECKING:
    from torch_promptmm.distiller import PromptMMDistiller

__version__ = '0.1.0'

# Imported when they are asked for: what serves needs neither PyG nor models.
_FILES = {'PromptMMDistiller': 'torch_promptmm.distiller'}
_ROOMS = ('data', 'datasets', 'distill', 'distiller', 'evaluate', 'loader',
          'loss', 'models', 'nn', 'serve', 'train')
__getattr__, __dir__ = lazily(__name__, {**_FILES,
                                         **dict.fromkeys(_ROOMS, '')})

__all__ = classes = [
    'PromptMMDistiller',
]
