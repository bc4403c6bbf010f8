from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rankings import cases, distinct_scores, embeddings
from torch import Tensor

from torch_promptmm.evaluate import check_k, evaluate_embeddings
from torch_promptmm.ranking import KnownItems, top_items


def naive(scores: Tensor, held_out: Tensor, known: Tensor | None,
          k: int) -> dict[int, tuple[float, float]]:
    """Recall and NDCG of each user, one at a time."""
    out = {}
    for user in range(scores.size(0)):
        positives = {i for u, i in held_out.t().tolist() if u == user}
        if not positives:
            continue
        masked = set()
        if known is not None:
            masked = {i for u, i in known.t().tolist() if u == user}
        ranked = sorted((i for i in range(scores.size(1)) if i not in masked),
                        key=lambda i: -float(scores[user, i]))[:k]
        hits = [item in positives for item in ranked]
        dcg = sum(1 / math.log2(i + 2) for i, hit in enumerate(hits) if hit)
        ideal = sum(1 / math.log2(i + 2)
                    for i in range(min(k, len(positives))))
        out[user] = (sum(hits) / len(positives), dcg / ideal)
    return out


@given(cases(), st.lists(st.integers(1, 9), min_size=1, max_size=3),
       st.one_of(st.none(), st.integers(1, 8)))
def test_equals_a_loop_over_users(case, ks: list[int],
                                  batch_size: int | None) -> None:
    scores, held_out, known = case
    ks = [min(k, scores.size(1)) for k in ks]
    args = (*embeddings(scores), held_out, known, ks, batch_size)
    out = evaluate_embeddings(*args)
    each = evaluate_embeddings(*args, per_user=True)
    assert set(out) == {f'{name}@{k}' for k in ks
                        for name in ('recall', 'ndcg')}
    assert set(each) == {'user', *out}
    for k in ks:
        want = naive(scores, held_out, known, k)
        assert each['user'].tolist() == list(want)
        for column, name in enumerate((f'recall@{k}', f'ndcg@{k}')):
            values = [value[column] for value in want.values()]
            np.testing.assert_allclose(each[name], values, atol=1e-6)
            assert isinstance(out[name], float)
            assert out[name] == pytest.approx(np.mean(values), abs=1e-6)


@pytest.mark.parametrize('batch_size', [1, 2, None])
def test_a_list_that_ends_early_hits_nothing(batch_size) -> None:
    # User 1 has one candidate left. PyG would take a pad of -1 in row 1 for
    # the last item of row 0, which user 0 holds out.
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0], [3.0, 2.0, 1.0, 0.0]])
    known = torch.tensor([[1, 1, 1], [0, 1, 3]])
    held_out = torch.tensor([[0, 1], [3, 3]])
    out = evaluate_embeddings(*embeddings(scores), held_out, known, (2, 3, 4),
                              batch_size, per_user=True)
    assert out['recall@2'].tolist() == [0.0, 0.0]
    assert out['recall@3'].tolist() == [0.0, 0.0]
    assert out['recall@4'].tolist() == [1.0, 0.0]  # Item 3 is known to her.


def test_a_user_who_knows_everything() -> None:
    scores = distinct_scores(2, 3, 0)
    known = torch.tensor([[0, 0, 0], [0, 1, 2]])
    held_out = torch.tensor([[0, 1], [1, 1]])
    out = evaluate_embeddings(*embeddings(scores), held_out, known, 3)
    assert out['recall@3'] == 0.5


def test_users_without_positives_do_not_count() -> None:
    scores = distinct_scores(5, 4, 1)
    held_out = torch.tensor([[3, 3], [0, 2]])
    out = evaluate_embeddings(*embeddings(scores), held_out, k=4)
    assert out['recall@4'] == 1.0
    out = evaluate_embeddings(*embeddings(scores), held_out, k=4,
                              per_user=True)
    assert out['user'].tolist() == [3]


def test_order_of_the_interactions_does_not_matter() -> None:
    scores = distinct_scores(6, 9, 2)
    cells = torch.randperm(54)[:30]
    pairs = torch.stack([cells // 9, cells % 9])
    held_out, known = pairs[:, :12], pairs[:, 12:]
    want = evaluate_embeddings(*embeddings(scores), held_out, known, (2, 5))
    shuffled = held_out[:, torch.randperm(12)], known[:, torch.randperm(18)]
    have = evaluate_embeddings(*embeddings(scores), *shuffled, (2, 5))
    assert have == pytest.approx(want)
    twice = torch.cat([known, known], dim=1)  # Known twice is known.
    assert evaluate_embeddings(*embeddings(scores), held_out, twice,
                               (2, 5)) == pytest.approx(want)


def test_autocast_changes_no_rank() -> None:
    user_emb, item_emb = torch.randn(20, 16), torch.randn(500, 16)
    held_out = torch.stack([torch.arange(20), torch.randint(500, (20, ))])
    want = evaluate_embeddings(user_emb, item_emb, held_out, k=(20, 50))
    with torch.autocast('cpu', torch.bfloat16):
        assert evaluate_embeddings(user_emb, item_emb, held_out,
                                   k=(20, 50)) == want
        _, _, value = next(top_items(user_emb, item_emb, torch.arange(20), 5))
    assert value.dtype == torch.float


def test_known_items_in_any_integer_type() -> None:
    known = torch.tensor([[0, 1], [2, 3]])
    emb = torch.eye(2, 4), torch.randn(6, 4)
    held_out = torch.tensor([[0, 1], [1, 1]])
    want = evaluate_embeddings(*emb, held_out, known, k=3)
    assert evaluate_embeddings(*emb, held_out, known.int(), k=3) == want
    kept = KnownItems(known, 2)
    known[1].fill_(5)  # The caller's own tensor.
    assert kept.item.tolist() == [2, 3]


@pytest.mark.parametrize('item', [-1, 6])
def test_known_items_that_are_none(item: int) -> None:
    known = torch.tensor([[1], [item]])
    with pytest.raises(ValueError, match=f'got {item}'):
        evaluate_embeddings(torch.randn(2, 4), torch.randn(6, 4),
                            torch.tensor([[0, 1], [1, 1]]), known, k=3)


def test_embeddings_get_no_gradient() -> None:
    scores = distinct_scores(3, 4, 0).requires_grad_()
    out = evaluate_embeddings(*embeddings(scores), torch.tensor([[0], [1]]),
                              k=2, per_user=True)
    assert not out['recall@2'].requires_grad


@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16, torch.double])
def test_other_types(dtype: torch.dtype) -> None:
    scores = distinct_scores(6, 9, 2)
    held_out = torch.tensor([[0, 1, 5], [4, 4, 8]])
    want = evaluate_embeddings(*embeddings(scores), held_out, k=3)
    have = evaluate_embeddings(*(x.to(dtype) for x in embeddings(scores)),
                               held_out, k=3)
    assert have == pytest.approx(want)


def test_check_k() -> None:
    assert check_k(5, 5) == (5, )
    assert check_k([20, 10], 30) == (20, 10)
    assert check_k(np.int64(3), 3) == (3, )
    assert check_k(np.array([1, 2]), 3) == (1, 2)
    for error, match, k in [
        (ValueError, 'at least one cut-off', ()),
        (ValueError, "'k' must be at least 1", 0),
        (ValueError, "'k' must be at least 1", (5, -1)),
        (ValueError, 'larger than the catalogue of 9 items .got 10', (2, 10)),
        (TypeError, "'k' must be an integer", (2, 2.0)),
        (TypeError, "'k' must be an integer", True),
        (TypeError, "'k' must be an integer", 2.5),
        (TypeError, "'k' must be an integer", None),
        (TypeError, "'k' must be an integer", '20'),
    ]:
        with pytest.raises(error, match=match):
            check_k(k, 9)


def test_bad_input() -> None:
    args = embeddings(distinct_scores(3, 4, 0))
    for held_out in (torch.empty(2, 0, dtype=torch.long), torch.arange(3),
                     torch.zeros(3, 4, dtype=torch.long)):
        with pytest.raises(ValueError, match="'held_out' must be of shape"):
            evaluate_embeddings(*args, held_out, k=2)
    with pytest.raises(ValueError, match="'batch_size' must be at least 1"):
        evaluate_embeddings(*args, torch.tensor([[0], [1]]), k=2,
                            batch_size=0)


def test_on_device(device: torch.device) -> None:
    scores = distinct_scores(6, 9, 2)
    held_out = torch.tensor([[0, 1, 5], [4, 4, 8]])
    known = torch.tensor([[0, 1], [1, 2]])
    want = evaluate_embeddings(*embeddings(scores), held_out, known, 3)
    have = evaluate_embeddings(*(x.to(device) for x in embeddings(scores)),
                               held_out, known, 3)
    assert have == pytest.approx(want)
