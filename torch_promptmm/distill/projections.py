from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from torch_promptmm.nn.functional import modality_key

#: The key of the fused vectors; a modality has that of its name.
FUSED = 'fused'


class Projections(torch.nn.ModuleDict):
    r"""Linear maps from the student's embeddings to the teacher's width,
    where the widths differ.

    Args:
        channels (int): The width of the student.
    """
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    @staticmethod
    def keys_of(modalities: Iterable[str]) -> dict[str, str]:
        r"""Returns the key of the fused vectors, under the empty name, and
        of each modality."""
        return {'': FUSED, **{name: modality_key(name)
                              for name in modalities}}

    def add(self, widths: Mapping[str, int],
            device: torch.device | None = None) -> None:
        r"""Adds what is missing.

        Args:
            widths (dict): From a key to the width that is compared with.
            device (torch.device, optional): Where it is put.
                (default: :obj:`None`)
        """
        for key, width in widths.items():
            if width != self.channels and key not in self:
                layer = torch.nn.Linear(self.channels, width, bias=False)
                self[key] = layer.to(device)

    def add_from(self, state: Mapping[str, Tensor],
                 device: torch.device | None = None) -> None:
        r"""Adds what a state of this module has."""
        self.add({
            key.removesuffix('.weight'): value.size(0)
            for key, value in state.items()
            if key.endswith('.weight') and value.dim() == 2
        }, device)

    def restore(self, other: Projections) -> None:
        r"""Takes the maps of another module of this kind."""
        state = other.state_dict()
        self.add_from(state)
        self.load_state_dict(state)
