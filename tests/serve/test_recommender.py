from __future__ import annotations

import pytest
import torch
from baselines import MF, BiasedMF, Content, Tables
from torch.testing import assert_close

from torch_promptmm.data import set_ids
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.models import LightGCN
from torch_promptmm.serve import Recommender
from torch_promptmm.train import fit

TRAIN, _, TEST = SyntheticMultimodal.blocks(
    num_blocks=2, users_per_block=6, items_per_block=6,
    features={'visual': 5, 'textual': 3})
U, I = TRAIN['user'].num_nodes, TRAIN['item'].num_nodes
EDGES = TRAIN['user', 'interacts', 'item'].edge_index
KNOWN = set(map(tuple, EDGES.t().tolist()))
RUN = dict(epochs=2, seed=0, progress=False, ranking_loss='bpr')


@pytest.fixture
def rec() -> Recommender:
    torch.manual_seed(0)
    return Recommender(torch.randn(U, 4), torch.randn(I, 4), EDGES)


@pytest.mark.parametrize('make', [MF, BiasedMF, Tables])
def test_of_a_model_that_returns_its_tables(make) -> None:
    model = make(U, I)
    rec = Recommender.from_model(model, TRAIN)  # 'dot' where none is known.
    before = rec.user_emb.clone(), rec.item_emb.clone()
    for x in (rec.user_emb, rec.item_emb, rec.predict([0], [1]),
              rec.recommend([0], 3)[1], rec.similar_items([0], 3)[1]):
        assert not x.requires_grad
    assert_close(rec.predict([2, 3], [1, 0]), torch.stack([
        before[0][2] @ before[1][1], before[0][3] @ before[1][0]]))
    fit(model, TRAIN, **RUN)
    assert not torch.equal(model.user.weight, before[0])
    assert torch.equal(rec.user_emb, before[0])
    assert torch.equal(rec.item_emb, before[1])


def test_the_score_of_the_model() -> None:
    model = LightGCN(U, I, 4)
    fit(model, TRAIN, **{**RUN, 'ranking_loss': 'softmax'})
    rec = Recommender.from_model(model, TRAIN)
    assert_close(rec.user_emb.norm(dim=1), torch.ones(U))
    dot = Recommender.from_model(model, TRAIN, score='dot')
    assert_close(dot.user_emb, model(EDGES)[0].detach())


def test_a_model_that_lost_its_features() -> None:
    model = Content.from_data(TRAIN, 4, seed=0)
    want = Recommender.from_model(model, TRAIN).item_emb
    model.item_features.release()
    assert torch.equal(Recommender.from_model(model, TRAIN).item_emb, want)


def test_what_is_left_out(rec) -> None:
    items, scores = rec.recommend(range(U), I)
    everything, _ = rec.recommend(range(U), I, exclude_known=False)
    for user in range(U):
        left = [i for i in items[user].tolist() if i >= 0]
        assert len(left) == I - sum(u == user for u, _ in KNOWN)
        assert not KNOWN & {(user, i) for i in left}
        want = (rec.item_emb @ rec.user_emb[user]).argsort(descending=True)
        assert torch.equal(everything[user], want)
        assert left == [i for i in want.tolist() if (user, i) not in KNOWN]
    assert torch.isinf(scores[items < 0]).all()
    other = torch.tensor([[0, 0], [1, 2]])
    items, _ = rec.recommend([0], I, known=other)
    assert set(items[0].tolist()) == set(range(I)) - {1, 2} | {-1}
    with pytest.raises(ValueError, match="'exclude_known' is False"):
        rec.recommend([0], 2, exclude_known=False, known=other)
    bare = Recommender(rec.user_emb, rec.item_emb)
    assert torch.equal(bare.recommend(range(U), I)[0], everything)


@pytest.mark.parametrize('k', [1, 3, I - 1])
def test_similar_items(rec, k: int) -> None:
    rec.item_emb[5] = 0.0
    asked = [3, 0, 3, 5]
    items, cosines = rec.similar_items(asked, k)
    unit = torch.nn.functional.normalize(rec.item_emb.double(), dim=1)
    for row, item in enumerate(asked):
        score = unit @ unit[item]
        want = [i for i in score.argsort(descending=True).tolist()
                if i != item][:k]
        assert item not in items[row].tolist()
        assert len(set(items[row].tolist())) == k
        assert_close(cosines[row].double(), score[want], rtol=1e-5, atol=1e-6)
        if item != 5:
            assert_close(score[items[row]], score[want])
    with pytest.raises(ValueError, match=f"'k' must be below.*{I}"):
        rec.similar_items([0], I)
    with pytest.raises(ValueError, match="'item_ids'"):
        rec.similar_items([I], 2)


def test_raw_ids() -> None:
    data = TRAIN.clone()
    users, items = [f'u{i}' for i in range(U)], [f'i{i}' for i in range(I)]
    set_ids(data, users, items)
    rec = Recommender.from_model(MF(U, I), data)
    found, scores = rec.recommend([3, 1], I)
    raw, raw_scores = rec.recommend(['u3', 'u1'], I, raw=True)
    assert_close(scores, raw_scores)
    assert raw == [[f'i{i}' if i >= 0 else None for i in row]
                   for row in found.tolist()]
    assert rec.to('cpu') is rec
    with pytest.raises(ValueError, match="'raw=True' needs the users'"):
        Recommender.from_model(MF(U, I), TRAIN).recommend([0], 2, raw=True)


def test_it_can_move(rec) -> None:
    moved = rec.to('meta')
    assert moved.user_emb.device.type == 'meta'
    assert rec.user_emb.device.type == 'cpu'
    assert moved.known is rec.known and moved.ids == rec.ids


def test_on_device(rec, device: torch.device) -> None:
    there = rec.to(device)
    for a, b in ((there.recommend(range(U), 5), rec.recommend(range(U), 5)),
                 (there.similar_items([1, 2], 3),
                  rec.similar_items([1, 2], 3))):
        assert torch.equal(a[0].cpu(), b[0])
    assert_close(there.predict([0], [1]).cpu(), rec.predict([0], [1]))


@pytest.mark.parametrize('user, item, match', [
    (torch.randn(3), torch.randn(4, 2), "'user_emb' must be a two-dim"),
    (torch.randn(3, 2), torch.randn(4, 3), "'item_emb' must have 2 columns"),
    (torch.ones(3, 2).long(), torch.randn(4, 2), 'floating-point')])
def test_what_is_no_table(user, item, match) -> None:
    with pytest.raises(ValueError, match=match):
        Recommender(user, item)


def test_pairs_of_other_lengths(rec) -> None:
    with pytest.raises(ValueError, match='of one length .got 2 and 1'):
        rec.predict([0, 1], [0])
    for call in (lambda: rec.recommend([U], 2), lambda: rec.predict([U], [0]),
                 lambda: rec.recommend([0], I + 1),
                 lambda: rec.recommend([0], 0)):
        with pytest.raises(ValueError):
            call()
