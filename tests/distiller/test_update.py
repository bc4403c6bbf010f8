"""A distiller goes on learning: new interactions, users and items."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from torch_promptmm import PromptMMDistiller
from torch_promptmm.data import IdMap, from_interactions, set_ids
from torch_promptmm.datasets.blocks import BlockDataset
from torch_promptmm.nn import UserItemGraph

EDGE = ('user', 'interacts', 'item')
Make = Callable[..., PromptMMDistiller]
QUICK = {'seed': 0, 'progress': False}


@pytest.fixture(params=['default', 'content'])
def trained(request: pytest.FixtureRequest, blocks: BlockDataset,
            make: Make, content: Make) -> PromptMMDistiller:
    out = (make if request.param == 'default' else content)()
    out.fit(blocks[0], blocks[1], epochs=4, seed=0, progress=False)
    return out


def sizes(distiller: PromptMMDistiller) -> tuple[int, ...]:
    user, item = distiller.embeddings()
    return len(user), len(item)


def test_more_of_the_same(trained: PromptMMDistiller,
                          blocks: BlockDataset) -> None:
    """Old and new interactions: the new ones are known afterwards, and
    learned."""
    train, val, _ = blocks
    new = val[EDGE].edge_label_index
    before = trained.predict(*new).mean()
    others = trained.embeddings()
    out = trained.update(new, epochs=5, **QUICK)
    assert out.new_interactions == new.size(1)
    assert (out.new_users, out.new_items) == (0, 0)
    assert len(out.history) == 5
    assert out.before.keys() == out.after.keys() == {'known'}
    assert not torch.equal(others[0], trained.embeddings()[0])
    assert trained.predict(*new).mean() > before
    edges = torch.cat([train[EDGE].edge_index, new], dim=1)
    want = UserItemGraph(edges, *sizes(trained)).edge_index
    assert torch.equal(trained.graph.edge_index, want)
    items, _ = trained.recommend(new[0], k=20)
    assert not bool((items == new[1].view(-1, 1)).any())


def test_same_seed_same_result(trained: PromptMMDistiller,
                               blocks: BlockDataset, tmp_path: Path) -> None:
    trained.save(tmp_path / 'a')
    new = blocks[1][EDGE].edge_label_index
    out = []
    for _ in range(2):
        again = PromptMMDistiller.load(tmp_path / 'a')
        again.update(new, blocks[1], epochs=2, **QUICK)
        out.append(again.embeddings())
    for a, b in zip(*out, strict=True):
        assert torch.equal(a, b)


def test_users_and_items_come(trained: PromptMMDistiller,
                              tmp_path: Path) -> None:
    """They stand behind the others, in the graph and in the student; a new
    user starts from the items it has."""
    old = sizes(trained)
    user, item = trained.embeddings()
    known = trained.graph.edge_index
    first = known[:, known[0] == 0]
    like = torch.stack([torch.full_like(first[1], old[0]), first[1]])
    new = torch.cat([like, torch.tensor([[1, 2], [old[1], old[1]]])], dim=1)
    out = trained.update(new, epochs=0, **QUICK)
    assert (out.new_users, out.new_items) == (1, 1)
    assert out.new_interactions == new.size(1)
    assert sizes(trained) == (old[0] + 1, old[1] + 1)
    after = trained.embeddings()
    assert bool((after[0][old[0]] != 0).any())
    assert bool((after[1][old[1]] != 0).any())
    # The new user likes what it has.
    scores = after[1] @ after[0][old[0]]
    assert scores[like[1]].mean() > scores.mean() + scores.std()
    assert torch.cosine_similarity(user, after[0][:old[0]]).mean() > 0.9
    trained.update(new[:, :1], epochs=2, **QUICK)
    trained.save(tmp_path / 'a')
    again = PromptMMDistiller.load(tmp_path / 'a')
    for a, b in zip(trained.embeddings(), again.embeddings(), strict=True):
        assert torch.equal(a, b)


def test_the_teacher_stays_behind(trained: PromptMMDistiller,
                                  tmp_path: Path) -> None:
    old = sizes(trained)
    trained.update(torch.tensor([[old[0]], [0]]), anchor=0.5, epochs=1,
                   **QUICK)
    with pytest.raises(ValueError, match='its teacher does not know'):
        trained.embeddings('teacher')
    trained.save(tmp_path / 'a')
    again = PromptMMDistiller.load(tmp_path / 'a')
    assert again.teacher is None
    with pytest.raises(ValueError, match='its teacher does not know'):
        again.embeddings('teacher')
    out = again.update(torch.tensor([[1], [old[1]]]), anchor=0.5, epochs=1,
                       **QUICK)
    assert 'list' in out.history[0]


def test_anchor_holds_the_lists(trained: PromptMMDistiller,
                                blocks: BlockDataset,
                                tmp_path: Path) -> None:
    trained.save(tmp_path / 'a')
    new = blocks[1][EDGE].edge_label_index
    lists = []
    for anchor in (1e-6, 100.0):
        again = PromptMMDistiller.load(tmp_path / 'a')
        out = again.update(new, anchor=anchor, epochs=6, lr=0.02, **QUICK)
        lists.append(out.history[-1]['list'])
    assert lists[1] < lists[0]
    assert 'list' in again.update(new, epochs=1, **QUICK).history[0]
    out = again.update(new, anchor=0.0, epochs=1, **QUICK)
    assert 'list' not in out.history[0]
    again.save(tmp_path / 'b', teacher_tables='none')
    again = PromptMMDistiller.load(tmp_path / 'b')
    assert 'list' not in again.update(new, epochs=1, **QUICK).history[0]
    again.update(torch.tensor([[sizes(again)[0]], [0]]), epochs=0, **QUICK)
    with pytest.raises(ValueError, match='which was not kept'):
        again.update(new, anchor=1.0, **QUICK)


def test_raw_ids_say_who_is_who(blocks: BlockDataset, make: Make) -> None:
    train = blocks[0].clone()
    num = train['user'].num_nodes, train['item'].num_nodes
    set_ids(train, [f'u{i}' for i in range(num[0])],
            [f'i{i}' for i in range(num[1])])
    distiller = make(data=train)
    distiller.fit(train, epochs=1, seed=0, progress=False)
    new = from_interactions(
        torch.tensor([[0, 1, 1], [0, 1, 2]]),
        {name: torch.randn(3, train['item'][name].size(1))
         for name in ('visual', 'textual') if name in train['item']} or None,
        2, 3)
    set_ids(new, ['u3', 'zoe'], ['i5', 'novel', 'i7'])
    distiller.update(new, epochs=1, **QUICK)
    edges = distiller.graph.edge_index
    for user, item in ((3, 5), (num[0], num[1]), (num[0], 7)):
        assert bool(((edges[0] == user) & (edges[1] == item)).any())
    items, _ = distiller.recommend(['zoe'], k=5, raw=True)
    assert len(items[0]) == 5 and 'novel' not in items[0]
    with pytest.raises(ValueError, match='if, and only if'):
        distiller.update(from_interactions(
            torch.tensor([[90], [0]]), {'x': torch.randn(99, 2)}, 99, 99),
            **QUICK)
    with pytest.raises(ValueError, match='users='):
        distiller.update(torch.tensor([[99], [0]]), **QUICK)
    distiller.update(torch.tensor([[num[0] + 1], [0]]), users=['yan'],
                     epochs=1, **QUICK)
    assert distiller.recommender().ids['user'] == IdMap(
        [f'u{i}' for i in range(num[0])] + ['zoe', 'yan'])


def test_new_items_by_content(trained: PromptMMDistiller,
                              blocks: BlockDataset, tmp_path: Path) -> None:
    """In the distiller, in what serves, and in its file; once somebody has
    one, it is trained."""
    names = list(trained._training.growth.content_map.in_channels)
    features = {name: blocks[0]['item'][name][:3] for name in names}
    old, item = sizes(trained), trained.embeddings()[1]
    recommender = trained.recommender()
    rows = recommender.add_items(features)
    assert rows.tolist() == [old[1], old[1] + 1, old[1] + 2]
    assert torch.equal(trained.add_items(features), rows)
    assert sizes(trained) == (old[0], old[1] + 3)
    torch.testing.assert_close(trained.embeddings()[1],
                               recommender.item_emb)
    torch.testing.assert_close(recommender.item_emb[:old[1]], item)
    trained.save(tmp_path / 'a')
    again = PromptMMDistiller.load(tmp_path / 'a')
    assert torch.equal(again.embeddings()[1], trained.embeddings()[1])
    more = again.add_items(features, calibrate=False)
    assert more.tolist() == [old[1] + 3, old[1] + 4, old[1] + 5]
    again.update(torch.tensor([[0, 1], [old[1], old[1]]]), epochs=2, **QUICK)
    assert again._training.growth.items.tolist() == [
        old[1] + 1, old[1] + 2, *more.tolist()]


def test_bad_input(trained: PromptMMDistiller, blocks: BlockDataset) -> None:
    new = blocks[1][EDGE].edge_label_index
    for args, kwargs, error, message in [
        ((new.float(), ), {}, TypeError, "'data' must hold integer"),
        ((new.t(), ), {}, ValueError, 'pass its transpose'),
        ((-new, ), {}, ValueError, 'no negative number'),
        ((new, ), {'users': ['a']}, ValueError, "'users' are raw ids"),
        ((new, ), {'anchor': -1.0}, ValueError, "'anchor' must"),
        ((new, ), {'epoch': 1}, TypeError, "'epoch' is no argument"),
        ((blocks[0], ), {'features': {}}, ValueError, "'features' is for"),
    ]:
        with pytest.raises(error, match=message):
            trained.update(*args, **kwargs)
    for features, message in [
        ({}, "'features' must map"),
        ({'smell': torch.ones(2, 3)}, "'features' has 'smell'"),
    ]:
        with pytest.raises(ValueError, match=message):
            trained.add_items(features)
    bare = trained.recommender()
    bare.content_map = None
    with pytest.raises(ValueError, match='no map from content'):
        bare.add_items({'visual': torch.ones(1, 2)})
