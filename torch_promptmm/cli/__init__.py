r"""The command line, :obj:`promptmm`. Needs the extra :obj:`cli`."""

from torch_promptmm.cli.main import main

__all__ = classes = [
    'main',
]
