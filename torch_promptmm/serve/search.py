r"""The best items for vectors of users, without what is left out."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_promptmm.checks import check_int
from torch_promptmm.ranking import CHUNK_ELEMENTS, KnownItems, Ranking
from torch_promptmm.serve.lists import ItemLists
from torch_promptmm.serve.tables import TableProduct


class LeftOut:
    r"""What the users of a call are not to get.

    Args:
        size (int): The number of users :math:`B`.
        device (torch.device): Where they are ranked.
    """
    def __init__(self, size: int, device: torch.device) -> None:
        self.row = torch.arange(size, device=device)
        self.each: list[tuple[KnownItems, Tensor]] = []
        self.all: Tensor | None = None

    def add_known(self, known: KnownItems, user_ids: Tensor) -> None:
        r"""Adds what the users :math:`(B)` of the call know."""
        self.each.append((known, user_ids))

    def add_lists(self, lists: ItemLists) -> None:
        r"""Adds lists of the call."""
        if lists.row is None:
            self.all = lists.item.unique()
        elif lists.item.numel() > 0:
            pairs = torch.stack([lists.row, lists.item])
            self.each.append((KnownItems(pairs, len(self.row)), self.row))

    def counts(self) -> Tensor:
        r"""How many items each user is at most denied :math:`(B)`."""
        out = torch.zeros_like(self.row)
        for known, index in self.each:
            out += known.degree.index_select(0, index)
        return out if self.all is None else out + self.all.numel()

    def of(self, rows: Tensor) -> LeftOut:
        r"""What some of the users are not to get."""
        out = LeftOut(len(rows), self.row.device)
        out.each = [(known, index[rows]) for known, index in self.each]
        out.all = self.all
        return out

    def mask_(self, scores: Tensor, rows: slice) -> None:
        r"""Sets the scores :math:`(b, I)` of some users to
        :math:`-\infty`."""
        for known, index in self.each:
            known.mask_(scores, index[rows])
        if self.all is not None:
            scores.index_fill_(1, self.all, float('-inf'))

    def has(self, items: Tensor) -> Tensor:
        r"""Which of the items :math:`(B, n)` that were found for the users
        are left out; -1, which is no item, is."""
        out = items < 0
        size = max([int(items.max()), *(x.max_item for x, _ in self.each)],
                   default=0) + 1
        key = items + self.row.view(-1, 1) * size
        for known, index in self.each:
            row, item = known.of(index)
            out |= torch.isin(key, row * size + item)
        return out if self.all is None else out | torch.isin(items, self.all)


def search(
    query: Tensor,
    table: Tensor,
    scale: Tensor | None,
    k: int,
    left_out: LeftOut,
    candidates: ItemLists | None = None,
    batch_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Ranks a catalogue for users, exactly.

    Args:
        query (torch.Tensor): The users' vectors :math:`(B, d)`.
        table (torch.Tensor): The items' vectors :math:`(I, d)`.
        scale (torch.Tensor, optional): Factors of their scores
            :math:`(I)`.
        k (int): How many items.
        left_out (LeftOut): What they are not to get.
        candidates (ItemLists, optional): What they may get. (default: all)
        batch_size (int, optional): Users ranked at a time. (default: as
            many as 64 MiB of scores hold)

    Returns:
        Items :math:`(B, k)`, best first, and scores :math:`(B, k)`; -1 and
        :math:`-\infty` where no item is left.
    """
    num_items = table.size(0)
    if batch_size is None:
        batch_size = max(1, CHUNK_ELEMENTS // max(num_items, 1))
    check_int('batch_size', batch_size, 1)
    product = TableProduct(table, scale)
    rank = Ranking(table, k, product)
    step = min(batch_size, rank.num_rows or batch_size)
    if query.size(0) >= step > 1:
        product.prepare(step)
    items = [torch.empty(0, k, dtype=torch.long, device=query.device)]
    values = [query.new_empty(0, k)]
    allowed = None
    if candidates is not None and candidates.row is not None:
        allowed = KnownItems(
            torch.stack([candidates.row, candidates.item]), query.size(0))
    for first in range(0, query.size(0), step):
        rows = slice(first, first + step)
        scores = rank.scores(query[rows])
        left_out.mask_(scores, rows)
        if candidates is not None:
            scores = _only(scores, candidates.item, allowed,
                           left_out.row[rows])
        value, item = rank.top(scores)
        items.append(item.masked_fill(value.isneginf(), -1))
        values.append(value)
    return torch.cat(items), torch.cat(values)


def _only(scores: Tensor, items: Tensor, allowed: KnownItems | None,
          rows: Tensor) -> Tensor:
    r"""The scores of candidates, :math:`-\infty` elsewhere."""
    out = torch.full_like(scores, float('-inf'))
    if allowed is None:
        out[:, items] = scores[:, items]
        return out
    row, item = allowed.of(rows)
    out[row, item] = scores[row, item]
    return out
