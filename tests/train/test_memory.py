"""Freed memory is kept inside of the block."""

from __future__ import annotations

import resource
import sys

import pytest
import torch

from torch_promptmm.train import kept_memory


def faults(num: int) -> int:
    """Page faults of making and freeing 64 MiB a few times."""
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(num):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='glibc')
def test_memory_is_not_faulted_in_anew() -> None:
    with kept_memory():
        with kept_memory():
            faults(2)
        # Of 2**14 pages, as soon as the heap has found its form.
        assert min(faults(1) for _ in range(8)) < 2**10


def test_it_ends_with_an_error() -> None:
    with pytest.raises(KeyError), kept_memory():
        raise KeyError
    with kept_memory():
        assert float(torch.ones(3).sum()) == 3
