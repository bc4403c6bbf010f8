r"""The folders in which the field keeps its datasets."""

from .mmrec import read_mmrec, write_mmrec
from .promptmm import read_promptmm, write_promptmm

__all__ = [
    'read_mmrec',
    'read_promptmm',
    'write_mmrec',
    'write_promptmm',
]

classes = __all__
