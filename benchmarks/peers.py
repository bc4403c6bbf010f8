r"""The systems that benchmarks compare with."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'examples'))

from _report import PyGLightGCN  # noqa: E402

__all__ = ['PyGLightGCN']
