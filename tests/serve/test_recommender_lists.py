"""Lists of a call, raw ids, and tables in other types, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from torch_promptmm.ids import IdMap
from torch_promptmm.ranking import KnownItems
from torch_promptmm.serve import Recommender

U, I, D = 7, 300, 6


@pytest.fixture
def rec() -> Recommender:
    torch.manual_seed(0)
    known = torch.stack([torch.randint(U, (200, )),
                         torch.randint(I, (200, ))]).unique(dim=1)
    return Recommender(
        torch.randn(U, D, dtype=torch.double),
        torch.randn(I, D, dtype=torch.double), known,
        {'user': IdMap(f'u{i}' for i in range(U)),
         'item': IdMap(range(1000, 1000 + I))})


def best(rec: Recommender, users: list[int], k: int,
         allowed: list[set[int]]) -> tuple[list[list[int]], np.ndarray]:
    items, scores = [], np.full((len(users), k), -np.inf)
    for row, user in enumerate(users):
        score = rec.item_emb.numpy() @ rec.user_emb.numpy()[user]
        order = [i for i in (-score).argsort() if i in allowed[row]][:k]
        scores[row, :len(order)] = score[order]
        items.append(order + [-1] * (k - len(order)))
    return items, scores


def known_of(rec: Recommender, user: int) -> set[int]:
    return set(rec.known[1][rec.known[0] == user].tolist())


ALL = set(range(I))
ONE, EACH = [5, 9, 250, 9], [[5, 9], list(range(100)), []]


@pytest.mark.parametrize('batch_size', [None, 1, 2])
@pytest.mark.parametrize('form', ['list', 'tensor', 'raw'])
@pytest.mark.parametrize('name', ['candidates', 'exclude'])
@pytest.mark.parametrize('lists', [ONE, EACH], ids=['one', 'each'])
def test_lists(rec, lists, name, form, batch_size) -> None:
    users = [6, 0, 6]
    given = lists if lists is EACH else [lists] * 3
    wanted = [(set(x) if name == 'candidates' else ALL - set(x))
              - known_of(rec, user)
              for user, x in zip(users, given, strict=True)]
    items, scores = best(rec, users, 12, wanted)
    call = dict(k=12, batch_size=batch_size)
    if form == 'raw':
        shown = [[1000 + i for i in x] if isinstance(x, list) else 1000 + x
                 for x in lists]
        have, values = rec.recommend(['u6', 'u0', 'u6'], raw=True, **call,
                                     **{name: shown})
        items = [[1000 + i if i >= 0 else None for i in x] for x in items]
    else:
        if form == 'tensor':
            lists = ([torch.tensor(x, dtype=torch.long) for x in lists]
                     if lists is EACH else torch.tensor(lists))
        have, values = rec.recommend(users, **call, **{name: lists})
        have = have.tolist()
    assert have == items
    assert_close(values, torch.from_numpy(scores))


def test_both_and_what_is_known_elsewhere(rec) -> None:
    other = torch.tensor([[2, 2], [7, 8]])
    wanted = [{5, 6}]
    for known in (other, KnownItems(other, U)):
        items, _ = rec.recommend([2], 4, known=known, exclude=[9],
                                 candidates=np.array([[5, 6, 7, 8, 9]]))
        assert items.tolist() == best(rec, [2], 4, wanted)[0]
    items, _ = rec.recommend([2], I, exclude_known=False, exclude=[])
    assert items.tolist() == best(rec, [2], I, [ALL])[0]


def test_what_is_known_is_sorted_once(rec, monkeypatch) -> None:
    rec.recommend([0], 3)
    monkeypatch.setattr('torch_promptmm.serve.recommend.KnownItems', None)
    first = rec.recommend([0], 3)
    assert_close(first, rec.recommend([0], 3))


def test_what_it_holds(rec) -> None:
    count = np.bincount(rec.known[1].numpy(), minlength=I)
    assert rec.popularity.tolist() == count.tolist()
    assert rec.cold.tolist() == (count == 0).tolist()
    bare = Recommender(rec.user_emb, rec.item_emb, meta={'name': 'x'})
    assert bare.known is bare.cold is bare.popularity is bare.fold is None
    assert bare.meta == {'name': 'x'} and bare.ids == {}
    assert bare.to_dtype('float16').meta == {'name': 'x'}
    with_gradient = Recommender(rec.user_emb.clone().requires_grad_(),
                                rec.item_emb)
    assert not with_gradient.recommend([0], 3)[1].requires_grad


def test_raw_similar_items_and_histories(rec) -> None:
    items, cosines = rec.similar_items([4, 250], 6)
    raw, same = rec.similar_items([1004, 1250], 6, raw=True)
    assert raw == (items + 1000).tolist() and torch.equal(cosines, same)
    itself, cosines = rec.similar_items([4], I, exclude_self=False)
    assert itself[0, 0] == 4 and set(itself[0].tolist()) == ALL
    assert_close(cosines[0, 0], torch.ones((), dtype=torch.double))
    items, _ = rec.recommend_from_history([[4, 5]], 6)
    raw, _ = rec.recommend_from_history([[1004, 1005]], 6, raw=True)
    assert raw == (items + 1000).tolist()


@pytest.mark.parametrize(('dtype', 'bits'), [('float32', 23),
                                             ('float16', 10), ('int8', 7)])
def test_types(rec, dtype: str, bits: int) -> None:
    small = rec.to_dtype(dtype)
    assert str(small.user_emb.dtype) == str(small.item_emb.dtype) == (
        f'torch.{dtype}')
    assert (small.scales is None) == (dtype != 'int8')
    items, scores = small.recommend(range(U), I, exclude_known=False)
    assert scores.dtype == torch.float
    exact = rec.user_emb @ rec.item_emb.t()
    # Each entry of a row is off by half a step of the row's largest.
    size = (rec.user_emb.abs().amax(1, keepdim=True)
            * rec.item_emb.abs().amax(1))
    wrong = (scores.double() - exact.gather(1, items)).abs()
    assert bool((wrong <= 2.1 * D * size.gather(1, items) / 2**bits).all())
    if dtype != 'float32':
        assert float(wrong.max()) > 1e-5  # It is another type indeed.
    assert_close(small.predict([1, 2], [3, 4]).double(), exact[[1, 2], [3, 4]],
                 rtol=0, atol=2.1 * D * float(size.max()) / 2**bits)
    assert_close(small.recommend([3], 1, exclude_known=False)[1][0],
                 small.predict([3], small.recommend(
                     [3], 1, exclude_known=False)[0][0]))
    cosine = torch.nn.functional.normalize(rec.item_emb)
    cosine = cosine @ cosine.t()
    items, scores = small.similar_items([7], 20)
    assert_close(scores.double(), cosine[7][items], rtol=0, atol=0.03)
    assert small.known is rec.known and small.ids == rec.ids


def test_int8_by_hand() -> None:
    rec = Recommender(torch.tensor([[127.0, -63.5], [0.0, 0.0]]),
                      torch.tensor([[2.54, 1.0]])).to_dtype('int8')
    assert rec.user_emb.tolist() == [[127, -64], [0, 0]]
    assert rec.scales['user'].tolist() == [1.0, 0.0]
    assert rec.item_emb.tolist() == [[127, 50]]
    assert_close(rec.recommend([0, 1], 1)[1],
                 torch.tensor([[(127 * 127 - 64 * 50) * 0.02], [0.0]]))
