from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric import EdgeIndex

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_edges(index: Any, name: str) -> Tensor:
    r"""Returns ``index`` as a ``[2, E]`` int64 tensor, row 0 users and row 1
    items.
    """
    if not isinstance(index, Tensor):
        raise TypeError(f"'{name}' must be an integer tensor of shape [2, E] "
                        f"(got {type(index).__name__})")
    if isinstance(index, EdgeIndex):
        index = index.as_tensor()
    if index.layout != torch.strided:
        raise TypeError(f"'{name}' must be a dense [2, E] tensor of indices "
                        f"(got layout {index.layout}); pass the row and "
                        f"column indices of the sparse matrix")
    if index.dtype not in INTEGERS:
        raise TypeError(f"'{name}' must hold integer ids (got dtype "
                        f"{index.dtype}); convert it to int64")
    if index.dim() != 2 or index.size(0) != 2:
        hint = ''
        if index.dim() == 2 and index.size(1) == 2:
            hint = '; its rows look like pairs, so pass its transpose'
        raise ValueError(f"'{name}' must have the shape [2, E], user row and "
                         f"item row (got {list(index.shape)}){hint}")
    return index.long()


def check_range(
    index: Tensor,
    name: str,
    num_users: int,
    num_items: int,
) -> None:
    r"""Checks that the ids of a ``[2, E]`` tensor are within bounds."""
    if index.size(1) == 0:
        return
    sizes = {'user': num_users, 'item': num_items}
    bounds = [[int(x) for x in row.aminmax()] for row in index]
    for row, (kind, size) in enumerate(sizes.items()):
        low, high = bounds[row]
        if low >= 0 and high < size:
            continue
        flip = ''
        if bounds[0][1] < num_items and bounds[1][1] < num_users:
            flip = ' (are its rows swapped?)'
        raise ValueError(
            f"'{name}' has the {kind} id {low if low < 0 else high} in row "
            f"{row}, outside [0, {size}){flip}; {kind} ids must run from 0 "
            f"to num_{kind}s - 1, so renumber them or correct the number of "
            f"{kind}s")


def edge_key(index: Tensor, num_items: int) -> Tensor:
    r"""One number per interaction, ``user * num_items + item``."""
    return index[0] * num_items + index[1]


def key_to_edges(key: Tensor, num_items: int) -> Tensor:
    r"""The inverse of :func:`edge_key`."""
    return torch.stack([key // num_items, key % num_items])


def unique_edges(index: Tensor, num_items: int) -> Tensor:
    r"""Sorts interactions by (user, item) and drops the duplicates."""
    key = edge_key(index, num_items)
    if bool((key[1:] > key[:-1]).all()):  # Nothing to do, the usual case.
        return index
    return key_to_edges(key.unique(), num_items)


def union_edges(a: Tensor, b: Tensor, num_items: int) -> Tensor:
    r"""The interactions in ``a`` or ``b``, sorted and without duplicates."""
    return unique_edges(torch.cat([a, b], dim=1), num_items)


def difference_edges(a: Tensor, b: Tensor, num_items: int) -> Tensor:
    r"""The interactions in ``a`` that are not in ``b``, in the order of
    ``a``. ``b`` must be sorted.
    """
    if a.size(1) == 0 or b.size(1) == 0:
        return a
    key, other = edge_key(a, num_items), edge_key(b, num_items)
    pos = torch.searchsorted(other, key).clamp_(max=other.numel() - 1)
    return a[:, other[pos] != key]
