r"""What the C library does with memory that is freed."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Options of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4

_depth = 0


@contextmanager
def kept_memory() -> Iterator[None]:
    r"""Keeps freed memory for the next step instead of handing it back.

    A training step makes and frees the same large tensors each time. By
    default glibc maps memory for each one anew, and the kernel fills it with
    zeros page by page: more than half of a step, where tables are large.
    Inside of this block freed memory is kept, and is handed back at its end.
    :func:`~torch_promptmm.train.train` is inside of one; a loop of your own
    may be too. With another C library it does nothing.
    """
    global _depth
    mallopt = _mallopt()
    if mallopt is not None and _depth == 0:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if mallopt is not None and _depth == 0:
            # As large as glibc lets them grow by itself.
            mallopt(_MMAP_MAX, 2**16)
            mallopt(_MMAP_THRESHOLD, 2**25)
            mallopt(_TRIM_THRESHOLD, 2**26)
            release_memory()


def release_memory() -> None:
    r"""Hands all freed memory back to the system.

    What stays (in a run's first step gradients and the optimiser's moments)
    is put between what goes, so that other large tensors find no room there.
    With the gaps handed back they cost nothing.
    """
    if _mallopt() is not None:
        ctypes.CDLL(None).malloc_trim(0)


def _mallopt() -> ctypes._NamedFuncPointer | None:
    if not sys.platform.startswith('linux'):
        return None
    return getattr(ctypes.CDLL(None), 'mallopt', None)
