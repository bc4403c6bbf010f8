r"""The rows of a batch, and the scores between them."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from torch_promptmm.loader import Batch
from torch_promptmm.loss import as_scored
from torch_promptmm.loss.score_lists import ListMask, ScoreLists
from torch_promptmm.nn.dense import matmul


class Rows(NamedTuple):
    r"""Embeddings of a batch's users and items.

    Attributes:
        user (torch.Tensor): Users :math:`(B, d)`.
        positive (torch.Tensor): Positives :math:`(B, d)`.
        negative (torch.Tensor): Each row's negatives :math:`(B, n, d)`.
        shared (torch.Tensor): Shared negatives :math:`(N, d)`.
        item (torch.Tensor): Sampled items :math:`(S, d)`.
    """
    user: Tensor
    positive: Tensor
    negative: Tensor
    shared: Tensor
    item: Tensor


class ScoredRows:
    r"""Rows as the score function sees them; each part is computed only if
    it is needed.

    Args:
        rows (Rows): The embeddings.
        batch (Batch): The batch that they are of.
        score (str): The score function.
        mask (ListMask, optional): Which negatives of a list are valid.
            (default: that of the batch)
    """
    def __init__(self, rows: Rows, batch: Batch, score: str,
                 mask: ListMask | None = None) -> None:
        self.rows, self.batch, self.score = rows, batch, score
        self._mask = mask
        self._lists: dict[float, ScoreLists] = {}

    @cached_property
    def user(self) -> Tensor:
        return as_scored(self.rows.user, self.score)

    @cached_property
    def positive(self) -> Tensor:
        return as_scored(self.rows.positive, self.score)

    @cached_property
    def negative(self) -> Tensor:
        return as_scored(self.rows.negative, self.score)

    @cached_property
    def shared(self) -> Tensor:
        return as_scored(self.rows.shared, self.score)

    @property
    def mask(self) -> ListMask:
        r"""Which negatives of a list are valid."""
        if self._mask is None:
            self._mask = list_mask(self.batch)
        return self._mask

    def margin(self) -> Tensor:
        r"""Score of the positive minus that of the row's first negative, or
        of one of the shared ones where it has none :math:`(B)`."""
        if self.rows.negative.size(1) > 1:  # Those of its list.
            return self._own_scores[0] - self._own_scores[1][:, 0]
        if self.rows.negative.size(1) == 1:
            negative = self.negative[:, 0]
        else:
            negative = self.shared.index_select(0, self._own_shared)
        return (self.user * (self.positive - negative)).sum(dim=-1)

    @property
    def margin_mask(self) -> Tensor:
        r"""True where :meth:`margin` has a valid negative :math:`(B)`."""
        if self.rows.negative.size(1) > 0:
            return self.batch.negative_mask[:, 0]
        index = self._own_shared.view(-1, 1)
        return self.batch.shared_mask.gather(1, index).view(-1)

    @property
    def _own_shared(self) -> Tensor:
        r"""A shared negative of each row: they are in random order."""
        user, num = self.batch.user, self.batch.shared.numel()
        return torch.arange(user.numel(), device=user.device) % num

    @cached_property
    def _own_scores(self) -> tuple[Tensor, Tensor]:
        r"""Scores of the positive :math:`(B)` and of the row's own negatives
        :math:`(B, n)`."""
        negative = self.negative.transpose(0, 1)  # As it lies in memory.
        return ((self.user * self.positive).sum(dim=-1),
                # Ten times as fast as a product of batches.
                (negative * self.user).sum(dim=-1).t())

    def lists(self, temperature: float) -> ScoreLists:
        r"""Scores of the positive and of the shared negatives, or of the
        row's own where none are shared, over a temperature."""
        if temperature not in self._lists:
            if self.shared.size(0) > 0:
                user = self.user
                if temperature != 1.0:
                    user = user / temperature
                positive = (user * self.positive).sum(dim=-1)
                negative = matmul(user, self.shared.t())
            else:
                positive, negative = (x / temperature
                                      for x in self._own_scores)
            self._lists[temperature] = ScoreLists(positive, negative,
                                                  self.mask)
        return self._lists[temperature]


def batch_items(batch: Batch) -> Tensor:
    r"""All items of a batch in a row, as :func:`split_rows` expects
    them."""
    return torch.cat([
        batch.positive,
        batch.negative.t().reshape(-1),
        batch.shared,
        batch.item,
    ])


def split_rows(user: Tensor, item: Tensor, batch: Batch) -> Rows:
    r"""Takes the embeddings of :func:`batch_items` apart."""
    sizes = [
        batch.positive.numel(),
        batch.negative.numel(),
        batch.shared.numel(),
        batch.item.numel(),
    ]
    positive, negative, shared, sample = item.split(sizes)
    negative = negative.view(*batch.negative.t().shape, item.size(1))
    negative = negative.transpose(0, 1)
    return Rows(user, positive, negative, shared, sample)


def list_mask(batch: Batch) -> ListMask:
    r"""Which negatives of :meth:`ScoredRows.lists` are valid."""
    return ListMask(batch.shared_mask if batch.shared.numel() > 0 else
                    batch.negative_mask.contiguous())


def num_ego_items(batch: Batch) -> int:
    r"""On how many of :func:`batch_items` the L2 term falls: the positives
    and each row's first negative, which come first."""
    return batch.user.numel() * (2 if batch.negative.size(1) > 0 else 1)
