"""Tables in Markdown, and where their figures come from."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from torch_promptmm.files import atomic_path


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def machine(device: str = 'cpu') -> str:
    """Processor or GPU, load, version of torch and time."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith('model name'):
                name = line.partition(':')[2].strip()
                break
    if device.startswith('cuda'):
        name = torch.cuda.get_device_name(device)
    return (f'{name}, {os.cpu_count()} cores, load '
            f'{os.getloadavg()[0]:.1f}; torch {torch.__version__}; '
            f'{time.strftime("%Y-%m-%d %H:%M")}')


def commit() -> str:
    """The commit that is checked out, and whether the package differs."""
    def git(*args: str) -> str:
        out = subprocess.run(['git', *args], capture_output=True, text=True,
                             cwd=Path(__file__).parent, check=False)
        return out.stdout.strip()

    changed = git('status', '--porcelain', '--', '../torch_promptmm')
    return (git('rev-parse', '--short', 'HEAD') or 'unknown') + (
        ' (with changes)' if changed else '')


def write_output(path: str | Path, command: str, text: str) -> None:
    """Writes what a command printed, with where it comes from."""
    with atomic_path(path) as temporary:
        temporary.write_text(f'`{command}`, commit {commit()}; {machine()}'
                             f'\n\n{text}\n')
