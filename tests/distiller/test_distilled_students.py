"""Each student, and students of other classes, through the distiller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from baselines import MF
from torch.testing import assert_close

from torch_promptmm import PromptMMDistiller
from torch_promptmm.datasets.blocks import BlockDataset
from torch_promptmm.distill.build import STUDENTS
from torch_promptmm.models import LightGCN
from torch_promptmm.serve import load_student, save_student

RUN: dict[str, Any] = dict(seed=0, progress=False)
KINDS = {
    'default': {},
    'faithful': {'setting': 'faithful'},
    'lists': {'setting': 'content', 'top_items': 10, 'list_epochs': 3,
              'user_batch_size': 16},
}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('student', STUDENTS)
def test_both_stages_and_a_file(student: str, kind: str, make: Any,
                                blocks: BlockDataset,
                                tmp_path: Path) -> None:
    # A teacher of another width is compared through a projection.
    distiller = make(student=student, teacher_channels=6, **KINDS[kind])
    cls = STUDENTS[student]
    assert type(distiller.student) is cls and cls.__name__ in str(distiller)
    before = {k: v.clone() for k, v in distiller.student.state_dict().items()}
    history = distiller.fit(*blocks[:2], epochs=2, **RUN)
    assert len(history['student']) >= 2
    for key, value in distiller.student.state_dict().items():
        assert not torch.equal(value, before[key]), key
    if kind != 'lists':
        assert {x.weight.size(1) for x in
                distiller.projections.values()} == {8}
    distiller.save(tmp_path / 'x')
    loaded = PromptMMDistiller.load(tmp_path / 'x')
    assert type(loaded.student) is cls and str(loaded) == str(distiller)
    for key, value in distiller.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    assert loaded.evaluate(blocks[2], 5) == distiller.evaluate(blocks[2], 5)
    for each in (distiller, loaded):
        each.fit_student(*blocks[:2], epochs=1, **RUN)
    assert_close(loaded.embeddings(), distiller.embeddings(), rtol=0, atol=0)
    distiller.reset_parameters()
    assert not torch.equal(distiller.embeddings()[0], loaded.embeddings()[0])


@pytest.mark.parametrize('student', STUDENTS)
def test_each_learns(student: str, make: Any, blocks: BlockDataset) -> None:
    distiller = make(student=student, hidden_channels=16)
    distiller.fit(*blocks[:2], epochs=25, lr=0.02, **RUN)
    name = f'recall@{blocks.k}'
    # Chance gives a tenth.
    assert distiller.evaluate(blocks[2], blocks.k)[name] > 0.6


@pytest.mark.parametrize('student, exact', [('light_gcn', True),
                                            ('gcn', False), ('mlp', False)])
def test_a_start_from_the_teacher(student: str, exact: bool, make: Any,
                                  blocks: BlockDataset) -> None:
    kwargs = dict(KINDS['lists'], hidden_channels=100, teacher_channels=8)
    distiller = make(student=student, **kwargs)
    before = distiller.student.user_embedding.weight.clone()
    task = distiller.prepare(blocks[0], 'student')
    assert not torch.equal(distiller.student.user_embedding.weight, before)
    user, item = distiller.embeddings('teacher')
    out = task.embeddings()
    close = torch.allclose(out[0] @ out[1].t(),
                           user @ item.t() / task.loss.temperature, atol=1e-3)
    assert close is exact
    if not exact:  # The tables as they are have the teacher's scores.
        tables = (distiller.student.user_embedding.weight
                  @ distiller.student.item_embedding.weight.t())
        assert_close(tables, user @ item.t() / task.loss.temperature,
                     rtol=0, atol=1e-3)


@pytest.mark.parametrize('student', STUDENTS)
def test_mixed_precision(student: str, make: Any,
                         blocks: BlockDataset) -> None:
    distiller = make(student=student)
    with torch.autocast('cpu', torch.bfloat16):
        distiller.fit(*blocks[:2], epochs=2, **RUN)
    for x in (*distiller.student.parameters(), *distiller.embeddings()):
        assert x.dtype == torch.float and x.isfinite().all()


def test_a_student_without_tables_says_so(blocks: BlockDataset) -> None:
    distiller = PromptMMDistiller.from_data(
        blocks[0], hidden_channels=8, student=MF(40, 36), setting='content')
    with pytest.raises(ValueError, match="'MF' cannot start from given "
                       "tables: set init='random'"):
        distiller.prepare(blocks[0], 'student')


@pytest.mark.parametrize('setting', ['default', 'faithful'])
def test_a_student_of_another_class(setting: str, blocks: BlockDataset,
                                    tmp_path: Path) -> None:
    distiller = PromptMMDistiller.from_data(
        blocks[0], hidden_channels=8, student=MF(40, 36, 5), seed=0,
        setting=setting)
    distiller.fit(*blocks[:2], epochs=2, **RUN)
    path = tmp_path / 'x'
    distiller.save(path)
    loaded = PromptMMDistiller.load(path, student=MF(40, 36, 5))
    assert_close(loaded.embeddings(), distiller.embeddings(), rtol=0, atol=0)
    with pytest.raises(ValueError, match='student=module'):
        PromptMMDistiller.load(path)
    with pytest.raises(ValueError, match='another model'):
        PromptMMDistiller.load(path, student=MF(40, 36, 6))
    with pytest.raises(TypeError, match="'student' must be a RankingModel"):
        PromptMMDistiller.load(path, student=torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match='must be a model of torch_promptmm'):
        save_student(tmp_path / 'y', distiller.student)


def test_ours_is_not_given(make: Any, tmp_path: Path) -> None:
    make().save(tmp_path / 'x')
    with pytest.raises(ValueError, match="'student' is for.*LightGCN"):
        PromptMMDistiller.load(tmp_path / 'x', student=LightGCN(40, 36, 8))


@pytest.mark.parametrize('student', STUDENTS)
def test_a_student_alone_in_a_file(student: str, tmp_path: Path) -> None:
    model = STUDENTS[student](6, 4, 5, 1)
    edges = torch.tensor([[0, 0, 1, 2, 5], [1, 3, 0, 2, 3]])
    save_student(tmp_path / 'x', model, edges)
    loaded, edge_index, _ = load_student(tmp_path / 'x')
    assert type(loaded) is STUDENTS[student]
    assert_close(loaded(edge_index), model(edges), rtol=0, atol=0)
