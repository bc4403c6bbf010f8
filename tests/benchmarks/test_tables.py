"""What tables compute from runs."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest


def test_holm(script: Callable[[str], ModuleType]) -> None:
    holm = script('tables').holm

    # 0.01 x 4, 0.02 x 3, 0.03 x 2 (raised to what is before it), 0.5 x 1.
    out = holm({'c': 0.03, 'a': 0.01, 'd': 0.5, 'b': 0.02})
    assert out == pytest.approx({'a': 0.04, 'b': 0.06, 'c': 0.06, 'd': 0.5})
    assert holm({'a': 0.4, 'b': 0.9}) == {'a': 0.8, 'b': 0.9}
    assert holm({'a': 0.6, 'b': 0.7}) == {'a': 1.0, 'b': 1.0}
    assert holm({}) == {}
