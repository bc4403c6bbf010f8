"""The door for modules of every class."""

from __future__ import annotations

import pytest
import torch
from baselines import MF, Tables

from torch_promptmm.models.door import reset_parameters

U, I = 12, 9


def test_reset_reaches_parts_and_names_what_it_cannot() -> None:
    class Bare(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2))
            self.tables = Tables(U, I)

    bare, model = Bare(), MF(U, I)
    before = bare.tables.user.weight.clone(), model.user.weight.clone()
    with pytest.warns(UserWarning, match=r"'Bare'.*\['weight'\]"):
        reset_parameters(None, bare, model)
    assert not torch.equal(bare.tables.user.weight, before[0])
    assert not torch.equal(model.user.weight, before[1])
    assert torch.equal(bare.weight, torch.ones(2))
