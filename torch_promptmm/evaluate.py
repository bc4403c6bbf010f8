r"""All-ranking evaluation: every item for every user, in chunks of users."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.metrics import (
    LinkPredMetricCollection,
    LinkPredNDCG,
    LinkPredRecall,
)
from torch_geometric.metrics.link_pred import LinkPredMetricData

from torch_promptmm.checks import check_int
from torch_promptmm.nn.dense import FixedProduct

# Scores of a chunk take about 64 MiB.
_CHUNK_ELEMENTS = 2**24
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
        degree = self.degree.index_select(0, user)
        row = torch.repeat_interleave(degree)
        first = self.start.index_select(0, user) - degree.cumsum(0) + degree
        index = first.index_select(0, row)
        index += torch.arange(index.numel(), device=index.device)
        flat = self.item.index_select(0, index)
        flat += row * scores.size(1)
        scores.view(-1).index_fill_(0, flat, float('-inf'))
        return scores


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
            dot products.
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
        batch_size = max(1, _CHUNK_ELEMENTS // max(item_emb.size(0), 1))
    rank = _Ranking(item_emb, k)
    for user in user_id.split(check_int('batch_size', batch_size, 1)):
        parts = []
        for part in user.split(rank.num_rows or batch_size):
            scores = rank.scores(user_emb.index_select(0, part))
            if known is not None:
                known.mask_(scores, part)
            parts.append(rank.top(scores))
            del scores
        value, item = (torch.cat(x) for x in zip(*parts, strict=True))
        yield user, item, value


class _Ranking:
    r"""The best of all items, on a CPU in two steps: those among the maxima
    of blocks of items, then among the items of these blocks."""
    def __init__(self, item_emb: Tensor, k: int) -> None:
        self.k = k
        self.num_items, self.num_blocks, self.num_rows = item_emb.size(0), 0, 0
        if item_emb.device.type == 'cpu' and self.num_items > 0:
            self.num_rows = torch.get_num_threads() * max(
                _CACHE_ELEMENTS // self.num_items, 16)
        self.product = FixedProduct(item_emb, self.num_rows)
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


def check_k(k: int | Sequence[int], num_items: int) -> tuple[int, ...]:
    r"""Returns :obj:`k` as a tuple of cut-offs within the catalogue."""
    if isinstance(k, Integral):
        ks: tuple[Any, ...] = (k, )
    elif isinstance(k, Iterable):
        ks = tuple(k)
    else:
        raise TypeError(f"'k' must be an integer or several (got {k!r} of "
                        f"type '{type(k).__name__}')")
    if len(ks) == 0:
        raise ValueError("'k' must have at least one cut-off (got none)")
    for each in ks:
        check_int('k', each, 1)
        if each > num_items:
            raise ValueError(f"'k' must not be larger than the catalogue of "
                             f"{num_items} items (got {each})")
    return tuple(int(each) for each in ks)


@torch.no_grad()
def evaluate_embeddings(
    user_emb: Tensor,
    item_emb: Tensor,
    held_out: Tensor,
    known: Tensor | None = None,
    k: int | Sequence[int] = (20, 50),
    batch_size: int | None = None,
    per_user: bool = False,
) -> dict[str, float] | dict[str, Tensor]:
    r"""Ranks every item for every user with held-out positives.

    Recall@K is the number of hits over the number of the user's positives,
    NDCG@K has binary gains and the ideal DCG cut at :math:`\min(K,
    \textrm{positives})`; both are averaged over users. Built on
    :class:`torch_geometric.metrics.LinkPredRecall` and
    :class:`~torch_geometric.metrics.LinkPredNDCG`.

    Args:
        user_emb (torch.Tensor): User embeddings :math:`(U, d)`.
        item_emb (torch.Tensor): Item embeddings :math:`(I, d)`; scores are
            dot products.
        held_out (torch.Tensor): The positives :math:`(2, P)`, each one once.
        known (torch.Tensor, optional): Interactions :math:`(2, E)` that are
            not ranked. (default: :obj:`None`)
        k (int or list of int, optional): Cut-offs. (default:
            :obj:`(20, 50)`)
        batch_size (int, optional): Users in a chunk. (default: as many as
            64 MiB of scores hold)
        per_user (bool, optional): If :obj:`True`, returns a tensor with a
            value for each user with positives, in the order of their ids,
            and the users under :obj:`"user"`. (default: :obj:`False`)

    Returns:
        :obj:`{'recall@20': ..., 'ndcg@20': ..., ...}`
    """
    num_users, num_items = user_emb.size(0), item_emb.size(0)
    ks = check_k(k, num_items)
    device = user_emb.device
    if held_out.dim() != 2 or held_out.size(0) != 2 or held_out.numel() == 0:
        raise ValueError(f"'held_out' must be of shape [2, P] with at least "
                         f"one positive (got {list(held_out.shape)})")
    held_out = held_out.to(device)
    held_out = held_out[:, held_out[0].argsort(stable=True)]
    degree = torch.bincount(held_out[0], minlength=num_users)
    offset = torch.nn.functional.pad(degree.cumsum(0), (1, 0)).tolist()
    users = degree.nonzero().view(-1)
    mask = None if known is None else KnownItems(known.to(device), num_users)

    metrics = LinkPredMetricCollection({
        f'{name}@{each}': metric(each)
        for each in ks for name, metric in (('recall', LinkPredRecall),
                                            ('ndcg', LinkPredNDCG))
    }).to(device)
    values: dict[str, list[Tensor]] = {name: [] for name in metrics}
    for user, item, score in top_items(user_emb, item_emb, users, max(ks),
                                       mask, batch_size):
        # What is masked may fill up a list, but is never a hit; PyG's
        # metrics take a pad of -1 for the previous row's last item.
        item = torch.where(score.isneginf(), num_items, item)
        label = held_out[:, offset[int(user[0])]:offset[int(user[-1]) + 1]]
        row = torch.searchsorted(user, label[0])
        if not per_user:
            metrics.update(item, (row, label[1]))
            continue
        data = LinkPredMetricData(item, (row, label[1]))
        for name, metric in metrics.items():
            values[name].append(metric._compute(data))
    if per_user:
        return {'user': users} | {
            name: torch.cat(value)
            for name, value in values.items()
        }
    return {name: float(value) for name, value in metrics.compute().items()}
