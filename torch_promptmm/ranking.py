r"""The best items of users, in chunks of users."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from torch_promptmm.checks import check_int
from torch_promptmm.nn.dense import FixedProduct

# Scores of a chunk take about 64 MiB.
CHUNK_ELEMENTS = 2**24
# On a CPU, 8 MiB of them at a time are made, masked and ranked while they are
# in the cache.
_CACHE_ELEMENTS = 2**21
_BLOCK = 12


class KnownItems:
    r"""The items that each user is known to have, to be masked in ranking.

    Args:
        edge_index (torch.Tensor): Interactions :math:`(2, E)`.
        num_users (int): The number of users.
    """
    def __init__(self, edge_index: Tensor, num_users: int) -> None:
        user, item = edge_index.long()
        self.max_item = int(item.max()) if item.numel() > 0 else -1
        if item.numel() > 0 and int(item.min()) < 0:
            raise ValueError(f'The known items must not be negative (got '
                             f'{int(item.min())})')
        if not bool((user[1:] >= user[:-1]).all()):
            order = user.argsort(stable=True)
            user, item = user.index_select(0, order), item[order]
        else:  # Not the caller's own.
            item = item.clone()
        self.degree = torch.bincount(user, minlength=num_users)
        self.start = self.degree.cumsum(0) - self.degree
        self.item = item

    def mask_(self, scores: Tensor, user: Tensor) -> Tensor:
        r"""Sets the scores :math:`(B, I)` of what :obj:`user` :math:`(B)`
        knows to :math:`-\infty`, in place; the scores must be contiguous."""
        if self.max_item >= scores.size(1):
            raise ValueError(f'The known items must be in [0, '
                             f'{scores.size(1)}) (got {self.max_item})')
        row, flat = self.of(user)
        flat += row * scores.size(1)
        scores.view(-1).index_fill_(0, flat, float('-inf'))
        return scores

    def of(self, user: Tensor,
           total: int | None = None) -> tuple[Tensor, Tensor]:
        r"""Lists what users know.

        Args:
            user (torch.Tensor): The users :math:`(B)`.
            total (int, optional): How many items they know together; where
                it is given, nothing waits for the device.
                (default: :obj:`None`)

        Returns:
            For each known item, the number in :obj:`user` of who knows it,
            and the item.
        """
        degree = self.degree.index_select(0, user)
        row = torch.repeat_interleave(degree, output_size=total)
        first = self.start.index_select(0, user) - degree.cumsum(0) + degree
        index = first.index_select(0, row)
        index += torch.arange(index.numel(), device=index.device)
        return row, self.item.index_select(0, index)


def top_items(
    user_emb: Tensor,
    item_emb: Tensor,
    user_id: Tensor,
    k: int,
    known: KnownItems | None = None,
    batch_size: int | None = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    r"""Ranks all items for users, one chunk of users at a time.

    Args:
        user_emb (torch.Tensor): User embeddings :math:`(U, d)`.
        item_emb (torch.Tensor): Item embeddings :math:`(I, d)`; scores are
            dot products, in the type of these.
        user_id (torch.Tensor): The users :math:`(B)`.
        k (int): How many items, at most the number of items.
        known (KnownItems, optional): What to leave out.
            (default: :obj:`None`)
        batch_size (int, optional): Users in a chunk. (default: as many as
            64 MiB of scores hold)

    Yields:
        The users of a chunk :math:`(b)`, their items :math:`(b, k)`, best
        first, and the scores :math:`(b, k)`, which are :math:`-\infty` where
        there is no item left.
    """
    if batch_size is None:
        batch_size = max(1, CHUNK_ELEMENTS // max(item_emb.size(0), 1))
    rank = Ranking(item_emb, k)
    for user in user_id.split(check_int('batch_size', batch_size, 1)):
        parts = []
        for part in user.split(rank.num_rows or batch_size):
            scores = rank.scores(
                user_emb.index_select(0, part).to(item_emb.dtype))
            if known is not None:
                known.mask_(scores, part)
            parts.append(rank.top(scores))
            del scores
        value, item = (torch.cat(x) for x in zip(*parts, strict=True))
        yield user, item, value


class Ranking:
    r"""The best of all items, on a CPU in two steps: those among the maxima
    of blocks of items, then among the items of these blocks.

    Args:
        item_emb (torch.Tensor): Item embeddings :math:`(I, d)`.
        k (int): How many items, at most the number of items.
        product (callable, optional): From embeddings of users
            :math:`(b, d)` to their scores :math:`(b, I)`.
            (default: dot products, in the type of :obj:`item_emb`)

    Attributes:
        num_rows (int): How many users are best ranked at a time; 0, if as
            many as memory holds.
    """
    def __init__(self, item_emb: Tensor, k: int,
                 product: Callable[[Tensor], Tensor] | None = None) -> None:
        self.k = k
        self.num_items, self.num_blocks, self.num_rows = item_emb.size(0), 0, 0
        if item_emb.device.type == 'cpu' and self.num_items > 0:
            self.num_rows = torch.get_num_threads() * max(
                _CACHE_ELEMENTS // self.num_items, 16)
        self.product = product or FixedProduct(item_emb, self.num_rows)
        if self.num_rows == 0:
            return
        if 2 * _BLOCK * k < self.num_items:
            # An item's block is its number modulo the number of blocks; the
            # last few items, which fill no row of blocks, are all looked at.
            self.num_blocks = self.num_items // _BLOCK
            self.first = torch.arange(_BLOCK) * self.num_blocks
            self.rest = torch.arange(_BLOCK * self.num_blocks, self.num_items)

    def scores(self, user: Tensor) -> Tensor:
        r"""Scores of all items for embeddings of users :math:`(b, d)`."""
        with torch.autocast(user.device.type, enabled=False):  # Exact.
            return self.product(user)

    def top(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        r"""The values and the items of the best of :meth:`scores`."""
        if self.num_blocks == 0:
            return scores.topk(self.k, dim=1)
        blocks = scores[:, :_BLOCK * self.num_blocks]
        best = blocks.unflatten(1, (_BLOCK, self.num_blocks)).amax(dim=1)
        block = _largest(best, self.k)
        item = torch.cat([(block.unsqueeze(2) + self.first).flatten(1),
                          self.rest.expand(scores.size(0), -1)], dim=1)
        value = scores.gather(1, item)
        index = _largest(value, self.k)
        value, order = value.gather(1, index).sort(dim=1, descending=True)
        return value, item.gather(1, index.gather(1, order))


def _largest(x: Tensor, k: int) -> Tensor:
    r"""The columns of the :obj:`k` largest entries of each row, in any
    order."""
    # NumPy partitions with the processor's vector instructions, four times as
    # fast as topk, which has all threads.
    if (x.dtype not in (torch.float, torch.double) or x.device.type != 'cpu'
            or torch.get_num_threads() >= 4):
        return x.topk(k, dim=1, sorted=False).indices
    first = x.size(1) - k
    index = np.argpartition(x.detach().numpy(), first, axis=1)[:, first:]
    return torch.from_numpy(np.ascontiguousarray(index))
