"""Freed memory is kept inside of the block."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from torch_promptmm.train import kept_memory

SCRIPT = """
import resource
import torch
from torch_promptmm.train import kept_memory


def faults(num):  # Page faults of making and freeing 64 MiB a few times.
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(num):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start


with kept_memory():
    with kept_memory():
        faults(2)
    # As soon as the heap has found its form.
    print(min(faults(1) for _ in range(8)))
print(faults(1))
"""


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='glibc')
def test_memory_is_not_faulted_in_anew() -> None:
    # In a process of its own: where an allocation has failed before, as some
    # tests want it, glibc takes the thread to an arena that keeps nothing so
    # large.
    done = subprocess.run([sys.executable, '-c', SCRIPT], check=True,
                          capture_output=True, text=True)
    inside, outside = map(int, done.stdout.split())
    assert inside < 2**10 < outside  # Of 2**14 pages.


def test_it_ends_with_an_error() -> None:
    with pytest.raises(KeyError), kept_memory():
        raise KeyError
    with kept_memory():
        assert float(torch.ones(3).sum()) == 3
