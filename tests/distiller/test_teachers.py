"""Any model as a teacher, trained or not, and several of them."""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from baselines import MF, BiasedMF, Content, Tables
from torch.testing import assert_close

from torch_promptmm import PromptMMDistiller, models
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.datasets.blocks import BlockDataset
from torch_promptmm.loader import BatchSpec
from torch_promptmm.models import (
    Ensemble,
    ForeignModel,
    LightGCN,
    MultimodalTeacher,
    RankingModel,
)
from torch_promptmm.train import fit

BLOCKS = SyntheticMultimodal.blocks()
U, I, D = 40, 36, 8
RUN: dict[str, Any] = dict(seed=0, progress=False)
SMALL: dict[str, Any] = dict(top_items=10, list_epochs=3, user_batch_size=16)


class Own(MF):
    """Says itself how it is trained, with a term and batches of its own."""
    defaults = {'ranking_loss': 'bpr', 'lr': 0.05, 'l2': 0.125,
                'batch_size': 24, 'weight_decay': 0.01}
    epochs: list[int]

    def extra_loss(self, batch, output):
        assert batch.negative.size(1) == 3
        return {'own': 0.01 * output.user.square().mean()}

    def batch_spec(self, spec):
        return spec.merge(BatchSpec(num_negatives=3))

    def on_epoch_start(self, epoch, graph):
        self.__dict__.setdefault('epochs', []).append(epoch)


def build(data: Any, teacher: Any, **kwargs: Any) -> PromptMMDistiller:
    return PromptMMDistiller.from_data(
        data, **{'hidden_channels': D, 'num_negatives': 16, 'seed': 0,
                 **SMALL, 'teacher': teacher, **kwargs})


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict]]:
    """What the loop was called with."""
    module = importlib.import_module('torch_promptmm.distill.fit')
    out, train = [], module.train

    @functools.wraps(train)
    def spy(task: Any, **kwargs: Any) -> Any:
        out.append((task, kwargs))
        return train(task, **kwargs)

    monkeypatch.setattr(module, 'train', spy)
    return out


# Each model that there is


def concrete() -> list[type[RankingModel]]:
    """All but those that learn nothing."""
    classes = dict.fromkeys(getattr(models, name) for name in models.__all__)
    return [cls for cls in classes if inspect.isclass(cls)
            and issubclass(cls, RankingModel) and cls is not ForeignModel
            and cls.forward is not RankingModel.forward
            and list(cls.from_data(BLOCKS[0], D, seed=0).parameters())]


def test_new_models_join() -> None:
    assert {LightGCN, MultimodalTeacher, Ensemble} <= set(concrete())


@pytest.mark.parametrize('cls', concrete(), ids=lambda cls: cls.__name__)
def test_every_model_is_a_teacher(cls: type[RankingModel],
                                  tmp_path: Path) -> None:
    train, val, test = BLOCKS
    trained = cls.from_data(train, hidden_channels=D, seed=0)
    if cls is not Ensemble:  # Whose members are trained one by one.
        fit(trained, train, val, epochs=2, **RUN)
    for teacher in (cls.from_data(train, hidden_channels=D, seed=1), trained):
        distiller = build(train, teacher)
        before = state(teacher)
        history = distiller.fit(train, val, epochs=2, **RUN)
        assert same(before, state(teacher)) is teacher.trained
        assert (len(history['teacher']) == 0) is teacher.trained
        assert len(history['student']) > 0
        assert distiller.teacher is teacher
        distiller.save(tmp_path / 'x')
        loaded = PromptMMDistiller.load(tmp_path / 'x')
        assert type(loaded.teacher) is cls
        assert loaded.teacher.trained is teacher.trained
        for model in ('student', 'teacher'):
            assert (loaded.evaluate(test, 5, model=model) ==
                    distiller.evaluate(test, 5, model=model))
        assert_close(loaded.recommend([0, 1], 5), distiller.recommend([0, 1],
                                                                      5))
        again = loaded.fit(train, val, epochs=1, **RUN)
        assert (len(again['teacher']) == 0) is teacher.trained


# Trained or not


def test_what_came_trained_stays_as_it_is(blocks: BlockDataset) -> None:
    model = LightGCN.from_data(blocks[0], D, seed=0)
    assert not model.trained
    fit(model, *blocks[:2], epochs=2, **RUN)
    assert model.trained
    distiller, before = build(blocks[0], model), state(model)
    history = distiller.fit(*blocks[:2], epochs=2, **RUN)
    assert history['teacher'] == [] and len(history['student']) == 2
    assert same(before, state(model))
    assert len(distiller.fit_teacher(*blocks[:2], epochs=1, **RUN)) == 0
    # Unless one wants it.
    history = distiller.fit(*blocks[:2], epochs=1, retrain=True, **RUN)
    assert len(history['teacher']) == 1
    assert not same(before, state(model))
    assert len(distiller.fit_teacher(*blocks[:2], epochs=1, retrain=True,
                                     **RUN)) == 1
    with pytest.raises(TypeError, match="'retrain'"):
        distiller.fit(*blocks[:2], retrain=1, **RUN)
    # What starts over is not trained.
    distiller.reset_parameters()
    assert not model.trained
    assert len(distiller.fit(*blocks[:2], epochs=1, **RUN)['teacher']) == 1
    # What the distiller trained it goes on with.
    assert len(distiller.fit(*blocks[:2], epochs=1, **RUN)['teacher']) == 1


def test_it_says_what_it_leaves_alone(blocks: BlockDataset,
                                      capsys: pytest.CaptureFixture) -> None:
    model = LightGCN.from_data(blocks[0], D, seed=0)
    fit(model, blocks[0], epochs=1, **RUN)
    distiller = build(blocks[0], [model, LightGCN(U, I, 4)])
    distiller.fit(*blocks[:2], epochs=1, seed=0)
    out = capsys.readouterr().out
    assert "teacher: 1 of 2 trained already ('retrain=True'" in out
    assert 'member_weights=' in out


def test_a_foreign_module_is_marked_too(blocks: BlockDataset,
                                        tmp_path: Path) -> None:
    module = Tables(U, I)
    fit(module, *blocks[:2], epochs=1, **RUN)
    before = state(module)
    distiller = build(blocks[0], module)
    assert distiller.fit(*blocks[:2], epochs=1, **RUN)['teacher'] == []
    assert same(before, state(module))
    # The mark and the score are in the file.
    distiller.save(tmp_path / 'x')
    loaded = PromptMMDistiller.load(tmp_path / 'x', Tables(U, I))
    assert loaded.fit(*blocks[:2], epochs=1, **RUN)['teacher'] == []
    assert same(before, state(loaded.teacher))


# Defaults of its own


def test_defaults_are_what_fit_takes(blocks: BlockDataset,
                                     calls: list) -> None:
    torch.manual_seed(0)
    model = Own(U, I)
    alone = copy.deepcopy(model)
    distiller = build(blocks[0], model)
    history = distiller.fit(*blocks[:2], epochs=2, **RUN)['teacher']
    task, kwargs = calls[0]
    assert task.objective.ranking_loss == 'bpr' and task.l2 == 0.125
    assert (kwargs['lr'], kwargs['batch_size'], kwargs['weight_decay']) == (
        0.05, 24, 0.01)
    assert 'own' in history[0] and model.epochs == [1, 2]
    assert distiller.score == 'dot' and model.score == 'dot'
    # The same bits as alone.
    fit(alone, *blocks[:2], epochs=2, **RUN)
    assert same(state(model), state(alone))
    # What is said in the call comes first.
    distiller.fit_teacher(blocks[0], epochs=1, lr=0.5, **RUN)
    assert calls[-1][1]['lr'] == 0.5 and calls[-1][1]['batch_size'] == 24


def test_others_are_trained_by_the_settings(blocks: BlockDataset,
                                            calls: list) -> None:
    build(blocks[0], MF(U, I), lr=0.25, l2=0.5, batch_size=17).fit(
        *blocks[:2], epochs=1, **RUN)
    task, kwargs = calls[0]
    assert task.objective.ranking_loss == 'softmax' and task.l2 == 0.5
    assert (kwargs['lr'], kwargs['batch_size']) == (0.25, 17)


def test_a_score_that_a_class_needs(blocks: BlockDataset,
                                    calls: list) -> None:
    class Biased(BiasedMF):
        defaults: dict[str, Any] = {}

    distiller = build(blocks[0], Biased(U, I))
    assert distiller.settings.knowledge == 'lists'
    distiller.fit(*blocks[:2], epochs=1, **RUN)
    objective = calls[0][0].objective
    assert (objective.ranking_loss, objective.score) == ('softmax', 'dot')


# Several


def several(seed: int = 0) -> list[torch.nn.Module]:
    torch.manual_seed(seed)
    return [LightGCN(U, I, 4), Own(U, I, 6), BiasedMF(U, I, 5), Tables(U, I),
            Content.from_data(BLOCKS[0], 4),
            MultimodalTeacher.from_data(BLOCKS[0], 4)]


def test_several_teachers(blocks: BlockDataset, calls: list) -> None:
    teachers = several()
    fit(teachers[3], *blocks[:2], epochs=1, **RUN)
    before = [state(x) for x in teachers]
    distiller = build(blocks[0], teachers)
    history = distiller.fit(*blocks[:2], epochs=2, **RUN)
    # Each but the one that came trained, with its own loss.
    assert {x['member'] for x in history['teacher']} == {0, 1, 2, 4, 5}
    changed = [not same(a, state(b)) for a, b in zip(before, teachers,
                                                     strict=True)]
    assert changed == [True, True, True, False, True, True]
    losses = [task.objective.ranking_loss for task, _ in calls[:-1]]
    assert losses == ['softmax', 'bpr', 'bpr', 'softmax', 'softmax']
    rates = [kwargs['lr'] for _, kwargs in calls[:-1]]
    assert rates == [5e-3, 0.05, 0.03, 5e-3, 5e-3]
    # Those without defaults draw users as members do.
    assert [task.user_weight for task, _ in calls[:-1]] == [
        0.0, 0.0, 0.0, 0.0, 0.5]
    prompt = distiller.teacher.prompts[0]
    assert not torch.equal(prompt.weight, torch.eye(4))
    assert len(distiller.teacher.member_weights) == 6
    assert history['teacher'].chosen['member_weights'] == (
        distiller.teacher.member_weights)
    assert {'list', 'loss'} <= history['student'][0].keys()
    value = distiller.evaluate(blocks[2], 5, model='teacher')
    assert value['recall@5'] > 0.1


def test_weights_stay_equal_if_one_wants(blocks: BlockDataset) -> None:
    for kwargs, data in (({'choose_weights': False}, blocks[:2]),
                         ({}, blocks[:1])):
        distiller = build(blocks[0], several()[:3], **kwargs)
        distiller.fit(*data, epochs=1, **RUN)
        assert distiller.teacher.member_weights == [1.0] * 3


def test_good_teachers_together(blocks: BlockDataset) -> None:
    torch.manual_seed(0)
    teachers = [LightGCN(U, I, 8), MF(U, I, 8), Tables(U, I, 8)]
    distiller = build(blocks[0], teachers, hidden_channels=16,
                      list_epochs=15)
    distiller.fit(*blocks[:2], epochs=40, lr=0.02, **RUN)
    have = {model: distiller.evaluate(blocks[2], blocks.k, model)[
        f'recall@{blocks.k}'] for model in ('teacher', 'student')}
    # Chance gives a tenth, and the student keeps what the teachers know.
    assert have['teacher'] > 0.6, have
    assert have['student'] > 0.9 * have['teacher'], have


def test_several_in_a_file(blocks: BlockDataset, tmp_path: Path) -> None:
    ours = [LightGCN(U, I, 4), MultimodalTeacher.from_data(blocks[0], 4)]
    fit(ours[0], *blocks[:2], ranking_loss='bpr', epochs=1, **RUN)
    distiller = build(blocks[0], ours)
    distiller.fit(*blocks[:2], epochs=1, **RUN)
    distiller.save(tmp_path / 'x')
    loaded = PromptMMDistiller.load(tmp_path / 'x')
    a, b = state(distiller), state(loaded)
    assert a.keys() == b.keys() and same(a, b)
    assert str(loaded) == str(distiller)
    assert [x.trained for x in loaded.teacher.members] == [True, False]
    assert loaded.teacher.members[0].score == 'dot'
    for each in (distiller, loaded):
        each.fit(*blocks[:2], epochs=1, **RUN)
    assert same(state(distiller), state(loaded))


def test_several_of_other_classes_in_a_file(blocks: BlockDataset,
                                            tmp_path: Path) -> None:
    module = Tables(U, I)
    fit(module, *blocks[:2], ranking_loss='bpr', epochs=1, **RUN)
    distiller = build(blocks[0], [module, LightGCN(U, I, 4)])
    distiller.fit(*blocks[:2], epochs=1, **RUN)
    distiller.save(tmp_path / 'x')
    bare = PromptMMDistiller.load(tmp_path / 'x')
    assert bare.teacher is None
    assert_close(bare.embeddings('teacher'), distiller.embeddings('teacher'))
    loaded = PromptMMDistiller.load(
        tmp_path / 'x', teacher=[Tables(U, I), LightGCN(U, I, 4)])
    assert same(state(distiller), state(loaded))
    assert [x.score for x in loaded.teacher.members] == ['dot', 'cosine']
    assert [x.trained for x in loaded.teacher.members] == [True, False]
    loaded.fit(*blocks[:2], epochs=1, **RUN)
    with pytest.raises(TypeError, match='or a list'):
        PromptMMDistiller.load(tmp_path / 'x', teacher=3)


def test_one_of_several_has_nothing_to_train(blocks: BlockDataset) -> None:
    expert = models.ContentExpert.from_data(blocks[0])
    distiller = build(blocks[0], [LightGCN(U, I, 4), expert])
    history = distiller.fit(*blocks[:2], epochs=2, **RUN)
    assert {x['member'] for x in history['teacher']} == {0}
    assert distiller.evaluate(blocks[2], 5, 'teacher')['recall@5'] > 0.1


def test_several_by_the_constructor(blocks: BlockDataset) -> None:
    distiller = PromptMMDistiller([Tables(U, I), MF(U, I)], LightGCN(U, I, D),
                                  **SMALL)
    assert distiller.settings.knowledge == 'lists'
    distiller.fit(*blocks[:2], epochs=1, **RUN)


def test_a_run_that_was_killed_between_teachers(
        blocks: BlockDataset, tmp_path: Path) -> None:
    run = {**RUN, 'epochs': 2, 'checkpoint': tmp_path / 'x'}

    def make() -> PromptMMDistiller:
        torch.manual_seed(0)
        done = MF(U, I, 4)
        fit(done, blocks[0], epochs=1, **RUN)
        return build(blocks[0], [LightGCN(U, I, 4), done, Own(U, I, 5)])

    whole = make()
    want = whole.fit(*blocks[:2], **{**run, 'checkpoint': None})

    class Killed(Exception):
        pass

    for stop in (3, 5):  # In the second that is trained, in stage 2.
        seen: list[Any] = []

        def callback(record: Any, seen: list = seen, stop: int = stop) -> None:
            seen.append(record)
            if len(seen) == stop:
                raise Killed

        (tmp_path / 'x').unlink(missing_ok=True)
        with pytest.raises(Killed):
            make().fit(*blocks[:2], callback=callback, **run)
        other = make()
        have = other.fit(*blocks[:2], resume=True, **run)
        assert same(state(whole), state(other))
        assert len(have['teacher']) == len(want['teacher'])
        assert other.teacher.member_weights == whole.teacher.member_weights
