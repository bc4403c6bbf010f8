r"""What the C library does with freed memory."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Options of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4

_OFF = 'TORCH_PROMPTMM_KEEP_MEMORY'

_depth = 0


@contextmanager
def kept_memory(enabled: bool = True) -> Iterator[None]:
    r"""Keeps freed memory for the next step instead of handing it back.

    A training step makes and frees the same large tensors each time. By
    default glibc maps memory for each one anew, and the kernel fills it with
    zeros page by page: more than half of a step, where tables are large.
    Inside of this block freed memory is kept, and is handed back at its end.
    :func:`~torch_promptmm.train.train` is inside of one; a loop of your own
    may be too.

    It sets glibc's :obj:`mallopt` for the whole process, and sets it at the
    end to what glibc starts out with, not to what the process had set. Where
    that is not wanted, :obj:`enabled=False` (:obj:`keep_memory=False` of the
    training) or :obj:`TORCH_PROMPTMM_KEEP_MEMORY=0` in the environment makes
    the block do nothing. With another C library it does nothing either.

    Args:
        enabled (bool, optional): If :obj:`False`, does nothing.
            (default: :obj:`True`)
    """
    global _depth
    mallopt = _mallopt() if enabled and os.environ.get(_OFF) != '0' else None
    if mallopt is None:
        yield
        return
    if _depth == 0:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if _depth == 0:
            # As large as glibc lets them grow by itself.
            mallopt(_MMAP_MAX, 2**16)
            mallopt(_MMAP_THRESHOLD, 2**25)
            mallopt(_TRIM_THRESHOLD, 2**26)
            _trim()


def release_memory() -> None:
    r"""Hands the freed memory that :func:`kept_memory` keeps back to the
    system.

    In a run's first step, gradients and the optimiser's moments are laid
    between tensors that are freed later. The gaps that these leave are too
    small for other large tensors. Handed back, they cost nothing.
    """
    if _depth > 0:
        _trim()


def _trim() -> None:
    ctypes.CDLL(None).malloc_trim(0)


def _mallopt() -> ctypes._NamedFuncPointer | None:
    if not sys.platform.startswith('linux'):
        return None
    return getattr(ctypes.CDLL(None), 'mallopt', None)
