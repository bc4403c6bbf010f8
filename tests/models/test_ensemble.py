"""An ensemble against the formula, with dense matrices in double
precision."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import reference
import torch
from graphs import NUM_ITEMS, NUM_USERS, random_edges
from numpy.typing import NDArray
from torch.testing import assert_close

from torch_promptmm.data import from_interactions
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.models import (
    ContentExpert,
    CoOccurrence,
    Ensemble,
    ForeignModel,
    Fusion,
    LightGCN,
    MultimodalTeacher,
    as_output,
)
from torch_promptmm.models.door import model_from_config, saved_config
from torch_promptmm.nn import UserItemGraph

Array = NDArray[Any]
WIDTHS = {'a': 7, 'b': 3}
EDGES = random_edges()  # User 3 has none.
DEGREE = np.bincount(EDGES[1].numpy(), minlength=NUM_ITEMS)
COLD = (DEGREE == 0).nonzero()[0].tolist()
MASK = torch.arange(NUM_ITEMS) != 4
GRAPH = UserItemGraph(EDGES, NUM_USERS, NUM_ITEMS, dtype=torch.double)
STANDARD = {'a': 'standardize', 'b': 'standardize'}
FUSIONS = {name: replace(fusion, scaling={**STANDARD, **fusion.scaling})
           for name, fusion in {
    'plain': Fusion({'a': 1.0, 'b': 1.0}),
    'popular': Fusion({'a': 0.5, 'b': 2.0}, popularity=0.3),
    'cold': Fusion({'a': 0.0, 'b': 1.5}, 0.2, cold_weight=1.75),
    'low rank': Fusion({'a': 1.0, 'b': 0.25}, 0.1, 1.25, rank=3, whole=0.25),
    'low rank alone': Fusion({'a': 0.0, 'b': 0.0}, rank=2, whole=0.0),
    'shared': Fusion({'a': 0.5, 'b': 0.0}, 0.1, 1.5, co_occurrence=0.4),
    'scaled': Fusion({'a': 1.0, 'b': 0.5},
                     scaling={'a': 'whiten', 'b': 'raw'}),
}.items()}


def features() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {name: 3 + torch.randn(NUM_ITEMS, width, dtype=torch.double,
                                  generator=generator)
            for name, width in WIDTHS.items()}


def make(fusion: Fusion | None = None, num_members: int = 2,
         content: bool = True, **kwargs: Any) -> Ensemble:
    members = [LightGCN(NUM_USERS, NUM_ITEMS, 4 + i, 1 + i)
               for i in range(num_members)]
    expert = None
    if content:
        kwargs = {'dtype': torch.double, **kwargs}
        expert = ContentExpert(NUM_USERS, NUM_ITEMS, WIDTHS, **kwargs)
        expert.set_features(features(), {'b': MASK})
    shared = CoOccurrence(NUM_USERS, NUM_ITEMS, 2, 3)
    return Ensemble(members, expert, fusion, shared).double()


def ridge(rows: Array) -> Array:
    """All items' rows from their content, by plain least squares with rows
    for the penalty."""
    parts = []
    for name, x in features().items():
        mask = MASK.numpy() if name == 'b' else None
        parts.append(x.size(1)**0.5 * reference.unit_rows(
            reference.standardise(x.numpy(), mask)))
    z = np.concatenate(parts, axis=1)
    weight = DEGREE**0.5
    design = np.concatenate([z, np.ones((NUM_ITEMS, 1))], axis=1)
    penalty = np.eye(z.shape[1] + 1)[:-1] * (30 * weight.mean())**0.5
    left = np.concatenate([weight[:, None]**0.5 * design, penalty])
    right = np.concatenate([weight[:, None]**0.5 * rows,
                            np.zeros((z.shape[1], rows.shape[1]))])
    return design @ np.linalg.lstsq(left, right, rcond=None)[0]


def id_rows(model: Ensemble) -> tuple[Array, Array]:
    """The members' unit rows side by side, as they must be."""
    adj = reference.adjacency(EDGES.numpy(), NUM_USERS, NUM_ITEMS)
    parts = []
    for member in model.members:
        ego = torch.cat([member.user_embedding.weight,
                         member.item_embedding.weight]).detach().numpy()
        share = 1 / (member.num_layers + 1)
        parts.append(reference.unit_rows(reference.polynomial(
            adj, ego, [share] * (member.num_layers + 1))))
    rows = np.concatenate(parts, axis=1) / len(parts)**0.5
    user, item = rows[:NUM_USERS].copy(), rows[NUM_USERS:].copy()
    user[3] = 0.0
    item[COLD] = ridge(item)[COLD] if model.modalities else 0.0
    return user, item


def low_rank(user: Array, item: Array, rank: int) -> Array:
    """Scores in the leading right singular vectors of both tables, each
    scaled to norm 1."""
    stacked = np.concatenate([x / np.linalg.norm(x) for x in (user, item)])
    directions = np.linalg.svd(stacked)[2][:rank].T
    return (user @ directions) @ (item @ directions).T


def wanted(model: Ensemble, fusion: Fusion) -> Array:
    """The written formula."""
    user, item = id_rows(model)
    score = fusion.whole * user @ item.T
    if fusion.rank > 0:
        score = score + low_rank(user, item, fusion.rank)
    warm = DEGREE > 0
    score = score * np.where(warm, (DEGREE + 1.0)**fusion.popularity, 1.0)
    shared = as_output(model.co_occurrence(GRAPH))
    x_user, x_item = shared.user.numpy(), shared.item.numpy()
    length = np.linalg.norm(x_item[warm], axis=1).mean()
    score = score + fusion.co_occurrence * (
        reference.unit_rows(x_user) @ x_item.T / length)
    if model.content is not None:
        content = as_output(model.content(GRAPH)).modalities
        for name, weight in fusion.weights.items():
            x_user, x_item = (x.numpy() for x in content[name])
            score = score + weight * x_user @ x_item.T
    return score * np.where(warm, 1.0, fusion.cold_weight)


@pytest.mark.parametrize('num_members', [1, 3])
@pytest.mark.parametrize('name', FUSIONS)
def test_scores_are_the_formula(name: str, num_members: int) -> None:
    fusion = FUSIONS[name]
    model = make(fusion, num_members)
    out = model(GRAPH)
    np.testing.assert_allclose((out.user @ out.item.t()).numpy(),
                               wanted(model, fusion), atol=2e-6)
    assert out.user.size(1) == out.item.size(1) == model.width
    assert not out.user.requires_grad and model.score == 'dot'
    # Popularity and cold items do matter here.
    if name != 'plain':
        other = wanted(model, FUSIONS['plain'])
        assert np.abs(other - wanted(model, fusion)).max() > 0.1


def test_without_content() -> None:
    fusion = Fusion({}, popularity=0.2, cold_weight=3.0, rank=2)
    model = make(fusion, 2, content=False)
    out = model(GRAPH)
    np.testing.assert_allclose((out.user @ out.item.t()).numpy(),
                               wanted(model, fusion), atol=1e-9)
    assert out.modalities == {} and model.modalities == []
    assert (out.item[COLD] == 0).all()


@pytest.mark.parametrize('content', [True, False])
def test_rows_of_what_has_no_interaction(content: bool) -> None:
    model = make(content=content)
    (user, item), _ = model.parts(GRAPH)
    plain = [as_output(member(GRAPH)) for member in model.members]
    for i, table in enumerate((user, item)):
        unit = torch.cat([torch.nn.functional.normalize(x[i], dim=1)
                          for x in plain], dim=1) / 2**0.5
        changed = (table - unit).abs().amax(dim=1) > 1e-9
        assert changed.nonzero().view(-1).tolist() == ([3], COLD)[i]
    assert (user[3] == 0).all()
    if content:
        np.testing.assert_allclose(item[COLD].numpy(),
                                   ridge(id_rows(model)[1])[COLD], atol=1e-6)
        assert (item[COLD].norm(dim=1) > 0.01).all()
    else:
        assert (item[COLD] == 0).all()


def test_a_change_of_cold_ego_rows_changes_nothing() -> None:
    model = make()
    before = model(GRAPH)
    with torch.no_grad():
        for member in model.members:
            member.user_embedding.weight[3] += 5.0
            member.item_embedding.weight[COLD] -= 5.0
    for a, b in zip(before[:2], model(GRAPH)[:2], strict=True):
        assert_close(a, b, rtol=0, atol=1e-12)


def test_rows_are_those_of_the_whole() -> None:
    model = make(FUSIONS['low rank'])
    user_id, item_id = torch.tensor([5, 3, 5]), torch.tensor([10, 1])
    whole, rows = model(GRAPH), model(GRAPH, user_id, item_id)
    assert torch.equal(rows.user, whole.user[user_id])
    assert torch.equal(rows.item, whole.item[item_id])
    for name, (user, item) in rows.modalities.items():
        assert torch.equal(user, whole.modalities[name][0][user_id])
        assert torch.equal(item, whole.modalities[name][1][item_id])


def test_single_precision_and_any_adjacency() -> None:
    model = make(FUSIONS['popular'], dtype=torch.float)
    want = model(GRAPH)
    out = model.float()(EDGES)
    assert out.user.dtype == torch.float
    assert_close(out.user @ out.item.t(), (want.user @ want.item.t()).float(),
                 rtol=0, atol=1e-4)


# What is kept


@pytest.mark.parametrize('kind', ['float', 'half', 'bfloat16'])
def test_the_fusion_is_not_rounded(kind: str) -> None:
    fusion = replace(FUSIONS['low rank'], popularity=0.1, cold_weight=1 / 3)
    model = getattr(make(fusion), kind)()
    assert model.fusion == fusion
    again = make()
    again.load_state_dict(model.state_dict())
    assert again.fusion == fusion


def test_the_scaling_is_that_of_the_content() -> None:
    model = make(FUSIONS['scaled'])
    assert model.content.scaling == {'a': 'whiten', 'b': 'raw'}
    # What is not named stays.
    model.fusion = Fusion({'a': 1.0, 'b': 1.0}, scaling={'b': 'whiten'})
    assert model.fusion.scaling == {'a': 'whiten', 'b': 'whiten'}
    other = make(scaling='raw')
    assert other.fusion.scaling == {'a': 'raw', 'b': 'raw'}
    other.load_state_dict(model.state_dict())
    assert other.content.scaling == {'a': 'whiten', 'b': 'whiten'}
    other.reset_parameters()
    assert other.fusion.scaling == {'a': 'raw', 'b': 'raw'}
    with pytest.raises(ValueError, match='the scaling of no other modality'):
        model.fusion = Fusion({'a': 1.0, 'b': 1.0}, scaling={'c': 'raw'})
    with pytest.raises(ValueError, match="'fusion' must have the scaling"):
        make(Fusion(scaling={'a': 'raw'}), content=False)



def test_the_fusion_is_in_the_state() -> None:
    model, other = make(FUSIONS['low rank']), make()
    assert model.fusion == FUSIONS['low rank'] != other.fusion
    assert other.fusion == FUSIONS['plain']
    other.load_state_dict(model.state_dict())
    assert other.fusion == FUSIONS['low rank']
    for a, b in zip(model(GRAPH)[:2], other(GRAPH)[:2], strict=True):
        assert torch.equal(a, b)
    copied = copy.deepcopy(model)
    copied.fusion = FUSIONS['cold']
    assert model.fusion == FUSIONS['low rank']


def test_config_round_trip() -> None:
    model = make(FUSIONS['low rank'])
    config = saved_config(model)
    assert config is not None and config['class'] == 'Ensemble'
    again = model_from_config(config)
    assert isinstance(again, Ensemble) and saved_config(again) == config
    again.load_state_dict(model.state_dict())
    again = again.double()
    assert again.fusion == model.fusion and str(again) == str(model)
    with pytest.raises(ValueError, match='no item features'):
        again(GRAPH)
    again.set_features(features(), {'b': MASK})
    assert torch.equal(again(GRAPH).item, model(GRAPH).item)
    bare = make(content=False)
    assert str(model_from_config(saved_config(bare) or {})) == str(bare)


class Own(LightGCN):
    """A class that is not ours."""


def test_what_holds_a_foreign_model_is_foreign() -> None:
    for member in (Own(NUM_USERS, NUM_ITEMS, 4), _foreign()):
        assert saved_config(member) is None
        assert saved_config(Ensemble([member])) is None
    with pytest.raises(ValueError, match="'Own' is no model"):
        model_from_config({'class': 'Own'})
    with pytest.raises(ValueError, match="'ForeignModel' is no model"):
        model_from_config({'class': 'ForeignModel'})


def _foreign() -> ForeignModel:
    out = ForeignModel(LightGCN(NUM_USERS, NUM_ITEMS, 4))
    out.num_users, out.num_items = NUM_USERS, NUM_ITEMS
    return out


def test_features_may_go_and_come() -> None:
    model = make()
    want = model(GRAPH).item
    model.release_features()
    for call in (lambda: model(GRAPH), lambda: model.parts(GRAPH)):
        with pytest.raises(ValueError, match='no item features'):
            call()
    model.set_features(features(), {'b': MASK})
    assert torch.equal(model(GRAPH).item, want)
    with pytest.raises(ValueError, match="'Ensemble' reads no features"):
        make(content=False).set_features(features())


def test_reset_parameters() -> None:
    model = make(FUSIONS['popular'])
    before = [x.clone() for x in model.parameters()]
    model.fusion = FUSIONS['cold']
    model.reset_parameters()
    assert model.fusion == FUSIONS['popular']
    for a, b in zip(before, model.parameters(), strict=True):
        assert not torch.equal(a, b)


def test_representation() -> None:
    text = str(make(FUSIONS['plain'], 2))
    assert text.startswith('Ensemble(1 x LightGCN(7, 11, hidden_channels=4, '
                           'num_layers=1), 1 x LightGCN(7, 11, '
                           'hidden_channels=5, num_layers=2), '
                           'content=ContentExpert(7, 11, a=7')
    assert 'popularity=0.0' in text and "weights={'a': 1.0, 'b': 1.0}" in text
    assert 'content=None' in str(make(content=False))


# Building and bad input


def test_from_data() -> None:
    train, _, _ = SyntheticMultimodal.blocks(users_per_block=12)
    model = Ensemble.from_data(train, 8, seed=0, num_members=3, num_layers=1,
                               hop=0.5, scaling='raw')
    assert model.content is not None and model.content.hop == 0.5
    assert model.content.scaling == {'visual': 'raw', 'textual': 'raw'}
    assert [x.num_layers for x in model.members] == [1, 1, 1]
    assert model.width == 3 * 8 + 48 + 32
    first, second = (x.user_embedding.weight for x in model.members[:2])
    assert not torch.equal(first, second)
    again = Ensemble.from_data(train, 8, seed=0, num_members=3, num_layers=1)
    assert torch.equal(again.members[1].item_embedding.weight,
                       model.members[1].item_embedding.weight)
    one = Ensemble.from_data(train, 8, modalities=['textual'])
    assert one.modalities == ['textual'] and len(one.members) == 1
    fusion = Fusion({'textual': 0.5}, popularity=0.1)
    assert Ensemble.from_data(train, 8, modalities=['textual'],
                              fusion=fusion).fusion == replace(
                                  fusion, scaling={'textual': 'standardize'})
    for bare in (Ensemble.from_data(train, 8, use_content=False),
                 Ensemble.from_data(from_interactions(
                     EDGES, {}, NUM_USERS, NUM_ITEMS), 8)):
        assert bare.content is None and bare.modalities == []
    for num, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="'num_members' must be"):
            Ensemble.from_data(train, 8, num_members=num)
    with pytest.raises(ValueError, match="'hop' must be"):
        Ensemble.from_data(train, 8, hop=-1.0)


def test_a_trained_teacher_may_be_a_member() -> None:
    train, _, _ = SyntheticMultimodal.blocks(users_per_block=12)
    teacher = MultimodalTeacher.from_data(train, 8, seed=0)
    model = Ensemble([teacher, LightGCN(48, 36, 4)])
    out = model.eval()(train['user', 'interacts', 'item'].edge_index)
    assert out.user.shape == (48, 12)


@pytest.mark.parametrize('members', [
    [], [torch.nn.Linear(2, 2)], [LightGCN(7, 11, 4), None]])
def test_members_must_be_models(members: list[Any]) -> None:
    with pytest.raises(ValueError, match="'members' must be at least one Ra"):
        Ensemble(members)


def test_sizes_must_match() -> None:
    ours = LightGCN(NUM_USERS, NUM_ITEMS, 4)
    for sizes in ((NUM_USERS + 1, NUM_ITEMS), (NUM_USERS, NUM_ITEMS - 1)):
        message = f'one of {sizes[0]} and {sizes[1]}'
        with pytest.raises(ValueError, match=message):
            Ensemble([ours, LightGCN(*sizes, 4)])
        with pytest.raises(ValueError, match=message):
            Ensemble([ours], ContentExpert(*sizes, WIDTHS))


@pytest.mark.parametrize('weights', [{}, {'a': 1.0},
                                     {'a': 1.0, 'b': 1.0, 'c': 1.0}])
def test_a_weight_for_each_modality(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="'fusion' must have a weight for"):
        make(Fusion(weights))
    model = make()
    with pytest.raises(ValueError, match="'fusion' must have a weight for"):
        model.fusion = Fusion(weights)
    assert model.fusion == FUSIONS['plain']


def test_a_weight_for_what_is_not_there() -> None:
    with pytest.raises(ValueError, match="'co_occurrence' of 'fusion' must "
                       'be 0 where'):
        Ensemble([LightGCN(7, 11, 4)], fusion=Fusion(co_occurrence=0.1))
    train, _, _ = SyntheticMultimodal.blocks(users_per_block=12)
    assert Ensemble.from_data(train, 8).co_occurrence is None
    assert Ensemble.from_data(train, 8, neighbors=0).co_occurrence is None
    model = Ensemble.from_data(train, 8, neighbors=7)
    assert model.co_occurrence.neighbors == 7
    assert model.fusion.co_occurrence == 0.0
    with pytest.raises(ValueError, match="'neighbors' must be at least 0"):
        Ensemble.from_data(train, 8, neighbors=-1)
    with pytest.raises(ValueError, match='one of 8 and 11'):
        Ensemble([LightGCN(7, 11, 4)], co_occurrence=CoOccurrence(8, 11))


@pytest.mark.parametrize('error, name, value', [
    (ValueError, r"weights\['a'\]", {'weights': {'a': -1.0}}),
    (ValueError, r"weights\['a'\]", {'weights': {'a': float('inf')}}),
    (TypeError, r"weights\['a'\]", {'weights': {'a': 'much'}}),
    (ValueError, 'popularity', {'popularity': -0.1}),
    (ValueError, 'cold_weight', {'cold_weight': float('nan')}),
    (ValueError, 'whole', {'whole': -1.0}),
    (ValueError, 'rank', {'rank': -1}),
    (ValueError, 'co_occurrence', {'co_occurrence': -1.0}),
    (TypeError, 'rank', {'rank': 1.5}),
    (ValueError, r"scaling\['a'\]", {'scaling': {'a': 'centre'}}),
])
def test_bad_fusion(error: type[Exception], name: str, value: Any) -> None:
    with pytest.raises(error, match=f"'{name}' must be"):
        replace(Fusion(), **value)


def test_on_a_device(device: torch.device) -> None:
    model = make(FUSIONS['low rank']).to(device)
    want = make(FUSIONS['low rank'])
    want.load_state_dict(model.state_dict())
    a, b = model(GRAPH.to(device)), want(GRAPH)
    assert a.user.device.type == device.type
    assert_close((a.user @ a.item.t()).cpu(), b.user @ b.item.t(), rtol=0,
                 atol=1e-6)
