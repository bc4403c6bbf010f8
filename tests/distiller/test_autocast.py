"""Both stages in mixed precision, as PyTorch's users ask for it."""

from __future__ import annotations

import math

import pytest
import torch


@pytest.mark.parametrize('setting', ['default', 'faithful'])
@pytest.mark.parametrize('normalize', ['size', 'row'])
def test_fit(make, blocks, setting: str, normalize: str) -> None:
    def fit(enabled: bool):
        distiller = make(setting=setting, normalize=normalize,
                         pair_weight=1.0, list_weight=0.1)
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            history = distiller.fit(blocks[0], blocks[1], epochs=2, seed=0,
                                    progress=False)
        return distiller, history

    (mixed, history), (_, want) = fit(True), fit(False)
    for module in (mixed.teacher, mixed.student, mixed.prompt):
        assert all(p.dtype == torch.float and p.isfinite().all()
                   for p in module.parameters())
    for stage in ('teacher', 'student'):
        losses = history[stage].values('loss')
        assert all(math.isfinite(x) for x in losses)
        assert losses[-1] == pytest.approx(want[stage].values('loss')[-1],
                                           rel=0.05)
    user, item = mixed.embeddings()
    assert user.dtype == item.dtype == torch.float
