"""Killed at any moment, a run resumes and a file is whole.

The children are forks of one process that has paid for the imports; they run
one thread each and are killed by SIGKILL after a random time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

HELPER = r'''
import os, random, signal, sys, time
import torch
from torch_promptmm import PromptMMDistiller
from torch_promptmm.datasets import SyntheticMultimodal

torch.set_num_threads(1)
folder, kills = sys.argv[1], int(sys.argv[2])
train, val, _ = SyntheticMultimodal.blocks()
path = os.path.join(folder, 'file')


def build():
    return PromptMMDistiller.from_data(train, hidden_channels=8, seed=0,
                                       num_negatives=16, dropout=0.1)


def fit(**kwargs):
    distiller = build()
    distiller.fit(train, val, epochs=12, seed=1, progress=False, patience=6,
                  **kwargs)
    return distiller


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def fork(work):
    """Returns the child, which works until it is killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
    return child


def end(child, delay):
    """Returns whether the child was killed in the middle of its work."""
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, 'a child failed'
    return False


rng = random.Random(0)


def kill_fit():
    start = time.perf_counter()
    wanted = fit(checkpoint=path)
    duration = time.perf_counter() - start
    os.unlink(path)
    killed = 0
    for _ in range(6 * kills):
        if killed == kills:
            break
        child = fork(lambda: fit(checkpoint=path, resume=True))
        if end(child, rng.uniform(0.0, 0.4 * duration)):
            killed += 1
        else:
            assert same(fit(checkpoint=path, resume=True), wanted)
            os.unlink(path)
        if os.path.exists(path):
            state = torch.load(path, weights_only=True)
            assert state['format'].startswith('torch_promptmm')
    assert same(fit(checkpoint=path, resume=True), wanted)
    os.unlink(path)
    return killed


def kill_save():
    versions = [build(), build()]
    with torch.no_grad():
        for i, each in enumerate(versions):
            for parameter in each.parameters():
                parameter.fill_(i + 1.0)
    versions[0].save(path)

    def work():
        while True:
            for each in versions:
                each.save(path)

    killed = 0
    for _ in range(kills):
        killed += end(fork(work), rng.uniform(0.0, 0.1))
        loaded = PromptMMDistiller.load(path)
        assert any(same(loaded, each) for each in versions)
    return killed


for each in (kill_fit, kill_save):
    killed = each()
    assert killed == kills, f'only {killed} were killed in time'
# Killed while it writes, safetensors leaves a hidden file of its own.
left = {x for x in os.listdir(folder) if not x.startswith('.')} - {'file'}
assert not left, left
print('done')
'''


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs os.fork')
def test_killed_at_twenty_random_moments(tmp_path):
    env = {**os.environ, 'OMP_NUM_THREADS': '1',
           'PYTHONPATH': os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [sys.executable, '-c', HELPER, str(tmp_path), '20'], env=env,
        capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == 'done\n'
