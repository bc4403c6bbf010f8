r"""Lists of items that a call names, for all users or one a user."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torch_promptmm.checks import check_ids
from torch_promptmm.ids import IdMap


class ItemLists(NamedTuple):
    r"""Items of each user of a call.

    Attributes:
        row (torch.Tensor, optional): Whose items they are, by the number of
            the user in the call, sorted :math:`(N)`; :obj:`None`, if they
            are everybody's.
        item (torch.Tensor): The items :math:`(N)`.
    """
    row: Tensor | None
    item: Tensor


def read_lists(
    name: str,
    value: Any,
    num_users: int,
    num_items: int,
    ids: IdMap | None = None,
    device: Any = None,
) -> ItemLists:
    r"""Reads one list of items for all, or one for each user.

    Args:
        name (str): The argument.
        value (torch.Tensor or list): Items, or lists of them.
        num_users (int): How many users the call has.
        num_items (int): The size of the catalogue.
        ids (IdMap, optional): Whose ids the items are given by.
            (default: rows)
        device (torch.device, optional): Where they go. (default: CPU)
    """
    if not is_nested(value):
        return ItemLists(None, _items(name, value, num_items, ids).to(device))
    if len(value) != num_users:
        raise ValueError(f"'{name}' must be one list for all, or one for "
                         f"each of the {num_users} users (got {len(value)} "
                         f"lists)")
    parts = [_items(f'{name}[{i}]', x, num_items, ids)
             for i, x in enumerate(value)]
    size = torch.tensor([len(x) for x in parts])
    row = torch.arange(num_users).repeat_interleave(size)
    item = torch.cat(parts) if parts else row
    return ItemLists(row.to(device), item.to(device))


def read_histories(
    value: Any,
    num_items: int,
    ids: IdMap | None = None,
    device: Any = None,
) -> ItemLists:
    r"""Reads a list of items for each of any number of users, each item
    once."""
    if not is_nested(value) and (isinstance(value, (str, bytes))
                                 or not hasattr(value, '__len__')
                                 or len(value) > 0):
        raise ValueError("'histories' must hold a list of items for each "
                         "user, such as [[3, 7], [5]]; for one user, "
                         "[[3, 7]]")
    if len(value) == 0:
        none = torch.empty(0, dtype=torch.long, device=device)
        return ItemLists(none, none)
    row, item = read_lists('histories', value, len(value), num_items, ids)
    assert row is not None
    empty = torch.bincount(row, minlength=len(value)) == 0
    if bool(empty.any()):
        raise ValueError(f"'histories[{int(empty.nonzero()[0])}]' is empty: "
                         f"of a user without an item nothing is known; give "
                         f"one item at least")
    key = (row * num_items + item).unique()
    return ItemLists((key // num_items).to(device),
                     (key % num_items).to(device))


def is_nested(value: Any) -> bool:
    r"""Whether it holds lists, not ids."""
    if isinstance(value, (Tensor, np.ndarray)):
        return value.ndim == 2
    return (isinstance(value, (list, tuple)) and len(value) > 0
            and (isinstance(value[0], (list, tuple, range, set, frozenset))
                 or getattr(value[0], 'ndim', 0) == 1))


def _items(name: str, value: Any, num_items: int,
           ids: IdMap | None) -> Tensor:
    if isinstance(value, (set, frozenset)):
        value = list(value)
    if ids is not None:
        try:
            value = ids.encode(value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"'{name}': {error}") from error
    return check_ids(name, value, num_items, 'item').cpu()
