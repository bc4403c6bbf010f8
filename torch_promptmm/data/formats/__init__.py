r"""The folders in which the field keeps its datasets."""

from torch_promptmm.data.formats.mmrec import read_mmrec, write_mmrec
from torch_promptmm.data.formats.promptmm import read_promptmm, write_promptmm

__all__ = classes = [
    'read_mmrec',
    'read_promptmm',
    'write_mmrec',
    'write_promptmm',
]
