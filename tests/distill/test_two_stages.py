"""What each stage freezes and trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from baselines import Tables

from torch_promptmm import PromptMMDistiller
from torch_promptmm.data import read_graph
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.distill import (
    ConstantTables,
    DistillationTask,
    PromptTables,
    Stage,
    StudentStage,
    TeacherStage,
    TrainingData,
)
from torch_promptmm.train import RankingTask

TRAIN = SyntheticMultimodal.blocks(
    num_blocks=2, users_per_block=6, items_per_block=6,
    features={'visual': 5, 'textual': 3})[0]
U, I = TRAIN['user'].num_nodes, TRAIN['item'].num_nodes
DATA = TrainingData.from_view(read_graph(TRAIN), torch.device('cpu'))


def parts(**kwargs: Any) -> Any:
    distiller = PromptMMDistiller.from_data(
        TRAIN, hidden_channels=4, seed=0, num_negatives=8, item_samples=12,
        **kwargs)
    return distiller._training.parts


def free(module: torch.nn.Module) -> set[bool]:
    return {p.requires_grad for p in module.parameters()}


def test_stage_1() -> None:
    each = parts(teacher_channels=6)
    each.teacher.requires_grad_(False)
    each.prompt.requires_grad_(False)
    task, = TeacherStage(each).prepare(DATA)
    assert type(task) is RankingTask and task.model is each.teacher
    assert free(each.teacher) == free(each.prompt) == {True}
    assert free(each.student) == free(each.projections) == {False}
    trained = {id(p) for g in task.parameter_groups() for p in g['params']}
    assert trained == {id(p) for m in (each.teacher, each.prompt)
                       for p in m.parameters()}


@pytest.mark.parametrize('tune', [True, False])
def test_stage_2(tune: bool) -> None:
    each = parts(teacher_channels=6, tune_prompt=tune)
    task, = StudentStage(each).prepare(DATA)
    assert type(task) is DistillationTask and task.student is each.student
    assert type(task.teacher_rows) is (PromptTables if tune else
                                       ConstantTables)
    assert free(each.teacher) == {False} and not each.teacher.training
    assert free(each.student) == free(each.projections) == {True}
    assert free(each.prompt) == {tune}
    modules = [each.student, each.projections] + [each.prompt] * tune
    trained = {id(p) for g in task.parameter_groups() for p in g['params']}
    assert trained == {id(p) for m in modules for p in m.parameters()}


@pytest.mark.parametrize('setting, widths', [
    ({'emb_weight': 0.0}, {'fused': True, 'other': False}),
    ({'fused_emb_weight': 0.0}, {'fused': False, 'other': True}),
    ({'emb_weight': 0.0, 'fused_emb_weight': 0.0},
     {'fused': False, 'other': False})])
def test_only_projections_in_use_are_trained(setting, widths) -> None:
    each = parts(teacher_channels=6, **setting)
    StudentStage(each).prepare(DATA)
    for key, layer in each.projections.items():
        want = widths['fused' if key == 'fused' else 'other']
        assert free(layer) == {want}, key


def test_nothing_to_distil() -> None:
    each = parts(emb_weight=0.0, fused_emb_weight=0.0, fused_list_weight=0.0)
    task, = StudentStage(each).prepare(DATA)
    assert not task.needs_teacher and free(each.prompt) == {False}


def test_the_other_stage_again() -> None:
    each = parts()
    StudentStage(each).prepare(DATA)
    TeacherStage(each).prepare(DATA)
    assert free(each.teacher) == {True} and free(each.student) == {False}


@pytest.mark.parametrize('change', [0.0, 1e-5, 0.5])
def test_what_the_teacher_is_expected_to_say(change: float) -> None:
    each = parts(teacher=Tables(U, I))
    expected = tuple(x.detach().clone()
                     for x in each.teacher(DATA.graph)[:2])
    expected[1][0] += change
    stage = StudentStage(each, expected)
    if change < 0.1:
        stage.prepare(DATA)
    else:
        with pytest.raises(ValueError, match="'teacher' yields other item"):
            stage.prepare(DATA)
    # Of another width.
    with pytest.raises(ValueError, match="'teacher' yields other user"):
        StudentStage(each, (expected[0][:, :2], expected[1])).prepare(DATA)
    # Its length does not matter under a cosine, in which it was saved.
    StudentStage(each, (3 * expected[0], each.teacher(DATA.graph).item)
                 ).prepare(DATA)


def test_a_stage_of_ones_own_says_what_it_lacks() -> None:
    stage = Stage(parts())
    for call in (stage.freeze, lambda: stage.tasks(DATA)):
        with pytest.raises(NotImplementedError):
            call()
