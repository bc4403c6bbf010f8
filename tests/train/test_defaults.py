"""The values that are shipped: the figures of benchmarks/RESULTS.md were
measured with them, so that one of them changes here and there or not at all.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import torch

from torch_promptmm import PromptMMDistiller
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.loader import InteractionLoader
from torch_promptmm.models import Ensemble, Fusion, MultimodalTeacher
from torch_promptmm.nn import ConstantTables, LightGCNStudent, UserItemGraph
from torch_promptmm.train import (
    DistillationTask,
    RankingObjective,
    RankingTask,
    Settings,
)

DEFAULT: dict[str, Any] = {
    'ranking_loss': 'softmax',
    'score': None,
    'temperature': None,
    'num_negatives': 512,
    'warm_negatives': False,
    'lr': None,
    'weight_decay': 0.0,
    'l2': None,
    'batch_size': 2048,
    'modality_weight': 0.1,
    'prompt_ranking_weight': 0.0,
    'pair_weight': 0.0,
    'list_weight': 0.0,
    'emb_weight': 0.05,
    'fused_list_weight': 75.0,
    'fused_emb_weight': 0.5,
    'teacher_weight': 0.0,
    'list_size': 10,
    'kd_temperature': None,
    'alpha': 1.0,
    'beta': None,
    'disentangle': True,
    'gamma': 2.0,
    'item_samples': 1024,
    'tune_prompt': True,
    'knowledge': 'terms',
    'init': 'random',
    'top_items': 200,
    'uniform_items': 1024,
    'top_temperature': 1.0,
    'list_lr': 0.03,
    'list_epochs': 15,
    'user_batch_size': 256,
    'user_weights': (0.0, 0.5, 1.0, 0.5),
    'choose_weights': True,
    'content_map': True,
    'propagate_features': False,
}
FAITHFUL: dict[str, Any] = {
    **DEFAULT,
    'ranking_loss': 'bpr',
    'pair_weight': 8.0,
    'list_weight': 0.1,
    'emb_weight': 0.1,
    'fused_list_weight': 0.0,
    'fused_emb_weight': 0.0,
}
CONTENT: dict[str, Any] = {**DEFAULT, 'knowledge': 'lists',
                           'init': 'compress'}
PRESETS = {'default': DEFAULT, 'faithful': FAITHFUL, 'content': CONTENT}
# What None stands for, with each ranking loss.
RESOLVED: dict[str, dict[str, Any]] = {
    'softmax': {'lr': 5e-3, 'l2': 1e-3, 'score': 'cosine',
                'temperature': 0.2},
    'bpr': {'lr': 1e-2, 'l2': 0.05, 'score': 'dot', 'temperature': 1.0},
}
OBJECTIVE: dict[str, Any] = {
    'ranking_loss': 'softmax',
    'score': None,
    'temperature': None,
    'num_negatives': 512,
    'warm_negatives': False,
}
RANKING_TASK: dict[str, Any] = {'l2': 0.0, 'modality_weight': 0.0}
DISTILLATION_TASK: dict[str, Any] = {
    'l2': 0.0,
    'pair_weight': 0.0,
    'list_weight': 0.0,
    'emb_weight': 0.0,
    'fused_list_weight': 0.0,
    'fused_emb_weight': 0.0,
    'teacher_weight': 0.0,
    'list_size': 10,
    'temperature': None,
    'alpha': 1.0,
    'beta': None,
    'disentangle': True,
    'gamma': 2.0,
    'item_samples': 1024,
}
ENSEMBLE: dict[str, Any] = {'num_members': 1, 'num_layers': 2, 'hop': 2.0,
                            'scaling': 'standardize',
                            'use_content': True, 'neighbors': 0,
                            'train_content': None, 'prompt': None,
                            'prompt_layers': 1, 'prompt_weight': 1.0,
                            'normalize': 'size'}
EDGES = SyntheticMultimodal.blocks()[0]['user', 'interacts', 'item'].edge_index


def same(have: dict[str, Any], want: dict[str, Any]) -> None:
    """Equal, and of one type each: 1 is not True."""
    assert {k: (type(v), v) for k, v in have.items()} == {
        k: (type(v), v) for k, v in want.items()}


@pytest.mark.parametrize('setting, want', PRESETS.items())
def test_every_setting_of_the_presets(setting: str, want) -> None:
    same(Settings.preset(setting).to_dict(), want)


def test_there_is_no_other_preset() -> None:
    with pytest.raises(ValueError, match="'default', 'faithful', 'content'"):
        Settings.preset('other')


def test_the_teacher_of_a_preset() -> None:
    data = SyntheticMultimodal.blocks()[0]
    for setting in PRESETS:
        teacher = PromptMMDistiller.from_data(data, 4, setting=setting).teacher
        wanted = Ensemble if setting == 'content' else MultimodalTeacher
        assert type(teacher) is wanted
    teacher = PromptMMDistiller.from_data(data, 4, setting='content').teacher
    have = inspect.signature(Ensemble.from_view).parameters
    same({k: have[k].default for k in ENSEMBLE}, ENSEMBLE)
    assert len(teacher.members) == 1 and teacher.content.hop == 2.0
    assert teacher.fusion == Fusion(
        {'visual': 1.0, 'textual': 1.0},
        scaling={'visual': 'standardize', 'textual': 'standardize'})
    assert Fusion() == Fusion({}, 0.0, 1.0, 0, 1.0)


def test_every_setting() -> None:
    same(Settings().to_dict(), DEFAULT)
    same(Settings.preset().to_dict(), DEFAULT)


@pytest.mark.parametrize('ranking_loss', RESOLVED)
def test_what_the_ranking_loss_sets(ranking_loss: str) -> None:
    want, settings = RESOLVED[ranking_loss], Settings(
        ranking_loss=ranking_loss)
    assert settings.learning_rate == want['lr']
    assert settings.ego_l2 == settings.distillation()['l2'] == want['l2']
    for objective in (settings.objective(), RankingObjective(ranking_loss)):
        assert objective.ranking_loss == ranking_loss
        assert objective.score == want['score']
        assert objective.temperature == want['temperature']
    # An argument is taken, zero among them.
    settings = Settings(ranking_loss=ranking_loss, lr=0.5, l2=0.0)
    assert settings.learning_rate == 0.5
    assert settings.ego_l2 == settings.distillation()['l2'] == 0.0


@pytest.mark.parametrize('setting, want', PRESETS.items())
def test_what_a_task_gets(setting: str, want) -> None:
    have = Settings.preset(setting).distillation()
    assert have.pop('l2') == RESOLVED[want['ranking_loss']]['l2']
    assert have.pop('temperature') is None
    same(have, {name: want[name] for name in have})
    assert set(have) == set(DISTILLATION_TASK) - {'l2', 'temperature'}


@pytest.mark.parametrize('function, want', [
    (RankingObjective, OBJECTIVE),
    (RankingTask, RANKING_TASK),
    (DistillationTask, DISTILLATION_TASK),
])
def test_defaults_of_arguments(function, want) -> None:
    have = inspect.signature(function).parameters
    same({name: have[name].default for name in want}, want)


def test_an_objective_as_it_comes() -> None:
    objective = RankingObjective()
    assert (objective.ranking_loss, objective.score) == ('softmax', 'cosine')
    assert objective.temperature == objective.loss.temperature == 0.2
    assert objective.num_negatives == 512
    assert objective.warm_negatives is False


STATED = re.compile(r'(\w+) \([^()]*, optional\): (.*?)(?=\n\s+\w+ \(|\Z)',
                    re.DOTALL)


@pytest.mark.parametrize('described, want', [
    (Settings, DEFAULT), (RankingObjective, OBJECTIVE),
    (DistillationTask, DISTILLATION_TASK)])
def test_documented_defaults(described, want) -> None:
    documented = dict(STATED.findall(inspect.cleandoc(described.__doc__)))
    for name, value in want.items():
        if value is not None:
            text = ' '.join(documented[name].split())
            assert f'(default: :obj:`{value!r}`' in text.replace('"', "'")
            if described is Settings and FAITHFUL[name] != value:
                if name != 'ranking_loss':
                    assert f'faithful: :obj:`{FAITHFUL[name]}`' in text
            if described is Settings and CONTENT[name] != value:
                assert f'content: :obj:`"{CONTENT[name]}"`' in text


# What a batch holds ###########################################################


@pytest.mark.parametrize('num_negatives', [1, 7, 512])
def test_num_negatives_are_the_shared_ones(num_negatives: int) -> None:
    settings = Settings(num_negatives=num_negatives)
    for objective in (settings.objective(),
                      RankingObjective(num_negatives=num_negatives)):
        spec = objective.batch_spec
        assert spec.shared_negatives == num_negatives
        assert spec.num_negatives == spec.item_samples == 0
        assert spec.warm_negatives is False
        loader = InteractionLoader(EDGES, EDGES, 40, 600, 32, spec)
        batch = next(iter(loader))
        assert batch.shared.unique().numel() == num_negatives
        assert batch.shared_mask.shape == (32, num_negatives)


def test_bpr_has_a_negative_of_its_own() -> None:
    spec = RankingObjective('bpr').batch_spec
    assert (spec.num_negatives, spec.shared_negatives) == (1, 0)
    for ranking_loss in RESOLVED:
        objective = RankingObjective(ranking_loss, warm_negatives=True)
        assert objective.batch_spec.warm_negatives is True


@pytest.mark.parametrize('setting', PRESETS)
def test_the_settings_of_a_distiller(setting: str) -> None:
    data = SyntheticMultimodal.blocks()[0]
    distiller = PromptMMDistiller.from_data(data, 4, setting=setting)
    same(distiller.settings.to_dict(), PRESETS[setting])


@pytest.mark.parametrize('ranking_loss', RESOLVED)
def test_temperatures_of_a_task(ranking_loss: str) -> None:
    objective = RankingObjective(ranking_loss)
    student = LightGCNStudent(40, 36, 4)
    rows = ConstantTables((torch.randn(40, 4), torch.randn(36, 4)))
    task = DistillationTask(student, UserItemGraph(EDGES, 40, 36), EDGES,
                            EDGES, rows, objective)
    want = RESOLVED[ranking_loss]['temperature']
    assert task.pair_loss.temperature == task.list_loss.temperature == want
    assert task.emb_loss.gamma == 2.0
    assert (task.list_loss.alpha, task.list_loss.beta) == (1.0, None)
