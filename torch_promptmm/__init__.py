r"""Multimodal knowledge distillation for recommendation on PyTorch
Geometric."""

from torch_promptmm.distiller import PromptMMDistiller

__version__ = '0.1.0'

__all__ = classes = [
    'PromptMMDistiller',
]
