"""Scores, and what is held out and known of them."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor


def embeddings(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings with exactly these scores."""
    return torch.eye(scores.size(0)), scores.t().contiguous()


def distinct_scores(num_users: int, num_items: int, seed: int) -> Tensor:
    """No two items of a user tie."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([
        torch.randperm(num_items, generator=generator).float() - 3
        for _ in range(num_users)])


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor | None]:
    num_users, num_items = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    scores = distinct_scores(num_users, num_items, draw(st.integers(0, 99)))
    cells = st.integers(0, num_users * num_items - 1)
    pairs = []
    for minimum in (1, 0):
        chosen = draw(st.lists(cells, min_size=minimum, max_size=40,
                               unique=True))
        pairs.append(torch.tensor([[x // num_items for x in chosen],
                                   [x % num_items for x in chosen]],
                                  dtype=torch.long))
    return scores, pairs[0], draw(st.sampled_from([pairs[1], None]))
