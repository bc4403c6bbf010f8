"""The equations of the paper in plain float64 numpy, in the slow and obvious
form: what the package is compared with. Nothing here imports the package.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def adjacency(edge_index: Array, num_users: int, num_items: int,
              weight: Array | None = None) -> Array:
    """The normalised adjacency of users and items together, dense."""
    n = num_users + num_items
    out = np.zeros((n, n))
    if weight is None:
        weight = np.ones(edge_index.shape[1])
    for user, item, value in zip(*edge_index, weight, strict=True):
        out[user, num_users + item] += value
        out[num_users + item, user] += value
    degree = out.sum(1)
    inverse = np.array([0.0 if d == 0.0 else d**-0.5 for d in degree])
    return inverse[:, None] * out * inverse[None, :]


def polynomial(matrix: Array, x: Array, weights: list[float]) -> Array:
    out, power = np.zeros_like(x), np.array(x)
    for i, weight in enumerate(weights):
        out = out + weight * power
        if i + 1 < len(weights):
            power = matrix @ power
    return out


def unit_rows(x: Array) -> Array:
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)


def standardise(x: Array, mask: Array | None = None) -> Array:
    """Columns of zero mean and unit variance over the items that have the
    modality; zero for those that lack it, and in constant columns.
    """
    x = np.asarray(x, np.float64)
    mask = np.ones(len(x), bool) if mask is None else mask
    mean, deviation = x[mask].mean(0), x[mask].std(0)
    constant = deviation < 1e-9 * (1 + np.abs(mean))
    out = (x - mean) / np.where(constant, 1.0, deviation)
    return np.where(mask[:, None] & ~constant, out, 0.0)


def scaled(x: Array, scaling: str, mask: Array | None = None) -> Array:
    """Raw, standardised or, by ZCA with a shrinkage of a tenth, whitened."""
    if scaling == 'raw':
        return x if mask is None else x * mask[:, None]
    z = standardise(x, mask)
    if scaling == 'standardize':
        return z
    count = len(x) if mask is None else mask.sum()
    value, vector = np.linalg.eigh(0.9 * z.T @ z / count +
                                   0.1 * np.eye(z.shape[1]))
    return z @ (vector * value**-0.5) @ vector.T


def whitened(x: Array, channels: int, mask: Array | None = None) -> Array:
    """Principal components of unit variance, by an SVD of the standardised
    rows, padded by zero columns. The largest loading of each is positive.
    """
    x = standardise(x, mask)
    mask = np.ones(len(x), bool) if mask is None else mask
    left, value, right = np.linalg.svd(x[mask], full_matrices=False)
    out = np.zeros((len(x), channels))
    for i in range(min(channels, len(value))):
        if value[i]**2 > 1e-6 * value[0]**2:
            sign = np.sign(right[i, np.abs(right[i]).argmax()])
            out[mask, i] = sign * left[:, i] * mask.sum()**0.5
    return out


def basis(features: list[Array], channels: int,
          masks: list[Array | None] | None = None) -> Array:
    """Eq. 3 without the feed-forward layer."""
    masks = masks or [None] * len(features)
    mean = sum(whitened(x, channels, mask)
               for x, mask in zip(features, masks, strict=True))
    mean = mean / len(features)
    mean = mean - mean.mean(0)
    deviation = mean.std(0)
    small = deviation < 1e-4
    return np.where(small, 0.0, mean / np.where(small, 1.0, deviation))


def reduction(x: Array, weight: Array, bias: Array,
              prompt: Array | None = None, prompt_weight: float = 1.0,
              normalize: bool | str = False) -> Array:
    """Eq. 4 as it is written; `x` is standardised already."""
    if prompt is not None:
        term = (prompt @ prompt.T) @ x
        if normalize == 'size':
            term = term / len(x)
        elif normalize in ('row', True):
            term = unit_rows(term)
        x = x + prompt_weight * term
    return x @ weight + bias


def teacher(matrix: Array, num_users: int, ego: Array,
            reduced: dict[str, Array], num_layers: int, self_weight: float,
            fusion_weight: float) -> tuple[Array, dict[str, Array]]:
    """Eq. 1 with a dense T, of users and items together."""
    share = 1.0 / (num_layers + 1)
    fused = polynomial(matrix, ego, [share] * (num_layers + 1))
    operator = polynomial(matrix, np.eye(len(matrix)),
                          [share * self_weight] + [share] * num_layers)
    parts = {}
    for name, x in reduced.items():
        zeros = np.zeros((num_users, x.shape[1]))
        parts[name] = operator @ np.concatenate([zeros, x])
        fused = fused + fusion_weight * unit_rows(parts[name])
    return fused, parts


def sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def softmax(x: Array) -> Array:
    x = np.exp(x - x.max())
    return x / x.sum()


def kl(p: Array, q: Array) -> float:
    return float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True)
                     if a > 0))
