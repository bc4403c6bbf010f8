"""The stages of an ensemble and of lists, and their optimiser."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from torch_promptmm import PromptMMDistiller
from torch_promptmm.data import from_interactions
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.distill import (
    EnsembleStage,
    ListDistillationTask,
    ListStage,
    TrainingData,
)
from torch_promptmm.distill.content_stages import cosine_adam, spread
from torch_promptmm.models import Ensemble, LightGCN
from torch_promptmm.train import RankingTask

TRAIN, VAL, TEST = SyntheticMultimodal.blocks()


def make(**kwargs: Any) -> PromptMMDistiller:
    kwargs = {'hidden_channels': 8, 'seed': 0, 'setting': 'content',
              'num_negatives': 16, **kwargs}
    return PromptMMDistiller.from_data(kwargs.pop('data', TRAIN), **kwargs)


def tasks(distiller: PromptMMDistiller, name: str, **kwargs: Any) -> list:
    parts = distiller._training.parts
    stage = (EnsembleStage(parts) if name == 'teacher' else
             ListStage(parts, **kwargs))
    view = distiller._training.read(TRAIN, need_features=True)
    return stage.prepare(TrainingData.from_view(view, torch.device('cpu')))


def trained(distiller: PromptMMDistiller) -> set[str]:
    return {name.split('.')[0] for name, p in distiller.named_parameters()
            if p.requires_grad}


def test_a_task_for_each_member() -> None:
    distiller = make(num_members=5, user_weights=(0.0, 0.25), l2=0.5)
    out = tasks(distiller, 'teacher')
    assert trained(distiller) == {'teacher'}
    assert [type(x) for x in out] == [RankingTask] * 5
    assert [x.user_weight for x in out] == [0.0, 0.25, 0.0, 0.25, 0.0]
    for task, member in zip(out, distiller.teacher.members, strict=True):
        assert task.model is member and task.l2 == 0.5
        assert task.loader(16)._drawn is None or task.user_weight > 0.0


def test_the_lists_are_the_teachers() -> None:
    distiller = make(top_items=5, uniform_items=7, top_temperature=0.5)
    task, = tasks(distiller, 'student')
    assert trained(distiller) == {'student'}
    assert isinstance(task, ListDistillationTask)
    assert task.num_uniform == 7 and task.lists.items.shape == (40, 5)
    user, item = distiller.embeddings('teacher')
    scores = (user @ item.t()).double().numpy()
    for u, i in distiller.graph.edge_index.T.tolist():
        scores[u, i] = -np.inf
    top = -np.sort(-scores, axis=1)[:, :5]
    np.testing.assert_allclose(task.lists.scores.numpy(), top, atol=1e-5)
    want = 0.5 * top.std(axis=1, ddof=1).mean()
    assert task.loss.temperature == pytest.approx(want, rel=1e-4)


def test_init() -> None:
    before = make().student.user_embedding.weight.clone()
    for kwargs, start, same in (({'init': 'random'}, True, True),
                                ({}, False, True), ({}, True, False)):
        distiller = make(**kwargs)
        tasks(distiller, 'student', start=start)
        have = distiller.student.user_embedding.weight
        assert torch.equal(have, before) is same
    # Wide enough, the start is the teacher.
    distiller = make(hidden_channels=100, teacher_channels=8)
    task, = tasks(distiller, 'student')
    user, item = distiller.embeddings('teacher')
    out = task.embeddings()
    assert_close(out[0] @ out[1].t(),
                 user @ item.t() / task.loss.temperature, rtol=0, atol=1e-3)


def test_saved_tables_are_taken() -> None:
    distiller = make(top_items=3)
    user, item = torch.randn(40, 6), torch.randn(36, 6)
    task, = tasks(distiller, 'student', saved=(user, item))
    u = 5
    own = set(task.known[1][task.known[0] == u].tolist())
    order = (item @ user[u]).argsort(descending=True).tolist()
    want = [i for i in order if i not in own][:3]
    assert task.lists.items[u].tolist() == want


def test_users_without_interactions_are_silent() -> None:
    edges = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 1, 2, 3]])
    data = from_interactions(edges, {'x': torch.randn(6, 4)}, 5, 6)
    few = from_interactions(edges, {'x': data['item'].x}, 3, 6)
    temperatures = []
    for each in (data, few):
        distiller = make(data=each, top_items=3)
        task = distiller.prepare(each, 'student')
        silent = task.lists.scores.isneginf().all(dim=1).tolist()
        assert silent == [False] * 3 + [True] * (len(silent) - 3)
        want = task.lists.scores[:3].std(dim=1).mean()
        assert task.loss.temperature == pytest.approx(float(want), rel=1e-4)
        temperatures.append(task.loss.temperature)
        distiller.fit_student(each, epochs=2, progress=False)
    assert distiller.student.user_embedding.weight.isfinite().all()


def test_spread() -> None:
    inf = math.inf
    scores = torch.tensor([[3.0, 2.0, 1.0], [4.0, 2.0, -inf],
                           [7.0, -inf, -inf], [-inf] * 3])
    assert spread(scores) == pytest.approx((1.0 + 2.0**0.5) / 2)
    assert spread(scores[2:]) == 1.0
    assert 0.0 < spread(torch.ones(2, 3)) <= 1e-6


def test_options() -> None:
    stage = ListStage(make(hidden_channels=16, list_lr=0.1, list_epochs=7,
                           user_batch_size=9)._training.parts)
    assert stage.options() == {'batch_size': 9, 'epochs': 7,
                               'lr': pytest.approx(0.2)}


def test_cosine_adam() -> None:
    made = cosine_adam(0.2, 4)
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = made['optimizer']([{'params': [weight]}])
    scheduler = made['scheduler'](optimizer)
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.defaults['betas'] == (0.9, 0.99)
    assert optimizer.defaults['weight_decay'] == 0.0
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    want = [0.2 * 0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(5)]
    assert rates == pytest.approx([*want, 0.0], abs=1e-12)
    made = cosine_adam(0.2, 0)  # Compressed, not trained.
    made['scheduler'](made['optimizer']([{'params': [weight]}]))


def test_a_loop_of_ones_own() -> None:
    distiller = make(init='random')
    distiller.prepare(TRAIN, 'teacher')
    task = distiller.prepare(TRAIN, 'student')
    losses = []
    optimizer = torch.optim.Adam(task.parameter_groups(), 0.03)
    for _ in range(3):
        for batch in task.loader(16):
            loss, terms = distiller.student_loss(batch)
            assert terms.keys() == {'list'}
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0]
    with pytest.raises(TypeError, match="'batch' must be a Batch"):
        distiller.student_loss(batch.user)
    with pytest.raises(ValueError, match='prepare'):
        distiller.teacher_loss(batch)


def test_a_member_that_learns_nothing_is_named() -> None:
    members = [LightGCN(40, 36, 4), LightGCN(40, 36, 4)]
    distiller = make(teacher=Ensemble(members))
    parts = distiller._training.parts
    EnsembleStage(parts).freeze()
    assert all(p.requires_grad for p in distiller.teacher.parameters())
