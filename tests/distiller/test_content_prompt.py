"""``setting='content'`` with a prompt: tuned in stage 2, frozen, absent."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from torch_promptmm import PromptMMDistiller
from torch_promptmm.datasets.blocks import BlockDataset
from torch_promptmm.models import Ensemble, Fusion, MultimodalTeacher
from torch_promptmm.nn import SoftPrompt

RUN: dict[str, Any] = dict(epochs=2, seed=0, progress=False)
FUSION = Fusion({'visual': 0.5, 'textual': 0.5}, prompted=1.0)


def values(distiller: PromptMMDistiller) -> list[torch.Tensor]:
    assert distiller.prompt is not None
    return [x.detach().clone() for x in distiller.prompt.parameters()]


def moved(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return any(not torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_without_one_nothing_is_another(content, blocks: BlockDataset
                                        ) -> None:
    plain = content()
    assert plain.prompt is None and plain.teacher.prompted is None
    plain.fit(*blocks[:2], **RUN)
    same = content(prompt=None, train_content=None)
    same.fit(*blocks[:2], **RUN)
    with_one = content(prompt='pca', fusion=FUSION)
    with_one.fit_teacher(*blocks[:2], **RUN)
    state = plain.state_dict()
    assert state.keys() == same.state_dict().keys()
    for key, value in same.state_dict().items():
        assert torch.equal(value, state[key]), key
    for key, value in with_one.state_dict().items():
        if key.startswith('teacher.members'):
            assert torch.equal(value, state[key]), key


def test_both_stages_tune_the_prompt(content, blocks: BlockDataset) -> None:
    distiller = content(prompt='pca', fusion=FUSION)
    assert isinstance(distiller.prompt, SoftPrompt)
    assert isinstance(distiller.teacher, Ensemble)
    assert distiller.teacher.prompted.prompt is distiller.prompt
    seen = [values(distiller)]
    # Without validation the fusion stays as it was given.
    history = distiller.fit_teacher(blocks[0], **RUN)
    assert [x['member'] for x in history] == [0, 0, 1, 1, 2, 2]
    assert 'modality' in history[-1] and 'modality' not in history[0]
    seen.append(values(distiller))
    teacher = {k: v.clone()
               for k, v in distiller.teacher.state_dict().items()}
    before = distiller.embeddings('teacher')
    distiller.fit_student(blocks[0], **RUN)
    seen.append(values(distiller))
    assert moved(*seen[:2]) and moved(*seen[1:])
    for key, value in distiller.teacher.state_dict().items():
        assert torch.equal(value, teacher[key]), key
    # It is open: what it scores is another thing now.
    after = distiller.embeddings('teacher')
    assert (before[0] @ before[1].t() - after[0] @ after[1].t()
            ).abs().max() > 1e-4


def test_the_prompt_keeps_the_learning_rate_of_stage_1(
        content, blocks: BlockDataset) -> None:
    distiller = content(prompt='pca', fusion=FUSION)
    task = distiller.prepare(blocks[0], 'student')
    mine, its = task.parameter_groups()
    assert set(mine['params']) == set(distiller.student.parameters())
    assert set(its['params']) == set(distiller.prompt.parameters())
    assert its['lr'] == distiller.settings.learning_rate and 'lr' not in mine
    frozen = content(prompt='pca', fusion=FUSION, tune_prompt=False)
    assert len(frozen.prepare(blocks[0]).parameter_groups()) == 1


@pytest.mark.parametrize('kwargs', [
    {'tune_prompt': False},
    {'fusion': Fusion({'visual': 1.0, 'textual': 1.0})}])
def test_a_frozen_prompt_stays(content, blocks: BlockDataset,
                               kwargs: dict[str, Any]) -> None:
    """Frozen, or of a member that weighs nothing: the student is the same as
    from lists that are constant."""
    distiller = content(**{'prompt': 'pca', 'fusion': FUSION, **kwargs})
    distiller.fit_teacher(blocks[0], **RUN)
    before = values(distiller)
    other = PromptMMDistiller(
        copy.deepcopy(distiller.teacher), copy.deepcopy(distiller.student),
        **{**distiller.settings.to_dict(), 'tune_prompt': False})
    for each in (distiller, other):
        each.fit_student(blocks[0], **RUN)
        assert not moved(before, values(each))
        assert not any(x.requires_grad for x in each.prompt.parameters())
    for a, b in zip(distiller.student.parameters(),
                    other.student.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_member_without_a_prompt(content, blocks: BlockDataset) -> None:
    distiller = content(train_content=True)
    assert isinstance(distiller.teacher.prompted, MultimodalTeacher)
    assert distiller.prompt is None
    history = distiller.fit(*blocks[:2], **RUN)
    chosen = dict(history['teacher'].chosen)
    chosen.pop('recall@20')
    assert distiller.teacher.fusion == Fusion(**chosen)


@pytest.mark.parametrize('layers', [1, 2])
def test_files(content, blocks: BlockDataset, tmp_path: Path,
               layers: int) -> None:
    distiller = content(prompt='pca', prompt_layers=layers, fusion=FUSION)
    distiller.fit(blocks[0], **RUN)
    distiller.save(tmp_path / 'x')
    loaded = PromptMMDistiller.load(tmp_path / 'x')
    assert str(loaded) == str(distiller)
    assert loaded.teacher.prompted.prompt is loaded.prompt
    a, b = distiller.state_dict(), loaded.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)
    for model in ('student', 'teacher'):
        assert loaded.evaluate(blocks[2], 5, model) == distiller.evaluate(
            blocks[2], 5, model)
    # Trained further, both are the same.
    for each in (distiller, loaded):
        each.fit(blocks[0], **RUN)
    a, b = distiller.state_dict(), loaded.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_the_prompt_of_another(content, blocks: BlockDataset) -> None:
    """Given beside a teacher, it is put into its member."""
    distiller = content(prompt='pca', fusion=FUSION)
    prompt = SoftPrompt(torch.randn(36, 8))
    other = PromptMMDistiller(distiller.teacher, distiller.student, prompt,
                              setting='content')
    assert other.prompt is prompt is other.teacher.prompted.prompt
    bare = content()
    with pytest.raises(ValueError, match='which there is not'):
        PromptMMDistiller(bare.teacher, bare.student, prompt,
                          setting='content')


def test_what_is_learned_places_planted_blocks(content, blocks: BlockDataset
                                               ) -> None:
    distiller = content(hidden_channels=16, prompt='pca', list_epochs=15,
                        fusion=FUSION)
    distiller.fit(blocks[0], epochs=15, seed=0, progress=False)
    for model in ('teacher', 'student'):
        out = distiller.evaluate(blocks[2], blocks.k, model)
        assert out[f'recall@{blocks.k}'] > 0.95, model


def test_reset_parameters(content, blocks: BlockDataset) -> None:
    distiller = content(prompt='pca', fusion=FUSION)
    distiller.fit(blocks[0], **RUN)
    distiller.reset_parameters()
    assert_close(distiller.prompt.weight, torch.eye(8))
