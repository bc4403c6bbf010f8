from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_every_model import (
    GRAPH,
    STORE,
    TRAIN,
    D,
    I,
    ModelSuite,
    U,
    other_data,
)
from torch.testing import assert_close
from torch_geometric.data import HeteroData

from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.evaluate import evaluate
from torch_promptmm.loader import Batch
from torch_promptmm.models import VBPR
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.train import RankingObjective, RankingTask, Task, fit


class TestVBPR(ModelSuite):
    kwargs: dict[str, Any] = {'content_channels': 5, 'bias': True}
    epochs = 30

    def make(self, seed: int = 0) -> Task:
        return RankingTask(
            VBPR.from_data(TRAIN, D, seed=seed, **self.kwargs), GRAPH,
            STORE.edge_index, l2=1e-3, objective=RankingObjective('bpr'))


class TestVBPRColdContent(TestVBPR):
    kwargs = {'cold': 'content', 'bias': True}


class TestVBPRWithoutBiases(TestVBPR):
    kwargs: dict[str, Any] = {}


def known(theta: float = 2.0) -> VBPR:
    """Of one dimension each; a second item has other features."""
    model = VBPR(1, 2, {'visual': 2}, 1, 1, bias=True,
                 standardize=False).double()
    model.set_features({'visual': torch.tensor([[1.0, 2.0], [3.0, -1.0]])})
    with torch.no_grad():
        model.user_embedding.weight.fill_(1.0)
        model.user_content.weight.fill_(theta)
        model.item_embedding.weight.copy_(torch.tensor([[3.0], [1.0]]))
        model.item_bias.copy_(torch.tensor([[0.1], [-0.2]]))
        model.maps['visual'].weight.copy_(
            torch.tensor([[0.5, 0.01], [0.25, 0.02]]))
    return model


def test_known_answer() -> None:
    user, item, _ = known()(None)
    assert_close(user @ item.t(), torch.tensor(
        [[5.15, 1.0 - 0.2 + 2.0 * 1.25 + 0.01]]).double(), rtol=0, atol=1e-6)


def test_a_number_for_each_row() -> None:
    # Two rows with other biases of features: two losses, not four.
    edges = torch.tensor([[0], [0]])
    task = RankingTask(known(), UserItemGraph(edges, 1, 2), edges,
                       objective=RankingObjective('bpr'), l2=0.1)
    none = torch.empty(0, dtype=torch.long)
    item = torch.tensor([0, 1])
    total, terms = task(Batch(
        torch.tensor([0, 0]), item, item.flip(0).view(-1, 1),
        torch.ones(2, 1, dtype=torch.bool), none,
        torch.empty(2, 0, dtype=torch.bool), none))
    margin = 5.15 - 3.31
    wanted = np.log1p(np.exp([-margin, margin])).mean()
    assert float(terms['rank'].detach()) == pytest.approx(wanted, abs=1e-6)
    # Twice the user, each item twice: no content, no column of ones.
    rows = 2 * (1.0 + 4.0) + 2 * (9.0 + 0.01) + 2 * (1.0 + 0.04)
    assert float(terms['l2'].detach()) == pytest.approx(rows / 4)
    assert float(total.detach()) == pytest.approx(wanted + 0.1 * rows / 4)


@pytest.mark.parametrize('bias', [False, True])
def test_equals_plain_numpy(bias: bool) -> None:
    data = other_data(29, 23)
    model = VBPR.from_data(data, 4, content_channels=3, bias=bias,
                           seed=0).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    score = (state['user_embedding.weight']
             @ state['item_embedding.weight'].T)
    if bias:
        score = score + state['item_bias'].T
    out = model(None)
    for name in ('visual', 'textual'):
        x = data['item'][name].double().numpy()
        mask = (data['item'].textual_mask.numpy() if name == 'textual'
                else np.ones(23, dtype=bool))
        x = (x - x[mask].mean(0)) / x[mask].std(0)
        x[~mask] = 0.0
        x /= np.sqrt(x.shape[1])
        weight = state[f'maps.linears.modality_{name}.weight']
        part = state['user_content.weight'] @ (x @ weight[:, :3]).T
        assert weight.shape[1] == 3 + bias
        score = score + part + (x @ weight[:, 3:]).sum(axis=1)
        user, item = out.modalities[name]
        assert_close((user @ item.t()).detach(), torch.from_numpy(part),
                     rtol=0, atol=1e-5)
    # Statistics were taken in single precision.
    assert_close((out.user @ out.item.t()).detach(), torch.from_numpy(score),
                 rtol=0, atol=1e-5)


@pytest.mark.parametrize('widths', [{'a': 3}, {'a': 3, 'b': 6, 'c': 1}])
def test_number_of_parameters(widths: dict[str, int]) -> None:
    total = 29 * (4 + 5) + 23 * 4 + 5 * sum(widths.values())
    for bias, more in ((False, 0), (True, 23 + sum(widths.values()))):
        model = VBPR(29, 23, widths, 4, 5, bias=bias)
        assert sum(p.numel() for p in model.parameters()) == total + more


def test_cold_items() -> None:
    cold = torch.ones(I, dtype=torch.bool)
    cold[STORE.edge_index[1]] = False
    assert cold.any()
    model = VBPR.from_data(TRAIN, D, seed=0, bias=True)
    assert model.cold == 'all'
    wanted = model(GRAPH).item
    with torch.no_grad():
        model.item_embedding.weight[cold] += 1.0
        model.item_bias[cold] += 1.0
    changed = model(GRAPH).item
    assert (changed != wanted).any(dim=1).equal(cold)
    model.cold = 'content'
    out = model(GRAPH).item
    with torch.no_grad():
        model.item_embedding.weight[cold] += 1.0
        model.item_bias[cold] += 1.0
    assert torch.equal(model(GRAPH).item, out)
    assert torch.equal(out[~cold], changed[~cold])
    assert (out[cold, :D] == 0).all() and (out[cold, D:-1] != 0).all()
    batch = UserItemGraph(STORE.edge_index, U, I)
    batch.user_n_id, batch.item_n_id = torch.arange(U), torch.arange(I)
    with pytest.raises(ValueError, match='must be the full graph'):
        model(batch)  # Which lacks interactions.
    model.cold = 'all'
    assert torch.equal(model(batch).item, model(GRAPH).item)


def test_a_step_reads_its_items_alone(monkeypatch) -> None:
    model = VBPR.from_data(TRAIN, D, seed=0)
    task = RankingTask(model, GRAPH, STORE.edge_index,
                       objective=RankingObjective('bpr'))
    read = []
    rows = model.item_features.rows
    monkeypatch.setattr(model.item_features, 'rows', lambda name, item_id: (
        read.append(item_id), rows(name, item_id))[1])
    batch = next(iter(task.loader(8)))
    task(batch)
    wanted = torch.cat([batch.positive, batch.negative.view(-1)]).unique()
    assert wanted.numel() < I
    assert all(x.equal(wanted) for x in read) and len(read) == 2


def test_statistics_are_kept() -> None:
    model = VBPR.from_data(TRAIN, D, seed=0)
    other = VBPR.from_config(model.config())
    other.load_state_dict(model.state_dict())
    moved = TRAIN.clone()
    moved['item'].visual = TRAIN['item'].visual + 5.0
    fit(other, moved, epochs=0, progress=False)
    for name in ('mean', 'scale'):
        assert torch.equal(getattr(other.maps['visual'], name),
                           getattr(model.maps['visual'], name))
    raw = VBPR.from_data(TRAIN, D, seed=0, standardize=False)
    assert (raw.maps['visual'].mean == 0).all()
    with pytest.raises(ValueError, match='give it the data again'):
        VBPR.from_config(model.config())(GRAPH)


@pytest.fixture(scope='module')
def planted() -> tuple[HeteroData, ...]:
    return tuple(SyntheticMultimodal(
        300, 200, 3000, {'visual': 24, 'textual': 16}, informative=0.3,
        cold_fraction=0.1, seed=0))


def test_it_beats_itself_with_shuffled_features(planted) -> None:
    train, _, test = planted
    recall = []
    for shuffle in (False, True):
        data = train.clone()
        if shuffle:
            order = torch.randperm(200)
            for name in ('visual', 'textual'):
                data['item'][name] = train['item'][name][order]
        model = VBPR.from_data(data, 16, seed=0, cold='content',
                               bias=True)
        fit(model, data, ranking_loss='bpr', epochs=25, batch_size=256,
            lr=0.01, l2=0.05, seed=0, progress=False, warm_negatives=True)
        recall.append(evaluate(model, test, k=20)['recall@20'])
    assert recall[0] > 1.3 * recall[1]


@pytest.mark.parametrize('error, match, kwargs', [
    (ValueError, "'cold' must be one of", {'cold': 'mean'}),
    (TypeError, "'standardize' must be", {'standardize': 1}),
    (ValueError, "'content_channels' must be at least 1",
     {'content_channels': 0}),
    (ValueError, "'in_channels' must map at least one", {'in_channels': {}}),
])
def test_bad_input(error: type[Exception], match: str,
                   kwargs: dict[str, Any]) -> None:
    with pytest.raises(error, match=match):
        VBPR(2, 3, **{'in_channels': {'visual': 2}, **kwargs})


def test_only_dot_products() -> None:
    model = VBPR.from_data(TRAIN, D, seed=0, bias=True)
    with pytest.raises(ValueError, match="'score' must be 'dot' for 'VBPR'"):
        fit(model, TRAIN, epochs=1, score='cosine')
    plain = VBPR.from_data(TRAIN, D, seed=0)
    fit(plain, TRAIN, epochs=1, score='cosine', progress=False)
    assert (plain.score, plain.width) == ('cosine', 2 * D)
