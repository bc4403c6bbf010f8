"""The load on the service, in small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('uvicorn')
pytest.importorskip('fastapi')
pytest.importorskip('jsonargparse')

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_every_request_is_answered() -> None:
    done = subprocess.run(
        [sys.executable, 'benchmarks/serving_http.py', '--scale', '0.01',
         '--rate', '40', '--seconds', '2', '--clients', '4'],
        cwd=ROOT, env={'PYTHONPATH': str(ROOT), 'PATH': ''},
        capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    open_loop, closed_loop = map(json.loads, done.stdout.splitlines())
    assert open_loop['requests'] == 80
    for row in (open_loop, closed_loop):
        assert row['errors'] == {}
        assert 0 < row['p50_ms'] <= row['p99_ms'] <= row['max_ms']
