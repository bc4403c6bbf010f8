"""The one call that trains any model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from baselines import MF, BiasedMF, Content, Tables
from torch.testing import assert_close

from torch_promptmm import PromptMMDistiller
from torch_promptmm.data import held_out, read_graph
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.evaluate import evaluate, evaluate_embeddings
from torch_promptmm.models import LightGCN, MultimodalTeacher, embed
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.train import (
    RankingObjective,
    RankingTask,
    Validation,
    fit,
    train,
)
from torch_promptmm.train.fit import plan_of

TRAIN, VAL, TEST = SyntheticMultimodal.blocks(
    num_blocks=2, users_per_block=6, items_per_block=6,
    features={'visual': 5, 'textual': 3})
EDGES = TRAIN['user', 'interacts', 'item'].edge_index
U, I, D = TRAIN['user'].num_nodes, TRAIN['item'].num_nodes, 4
RUN: dict[str, Any] = {'epochs': 4, 'seed': 3, 'progress': False,
                       'batch_size': 16}

MODELS = {
    'LightGCN': lambda: LightGCN.from_data(TRAIN, D, seed=0),
    'MF': lambda: MF.from_data(TRAIN, D, seed=0),
    'Content': lambda: Content.from_data(TRAIN, D, seed=0),
    'teacher': lambda: MultimodalTeacher.from_data(TRAIN, D, seed=0),
}


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    out = {k: v.clone() for k, v in model.state_dict().items()}
    prompt = getattr(model, 'prompt', None)
    if prompt is not None:
        out |= {f'prompt.{k}': v.clone()
                for k, v in prompt.state_dict().items()}
    return out


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize('loss', ['bpr', 'softmax'])
@pytest.mark.parametrize('name', MODELS)
def test_the_same_as_by_hand(name: str, loss: str) -> None:
    model, other = MODELS[name](), MODELS[name]()
    before = state(model)
    history = fit(model, TRAIN, VAL, ranking_loss=loss, num_negatives=8,
                  metric='recall@2', **RUN)
    objective = RankingObjective(loss, num_negatives=8)
    task = RankingTask(other, UserItemGraph(EDGES, U, I), EDGES,
                       objective=objective,
                       l2=0.05 if loss == 'bpr' else 1e-3,
                       extra=other.prompt)
    view = read_graph(VAL)
    want = train(task, lr=1e-2 if loss == 'bpr' else 5e-3,
                 validate=Validation(task, view, held_out(view), 'recall@2'),
                 metric='recall@2', **RUN)
    assert not same(state(model), before)
    assert same(state(model), state(other))
    for key in ('loss', 'rank', 'l2', 'recall@2', 'ndcg@2'):
        assert history.values(key) == want.values(key)
    assert history.best_epoch == want.best_epoch
    assert model.score == objective.score


def test_the_prompt_of_a_teacher_learns() -> None:
    teacher = MODELS['teacher']()
    before = state(teacher)
    fit(teacher, TRAIN, **RUN)
    moved = {k for k, v in state(teacher).items()
             if not torch.equal(v, before[k])}
    assert any(key.startswith('prompt.') for key in moved)


def test_the_same_as_stage_1_of_a_distiller() -> None:
    distiller = PromptMMDistiller.from_data(
        TRAIN, hidden_channels=D, seed=0, num_negatives=8)
    teacher = copy.deepcopy(distiller.teacher)
    distiller.fit_teacher(TRAIN, VAL, **RUN)
    fit(teacher, TRAIN, VAL, num_negatives=8, modality_weight=0.1, **RUN)
    assert same(state(teacher), state(distiller.teacher))


def test_the_score_is_kept_and_used() -> None:
    for model in (MF(U, I, D), Tables(U, I)):
        for loss, score in (('softmax', 'cosine'), ('bpr', 'dot')):
            fit(model, TRAIN, ranking_loss=loss, **RUN)
            user, item = embed(model, UserItemGraph(EDGES, U, I), score)
            view = read_graph(TEST)
            want = evaluate_embeddings(user, item, held_out(view),
                                       view.edge_index, (1, 2))
            assert evaluate(model, TEST, k=(1, 2)) == want
            other = 'dot' if score == 'cosine' else 'cosine'
            assert evaluate(model, TEST, k=(1, 2), score=other) == (
                evaluate_embeddings(
                    *embed(model, UserItemGraph(EDGES, U, I), other),
                    held_out(view), view.edge_index, (1, 2)))


def test_a_model_that_needs_dot_refuses_a_cosine() -> None:
    model = BiasedMF(U, I, D)
    for kwargs in ({'score': 'cosine'},
                   {'score': 'cosine', 'ranking_loss': 'softmax'}):
        with pytest.raises(ValueError, match="'score' must be 'dot' for "
                           "'BiasedMF' .got 'cosine'"):
            fit(model, TRAIN, **RUN, **kwargs)
    # The softmax has the cosine where a model does not mind.
    fit(model, TRAIN, ranking_loss='softmax', **RUN)
    assert model.score == 'dot'
    plain = MF(U, I, D)
    fit(plain, TRAIN, **RUN)
    assert plain.score == 'cosine'
    fit(plain, TRAIN, ranking_loss='bpr', **RUN)  # And may change it.
    assert plain.score == 'dot'


def test_defaults_of_the_model() -> None:
    torch.manual_seed(0)
    model = BiasedMF(U, I, D)
    a, b, c = (copy.deepcopy(model) for _ in range(3))
    fit(a, TRAIN, **RUN)
    fit(b, TRAIN, ranking_loss='bpr', l2=0.25, lr=0.03, **RUN)
    assert same(state(a), state(b))
    fit(c, TRAIN, l2=0.0, **RUN)  # What is given comes first.
    assert not same(state(a), state(c))
    assert b.defaults == BiasedMF.defaults  # Nothing was taken out.


def test_defaults_of_the_model_for_a_loss() -> None:
    class Either(MF):
        defaults = {'ranking_loss': 'softmax', 'batch_size': 16}
        loss_defaults = {'bpr': {'l2': 0.25, 'lr': 0.03, 'batch_size': 8}}

    for given, want in (
        ({}, {'ranking_loss': 'softmax', 'batch_size': 16}),
        ({'ranking_loss': 'bpr'}, {'ranking_loss': 'bpr', 'l2': 0.25,
                                   'lr': 0.03, 'batch_size': 8}),
        ({'ranking_loss': 'bpr', 'l2': 0.5}, {
            'ranking_loss': 'bpr', 'l2': 0.5, 'lr': 0.03, 'batch_size': 8}),
    ):
        model = Either.from_data(TRAIN, D, seed=0)
        plan = plan_of(model, given)
        wanted = plan_of(MF.from_data(TRAIN, D, seed=0), want)
        assert plan._replace(objective=None) == wanted._replace(objective=None)
        assert str(plan.objective) == str(wanted.objective)


@pytest.mark.parametrize('name', ['foo', 'positives', 'setting', 'validate',
                                  'module', 'task'])
def test_an_unknown_argument(name: str) -> None:
    model = MF(U, I, D)
    before = state(model)
    with pytest.raises(TypeError, match=name):
        fit(model, TRAIN, **RUN, **{name: 1})
    assert same(state(model), before)
    assert model.score is None


class Log:
    def __init__(self) -> None:
        self.seen: list[tuple[int, dict[str, Any]]] = []

    def log_metrics(self, metrics: dict[str, Any], step: int) -> None:
        self.seen.append((step, dict(metrics)))


def test_logger() -> None:
    log = Log()
    history = fit(MF(U, I, D), TRAIN, VAL, logger=log, eval_every=2,
                  ranking_loss='bpr', metric='map@2', **RUN)
    assert [step for step, _ in log.seen] == [1, 2, 3, 4]
    for (step, metrics), record in zip(log.seen, history, strict=True):
        assert {'epoch': step, **metrics} == record
        assert ('map@2' in metrics) == (step % 2 == 0)
        assert {'loss', 'rank', 'l2', 'time'} <= metrics.keys()
    with pytest.raises(TypeError, match="'logger' must have a method "
                       "'log_metrics"):
        fit(MF(U, I, D), TRAIN, logger=print, **RUN)


@pytest.mark.parametrize('metric', ['recall@2', 'map@10', 'mrr@3', 'f1@1',
                                    'hit_ratio@2', 'precision@2', 'ndcg@2'])
def test_the_metric_that_decides(metric: str) -> None:
    model = LightGCN.from_data(TRAIN, D, seed=0)
    history = fit(model, TRAIN, VAL, metric=metric, **RUN)
    values = history.values(metric)
    assert len(values) == 4
    assert history.best_epoch == 1 + values.index(max(values))
    name, k = metric.split('@')
    have = evaluate(model, VAL, k=int(k), metrics=[name])
    assert have[metric] == pytest.approx(max(values), abs=1e-6)
    assert {f'recall@{k}', f'ndcg@{k}', metric} <= history[0].keys()


@pytest.mark.parametrize('metric', ['recall', 'recall@0', 'recall@x',
                                    'coverage@2', f'recall@{I + 1}', None])
def test_a_metric_that_is_none(metric) -> None:
    with pytest.raises(ValueError, match="'metric' must"):
        fit(MF(U, I, D), TRAIN, VAL, metric=metric, **RUN)


def test_a_seed_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    fit(MF.from_data(TRAIN, D, seed=0), TRAIN, VAL, **RUN)
    assert torch.equal(torch.get_rng_state(), before)


def test_resume(tmp_path) -> None:
    whole, half, rest = (BiasedMF.from_data(TRAIN, D, seed=0)
                         for _ in range(3))
    fit(whole, TRAIN, VAL, **RUN)
    path = tmp_path / 'x'
    fit(half, TRAIN, VAL, checkpoint=path, **{**RUN, 'epochs': 2})
    fit(rest, TRAIN, VAL, checkpoint=path, resume=True, **RUN)
    assert same(state(rest), state(whole))
    with pytest.raises(ValueError, match="a run named 'BiasedMF'"):
        fit(MF(U, I, D), TRAIN, VAL, checkpoint=path, resume=True, **RUN)


def test_features_are_those_of_the_training_graph() -> None:
    model = Content.from_data(TRAIN, D, seed=0)
    other = TRAIN.clone()
    other['item'].visual = torch.randn(I, 5)
    fit(model, other, **RUN)
    assert model.item_features.tensors['visual'] is other['item'].visual
    model.item_features.release()
    fit(model, TRAIN, VAL, **RUN)
    assert model.item_features.tensors['visual'] is TRAIN['item'].visual


def test_only_the_modalities_of_the_model_are_read() -> None:
    data = TRAIN.clone()
    data['item'].broken = torch.full((I, 2), float('nan'))
    model = Content.from_data(data, D, modalities=['textual'])
    fit(model, data, **RUN)
    assert list(model.item_features.tensors) == ['textual']


def test_nothing_to_train() -> None:
    with pytest.raises(ValueError, match="'model' has no parameter to train"):
        fit(MF(U, I, D).requires_grad_(False), TRAIN, **RUN)


def test_graphs_of_other_sizes() -> None:
    other = SyntheticMultimodal.blocks()[1]
    with pytest.raises(ValueError):
        fit(MF(U, I, D), TRAIN, other, **RUN)


def test_training_data_stays_as_it_is() -> None:
    before = copy.deepcopy(TRAIN)
    fit(MODELS['teacher'](), TRAIN, VAL, **RUN)
    have, want = TRAIN.to_dict(), before.to_dict()
    assert have.keys() == want.keys()
    for key in want:
        assert_close(have[key], want[key], rtol=0, atol=0)


def test_on_device(device: torch.device) -> None:
    model = MODELS['teacher']()
    fit(model, TRAIN, VAL, device=device, **RUN)
    assert next(model.parameters()).device.type == device.type
    assert next(model.prompt.parameters()).device.type == device.type
    evaluate(model, TEST, k=2)
    with pytest.raises(ValueError, match="'device' 'abacus' is unknown"):
        fit(model, TRAIN, device='abacus', **RUN)


@pytest.mark.parametrize('alpha', [0.0, 0.5, 1.0])
def test_users_are_drawn_as_the_loader_says(alpha: float) -> None:
    model, other = MODELS['MF'](), MODELS['MF']()
    fit(model, TRAIN, ranking_loss='bpr', user_weight=alpha, **RUN)
    task = RankingTask(other, UserItemGraph(EDGES, U, I), EDGES, l2=0.05,
                       objective=RankingObjective('bpr'), user_weight=alpha)
    train(task, lr=1e-2, **RUN)
    assert same(state(model), state(other))
    plain = MODELS['MF']()
    fit(plain, TRAIN, ranking_loss='bpr', **RUN)
    assert same(state(model), state(plain)) is (alpha == 0.0)


def test_a_model_may_draw_users() -> None:
    class Drawn(MF):
        defaults = {'ranking_loss': 'bpr', 'user_weight': 1.0}

    model, other = Drawn.from_data(TRAIN, D, seed=0), MODELS['MF']()
    fit(model, TRAIN, **RUN)
    fit(other, TRAIN, ranking_loss='bpr', user_weight=1.0, **RUN)
    assert same(state(model), state(other))
