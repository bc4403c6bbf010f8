"""A model whose ranking loss is its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from baselines import MF
from torch import Tensor
from torch.testing import assert_close

from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.loader import Batch, BatchSpec, InteractionLoader
from torch_promptmm.models import LightGCN, ModelOutput, RankingModel
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.train import RankingObjective, RankingTask, fit, train

TRAIN, VAL, _ = SyntheticMultimodal.blocks(
    num_blocks=2, users_per_block=6, items_per_block=6,
    features={'visual': 5})
EDGES = TRAIN['user', 'interacts', 'item'].edge_index
U, I = TRAIN['user'].num_nodes, TRAIN['item'].num_nodes
RUN: dict[str, Any] = {'epochs': 3, 'seed': 3, 'progress': False,
                       'batch_size': 16}


class Pairs(MF):
    """Draws the pairs of a batch together, and needs no negative."""
    own_score = 'cosine'
    weight = 1.0

    def rows(self, *args: Any) -> ModelOutput:
        out = super().rows(*args)
        return ModelOutput(out.user, out.item, own={'half': out.user / 2})

    def own_loss(self, batch: Batch, output: ModelOutput) -> Tensor:
        gap = output.own['half'] - output.item[:batch.positive.numel()]
        return self.weight * gap.square().mean()

    def extra_loss(self, batch: Batch,
                   output: ModelOutput) -> dict[str, Tensor]:
        return {'size': 0.1 * output.item.square().mean()}


def make(model: RankingModel | None = None, **kwargs: Any) -> RankingTask:
    torch.manual_seed(0)
    return RankingTask(Pairs(U, I, 4) if model is None else model,
                       UserItemGraph(EDGES, U, I), EDGES,
                       objective=RankingObjective('own'), **kwargs)


def test_the_loss_is_that_of_the_model() -> None:
    task = make(l2=0.5)
    assert task.batch_spec == BatchSpec()
    batch = next(iter(InteractionLoader(EDGES, EDGES, U, I, 10,
                                        task.batch_spec)))
    assert batch.negative.shape == (10, 0) and batch.shared.numel() == 0
    user, item = task.model.user(batch.user), task.model.item(batch.positive)
    rank = (user / 2 - item).square().mean()
    size = 0.1 * item.square().mean()
    l2 = (user.square().sum() + item.square().sum()) / 20
    total, terms = task(batch)
    assert list(terms) == ['rank', 'l2', 'size']
    for value, want in ((terms['rank'], rank), (terms['size'], size),
                        (terms['l2'], l2), (total, rank + size + l2 / 2)):
        assert_close(value, want)


def test_it_gives_way_to_another_loss() -> None:
    for loss, spec in (('bpr', BatchSpec(1)),
                       ('softmax', BatchSpec(shared_negatives=8))):
        task = make()
        task.objective = RankingObjective(loss, num_negatives=8)
        assert task.batch_spec == spec
        batch = next(iter(task.loader(10)))
        before = task(batch)[1]
        task.model.weight = 1e9  # Is not asked.
        assert list(before) == ['rank', 'size']
        assert_close(task(batch)[1], before)


def test_fit() -> None:
    model = Pairs(U, I, 4)
    history = fit(model, TRAIN, VAL, ranking_loss='own', metric='recall@2',
                  **RUN)
    assert model.score == 'cosine'
    assert set(history[0]) == {'epoch', 'loss', 'rank', 'size', 'time',
                               'recall@2', 'ndcg@2'}
    losses = history.values('loss')
    assert losses == sorted(losses, reverse=True)
    for given, score in (({'score': 'dot'}, 'dot'),
                         ({'ranking_loss': 'bpr'}, 'dot'),
                         ({'ranking_loss': 'softmax'}, 'cosine')):
        fit(model, TRAIN, **{'ranking_loss': 'own', **given}, **RUN)
        assert model.score == score
    # The same by hand, with the learning rate that suits it.
    models = [Pairs.from_data(TRAIN, 4, seed=0) for _ in range(2)]
    fit(models[0], TRAIN, ranking_loss='own', **RUN)
    train(make(models[1]), lr=1e-3, **RUN)
    for a, b in zip(*(x.parameters() for x in models), strict=True):
        assert torch.equal(a, b)


def test_its_own_defaults() -> None:
    class Own(Pairs):
        defaults = {'ranking_loss': 'own'}
    model = Own(U, I, 4)
    assert 'l2' not in fit(model, TRAIN, **RUN)[0]
    assert model.score == 'cosine'


def test_resume(tmp_path) -> None:
    models = [Pairs.from_data(TRAIN, 4, seed=0) for _ in range(2)]
    options = {'ranking_loss': 'own', **RUN}
    fit(models[0], TRAIN, **options)
    path = tmp_path / 'x'
    fit(models[1], TRAIN, **{**options, 'epochs': 2}, checkpoint=path)
    rest = Pairs.from_data(TRAIN, 4, seed=1)
    fit(rest, TRAIN, **options, checkpoint=path, resume=True)
    for a, b in zip(models[0].parameters(), rest.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_model_without_one() -> None:
    model = LightGCN(U, I, 4)
    before = model.user_embedding.weight.clone()
    with pytest.raises(ValueError, match="'LightGCN' has no loss of its own: "
                       "'ranking_loss' must be 'softmax' or 'bpr'"):
        fit(model, TRAIN, ranking_loss='own', **RUN)
    assert torch.equal(model.user_embedding.weight, before)


def test_bad_input() -> None:
    objective = RankingObjective('own', score='cosine')
    assert objective.is_own and objective.score == 'cosine'
    assert objective.default_l2 == 0.0 and objective.default_lr == 1e-3
    assert RankingObjective('own').score == 'dot'
    with pytest.raises(ValueError, match="call its 'own_loss'"):
        objective(None)
    with pytest.raises(ValueError, match="'modality_weight' must be 0 with"):
        make(modality_weight=0.1)
    with pytest.raises(ValueError, match="'ranking_loss' must be one of 'bpr'"
                       ", 'softmax', 'own' .got 'mine'"):
        RankingObjective('mine')
