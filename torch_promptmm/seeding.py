r"""Blocks that draw from a seed of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from torch_promptmm.checks import check_int


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    r"""Runs a block from a seed and leaves the global generators as they
    were; :obj:`None` draws from them."""
    if seed is None:
        yield
        return
    if check_int('seed', seed, -2**63) >= 2**64:
        raise ValueError(f"'seed' must be below 2**64 (got {seed})")
    seed = int(seed)
    devices = [device] if device.type == 'cuda' else []
    with torch.random.fork_rng(devices):
        # torch.manual_seed would seed all devices, which nothing here sets
        # back.
        torch.default_generator.manual_seed(seed)
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
