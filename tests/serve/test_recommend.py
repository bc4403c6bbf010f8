from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from torch_promptmm.ranking import KnownItems
from torch_promptmm.serve import recommend


def naive(user_emb, item_emb, user_ids, k, known=()):
    rows = []
    for user in user_ids:
        scores = (item_emb @ user_emb[user]).tolist()
        left = [i for i in range(len(scores)) if (user, i) not in known]
        left = sorted(left, key=lambda i: -scores[i])[:k]
        rows.append([(i, scores[i]) for i in left] +
                    [(-1, -float('inf'))] * (k - len(left)))
    items = torch.tensor([[i for i, _ in row] for row in rows])
    return items, torch.tensor([[s for _, s in row] for row in rows])


@pytest.mark.parametrize('batch_size', [None, 1, 3, 100])
@pytest.mark.parametrize('k', [1, 4, 9])
def test_against_a_loop(k, batch_size):
    user_emb, item_emb = torch.randn(7, 5), torch.randn(9, 5)
    edges = torch.tensor([[0, 0, 2, 6] + [3] * 9,
                          [1, 8, 0, 4] + list(range(9))])
    users = [3, 6, 0, 0, 5]
    wanted = naive(user_emb, item_emb, users, k,
                   set(map(tuple, edges.t().tolist())))
    for known in (edges, KnownItems(edges, 7)):
        out = recommend(user_emb, item_emb, users, k, known, batch_size)
        assert_close(out, wanted)
    assert_close(recommend(user_emb, item_emb, users, k),
                 naive(user_emb, item_emb, users, k))


def test_nobody():
    items, scores = recommend(torch.randn(3, 2), torch.randn(4, 2), [], 2)
    assert items.shape == scores.shape == (0, 2)
    assert items.dtype == torch.long and scores.dtype == torch.float


def test_no_gradient_is_kept():
    user_emb = torch.randn(3, 2, requires_grad=True)
    _, scores = recommend(user_emb, torch.randn(4, 2), [0], 2)
    assert not scores.requires_grad
