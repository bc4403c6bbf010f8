"""Stage 1 over a feature file four times as large as the memory allowed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT = 24 * 2**20

SCRIPT = """
import resource, sys, warnings
import numpy as np
import torch
from torch_promptmm import PromptMMDistiller
from torch_promptmm.data import from_interactions
from torch_promptmm.nn import feature_matmul

path, limit = sys.argv[1], int(sys.argv[2])
warnings.simplefilter('ignore')  # The map is read-only.

read = 0
blocks = feature_matmul.row_blocks


def counted(x, *args):
    global read
    for rows, block in blocks(x, *args):
        read += x[rows].nbytes
        yield rows, block


feature_matmul._BLOCK_SIZE = 2**17  # Elements that are converted at a time.
feature_matmul.row_blocks = counted


def run(x):
    num_items = x.size(0)
    known = torch.stack([torch.arange(2000) % 200,
                         torch.randperm(num_items)[:2000]])
    data = from_interactions(known, {'visual': x}, 200, num_items)
    distiller = PromptMMDistiller.from_data(data, 8)
    return distiller, data


# Loads the libraries and their work space, then shuts the door.
small, data = run(torch.randn(3000, 1100).half())
small.fit_teacher(data, epochs=1, progress=False)
del small, data
for line in open('/proc/self/status'):
    if line.startswith('VmData'):
        have = 1024 * int(line.split()[1])
resource.setrlimit(resource.RLIMIT_DATA, (have + limit, have + limit))
x = torch.from_numpy(np.load(path, mmap_mode='r'))
try:
    torch.zeros(x.nbytes, dtype=torch.uint8)
except RuntimeError:
    print('the file does not fit')
distiller, data = run(x)
read = 0
distiller.fit_teacher(data, epochs=1, batch_size=500, progress=False)
print('bytes read in 4 steps:', read)
"""


@pytest.mark.skipif(not sys.platform.startswith('linux'),
                    reason='RLIMIT_DATA covers all memory on Linux alone')
def test_an_epoch_under_a_memory_limit(tmp_path: Path) -> None:
    import numpy as np
    path, width = tmp_path / 'visual.npy', 2048
    num_items = 4 * LIMIT // (2 * width)
    out = np.lib.format.open_memmap(path, 'w+', np.float16,
                                    (num_items, width))
    generator = np.random.default_rng(0)
    for start in range(0, num_items, 1024):
        block = out[start:start + 1024]
        block[:] = generator.standard_normal(block.shape, np.float32)
    out.flush()
    size = out.nbytes
    assert size == 4 * LIMIT
    del out
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT, str(path), str(LIMIT)],
        capture_output=True, text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'})
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'the file does not fit' in done.stdout
    # Each step reads the file twice: forward and backward.
    read = int(done.stdout.split()[-1])
    assert 8 * size <= read <= 10 * size
