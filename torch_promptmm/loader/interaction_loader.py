from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_promptmm.checks import check_bool, check_float, check_ids, check_int


@dataclass(frozen=True)
class BatchSpec:
    r"""What a batch holds beside users and positives.

    Args:
        num_negatives (int, optional): Negatives of each row's own.
            (default: :obj:`0`)
        shared_negatives (int, optional): Negatives that all rows share; a
            mask leaves out those which a row's user knows.
            (default: :obj:`0`)
        item_samples (int, optional): Items drawn from the whole catalogue,
            those without an interaction included, for losses on embeddings.
            (default: :obj:`0`)
        warm_negatives (bool, optional): If :obj:`True`, negatives are drawn
            from items that have an interaction. (default: :obj:`False`)
    """
    num_negatives: int = 0
    shared_negatives: int = 0
    item_samples: int = 0
    warm_negatives: bool = False

    def __post_init__(self) -> None:
        for name in ('num_negatives', 'shared_negatives', 'item_samples'):
            check_int(name, getattr(self, name))
        check_bool('warm_negatives', self.warm_negatives)

    def merge(self, other: BatchSpec) -> BatchSpec:
        r"""The spec that holds enough for both."""
        return BatchSpec(
            max(self.num_negatives, other.num_negatives),
            max(self.shared_negatives, other.shared_negatives),
            max(self.item_samples, other.item_samples),
            self.warm_negatives or other.warm_negatives)


class Batch(NamedTuple):
    r"""A batch of interactions.

    Attributes:
        user (torch.Tensor): Users :math:`(B)`.
        positive (torch.Tensor): An item of each user :math:`(B)`.
        negative (torch.Tensor): Items that the user does not know
            :math:`(B, n)`.
        negative_mask (torch.Tensor): False in the rows of users who know
            every item :math:`(B, n)`.
        shared (torch.Tensor): Distinct items :math:`(N)`.
        shared_mask (torch.Tensor): True where the user does not know the
            item :math:`(B, N)`.
        item (torch.Tensor): Items of the whole catalogue :math:`(S)`.
    """
    user: Tensor
    positive: Tensor
    negative: Tensor
    negative_mask: Tensor
    shared: Tensor
    shared_mask: Tensor
    item: Tensor


class InteractionLoader:
    r"""Yields shuffled batches of training interactions with negatives, drawn
    on the device that the interactions are on.

    No negative is an interaction that the user is known to have. A row's own
    negatives are drawn uniformly from what its user does not know, exactly
    and without rejection: the :math:`r`-th unknown item is found by one
    binary search in the user's sorted row.

    Args:
        positives (torch.Tensor): The interactions to train on
            :math:`(2, P)`.
        known (torch.Tensor): The known interactions :math:`(2, E)`; those of
            :obj:`positives` are known in any case.
        num_users (int): The number of users.
        num_items (int): The number of items.
        batch_size (int, optional): The number of interactions in a batch.
            (default: :obj:`2048`)
        spec (BatchSpec, optional): What a batch holds beside them.
            (default: one negative a row)
        device (torch.device, optional): Where batches are made.
            (default: that of :obj:`positives`)
        user_weight (float, optional): With :math:`\alpha > 0`, as many
            interactions are drawn with replacement in proportion to
            :math:`\deg(u)^{-\alpha}`. (default: :obj:`0.0`)
    """
    def __init__(
        self,
        positives: Tensor,
        known: Tensor,
        num_users: int,
        num_items: int,
        batch_size: int = 2048,
        spec: BatchSpec | None = None,
        device: Any = None,
        user_weight: float = 0.0,
    ) -> None:
        self.num_users = check_int('num_users', num_users, 1)
        self.num_items = check_int('num_items', num_items, 1)
        self.batch_size = check_int('batch_size', batch_size, 1)
        self.spec = BatchSpec(num_negatives=1) if spec is None else spec
        for name, index in (('positives', positives), ('known', known)):
            if not isinstance(index, Tensor):
                raise TypeError(f"'{name}' must be a torch.Tensor (got "
                                f"'{type(index).__name__}')")
            if index.dim() != 2 or index.size(0) != 2 or index.numel() == 0:
                raise ValueError(f"'{name}' must be of shape [2, P] with at "
                                 f"least one interaction (got "
                                 f"{list(index.shape)})")
            for row, limit in enumerate((num_users, num_items)):
                check_ids(f'{name}[{row}]', index[row], limit,
                          ('user', 'item')[row])
        self.positives = positives.to(device).long()
        self.device = self.positives.device
        # Where the share of each interaction ends.
        self._drawn: Tensor | None = None
        if check_float('user_weight', user_weight) > 0.0:
            degree = torch.bincount(self.positives[0]).double()
            share = degree[self.positives[0]]**-user_weight
            self._drawn = share.cumsum(0) / share.sum()
            self._drawn[-1] = 1.0
        # What is trained on is known, and what is there twice is known once.
        known = torch.cat([known.to(self.device), self.positives], dim=1)
        user, item = known.long()
        key = (user * num_items + item).unique()
        user, item = key // num_items, key % num_items
        self._degree = torch.bincount(user, minlength=num_users)
        self._start = torch.nn.functional.pad(self._degree.cumsum(0), (1, 0))
        self._known_item = item

        # Negatives are drawn from the candidates, which are renumbered.
        self._candidates: Tensor | None = None
        self.num_candidates = num_items
        if self.spec.warm_negatives:
            warm = torch.zeros(num_items, dtype=torch.bool,
                               device=self.device)
            warm[item] = True
            self._candidates = warm.nonzero().view(-1)
            self.num_candidates = self._candidates.numel()
            item = (warm.cumsum(0) - 1)[item]
        # Known item number j of a user has as many unknown ones below it:
        rank = torch.arange(item.numel(), device=self.device)
        rank -= self._start[user]
        self._unknown_below = item - rank
        if self.device.type == 'cpu':
            self._num_halvings = int(self._degree.max()).bit_length()
            small = torch.int32 if item.numel() < 2**30 else torch.int64
            self._unknown_below = torch.nn.functional.pad(
                self._unknown_below.to(small), (0, 1))
        else:
            self._unknown_below += user * self.num_candidates

    def __len__(self) -> int:
        return -(-self.positives.size(1) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        if self._drawn is None:
            perm = torch.randperm(self.positives.size(1), device=self.device)
        else:
            perm = torch.rand(self._drawn.numel(), dtype=torch.double,
                              device=self.device)
            perm = torch.searchsorted(self._drawn, perm, right=True)
        for index in perm.split(self.batch_size):
            yield self.collate(*self.positives.index_select(1, index))

    def collate(self, user: Tensor, positive: Tensor) -> Batch:
        r"""Returns a batch of the given interactions."""
        spec = self.spec
        negative, negative_mask = self._negatives(user, spec.num_negatives)
        shared, shared_mask = self._shared(user, spec.shared_negatives)
        item = torch.randint(self.num_items, (spec.item_samples, ),
                             device=self.device)
        return Batch(user, positive, negative, negative_mask, shared,
                     shared_mask, item)

    def _negatives(self, user: Tensor, num: int) -> tuple[Tensor, Tensor]:
        shape = (user.numel(), num)
        if num == 0:
            return (user.new_empty(shape),
                    torch.empty(shape, dtype=torch.bool, device=self.device))
        degree = self._degree.index_select(0, user).view(-1, 1)
        unknown = self.num_candidates - degree
        rank = torch.rand(shape, dtype=torch.double, device=self.device)
        rank = (rank * unknown).long().minimum((unknown - 1).clamp(min=0))
        negative = rank + self._known_below(user, rank, degree)
        mask = (unknown > 0).expand(shape)
        negative = torch.where(mask, negative, 0)
        if self._candidates is not None:
            negative = self._candidates[negative]
        return negative, mask

    def _known_below(self, user: Tensor, rank: Tensor,
                     degree: Tensor) -> Tensor:
        r"""How many known items of a user are below the :obj:`rank`-th
        unknown one."""
        start = self._start.index_select(0, user).view(-1, 1)
        if self.device.type != 'cpu':
            key = user.view(-1, 1) * self.num_candidates + rank
            return torch.searchsorted(self._unknown_below, key,
                                      right=True) - start
        # All searches halve their own rows at once: these are short.
        dtype = self._unknown_below.dtype
        start = start.expand_as(rank)
        rank = rank.view(-1).to(dtype)
        low = start.to(dtype).reshape(-1)
        high = (start + degree).to(dtype).view(-1)
        for _ in range(self._num_halvings):
            middle = (low + high) >> 1
            below = self._unknown_below.index_select(0, middle) <= rank
            below &= low < high
            low = torch.where(below, middle + 1, low)
            high = torch.where(below, high, middle)
        return low.view(start.shape) - start

    def _shared(self, user: Tensor, num: int) -> tuple[Tensor, Tensor]:
        num = min(num, self.num_candidates)
        if num == 0:
            return user.new_empty(0), torch.empty(
                user.numel(), 0, dtype=torch.bool, device=self.device)
        shared = torch.randperm(self.num_candidates, device=self.device)[:num]
        if self._candidates is not None:
            shared = self._candidates[shared]
        column = shared.new_full((self.num_items, ), -1)
        column[shared] = torch.arange(num, device=self.device)
        # Scans the known items of the batch's users alone, each user once:
        # users with many interactions are in a batch many times.
        distinct, back = user.unique(return_inverse=True)
        degree = self._degree.index_select(0, distinct)
        first = self._start.index_select(0, distinct)
        first += degree - degree.cumsum(0)
        row = torch.repeat_interleave(degree)
        index = first.index_select(0, row)
        index += torch.arange(index.numel(), device=self.device)
        known = self._known_item.index_select(0, index)
        column = column.index_select(0, known)
        hit = (column >= 0).nonzero().view(-1)
        row = row.index_select(0, hit)
        mask = torch.ones(distinct.numel(), num, dtype=torch.bool,
                          device=self.device)
        mask[row, column[hit]] = False
        return shared, mask[back]

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.positives.size(1)} '
                f'interactions, batch_size={self.batch_size}, {self.spec})')
