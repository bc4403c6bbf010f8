"""The parts of a distillation, built or checked."""

from __future__ import annotations

import pytest
import torch
from baselines import MF, BiasedMF, Content, Tables

from torch_promptmm import PromptMMDistiller
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.distill.build import (
    STUDENTS,
    as_teacher,
    checked_parts,
)
from torch_promptmm.models import Ensemble, LightGCN, MultimodalTeacher
from torch_promptmm.nn import SoftPrompt

DATA = SyntheticMultimodal.blocks(
    num_blocks=2, users_per_block=6, items_per_block=6,
    features={'visual': 5, 'textual': 3})[0]
U, I = DATA['user'].num_nodes, DATA['item'].num_nodes


def build(**kwargs) -> PromptMMDistiller:
    return PromptMMDistiller.from_data(DATA, hidden_channels=4, seed=0,
                                       **kwargs)


@pytest.mark.parametrize('name, value', [
    ('fusion_weight', 0.2), ('self_weight', 0.5), ('prompt', None),
    ('prompt_weight', 0.3), ('prompt_layers', 2), ('normalize', 'row'),
    ('standardize', False), ('dropout', 0.1), ('teacher_channels', 6),
    ('teacher_layers', 1)])
def test_options_of_a_teacher_that_is_given(name: str, value) -> None:
    build(**{name: value})
    key = name if name[:8] != 'teacher_' else {
        'teacher_channels': 'hidden_channels',
        'teacher_layers': 'num_layers'}[name]
    with pytest.raises(ValueError, match=f"'({name}|{key})' is for a teacher "
                       f"that is built here, but 'teacher' is given"):
        build(teacher=MF(U, I), **{name: value})


def test_sizes_of_the_teacher() -> None:
    distiller = build(teacher_channels=6, teacher_layers=1, num_layers=3)
    assert distiller.teacher.hidden_channels == 6
    assert distiller.teacher.num_layers == 1
    assert distiller.student.hidden_channels == 4
    assert distiller.student.num_layers == 3
    same = build(num_layers=3)
    assert same.teacher.num_layers == same.student.num_layers == 3
    assert same.teacher.hidden_channels == 4
    for name in ('teacher_channels', 'teacher_layers'):
        with pytest.raises(ValueError, match=f"'{name}'"):
            build(**{name: -1})


def test_settings_are_named_before_anything_is_built() -> None:
    with pytest.raises(ValueError, match='gamma'):
        build(gamma=0.5)
    with pytest.raises((TypeError, ValueError), match='gamme'):
        build(gamme=2.0)


class Odd(Tables):
    """Has names of ours with another meaning."""
    modalities, num_users, prompt = 7, 'many', 'yes'


def test_names_of_a_foreign_teacher_mean_nothing() -> None:
    distiller = build(teacher=Odd(U, I))
    assert distiller.modalities is None and distiller.prompt is None
    distiller.fit(DATA, epochs=1, progress=False)


def test_checked_parts() -> None:
    student = LightGCN(U, I, 4)
    teacher = MultimodalTeacher.from_data(DATA, hidden_channels=4)
    model, prompt = checked_parts(teacher, student, None)
    assert model is teacher and prompt is teacher.prompt
    assert checked_parts(None, student, None) == (None, None)
    assert checked_parts(Tables(U, I), student, None)[1] is None
    other = SoftPrompt(torch.randn(I, 4))
    assert checked_parts(teacher, student, other)[1] is other
    assert teacher.prompt is other
    for args, error, match in [
        ((teacher, Tables(U, I), None), TypeError,
         "'student' must be a RankingModel, such as LightGCN"),
        ((teacher, Content.from_data(DATA), None), ValueError,
         "'student' must serve without content.*'Content'.*'visual'"),
        ((teacher, student, 3), TypeError, "'prompt' must be a SoftPrompt"),
        ((3, student, None), TypeError, "'teacher' must be a torch.nn.Module"),
        ((MF(U, I), student, other), ValueError, 'needs a MultimodalTeacher'),
        ((None, student, other), ValueError, 'needs a MultimodalTeacher'),
        ((MF(U + 1, I), student, None), ValueError, "same 'num_users'"),
        ((MF(U, I - 1), student, None), ValueError, "same 'num_items'"),
        ((teacher, student, SoftPrompt(torch.randn(I, 5))), ValueError,
         "'prompt' must be of"),
    ]:
        with pytest.raises(error, match=match):
            checked_parts(*args)


def test_several_teachers() -> None:
    like = LightGCN(U, I, 4)
    members = [MF(U, I), Tables(U, I)]
    ensemble = as_teacher(members, like)
    assert isinstance(ensemble, Ensemble)
    assert ensemble.member_weights == [1.0, 1.0]
    assert ensemble.members[0] is members[0]
    assert ensemble.members[1].module is members[1]
    assert as_teacher(members[0], like) is members[0]
    assert as_teacher(None, like) is None
    for bad, error, match in [
        ([], ValueError, 'at least one'),
        ([members[0]] * 2, ValueError, 'one module twice'),
        ([members[0], ensemble], ValueError, r"'teacher\[1\]' is an Ensemble"),
        ([3], TypeError, r"'teacher\[0\]' must be a torch.nn.Module"),
        ([members[0], MF(U + 1, I)], ValueError, f'of {U} users'),
    ]:
        with pytest.raises(error, match=match):
            as_teacher(bad, like)


@pytest.mark.parametrize('name', STUDENTS)
def test_students_by_name(name: str) -> None:
    student = build(student=name, num_layers=3).student
    assert type(student) is STUDENTS[name] and student.num_layers == 3
    assert student.width == 4
    with pytest.raises(ValueError, match="'student' must be one of"):
        build(student='lightgcn')
    own = MF(U, I, 5)
    assert build(student=own).student is own


def test_what_is_distilled_if_it_is_not_said() -> None:
    tables = Tables(U, I)
    cases = [
        ({}, 'terms', 'random'),
        ({'teacher': MF(U, I)}, 'terms', 'random'),
        ({'teacher': tables}, 'terms', 'random'),
        ({'teacher': [tables]}, 'lists', 'compress'),
        ({'teacher': [tables], 'setting': 'faithful'}, 'lists', 'compress'),
        ({'teacher': [tables], 'init': 'random'}, 'lists', 'random'),
        # The scores of two kinds can be ranked, not compared.
        ({'teacher': BiasedMF(U, I)}, 'lists', 'compress'),
        ({'teacher': BiasedMF(U, I), 'setting': 'faithful'}, 'terms',
         'random'),
        # A student that cannot start from tables.
        ({'teacher': [tables], 'student': MF(U, I)}, 'lists', 'random'),
    ]
    for kwargs, knowledge, init in cases:
        settings = build(**kwargs).settings
        assert (settings.knowledge, settings.init) == (knowledge, init), kwargs


def test_a_student_that_needs_a_score() -> None:
    student = BiasedMF(U, I)
    with pytest.raises(ValueError, match="'BiasedMF' are 'dot': set "
                       "score='dot', or knowledge='lists'"):
        build(student=student)
    assert build(student=student, score='dot').score == 'dot'
    assert build(student=student, knowledge='lists').score == 'dot'
