r"""The rows of a batch, and the scores between them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torch_promptmm.loader import Batch
from torch_promptmm.loss import as_scored


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

    def scored(self, score: str) -> Rows:
        r"""The rows as the score function sees them."""
        return Rows(*(as_scored(x, score) for x in self))

    def positive_score(self) -> Tensor:
        r"""Scores of the positives :math:`(B)`."""
        return (self.user * self.positive).sum(dim=-1)

    def list_scores(self) -> Tensor:
        r"""Scores of the positive, first, and of the shared negatives, or of
        the row's own where none are shared :math:`(B, K)`."""
        if self.shared.size(0) > 0:
            negative = self.user @ self.shared.t()
        else:
            negative = (self.negative @ self.user.unsqueeze(-1)).squeeze(-1)
        return torch.cat([self.positive_score().view(-1, 1), negative], dim=1)


def batch_items(batch: Batch) -> Tensor:
    r"""All items of a batch in a row, as :func:`split_rows` expects
    them."""
    return torch.cat([
        batch.positive,
        batch.negative.reshape(-1),
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
    negative = negative.view(*batch.negative.shape, item.size(1))
    return Rows(user, positive, negative, shared, sample)


def list_mask(batch: Batch) -> Tensor:
    r"""True where an entry of :meth:`Rows.list_scores` is valid
    :math:`(B, K)`."""
    mask = (batch.shared_mask
            if batch.shared.numel() > 0 else batch.negative_mask)
    return torch.nn.functional.pad(mask, (1, 0), value=True)
