"""The best items of users, in chunks of users."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rankings import cases, distinct_scores, embeddings

from torch_promptmm import ranking
from torch_promptmm.ranking import KnownItems, _largest, top_items


def test_never_the_whole_score_matrix(monkeypatch) -> None:
    monkeypatch.setattr(ranking, 'CHUNK_ELEMENTS', 40)
    user_emb, item_emb = torch.randn(30, 4), torch.randn(10, 4)
    chunks = list(top_items(user_emb, item_emb, torch.arange(30), 3))
    assert [len(user) for user, _, _ in chunks] == [4] * 7 + [2]
    chunks = list(top_items(user_emb, item_emb, torch.arange(30), 3,
                            batch_size=13))
    assert [len(user) for user, _, _ in chunks] == [13, 13, 4]


@given(cases(), st.integers(1, 9), st.integers(1, 8))
def test_top_items(case, k: int, batch_size: int) -> None:
    scores, _, known = case
    k = min(k, scores.size(1))
    user_id = torch.arange(scores.size(0)).flip(0).repeat(2)
    mask = None
    if known is not None:
        mask = KnownItems(known, scores.size(0))
    chunks = list(top_items(*embeddings(scores), user_id, k, mask,
                            batch_size))
    users, items, values = (torch.cat(x) for x in zip(*chunks, strict=True))
    assert torch.equal(users, user_id)
    want = scores.clone()
    if known is not None:
        want[known[0], known[1]] = -math.inf
    want = want[user_id].sort(dim=1, descending=True).values[:, :k]
    assert torch.equal(values, want)
    left = values > -math.inf
    assert torch.equal(scores[user_id.view(-1, 1), items][left], values[left])


@pytest.mark.parametrize('dtype', [torch.float, torch.double])
def test_two_steps_find_the_best(dtype: torch.dtype) -> None:
    """Many items for a short list: maxima of blocks are ranked first."""
    user_emb = torch.randn(70, 4, dtype=dtype)
    item_emb = torch.randn(1003, 4, dtype=dtype)
    edge_index = torch.stack([
        torch.arange(70).repeat_interleave(30),
        torch.randint(1003, (2100, )),
    ])
    everything = torch.stack([torch.full((1000, ), 7), torch.arange(1000)])
    edge_index = torch.cat([edge_index, everything], dim=1).unique(dim=1)
    scores = user_emb @ item_emb.t()
    scores[edge_index[0], edge_index[1]] = float('-inf')
    want = scores.topk(10, dim=1)
    user, item, value = next(
        top_items(user_emb, item_emb, torch.arange(70), 10,
                  KnownItems(edge_index, 70)))
    torch.testing.assert_close(value, want.values)
    finite = value.isfinite()
    assert (finite[7].sum(), finite.sum()) == (3, 69 * 10 + 3)
    assert torch.equal(item[finite], want.indices[finite])
    assert int(item.max()) < 1003


@pytest.mark.parametrize('threads', [1, 3, 4])
@pytest.mark.parametrize('rows', [1, 7, 8])
@pytest.mark.parametrize('dtype', [torch.half, torch.float, torch.double])
def test_largest(monkeypatch, threads: int, rows: int,
                 dtype: torch.dtype) -> None:
    monkeypatch.setattr(torch, 'get_num_threads', lambda: threads)
    x = torch.randperm(rows * 50).view(rows, 50).to(dtype)
    x[0, 10:] = -math.inf
    for k in (1, 20, 50):
        index = _largest(x, k)
        assert index.shape == (rows, k)
        assert all(len(set(row)) == k for row in index.tolist())
        assert torch.equal(
            x.gather(1, index).sort(dim=1).values,
            x.sort(dim=1).values[:, -k:])


def test_no_user_at_all() -> None:
    chunks = list(top_items(*embeddings(distinct_scores(2, 3, 0)),
                            torch.empty(0, dtype=torch.long), 2))
    assert sum(len(user) for user, _, _ in chunks) == 0
