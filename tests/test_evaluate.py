from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from torch_promptmm import ranking
from torch_promptmm.evaluate import check_k, evaluate_embeddings
from torch_promptmm.ranking import KnownItems, _largest, top_items


def embeddings(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings with exactly these scores."""
    return torch.eye(scores.size(0)), scores.t().contiguous()


def distinct_scores(num_users: int, num_items: int, seed: int) -> Tensor:
    """No two items of a user tie."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([
        torch.randperm(num_items, generator=generator).float() - 3
        for _ in range(num_users)])


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


def test_never_the_whole_score_matrix(monkeypatch) -> None:
    monkeypatch.setattr(ranking, '_CHUNK_ELEMENTS', 40)
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


def test_no_user_at_all() -> None:
    chunks = list(top_items(*embeddings(distinct_scores(2, 3, 0)),
                            torch.empty(0, dtype=torch.long), 2))
    assert sum(len(user) for user, _, _ in chunks) == 0


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
