"""Members of an ensemble may be any model: with features, biases, terms and
defaults of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from baselines import MF, BiasedMF, Content, Tables

from torch_promptmm import PromptMMDistiller
from torch_promptmm.data import read_graph
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.evaluate import evaluate
from torch_promptmm.models import (
    BM3,
    ContentExpert,
    Ensemble,
    LightGCN,
    MultimodalTeacher,
)
from torch_promptmm.nn import UserItemGraph

TRAIN, VAL, TEST = SyntheticMultimodal.blocks(
    num_blocks=2, users_per_block=8, items_per_block=8,
    features={'visual': 5, 'textual': 3})
VIEW = read_graph(TRAIN)
U, I = VIEW.num_users, VIEW.num_items
GRAPH = UserItemGraph(VIEW.edge_index, U, I)
WIDTHS = {'visual': 5, 'textual': 3}


def distiller_of(*members: Any, content: Any = None,
                 **kwargs: Any) -> PromptMMDistiller:
    kwargs = {'num_negatives': 8, 'setting': 'content', 'top_items': 6,
              'list_epochs': 1, **kwargs}
    return PromptMMDistiller.from_data(
        TRAIN, 4, seed=0, teacher=Ensemble(members, content), **kwargs)


# Features


def test_features_reach_members_and_content() -> None:
    member = Content(U, I, {'textual': 3})
    model = Ensemble([LightGCN(U, I, 4), member],
                     ContentExpert(U, I, {'visual': 5}))
    assert model.modalities == ['visual', 'textual']
    assert model.content_modalities == ['visual']
    assert model.fusion.weights == {'visual': 1.0}
    assert not model.has_features
    model.give_features(VIEW)
    assert model.has_features
    assert member.item_features.modalities == ['textual']
    assert model.content.item_features.modalities == ['visual']
    want = model(GRAPH)
    model.release_features()
    assert not model.has_features
    for part in (member, model.content):
        assert not part.item_features.available
    model.set_features(VIEW.features, VIEW.masks)
    assert torch.equal(model(GRAPH).item, want.item)
    # One that has lost them is enough.
    member.release_features()
    assert not model.has_features
    assert evaluate(model, TEST, 5) == evaluate(model, TEST, 5)
    assert model.has_features


@pytest.mark.parametrize('features', [
    {}, {'visual': VIEW.features['visual']},
    {**VIEW.features, 'other': torch.randn(I, 2)}])
def test_features_must_be_those_of_all(features: Any) -> None:
    model = Ensemble([Content(U, I, {'textual': 3})],
                     ContentExpert(U, I, {'visual': 5}))
    with pytest.raises(ValueError, match=r"'features' must have the "
                       r"modalities \['visual', 'textual'\]"):
        model.set_features(features)
    assert not model.has_features


def test_members_with_features_are_trained_and_saved(tmp_path) -> None:
    member = MultimodalTeacher.from_data(TRAIN, 4, seed=0, prompt=None)
    member.release_features()
    distiller = distiller_of(member, LightGCN(U, I, 6))
    assert distiller.modalities == ['visual', 'textual']
    before = [x.clone() for x in member.parameters()]
    distiller.fit(TRAIN, VAL, epochs=1, seed=0, progress=False)
    assert all(not torch.equal(a, b) for a, b in
               zip(before, member.parameters(), strict=True))
    distiller.save(tmp_path / 'x')
    loaded = PromptMMDistiller.load(tmp_path / 'x')
    assert not loaded.teacher.has_features
    assert (loaded.evaluate(TEST, 5, 'teacher') ==
            distiller.evaluate(TEST, 5, 'teacher'))
    loaded.fit_teacher(TRAIN, VAL, epochs=1, seed=0, progress=False)


def test_caches_of_members(monkeypatch: pytest.MonkeyPatch) -> None:
    member = MultimodalTeacher.from_data(TRAIN, 4, seed=0)
    distiller = distiller_of(member, propagate_features=True)
    distiller.prepare(TRAIN, 'teacher')
    assert member.propagated is not None
    distiller.prepare(TRAIN, 'student')
    assert member.propagated is None
    # As that of a teacher on its own.
    alone = PromptMMDistiller.from_data(
        TRAIN, 4, seed=0, propagate_features=True, knowledge='lists',
        top_items=6)
    alone.prepare(TRAIN, 'teacher')
    assert alone.teacher.propagated is not None
    alone.prepare(TRAIN, 'student')
    assert alone.teacher.propagated is None


# Training


def test_defaults_of_a_member_count_where_settings_are_not_changed() -> None:
    members = LightGCN(U, I, 4), BiasedMF(U, I, 4)
    distiller = distiller_of(*members)
    stage = distiller._training.stage('teacher')
    distiller.prepare(TRAIN, 'teacher')
    plain, own = distiller._training.prepared[1]
    assert plain.objective.ranking_loss == 'softmax' and plain.l2 == 1e-3
    assert own.objective.ranking_loss == 'bpr' and own.l2 == 0.25
    assert own.score == own.objective.score == 'dot'
    assert stage.options(0)['lr'] == 5e-3 and stage.options(1)['lr'] == 0.03
    # What is said in the settings is said.
    distiller = distiller_of(*members, l2=0.5, lr=0.1)
    distiller.prepare(TRAIN, 'teacher')
    assert [x.l2 for x in distiller._training.prepared[1]] == [0.5, 0.5]
    stage = distiller._training.stage('teacher')
    assert [stage.options(i)['lr'] for i in (0, 1)] == [0.1, 0.1]


def test_defaults_of_the_training_loop() -> None:
    class Short(LightGCN):
        defaults = {'epochs': 2, 'batch_size': 16, 'user_weight': 1.0}

    distiller = distiller_of(Short(U, I, 4), LightGCN(U, I, 4))
    distiller.prepare(TRAIN, 'teacher')
    first, second = distiller._training.prepared[1]
    assert (first.user_weight, second.user_weight) == (1.0, 0.5)
    history = distiller.fit_teacher(TRAIN, seed=0, progress=False,
                                    patience=None)
    assert [x['member'] for x in history].count(0) == 2
    assert [x['member'] for x in history].count(1) == 100
    history = distiller.fit_teacher(TRAIN, seed=0, progress=False, epochs=1)
    assert len(history) == 2


def test_terms_and_epochs_of_a_member() -> None:
    class Own(MF):
        epochs: list[int] = []

        def on_epoch_start(self, epoch: int, graph: Any) -> None:
            self.epochs.append(epoch)

        def extra_loss(self, batch: Any, output: Any) -> dict[str, Any]:
            return {'own': 0.1 * output.user.square().sum()}

    distiller = distiller_of(LightGCN(U, I, 4), Own(U, I, 4))
    history = distiller.fit_teacher(TRAIN, seed=0, progress=False, epochs=2)
    assert ['own' in record for record in history] == [False] * 2 + [True] * 2
    assert Own.epochs == [1, 2]


def test_a_loss_of_a_members_own() -> None:
    class Own(BM3):
        defaults = {'ranking_loss': 'own'}

    member = Own.from_data(TRAIN, 4, seed=0)
    distiller = distiller_of(member, LightGCN(U, I, 4),
                             content=ContentExpert.from_data(TRAIN))
    history = distiller.fit_teacher(TRAIN, VAL, seed=0, progress=False,
                                    epochs=1)
    first, second = distiller._training.prepared[1]
    assert first.objective.is_own and not second.objective.is_own
    assert first.score == member.own_score
    assert len(history) == 2 and history.chosen


# The door of terms


@pytest.mark.parametrize('build', [
    lambda: Ensemble([LightGCN(U, I, 4)]), lambda: BiasedMF(U, I, 4)])
def test_terms_of_dot_products_are_refused_at_the_door(build) -> None:
    name = type(build()).__name__
    with pytest.raises(ValueError, match=f"scores of '{name}' are 'dot': set "
                       f"score='dot', or knowledge='lists'"):
        PromptMMDistiller.from_data(TRAIN, 4, teacher=build(),
                                    knowledge='terms')
    for kwargs in ({}, {'score': 'dot'}, {'knowledge': 'lists'}):
        PromptMMDistiller.from_data(TRAIN, 4, teacher=build(), **kwargs)
    PromptMMDistiller.from_data(TRAIN, 4, teacher=Tables(U, I))
