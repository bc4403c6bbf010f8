"""A teacher of a class that is not ours."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from torch_promptmm import PromptMMDistiller
from torch_promptmm.nn import LightGCNStudent


@pytest.fixture(params=[0, 1, 3])
def distiller(request, foreign):
    torch.manual_seed(0)
    return PromptMMDistiller(foreign(modalities=request.param),
                             LightGCNStudent(40, 36, 8), emb_weight=0.1,
                             list_weight=0.1, pair_weight=0.1)


def test_both_stages(distiller, blocks):
    history = distiller.fit(*blocks[:2], epochs=3, seed=0, progress=False)
    record = history['student'][-1]
    assert {'rank', 'pair'} <= record.keys()
    assert ('emb' in record) == (distiller.teacher.modalities > 0)
    assert ('modality' in history['teacher'][-1]) == (
        distiller.teacher.modalities > 0)
    losses = history['teacher'].values('loss')
    assert losses[-1] < losses[0]
    assert distiller.evaluate(blocks[2], k=5, model='teacher')
    assert distiller.embeddings('teacher')[0].shape == (40, 6)
    # From 8 to 6 channels, and to the modalities' 5.
    widths = {x.weight.size(0) for x in distiller.projections.values()}
    assert widths == ({6, 5} if distiller.teacher.modalities else {6})


def test_stage_2_leaves_the_teacher_alone(distiller, blocks):
    before = {k: v.clone() for k, v in distiller.teacher.state_dict().items()}
    distiller.fit_student(*blocks[:2], epochs=1, progress=False)
    for key, value in distiller.teacher.state_dict().items():
        assert torch.equal(value, before[key])
    assert not any(p.requires_grad for p in distiller.teacher.parameters())
    assert not distiller.teacher.training


def test_save_and_load(distiller, blocks, foreign, tmp_path):
    distiller.fit(*blocks[:2], epochs=2, seed=0, progress=False)
    path = tmp_path / 'x'
    distiller.save(path)

    module = foreign(modalities=distiller.teacher.modalities)
    loaded = PromptMMDistiller.load(path, teacher=module)
    assert loaded.teacher is module
    for key, value in distiller.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    for model in ('student', 'teacher'):
        assert (loaded.evaluate(blocks[2], k=5, model=model) ==
                distiller.evaluate(blocks[2], k=5, model=model))
    loaded.fit(*blocks[:2], epochs=1, progress=False)

    # Without the module, there is still what it said.
    bare = PromptMMDistiller.load(path)
    assert bare.teacher is None
    assert_close(bare.embeddings('teacher'), distiller.embeddings('teacher'))
    assert (bare.evaluate(blocks[2], k=5, model='teacher') ==
            distiller.evaluate(blocks[2], k=5, model='teacher'))
    for call in (lambda: bare.fit(*blocks[:2], epochs=1, progress=False),
                 lambda: bare.prepare(blocks[0], 'teacher'),
                 lambda: bare.prepare(blocks[0])):
        with pytest.raises(ValueError, match='teacher=module'):
            call()
    # Saved again, nothing is lost.
    bare.save(tmp_path / 'y')
    again = PromptMMDistiller.load(
        tmp_path / 'y', foreign(modalities=distiller.teacher.modalities))
    for key, value in distiller.teacher.state_dict().items():
        assert torch.equal(again.teacher.state_dict()[key], value)


def test_load_another_module(distiller, blocks, foreign, tmp_path):
    distiller.fit(*blocks[:2], epochs=1, progress=False)
    distiller.save(tmp_path / 'x')
    module = foreign(channels=7)
    before = module.user.weight.clone()
    with pytest.raises(ValueError, match='another model'):
        PromptMMDistiller.load(tmp_path / 'x', teacher=module)
    assert torch.equal(module.user.weight, before)


def test_ours_needs_no_module(make, blocks, foreign, tmp_path):
    make().save(tmp_path / 'x')
    with pytest.raises(ValueError, match="'teacher'.*MultimodalTeacher"):
        PromptMMDistiller.load(tmp_path / 'x', teacher=foreign())


def test_a_fixed_teacher_has_nothing_to_train(blocks):
    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer('user', torch.randn(40, 4))
            self.register_buffer('item', torch.randn(36, 4))

        def forward(self, graph):
            return self.user, self.item

    distiller = PromptMMDistiller(Fixed(), LightGCNStudent(40, 36, 8))
    with pytest.raises(ValueError, match="'teacher' has no parameter.*"
                       "'fit_student'"):
        distiller.fit(*blocks[:2], epochs=1, progress=False)
    distiller.fit_student(*blocks[:2], epochs=1, progress=False)
    distiller.evaluate(blocks[2], k=5, model='teacher')


def test_no_features_are_needed(foreign):
    from torch_promptmm.data import from_interactions
    data = from_interactions([[0, 1, 2], [1, 0, 2]], {}, 40, 36)
    distiller = PromptMMDistiller(foreign(), LightGCNStudent(40, 36, 8))
    distiller.fit(data, epochs=1, progress=False)


def test_reset_reaches_the_parts(foreign):
    distiller = PromptMMDistiller(foreign(), LightGCNStudent(40, 36, 8))
    before = distiller.teacher.user.weight.clone()
    distiller.reset_parameters()
    assert not torch.equal(distiller.teacher.user.weight, before)


def test_reset_says_what_it_cannot():
    class Bare(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.user = torch.nn.Parameter(torch.randn(40, 4))
            self.item = torch.nn.Parameter(torch.randn(36, 4))

    distiller = PromptMMDistiller(Bare(), LightGCNStudent(40, 36, 8))
    with pytest.warns(UserWarning, match=r"'Bare'.*\['user', 'item'\]"):
        distiller.reset_parameters()
