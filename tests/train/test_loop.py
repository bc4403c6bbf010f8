"""The one training loop, on a plain LightGCN and a task of our own."""

from __future__ import annotations

import math

import pytest
import torch

from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.loader import BatchSpec
from torch_promptmm.nn import LightGCNStudent, UserItemGraph
from torch_promptmm.train import (
    RankingObjective,
    RankingTask,
    Task,
    seeded,
    train,
)

EDGES = SyntheticMultimodal.blocks()[0]['user', 'interacts', 'item'].edge_index


def lightgcn(**kwargs):
    torch.manual_seed(0)
    graph = UserItemGraph(EDGES, 40, 36)
    return RankingTask(LightGCNStudent(40, 36, 4), graph, EDGES,
                       objective=RankingObjective('bpr'), **kwargs)


class Countdown(Task):
    """Its weight goes down by the learning rate at each step."""
    def __init__(self, spoil_at=None):
        super().__init__(UserItemGraph(EDGES, 40, 36), EDGES, EDGES, 'dot')
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.steps, self.spoil_at, self.epochs = 0, spoil_at, []

    @property
    def batch_spec(self):
        return BatchSpec(num_negatives=1)

    def on_epoch_start(self, epoch):
        self.epochs.append(epoch)

    def forward(self, batch):
        self.steps += 1
        good = self.weight.sum()
        bad = good * (math.nan if self.steps == self.spoil_at else 0.0)
        return good + bad, {'good': good, 'bad': bad}


RUN = dict(batch_size=240, lr=1.0, progress=False, seed=0,
           optimizer=lambda groups: torch.optim.SGD(groups, lr=1.0))


def curve(*values):
    values = iter(values)
    return lambda: {'recall@20': next(values)}


def test_history():
    task = lightgcn(l2=0.1)
    history = train(task, epochs=3, batch_size=100, progress=False, seed=0,
                    validate=lambda: {'recall@20': 0.5, 'ndcg@20': 0.25})
    assert [r['epoch'] for r in history] == [1, 2, 3]
    for record in history:
        assert list(record) == ['epoch', 'loss', 'rank', 'l2', 'time',
                                'recall@20', 'ndcg@20']
        assert record['loss'] == pytest.approx(
            record['rank'] + 0.1 * record['l2'])
        assert record['time'] > 0
    assert history.best_epoch == 1
    assert str(history) == 'History(epochs=3, best_epoch=1)'
    assert len(history.values('ndcg@20')) == 3


def test_the_loss_goes_down():
    history = train(lightgcn(), epochs=10, batch_size=64, lr=0.05,
                    progress=False, seed=0)
    assert history[-1]['loss'] < 0.5 * history[0]['loss']


def test_means_are_over_interactions():
    # 240 interactions in batches of 100, 100 and 40: weights 0, -1, -2.
    task = Countdown()
    history = train(task, epochs=1, **{**RUN, 'batch_size': 100})
    assert history[0]['loss'] == pytest.approx(-(100 + 2 * 40) / 240)
    assert task.epochs == [1]


def test_early_stopping_restores_the_best_weights():
    task = Countdown()
    history = train(task, epochs=50, patience=3, **RUN,
                    validate=curve(0.1, 0.3, 0.2, 0.3, 0.1, 0.9))
    assert len(history) == 5 and history.best_epoch == 2
    assert task.weight.item() == -2.0  # Ties go to the earlier epoch.


def test_no_patience():
    task = Countdown()
    history = train(task, epochs=6, patience=None, **RUN,
                    validate=curve(0.9, 0.3, 0.2, 0.3, 0.1, 0.0))
    assert len(history) == 6 and task.weight.item() == -1.0


def test_min_epochs():
    task = Countdown()
    history = train(task, epochs=50, patience=2, min_epochs=4, **RUN,
                    validate=curve(0.9, 0.8, 0.7, 0.1, 0.2, 0.1, 0.1, 0.1))
    assert history.best_epoch == 5 and len(history) == 7
    assert task.weight.item() == -5.0


def test_min_epochs_beyond_epochs_keeps_the_last():
    task = Countdown()
    history = train(task, epochs=3, min_epochs=9, **RUN,
                    validate=curve(0.9, 0.8, 0.7))
    assert history.best_epoch is None and task.weight.item() == -3.0


def test_eval_every():
    history = train(Countdown(), epochs=7, eval_every=3, **RUN,
                    validate=curve(0.1, 0.2, 0.3))
    assert [r['epoch'] for r in history if 'recall@20' in r] == [3, 6, 7]


def test_another_metric_decides():
    values = iter([(0.1, 0.9), (0.2, 0.8)])
    history = train(
        Countdown(), epochs=2, metric='ndcg@5', **RUN,
        validate=lambda: dict(zip(['recall@5', 'ndcg@5'], next(values),
                                  strict=True)))
    assert history.best_epoch == 1
    with pytest.raises(ValueError, match=r"'metric'.*'recall@20'"):
        train(Countdown(), epochs=1, validate=lambda: {'ndcg@5': 1.0}, **RUN)


def test_a_metric_that_is_not_a_number():
    history = train(Countdown(), epochs=4, patience=1, **RUN,
                    validate=curve(math.nan, 0.1, 0.2, 0.3))
    assert history.best_epoch == 4


def test_callback():
    records = []

    def callback(record):
        records.append(record)
        return False if record['epoch'] == 3 else None

    task = Countdown()
    history = train(task, epochs=9, callback=callback, **RUN)
    assert records == list(history) and len(history) == 3
    assert task.weight.item() == -3.0


@pytest.mark.parametrize('at, epoch', [(1, 1), (5, 3)])
def test_a_loss_that_is_not_finite(at, epoch):
    task = Countdown(spoil_at=at)
    with pytest.raises(FloatingPointError,
                       match=rf"epoch {epoch} of 'train' is nan.*\['bad'\].*"
                       "learning rate"):
        train(task, epochs=9, **{**RUN, 'batch_size': 120})
    assert task.weight.item() == 1.0 - at  # The step was not taken.


def test_divergence_stops_clearly():
    task = lightgcn(l2=1.0)
    with pytest.raises(FloatingPointError, match="epoch .* of 'train'"):
        train(task, epochs=50, progress=False, seed=0, optimizer=lambda g:
              torch.optim.SGD(g, lr=1e30))


def test_factories():
    lrs = []

    def scheduler(optimizer):
        assert isinstance(optimizer, torch.optim.SGD)
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)

    task = Countdown()
    train(task, epochs=3, scheduler=scheduler, **RUN,
          callback=lambda _: lrs.append(task.weight.item()))
    assert lrs == [-1.0, -1.5, -1.75]


def test_plateau():
    def scheduler(mode):
        return lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, mode, factor=0.5, patience=0)

    task = Countdown()
    train(task, epochs=4, patience=None, scheduler=scheduler('max'), **RUN,
          validate=curve(0.1, 0.0, 0.2, 0.3))
    assert task.weight.item() == -3.0  # 1 + 1 + 0.5 + 0.5
    task = Countdown()
    train(task, epochs=3, scheduler=scheduler('min'), **RUN)
    assert task.weight.item() == -3.0  # The loss falls all along.
    with pytest.raises(ValueError, match="'scheduler'.*no validation"):
        train(Countdown(), epochs=1, scheduler=scheduler('max'), **RUN)


def test_progress(capsys):
    train(Countdown(), epochs=2, **RUN)
    assert capsys.readouterr() == ('', '')
    train(Countdown(), epochs=2, **{**RUN, 'progress': True},
          validate=curve(0.25, 0.5), name='teacher')
    err = capsys.readouterr().err
    assert 'teacher 2/2' in err and 'loss=' in err
    assert 'recall@20=0.5000' in err and 'best=0.5000' in err


def test_no_epochs():
    task = Countdown()
    assert len(train(task, epochs=0, **RUN)) == 0
    assert task.weight.item() == 0.0


def test_same_seed_same_bits():
    outs = []
    for _ in range(2):
        task = lightgcn()
        torch.rand(7)
        before = torch.get_rng_state()
        history = train(task, epochs=3, batch_size=50, progress=False, seed=5)
        assert torch.equal(torch.get_rng_state(), before)
        outs.append((task.model.user_embedding.weight.detach().clone(),
                     history.values('loss')))
    assert torch.equal(outs[0][0], outs[1][0]) and outs[0][1] == outs[1][1]


@pytest.mark.parametrize('seed', [0, -1, 2**63, 2**64 - 1])
def test_seeded(seed):
    before = torch.get_rng_state()
    values = []
    for _ in range(2):
        with seeded(seed, torch.device('cpu')):
            values.append(torch.rand(3))
    assert torch.equal(*values)
    assert torch.equal(torch.get_rng_state(), before)


def test_weight_decay_and_l2_are_two_things():
    # L2 is on the batch's rows; the decay is on every row.
    edges = torch.tensor([[0], [0]])
    for kwargs, moved in [({'l2': 1.0}, False), ({'weight_decay': 1.0}, True)]:
        torch.manual_seed(0)
        model = LightGCNStudent(3, 4, 2, num_layers=0)
        before = model.user_embedding.weight[2].clone()
        l2 = kwargs.pop('l2', 0.0)
        task = RankingTask(model, UserItemGraph(edges, 3, 4), edges, l2=l2,
                           objective=RankingObjective('bpr'))
        train(task, epochs=2, progress=False, **kwargs)
        same = torch.equal(model.user_embedding.weight[2], before)
        assert same is not moved
