from __future__ import annotations

import dataclasses
import inspect

import pytest

from torch_promptmm.train import DistillationTask, RankingObjective, Settings


def test_presets():
    assert Settings.preset() == Settings()
    assert Settings.preset('faithful') != Settings()
    assert Settings.preset('default', gamma=4.0).gamma == 4.0
    assert Settings.preset('faithful', pair_weight=9.0).pair_weight == 9.0


def test_faithful_is_eq_12():
    faithful = Settings.preset('faithful')
    assert faithful.ranking_loss == 'bpr'
    assert faithful.objective().score == 'dot'
    assert faithful.objective().temperature == 1.0
    assert faithful.fused_list_weight == faithful.fused_emb_weight == 0.0
    assert faithful.teacher_weight == 0.0 and faithful.tune_prompt
    for name in ('pair_weight', 'list_weight', 'emb_weight'):
        assert getattr(faithful, name) > 0.0


def test_the_ranking_loss_sets_defaults():
    bpr, softmax = Settings(ranking_loss='bpr'), Settings()
    assert softmax.ranking_loss == 'softmax'
    assert softmax.objective().score == 'cosine'
    for name in ('learning_rate', 'ego_l2'):
        assert getattr(bpr, name) > 0.0 and getattr(softmax, name) > 0.0
    assert Settings(lr=0.5, l2=0.0).learning_rate == 0.5
    assert Settings(lr=0.5, l2=0.0).ego_l2 == 0.0


def test_round_trip():
    settings = Settings.preset('faithful', beta=0.5, kd_temperature=0.7)
    assert Settings(**settings.to_dict()) == settings
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.gamma = 1.0


def test_everything_of_a_task_is_a_setting():
    taken = set(inspect.signature(DistillationTask).parameters)
    given = set(Settings().distillation())
    assert given <= taken
    assert taken - given == {
        'student', 'graph', 'positives', 'known', 'teacher_rows', 'objective',
        'prompt', 'projections', 'masks'
    }
    names = {field.name for field in dataclasses.fields(Settings)}
    assert set(inspect.signature(RankingObjective).parameters) <= names


def test_every_setting_is_described():
    for field in dataclasses.fields(Settings):
        assert f'{field.name} (' in Settings.__doc__, field.name


@pytest.mark.parametrize('score, temperature', [('dot', 1.0),
                                                ('cosine', 0.2)])
@pytest.mark.parametrize('ranking_loss', ['bpr', 'softmax'])
def test_temperatures_have_a_default_per_score(ranking_loss, score,
                                               temperature):
    objective = RankingObjective(ranking_loss, score)
    assert objective.temperature == temperature
    assert f'score={score!r}' in str(objective)
