r"""Batches of interactions, drawn where the model is."""

from torch_promptmm.loader.interaction_loader import (
    Batch,
    BatchSpec,
    InteractionLoader,
)

__all__ = classes = [
    'Batch',
    'BatchSpec',
    'InteractionLoader',
]
