from __future__ import annotations

import sys

import pytest
import torch
from torch.testing import assert_close

from torch_promptmm.serve import Recommender, faiss_index

U, I, D = 30, 500, 8
torch.manual_seed(0)
USER, ITEM = torch.randn(U, D), torch.randn(I, D)
# Users 0, 1, ... know 0, 1, 2, 4, ... of their best; the last all but three.
ORDER = (USER @ ITEM.t()).argsort(dim=1, descending=True)
NUM = [0, *(2**n for n in range(9)), *[7] * (U - 11), I - 3]
KNOWN = torch.cat([torch.stack([torch.full((n, ), u), ORDER[u, :n]])
                   for u, n in enumerate(NUM)], dim=1)
EXACT = Recommender(USER, ITEM, KNOWN)
# As far as it takes to find all.
WIDE = {'faiss-flat': {}, 'faiss-ivf': {'num_cells': 4, 'num_probes': 4},
        'faiss-hnsw': {'ef_search': I}}


@pytest.fixture
def faiss():
    return pytest.importorskip('faiss')


@pytest.mark.parametrize('most', [faiss_index._MOST, 20, 0])
@pytest.mark.parametrize('kind', WIDE)
def test_no_answer_is_short(faiss, monkeypatch, kind, most) -> None:
    monkeypatch.setattr(faiss_index, '_MOST', most)
    rec = EXACT.with_index(kind, **WIDE[kind])
    users = list(range(U))[::-1] + [0]
    items, scores = rec.recommend(users, 20)
    want, values = EXACT.recommend(users, 20)
    assert items.tolist() == want.tolist()
    assert_close(scores, values)
    assert bool((items[1:] >= 0).all()) and int((items[0] < 0).sum()) == 17


@pytest.mark.parametrize('kind', WIDE)
def test_one_cell_or_a_short_walk(faiss, kind) -> None:
    options = {**WIDE[kind], 'num_probes': 1, 'ef_search': 1}
    rec = EXACT.with_index(kind, **options)
    items, scores = rec.recommend(range(U), 100)
    left = [max(0, 100 - (I - n)) for n in NUM]
    assert (items < 0).sum(dim=1).tolist() == left
    for user in range(U):
        found = [i for i in items[user].tolist() if i >= 0]
        assert len(set(found)) == len(found)
        assert not set(found) & set(ORDER[user, :NUM[user]].tolist())
        assert_close(scores[user, :len(found)], ITEM[found] @ USER[user])


def test_with_lists_of_the_call(faiss) -> None:
    rec = EXACT.with_index('faiss-flat')
    for call in ({'exclude': ORDER[3, 5:40]}, {'exclude_known': False},
                 {'exclude': [ORDER[3, :30].tolist(), [1]]},
                 {'candidates': [4, 5, 6]}):
        have = rec.recommend([3, 4], 10, **call)
        assert_close(have, EXACT.recommend([3, 4], 10, **call))
    history = [[1, 2, 3], [4]]
    assert_close(rec.recommend_from_history(history, 10),
                 EXACT.recommend_from_history(history, 10))
    assert rec.recommend([], 3)[0].shape == (0, 3)


def test_an_index_stays(faiss) -> None:
    rec = EXACT.with_index('faiss-ivf', num_cells=5, num_probes=2)
    small = rec.to_dtype('int8')
    assert small.index.kind == 'faiss-ivf'
    assert small.index.index.nlist == 5 and small.index.num_probes == 2
    assert rec.to('meta').index is rec.index
    assert rec.with_index(None).index is None
    assert repr(rec.index) == "FaissIndex(500, 'faiss-ivf')"


def test_without_faiss(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, 'faiss', None)
    with pytest.raises(ImportError, match='pip install faiss-cpu'):
        EXACT.with_index('faiss-flat')
