"""``setting='content'``, from data to a file and back."""

from __future__ import annotations

import copy
import functools
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from torch_promptmm import PromptMMDistiller
from torch_promptmm.data import held_out, read_graph
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.datasets.blocks import BlockDataset
from torch_promptmm.evaluate import evaluate_embeddings
from torch_promptmm.models import (
    ContentExpert,
    Ensemble,
    Fusion,
    LightGCN,
    MultimodalTeacher,
)
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.train import History, RankingTask, fit

EPOCHS = 3


def assert_same(a: PromptMMDistiller, b: PromptMMDistiller) -> None:
    x, y = a.state_dict(), b.state_dict()
    assert x.keys() == y.keys() and 'teacher._fusion' in x
    for key in x:
        assert torch.equal(x[key], y[key]), key


def records(history: dict[str, History]) -> dict[str, Any]:
    return {stage: ([{k: v for k, v in record.items() if k != 'time'}
                     for record in each], each.chosen, each.best_epoch)
            for stage, each in history.items()}


def cold_recall(pair: Any, data: Any, k: int) -> float:
    view = read_graph(data)
    positives = held_out(view)
    cold = torch.bincount(view.edge_index[1], minlength=view.num_items) == 0
    return evaluate_embeddings(*pair, positives[:, cold[positives[1]]],
                               view.edge_index, k)[f'recall@{k}']


def test_content_places_cold_items(small: SyntheticMultimodal) -> None:
    train, val, test = SyntheticMultimodal.preset('small', scale=0.25,
                                                  cold_fraction=0.15)
    run: dict[str, Any] = dict(epochs=12, seed=0, progress=False)
    distiller = PromptMMDistiller.from_data(train, 32, setting='content',
                                            seed=0)
    history = distiller.fit(train, val, **run)
    plain = LightGCN.from_data(train, 32, seed=0)
    fit(plain, train, val, **run)
    graph = distiller.graph
    base = plain(graph)
    cosines = [torch.nn.functional.normalize(x, dim=1).detach() for x in base]
    of_plain = cold_recall(cosines, test, 20)
    for model in ('teacher', 'student'):
        value = cold_recall(distiller.embeddings(model), test, 20)
        assert value > of_plain + 0.1, model
    # And the whole is no worse.
    known = read_graph(test).edge_index
    whole = evaluate_embeddings(*cosines, held_out(read_graph(test)), known,
                                20)['recall@20']
    assert distiller.evaluate(test, 20)['recall@20'] > whole
    assert distiller.evaluate(test, 20, 'teacher')['recall@20'] > whole
    # What was chosen stands in the history.
    chosen = history['teacher'].chosen
    fusion = distiller.teacher.fusion
    assert chosen.pop('recall@20') > 0.0
    assert Fusion(**chosen) == fusion
    assert max(fusion.weights.values()) > 0.0


def test_planted_blocks_are_solved(content, blocks: BlockDataset) -> None:
    distiller = content(hidden_channels=16, list_epochs=15)
    distiller.fit(*blocks[:2], epochs=15, seed=0, progress=False)
    for model in ('teacher', 'student'):
        out = distiller.evaluate(blocks[2], blocks.k, model)
        assert out[f'recall@{blocks.k}'] > 0.95, model


def test_same_seed_same_bits(content, blocks: BlockDataset) -> None:
    run: dict[str, Any] = dict(epochs=2, progress=False)
    torch.manual_seed(1)
    a = content()
    first = a.fit(*blocks[:2], seed=3, **run)
    torch.manual_seed(2)
    b = content()
    assert records(b.fit(*blocks[:2], seed=3, **run)) == records(first)
    assert_same(a, b)
    c = content()
    c.fit(*blocks[:2], seed=4, **run)
    assert not torch.equal(a.student.user_embedding.weight,
                           c.student.user_embedding.weight)


def test_history_and_what_is_shown(content, blocks: BlockDataset,
                                   capsys: pytest.CaptureFixture[str]
                                   ) -> None:
    distiller = content()
    history = distiller.fit(*blocks[:2], epochs=2, seed=0)
    assert [x['member'] for x in history['teacher']] == [0, 0, 1, 1]
    assert [x['epoch'] for x in history['teacher']] == [1, 2, 1, 2]
    assert {'list', 'loss', 'recall@20'} <= history['student'][0].keys()
    out = capsys.readouterr().out
    assert str(distiller.teacher.fusion) in out
    assert 'validation recall@20' in out
    # Without validation nothing is chosen.
    bare = content(fusion=Fusion({'visual': 2.0, 'textual': 0.5}))
    history = bare.fit(blocks[0], epochs=1, seed=0, progress=False)
    assert history['teacher'].chosen == {}
    assert bare.teacher.fusion == Fusion(
        {'visual': 2.0, 'textual': 0.5},
        scaling={'visual': 'standardize', 'textual': 'standardize'})


def test_the_metric_decides_on_the_fusion_too(content, blocks: BlockDataset,
                                              capsys) -> None:
    distiller = content()
    history = distiller.fit(*blocks[:2], epochs=2, seed=0, metric='ndcg@5')
    chosen = dict(history['teacher'].chosen)
    value = chosen.pop('ndcg@5')
    assert Fusion(**chosen) == distiller.teacher.fusion
    assert f'validation ndcg@5 {value:.4f}' in capsys.readouterr().out
    assert value == pytest.approx(
        distiller.evaluate(blocks[1], 5, 'teacher')['ndcg@5'], abs=1e-5)


# Files


def test_as_before(content, blocks: BlockDataset, tmp_path: Path) -> None:
    distiller = content()
    distiller.fit(*blocks[:2], epochs=2, seed=0, progress=False)
    distiller.save(tmp_path / 'x')
    loaded = PromptMMDistiller.load(tmp_path / 'x')
    assert isinstance(loaded.teacher, Ensemble)
    assert loaded.settings == distiller.settings
    assert loaded.score == distiller.score == 'dot'
    assert str(loaded) == str(distiller)
    assert_same(loaded, distiller)
    assert not loaded.teacher.item_features.available
    for model in ('student', 'teacher'):
        for data in blocks[1:]:
            assert (loaded.evaluate(data, 5, model) ==
                    distiller.evaluate(data, 5, model))
        for a, b in zip(loaded.recommend(range(40), 10, model=model),
                        distiller.recommend(range(40), 10, model=model),
                        strict=True):
            assert torch.equal(a, b)
    # Trained further, both are the same.
    for each in (distiller, loaded):
        each.fit(*blocks[:2], epochs=2, seed=1, progress=False)
    assert_same(loaded, distiller)


@pytest.mark.parametrize('tables', ['half', 'none'])
def test_narrow_teacher_tables(tables: str, content, blocks: BlockDataset,
                               tmp_path: Path) -> None:
    distiller = content()
    distiller.fit(*blocks[:2], epochs=2, seed=0, progress=False)
    distiller.save(tmp_path / 'full')
    distiller.save(tmp_path / 'x', teacher_tables=tables)
    user, item = distiller.embeddings('teacher')
    size = 4 * (user.numel() + item.numel())
    saved = [(tmp_path / x).stat().st_size for x in ('full', 'x')]
    share = 0.5 if tables == 'half' else 1.0
    assert saved[0] - saved[1] == pytest.approx(share * size, rel=0.02)
    loaded = PromptMMDistiller.load(tmp_path / 'x')
    assert_same(loaded, distiller)
    assert loaded.evaluate(blocks[2], 5) == distiller.evaluate(blocks[2], 5)
    if tables == 'half':
        have = loaded.embeddings('teacher')
        assert have[0].dtype == torch.float
        assert_close(have, (user, item), rtol=1e-3, atol=1e-3)
        loaded.evaluate(blocks[2], 5, 'teacher')
        loaded.fit_student(*blocks[:2], seed=0, progress=False)
        return
    with pytest.raises(ValueError, match='no item features'):
        loaded.embeddings('teacher')
    # With the data it is what it was.
    loaded.prepare(blocks[0], 'teacher')
    assert_close(loaded.embeddings('teacher'), (user, item), rtol=0, atol=0)
    assert (loaded.evaluate(blocks[2], 5, 'teacher') ==
            distiller.evaluate(blocks[2], 5, 'teacher'))
    with pytest.raises(ValueError, match="'teacher_tables' must be one of"):
        loaded.save(tmp_path / 'y', teacher_tables='some')


def test_before_fit(content, blocks: BlockDataset, tmp_path: Path) -> None:
    """A file of what was not trained yet is trained as that is."""
    distiller = content()
    distiller.save(tmp_path / 'x')
    loaded = PromptMMDistiller.load(tmp_path / 'x')
    for each in (distiller, loaded):
        each.fit(*blocks[:2], epochs=1, seed=1, progress=False)
    assert_same(loaded, distiller)


def test_members_of_a_foreign_class(content, blocks: BlockDataset,
                                    tmp_path: Path) -> None:
    class Own(LightGCN):
        pass

    def build() -> Ensemble:
        return Ensemble([Own(40, 36, 4)])

    distiller = content(teacher=build())
    distiller.fit(*blocks[:2], epochs=1, seed=0, progress=False)
    distiller.save(tmp_path / 'x')
    bare = PromptMMDistiller.load(tmp_path / 'x')
    assert bare.teacher is None
    loaded = PromptMMDistiller.load(tmp_path / 'x', teacher=build())
    assert_same(loaded, distiller)


def test_the_second_call_goes_on(content, blocks: BlockDataset) -> None:
    distiller = content()
    distiller.fit_teacher(*blocks[:2], epochs=4, seed=0, progress=False)
    run: dict[str, Any] = dict(seed=0, progress=False)
    compressed = _copy(distiller, blocks, epochs=0, **run)
    trained = _copy(distiller, blocks, epochs=3, **run)
    again = _copy(trained, blocks, epochs=0, **run)
    assert_close(again.embeddings(), trained.embeddings(), rtol=0, atol=0)
    assert not torch.equal(trained.embeddings()[0],
                           compressed.embeddings()[0])
    # Until its parameters are reset.
    torch.manual_seed(0)
    trained.reset_parameters()
    trained.teacher.load_state_dict(distiller.teacher.state_dict())
    anew = _copy(trained, blocks, epochs=0, **run)
    assert_close(anew.embeddings(), compressed.embeddings())


def _copy(distiller: PromptMMDistiller, blocks: BlockDataset,
          **kwargs: Any) -> PromptMMDistiller:
    out = copy.deepcopy(distiller)
    out.fit_student(blocks[0], **kwargs)
    return out


def test_reset_parameters_starts_over(content, blocks: BlockDataset) -> None:
    states = []
    distiller = content()
    for epochs in (1, 3):
        distiller.fit(*blocks[:2], epochs=epochs, seed=0, progress=False)
        torch.manual_seed(5)
        distiller.reset_parameters()
        distiller.fit(blocks[0], epochs=2, seed=1, progress=False)
        states.append({k: v.clone() for k, v in
                       distiller.state_dict().items()})
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


# What stage 2 is given


def test_what_is_for_interactions_is_not_for_lists(
        content, blocks: BlockDataset,
        monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module('torch_promptmm.distill.fit')
    calls, train = [], module.train

    @functools.wraps(train)
    def spy(task: Any, **kwargs: Any) -> History:
        calls.append((task, kwargs))
        return train(task, **kwargs)

    monkeypatch.setattr(module, 'train', spy)

    def optimizer(groups: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, 0.1)

    def scheduler(made: Any) -> Any:
        return torch.optim.lr_scheduler.StepLR(made, 1)

    given: dict[str, Any] = dict(
        lr=0.5, batch_size=64, weight_decay=0.1, optimizer=optimizer,
        scheduler=scheduler, patience=7, eval_every=2, progress=False)
    for epochs, wanted in ((2, 2), (5, EPOCHS), (None, EPOCHS)):
        calls.clear()
        distiller = content(num_members=1)
        if epochs is None:  # Of lists alone.
            distiller.fit_student(*blocks[:2], progress=False)
            calls.insert(0, (None, {}))
        else:
            distiller.fit(*blocks[:2], epochs=epochs, **given)
            assert isinstance(calls[0][0], RankingTask)
            assert {k: calls[0][1][k] for k in given} == given
            assert calls[1][1]['patience'] == 7
            assert calls[1][1]['eval_every'] == 2
        kwargs = calls[1][1]
        assert kwargs['epochs'] == wanted and kwargs['batch_size'] == 16
        assert kwargs['lr'] == pytest.approx(0.03 * 8**0.5)
        assert 'weight_decay' not in kwargs
        assert kwargs['optimizer'] is not optimizer
        assert kwargs['scheduler'] is not scheduler
    # Given to stage 2 itself, all is taken.
    calls.clear()
    content().fit_student(*blocks[:2], epochs=5, **given)
    assert {k: calls[0][1][k] for k in given} == given
    assert calls[0][1]['epochs'] == 5


# Other teachers


def test_a_foreign_teacher(blocks: BlockDataset, foreign) -> None:
    torch.manual_seed(0)
    distiller = PromptMMDistiller(foreign(), LightGCN(40, 36, 8),
                                  setting='content', num_negatives=16)
    distiller.fit(*blocks[:2], epochs=3, seed=0, progress=False)
    assert distiller.score == 'dot'
    for model, width in (('student', 8), ('teacher', 6)):
        assert distiller.embeddings(model)[0].shape == (40, width)
        assert distiller.evaluate(blocks[2], 5, model)


@pytest.mark.parametrize('score', ['dot', 'cosine'])
def test_a_light_gcn_as_teacher(blocks: BlockDataset, make,
                                score: str) -> None:
    teacher = LightGCN.from_data(blocks[0], 12, seed=0)
    fit(teacher, *blocks[:2], epochs=15, score=score, seed=0, progress=False)
    before = [x.clone() for x in teacher.parameters()]
    distiller = make(setting='content', teacher=teacher, hidden_channels=16)
    distiller.fit_student(*blocks[:2], epochs=0, progress=False)
    for a, b in zip(before, teacher.parameters(), strict=True):
        assert torch.equal(a, b)
    # Wide enough, the compressed student ranks as the teacher does.
    user, item = distiller.embeddings('teacher')
    own = distiller.embeddings('student')
    a, b = user @ item.t(), own[0] @ own[1].t()
    assert_close(b / b.std(), a / a.std(), rtol=0, atol=1e-3)
    if score == 'cosine':
        assert_close(user.norm(dim=1), torch.ones(40))
    distiller.fit(*blocks[:2], epochs=2, progress=False)


def test_lists_of_the_multimodal_teacher(make, blocks: BlockDataset) -> None:
    distiller = make(knowledge='lists', init='compress', top_items=10)
    assert isinstance(distiller.teacher, MultimodalTeacher)
    assert len(distiller.projections) == 0
    distiller.fit(*blocks[:2], epochs=10, seed=0, progress=False)
    assert distiller.evaluate(blocks[2], 3)['recall@3'] > 0.6


def test_terms_of_an_ensemble(content, blocks: BlockDataset) -> None:
    with pytest.raises(ValueError, match="scores of 'Ensemble' are 'dot': "
                       "set score='dot', or knowledge='lists'"):
        content(knowledge='terms')
    distiller = content(knowledge='terms', score='dot', init='random')
    distiller.fit(*blocks[:2], epochs=1, progress=False)


def test_an_ensemble_of_ones_own(content, blocks: BlockDataset) -> None:
    members = [LightGCN(40, 36, 4, 1), LightGCN(40, 36, 6, 2)]
    teacher = Ensemble(members, ContentExpert.from_data(blocks[0], hop=1.0))
    distiller = content(teacher=teacher)
    distiller.fit(*blocks[:2], epochs=2, seed=0, progress=False)
    assert distiller.teacher is teacher
    graph = UserItemGraph(read_graph(blocks[0]).edge_index, 40, 36)
    assert_close(distiller.embeddings('teacher')[0], teacher(graph).user)


@pytest.mark.parametrize('error, match, kwargs', [
    (ValueError, "'num_members' must be at least 1", {'num_members': 0}),
    (ValueError, "'hop' must be", {'hop': -1.0}),
    (ValueError, "'scaling' must be", {'scaling': 'centre'}),
    (ValueError, "'scaling' must be", {'scaling': 1}),
    (TypeError, "'standardize' is no argument", {'standardize': True}),
    (ValueError, "'fusion' must have a weight", {'fusion': Fusion()}),
    (ValueError, "'knowledge' must be one of", {'knowledge': 'all'}),
    (ValueError, "'init' must be one of", {'init': 'zero'}),
    (ValueError, "'top_items' must be at least 2", {'top_items': 1}),
    (ValueError, "'uniform_items' must be", {'uniform_items': 0}),
    (ValueError, "'list_lr' must be", {'list_lr': 0.0}),
    (ValueError, "'list_epochs' must be", {'list_epochs': -1}),
    (ValueError, "'top_temperature' must be", {'top_temperature': 0.0}),
    (TypeError, "'user_weights' must be a tuple", {'user_weights': 0.5}),
    (TypeError, "'user_weights' must be a tuple", {'user_weights': ()}),
    (ValueError, "'user_weights' must be", {'user_weights': (-1.0, )}),
    (TypeError, "'self_weight' is no argument", {'self_weight': 1.0}),
    (ValueError, "'prompt' must be one of", {'prompt': 'svd'}),
    (ValueError, "'prompt' opens the member", {'prompt': 'pca',
                                               'train_content': False}),
    (ValueError, "'teacher_channels' must be", {'teacher_channels': 0}),
])
def test_bad_input(content, error: type[Exception], match: str,
                   kwargs: dict[str, Any]) -> None:
    with pytest.raises(error, match=match):
        content(**kwargs)
