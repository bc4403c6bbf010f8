"""Fixtures and settings that every test may rely on."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

if 'PYTEST_XDIST_WORKER' in os.environ:
    # One thread a worker: more would only fight for the same cores.
    torch.set_num_threads(1)

settings.register_profile(
    'torch_promptmm',
    deadline=None,
    max_examples=25,
    # The same examples on every run of CI: a red run can be repeated.
    derandomize=bool(os.environ.get('CI')),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile('torch_promptmm')


@pytest.fixture(autouse=True)
def seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(params=['cpu', pytest.param('cuda', marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == 'cuda' and not torch.cuda.is_available():
        pytest.skip('needs a CUDA device: torch.cuda.is_available() is False')
    return torch.device(request.param)


@pytest.fixture(scope='session')
def tiktok_root() -> Path:
    """The TikTok folder: ``train.npy``, ``val.npy``, ``test.npy``, features.

    Read-only; a test that uses it carries ``@pytest.mark.tiktok``.
    """
    named = os.environ.get('TORCH_PROMPTMM_TIKTOK')
    root = Path(named) if named else ROOT.parent / 'shared/data/tiktok'
    if (root / 'train.npy').is_file():
        return root
    if named:
        # A wrong path must not pass for an absent data set.
        pytest.fail(f'TORCH_PROMPTMM_TIKTOK={named}: no train.npy there')
    pytest.skip(
        'no TikTok folder: set TORCH_PROMPTMM_TIKTOK to one with train.npy')
