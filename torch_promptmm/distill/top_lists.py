r"""A teacher as its top items of each user, and batches of users."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_promptmm.checks import check_ids, check_int, check_matrix
from torch_promptmm.ranking import KnownItems, top_items


class TopLists(NamedTuple):
    r"""The top items of each user.

    Attributes:
        items (torch.Tensor): The items :math:`(|\mathcal{U}|, n)` in
            :obj:`torch.int32`, best first, and -1 where a user has no more
            unknown items.
        scores (torch.Tensor): Their scores :math:`(|\mathcal{U}|, n)`, and
            :math:`-\infty` there.
    """
    items: Tensor
    scores: Tensor

    def to(self, device: Any) -> TopLists:
        r"""Returns the lists on :obj:`device`."""
        return TopLists(self.items.to(device), self.scores.to(device))


class ListBatch(NamedTuple):
    r"""A batch of users with their lists.

    Attributes:
        user (torch.Tensor): Users :math:`(B)`, each at most once.
        top (torch.Tensor): The top items of each user :math:`(B, n)`; item 0
            stands where there is none.
        top_score (torch.Tensor): The teacher's scores of them
            :math:`(B, n)`, :math:`-\infty` where there is none.
        uniform (torch.Tensor): Distinct items :math:`(K)`, drawn uniformly
            from the catalogue.
        uniform_mask (torch.Tensor): True where the user neither knows the
            item nor has it in the list :math:`(B, K)`.
    """
    user: Tensor
    top: Tensor
    top_score: Tensor
    uniform: Tensor
    uniform_mask: Tensor


@torch.no_grad()
def top_lists(
    user_emb: Tensor,
    item_emb: Tensor,
    known: Tensor,
    num: int = 100,
    batch_size: int | None = None,
) -> TopLists:
    r"""Ranks all items that a user does not know, for all users.

    Args:
        user_emb (torch.Tensor): User embeddings :math:`(|\mathcal{U}|, w)`.
        item_emb (torch.Tensor): Item embeddings :math:`(|\mathcal{I}|, w)`;
            scores are dot products, in single precision at least.
        known (torch.Tensor): The known interactions :math:`(2, E)`.
        num (int, optional): The length :math:`n` of a list, at most the
            number of items. (default: :obj:`100`)
        batch_size (int, optional): Users in a chunk. (default: as many as
            64 MiB of scores hold)
    """
    check_matrix('user_emb', user_emb)
    check_matrix('item_emb', item_emb, user_emb.size(1))
    num_users, num_items = user_emb.size(0), item_emb.size(0)
    num = min(check_int('num', num, 1), num_items)
    device = item_emb.device
    mask = _known_items(known, num_users, num_items, device)
    item_emb = item_emb.to(torch.promote_types(item_emb.dtype, torch.float))
    out = TopLists(
        torch.empty(num_users, num, dtype=torch.int32, device=device),
        item_emb.new_empty(num_users, num))
    start = 0
    users = torch.arange(num_users, device=device)
    for user, item, score in top_items(user_emb, item_emb, users, num, mask,
                                       batch_size):
        rows = slice(start, start + user.numel())
        out.items[rows] = torch.where(score.isneginf(), -1, item)
        out.scores[rows] = score
        start = rows.stop
    return out


class UserLoader:
    r"""Yields all users in shuffled batches of :class:`ListBatch`. It draws
    from torch's global generator.

    Args:
        lists (TopLists): The top items of each user.
        known (torch.Tensor): The known interactions :math:`(2, E)`.
        num_items (int): The number of items :math:`|\mathcal{I}|`.
        batch_size (int, optional): The number of users :math:`B` in a batch.
            (default: :obj:`256`)
        num_uniform (int, optional): The number :math:`K` of items drawn
            uniformly for a batch, at most the number of items: then all of
            them. (default: :obj:`1024`)
        device (torch.device, optional): Where batches are made.
            (default: that of the lists)
    """
    def __init__(
        self,
        lists: TopLists,
        known: Tensor,
        num_items: int,
        batch_size: int = 256,
        num_uniform: int = 1024,
        device: Any = None,
    ) -> None:
        if not isinstance(lists, TopLists):
            raise TypeError(f"'lists' must be TopLists (got "
                            f"'{type(lists).__name__}')")
        self.num_items = check_int('num_items', num_items, 1)
        self.batch_size = check_int('batch_size', batch_size, 1)
        self.num_uniform = min(check_int('num_uniform', num_uniform),
                               num_items)
        self.lists = lists.to(lists.items.device if device is None else device)
        self.device = self.lists.items.device
        self.num_users = lists.items.size(0)
        if lists.items.numel() > 0 and int(lists.items.max()) >= num_items:
            raise ValueError(f"'lists' has item id {int(lists.items.max())}, "
                             f"but 'num_items' is {num_items}")
        self._known = _known_items(known, self.num_users, num_items,
                                   self.device)

    @property
    def log_correction(self) -> float:
        r""":math:`\log (|\mathcal{I}| / K)`: a uniform item stands for so
        many, since each item that the mask admits is drawn with probability
        :math:`K / |\mathcal{I}|`; 0 where all items are drawn."""
        return math.log(self.num_items / max(self.num_uniform, 1))

    def __len__(self) -> int:
        return -(-self.num_users // self.batch_size)

    def __iter__(self) -> Iterator[ListBatch]:
        users = torch.randperm(self.num_users,
                               device=self.device).split(self.batch_size)
        # The device is waited for here, and not once a batch.
        totals = [self._known.degree[user].sum() for user in users]
        for user, total in zip(users, torch.stack(totals).tolist(),
                               strict=True):
            yield self._collate(user, total)

    def collate(self, user: Tensor) -> ListBatch:
        r"""Returns a batch of the given users :math:`(B)`."""
        return self._collate(user, int(self._known.degree[user].sum()))

    def _collate(self, user: Tensor, total: int) -> ListBatch:
        items = self.lists.items.index_select(0, user).long()
        uniform = torch.randperm(self.num_items,
                                 device=self.device)[:self.num_uniform]
        # The column of each item; all that were not drawn share the last one.
        num = uniform.numel()
        column = uniform.new_full((self.num_items, ), num)
        column[uniform] = torch.arange(num, device=self.device)
        mask = torch.ones(user.numel(), num + 1, dtype=torch.bool,
                          device=self.device)
        row, known = self._known.of(user, total)
        flat = row * (num + 1) + column.index_select(0, known)
        mask.view(-1).index_fill_(0, flat, False)
        top = items.clamp(min=0)
        listed = torch.where(items >= 0, column[top], num)
        mask.scatter_(1, listed, False)
        return ListBatch(user, top, self.lists.scores.index_select(0, user),
                         uniform, mask[:, :num])

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.num_users} users, '
                f'{self.num_items} items, lists of '
                f'{self.lists.items.size(1)}, batch_size={self.batch_size}, '
                f'num_uniform={self.num_uniform})')


def _known_items(known: Tensor, num_users: int, num_items: int,
                 device: torch.device) -> KnownItems:
    if not isinstance(known, Tensor):
        raise TypeError(f"'known' must be a torch.Tensor (got "
                        f"'{type(known).__name__}')")
    if known.dim() != 2 or known.size(0) != 2:
        raise ValueError(f"'known' must be of shape [2, E] (got "
                         f"{list(known.shape)})")
    for row, (size, what) in enumerate(
            [(num_users, 'user'), (num_items, 'item')]):
        check_ids(f'known[{row}]', known[row], size, what)
    return KnownItems(known.to(device), num_users)
