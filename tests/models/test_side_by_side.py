"""Members of every kind in one ensemble."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from baselines import MF, BiasedMF, Content, Tables
from graphs import NUM_ITEMS, NUM_USERS, random_edges
from torch.testing import assert_close

from torch_promptmm.data import read_graph
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.models import (
    Ensemble,
    LightGCN,
    ModelOutput,
    MultimodalTeacher,
    as_model,
    standard_pair,
)
from torch_promptmm.models.door import model_from_config, saved_config
from torch_promptmm.nn import UserItemGraph, unit_rows

GRAPH = UserItemGraph(random_edges(), NUM_USERS, NUM_ITEMS)
ACTIVE, WARM = (x.unique().tolist() for x in random_edges())
TRAIN = SyntheticMultimodal.blocks()[0]
BLOCKS = UserItemGraph(TRAIN['user', 'interacts', 'item'].edge_index, 40, 36)


def members() -> list[MF]:
    torch.manual_seed(0)
    return [MF(NUM_USERS, NUM_ITEMS, d) for d in (3, 5)]


def cosines(model: torch.nn.Module) -> np.ndarray:
    user, item = (x.detach().double().numpy() for x in model(None)[:2])
    user /= np.linalg.norm(user, axis=1, keepdims=True)
    item /= np.linalg.norm(item, axis=1, keepdims=True)
    return user @ item.T


def scores(ensemble: Ensemble) -> np.ndarray:
    user, item = ensemble(GRAPH)[:2]
    return (user.double() @ item.double().t()).numpy()[ACTIVE][:, WARM]


@pytest.mark.parametrize('weights', [[1.0, 1.0], [3.0, 1.0], [0.0, 2.0]])
def test_the_score_is_the_weighted_mean_of_cosines(
        weights: list[float]) -> None:
    models = members()
    want = sum(w / sum(weights) * cosines(x)
               for w, x in zip(weights, models, strict=True))
    have = scores(Ensemble(models, member_weights=weights))
    np.testing.assert_allclose(have, want[ACTIVE][:, WARM], atol=1e-6)
    if weights == [1.0, 1.0]:
        same = Ensemble(models)
        assert torch.equal(same(GRAPH)[0],
                           Ensemble(models, member_weights=weights)(GRAPH)[0])


def test_weights_are_state_and_can_be_set() -> None:
    ensemble = Ensemble(members(), member_weights=[1, 1])
    other = copy.deepcopy(ensemble)
    ensemble.member_weights = [0.5, 2.0]
    other.load_state_dict(ensemble.state_dict())
    assert other.member_weights == [0.5, 2.0]
    assert 'member_weights=[0.5, 2.0]' in str(other)
    other.reset_parameters()
    assert other.member_weights == [1.0, 1.0]
    for bad in ([1.0], [0.0, 0.0], [1.0, -1.0]):
        with pytest.raises(ValueError, match='member_weights'):
            ensemble.member_weights = bad
    fixed = Ensemble(members())
    assert fixed.member_weights is None
    assert '_member_weights' not in fixed.state_dict()
    with pytest.raises(ValueError, match="'member_weights'"):
        fixed.member_weights = [1.0, 1.0]


def test_members_of_two_kinds_are_shown() -> None:
    models = [LightGCN(7, 11, 4), LightGCN(7, 11, 4), members()[0]]
    assert str(Ensemble(models)).startswith('Ensemble(2 x LightGCN(7, 11,')
    assert '1 x MF' in str(Ensemble(models))


@pytest.mark.parametrize('score', ['dot', 'cosine'])
def test_standardised_scores(score: str) -> None:
    torch.manual_seed(1)
    user = torch.randn(5, 4).double()
    item = torch.randn(9, 4).double() + 2.0
    user[2] = 0.0
    raw = ((user, item) if score == 'dot' else
           (unit_rows(user), unit_rows(item)))
    s = (raw[0] @ raw[1].t()).numpy()
    with np.errstate(invalid='ignore', divide='ignore'):
        want = (s - s.mean(1, keepdims=True)) / s.std(1, keepdims=True)
    want[2] = 0.0
    a, b = standard_pair(ModelOutput(user, item), score)
    np.testing.assert_allclose((a @ b.t()).numpy(), want, atol=1e-9)
    # One column, the same for all items: nothing to standardise.
    a, b = standard_pair(ModelOutput(user[:, :1], item[:, :1] * 0 + 3), 'dot')
    assert torch.equal(a, torch.zeros_like(a))


def test_a_member_that_scores_by_dot_products() -> None:
    torch.manual_seed(0)
    biased, plain = BiasedMF(NUM_USERS, NUM_ITEMS, 4), members()[1]
    torch.nn.init.normal_(biased.bias)
    have = scores(Ensemble([biased, plain]))
    user, item = (x.detach().double().numpy() for x in biased(None)[:2])
    want = 0.0
    for s in (user @ item.T, cosines(plain)):
        want = want + (s - s.mean(1, keepdims=True)) / s.std(1, keepdims=True)
    np.testing.assert_allclose(have, want[ACTIVE][:, WARM] / 2, atol=1e-5)


def test_members_that_read_content() -> None:
    view = read_graph(TRAIN)
    teacher = MultimodalTeacher.from_data(TRAIN, 4, seed=0)
    content = Content.from_data(TRAIN, 4, seed=0)
    ensemble = Ensemble([teacher, content, LightGCN(40, 36, 4)])
    assert set(ensemble.modalities) == {'visual', 'textual'}
    assert ensemble.content_modalities == [] == list(ensemble.fusion.weights)
    # The prompt of a member is in the state, and moves with it.
    assert ensemble.prompts[0] is teacher.prompt
    assert any(k.startswith('prompts.0.') for k in ensemble.state_dict())
    want = ensemble(BLOCKS)[0]
    ensemble.release_features()
    assert not ensemble.has_features
    with pytest.raises(ValueError, match='no item features'):
        ensemble(BLOCKS)
    ensemble.give_features(view)
    assert ensemble.has_features
    assert_close(ensemble(BLOCKS)[0], want)
    ensemble.release_features()
    ensemble.set_features(view.features, view.masks)
    assert_close(ensemble(BLOCKS)[0], want)


def test_a_cold_item_keeps_the_rows_of_content() -> None:
    train = SyntheticMultimodal.blocks()[0]
    store = train['user', 'interacts', 'item']
    store.edge_index = store.edge_index[:, store.edge_index[1] != 7]
    graph = UserItemGraph(store.edge_index, 40, 36)
    reads, blind = Content.from_data(train, 4, seed=0), LightGCN(40, 36, 3)
    item = Ensemble([reads, blind])(graph)[1][7]
    assert item[4:].abs().sum() == 0.0
    want = unit_rows(reads(None)[1])[7] / 2**0.5
    assert_close(item[:4], want.detach())


def test_configuration() -> None:
    teacher = MultimodalTeacher.from_data(TRAIN, 4, seed=0)
    ensemble = Ensemble([teacher, LightGCN(40, 36, 3)], member_weights=[1, 2])
    config = saved_config(ensemble)
    other = model_from_config(config)
    other.load_state_dict(ensemble.state_dict())
    other.give_features(read_graph(TRAIN))
    assert_close(other(BLOCKS)[:2], ensemble(BLOCKS)[:2])
    assert other.member_weights == [1.0, 2.0]
    # As files of before have it.
    config.pop('member_weights')
    assert model_from_config(config).member_weights is None


def test_what_training_wrote_down_is_in_the_configuration() -> None:
    model = LightGCN(7, 11, 4)
    assert saved_config(model) == {'class': 'LightGCN', **model.config()}
    model.keep_score('dot')
    model.keep_trained()
    other = model_from_config(saved_config(model))
    assert other.score == 'dot' and other.trained
    bad = {**saved_config(model), 'as_trained': {'score': 'l2'}}
    with pytest.raises(ValueError, match="'score'"):
        model_from_config(bad)


def test_foreign_members_reset() -> None:
    module = Tables(NUM_USERS, NUM_ITEMS)
    member = as_model(module)
    member.num_users, member.num_items = NUM_USERS, NUM_ITEMS
    before = module.user.weight.clone()
    Ensemble([member]).reset_parameters()
    assert not torch.equal(module.user.weight, before)
    # Marks are on the module, which is wrapped anew at each door.
    member.keep_trained()
    assert as_model(module).trained
