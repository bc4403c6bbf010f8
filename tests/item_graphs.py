"""Graphs of items in plain NumPy, dense: what the models that have such are
compared with.
"""

from __future__ import annotations

import numpy as np
import reference
from contrasts import MASK, WIDTHS, I, array, features

from torch_promptmm.models.item_graph_model import ItemGraphModel

Array = np.ndarray


def standardised() -> dict[str, Array]:
    return {
        name: reference.standardise(
            x.double().numpy(), MASK.numpy() if name == 'textual' else None)
        for name, x in features().items()
    }


def kept(x: Array, k: int, mask: Array, binary: bool = False,
         loop: bool = True) -> Array:
    """The positive cosines with the k nearest rows."""
    x, out = reference.unit_rows(x), np.zeros((len(x), len(x)))
    for i in np.flatnonzero(mask):
        others = sorted((j for j in np.flatnonzero(mask) if j != i),
                        key=lambda j: (-(x[i] @ x[j]), j))
        for j in ([i, *others] if loop else others)[:k]:
            out[i, j] = 1.0 if binary else max(x[i] @ x[j], 0.0)
    return out


def by_row_sums(x: Array) -> Array:
    degree = x.sum(1)
    root = np.where(degree > 0, np.where(degree > 0, degree, 1.0)**-0.5, 0.0)
    return root[:, None] * x * root[None, :]


def feature_graphs(k: int, binary: bool = False,
                   loop: bool = True) -> dict[str, Array]:
    return {
        name: by_row_sums(kept(x, k, mask_of(name), binary, loop))
        for name, x in standardised().items()
    }


def mask_of(name: str) -> Array:
    return MASK.numpy() if name == 'textual' else np.ones(I, bool)


def reduced(model: ItemGraphModel) -> dict[str, Array]:
    x = standardised()
    return {
        name: x[name] @ array(model.maps[name].weight) +
        array(model.maps[name].bias) for name in WIDTHS
    }
