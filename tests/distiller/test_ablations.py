"""What each ablation removes, by argument."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from torch_promptmm import PromptMMDistiller
from torch_promptmm.datasets.blocks import BlockDataset
from torch_promptmm.distill import (
    PromptedRankingTask,
    PromptTables,
    Settings,
)
from torch_promptmm.loss import DisentangledListKD, ListwiseKD

RUN: dict[str, Any] = dict(epochs=1, seed=0, progress=False)


def terms(distiller: PromptMMDistiller, blocks: BlockDataset,
          stage: str = 'student') -> set[str]:
    record = distiller.fit(*blocks[:2], **RUN)[stage][0]
    return {key for key in record if '@' not in key} - {'epoch', 'loss',
                                                        'time'}


FAITHFUL = {'rank', 'l2', 'pair', 'list', 'emb'}
DEFAULT = {'rank', 'l2', 'emb', 'fused_list', 'fused_emb'}


@pytest.mark.parametrize('setting, change, without', [
    ('faithful', {'pair_weight': 0.0}, {'pair'}),
    ('faithful', {'list_weight': 0.0}, {'list'}),
    ('faithful', {'emb_weight': 0.0}, {'emb'}),
    ('faithful', {}, set()),
    ('default', {}, set()),
    ('default', {'fused_list_weight': 0.0}, {'fused_list'}),
    ('default', {'fused_emb_weight': 0.0}, {'fused_emb'}),
    ('default', {'emb_weight': 0.0}, {'emb'}),
    ('default', {'prompt': None}, set()),
    ('default', {'tune_prompt': False}, set()),
])
def test_terms_of_stage_2(make: Any, blocks: BlockDataset, setting: str,
                          change: dict[str, Any], without: set[str]) -> None:
    whole = FAITHFUL if setting == 'faithful' else DEFAULT
    have = terms(make(setting=setting, **change), blocks)
    assert have == whole - without


def test_disentangling(make: Any, blocks: BlockDataset) -> None:
    for disentangle, cls in ((True, DisentangledListKD), (False, ListwiseKD)):
        task = make(setting='faithful', disentangle=disentangle).prepare(
            blocks[0], 'student')
        assert type(task.list_loss) is cls


def test_prompt_frozen_tuned_or_none(make: Any, blocks: BlockDataset) -> None:
    for change, moves in (({}, True), ({'tune_prompt': False}, False)):
        distiller = make(**change)
        distiller.fit_teacher(*blocks[:2], **RUN)
        before = distiller.prompt.weight.clone()
        task = distiller.prepare(blocks[0], 'student')
        assert isinstance(task.teacher_rows, PromptTables) is moves
        distiller.fit_student(*blocks[:2], **RUN)
        assert torch.equal(distiller.prompt.weight, before) is not moves
    none = make(prompt=None)
    assert none.prompt is None
    none.fit(*blocks[:2], **RUN)
    assert none.teacher.prompt_ratio() == {'visual': 0.0, 'textual': 0.0}


def test_ranking_weights_of_stage_1(make: Any, blocks: BlockDataset) -> None:
    usual = {'rank', 'l2', 'modality'}
    assert terms(make(), blocks, 'teacher') == usual
    for name in ('modality_weight', 'modality_ranking_weight'):
        assert terms(make(**{name: 0.0}), blocks, 'teacher') == (
            usual - {'modality'})
        assert make(**{name: 0.5}).settings.modality_weight == 0.5
    assert terms(make(prompt_ranking_weight=0.5), blocks, 'teacher') == (
        usual | {'prompt'})
    assert terms(make(prompt_ranking_weight=0.5, prompt=None), blocks,
                 'teacher') == usual
    with pytest.raises(ValueError, match='two names of one weight'):
        make(modality_weight=0.1, modality_ranking_weight=0.1)
    with pytest.raises(ValueError, match='prompt_ranking_weight'):
        make(prompt_ranking_weight=-1.0)
    with pytest.raises(TypeError, match='modality_rank'):
        Settings.preset(modality_rank=1.0)


def test_the_prompts_of_members_rank_too(make: Any,
                                         blocks: BlockDataset) -> None:
    from torch_promptmm.models import LightGCN, MultimodalTeacher
    members = [LightGCN(40, 36, 4), MultimodalTeacher.from_data(blocks[0], 4)]
    distiller = make(teacher=members, prompt_ranking_weight=1.0)
    distiller.prepare(blocks[0], 'teacher')
    tasks = distiller._training.prepared[1]
    assert [type(x) is PromptedRankingTask for x in tasks] == [False, True]
    assert tasks[1].extra is members[1].prompt
