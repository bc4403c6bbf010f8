r"""Blocks that draw from a seed of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from torch_promptmm.checks import check_int


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    r"""Runs a block from a seed and leaves the global generators as they
    were.

    Seeded are the generator of the CPU and that of :obj:`device`. Those of
    other devices are not touched, nor is CUDA initialised for a block on the
    CPU, as it would be by :func:`torch.manual_seed`, which seeds all.

    Args:
        seed (int, optional): The seed; with :obj:`None` the block draws from
            the global generators.
        device (torch.device): Where the block draws.
    """
    if seed is None:
        yield
        return
    if check_int('seed', seed, -2**63) >= 2**64:
        raise ValueError(f"'seed' must be below 2**64 (got {seed})")
    seed = int(seed)
    devices = [device] if device.type == 'cuda' else []
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type in ('mps', 'xpu'):
            torch.get_device_module(device).manual_seed(seed)
        yield
