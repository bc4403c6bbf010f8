"""MMGCN: the shared suite, its equations in NumPy, and what is its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from planted import gain_of_features
from test_every_model import (
    GRAPH,
    STORE,
    TRAIN,
    D,
    I,
    ModelSuite,
    U,
    graph_of,
    other_data,
)
from torch.testing import assert_close

from torch_promptmm.models import MMGCN
from torch_promptmm.models.mmgcn import MMGCNLayer, _mean_values
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.nn.functional import modality_key
from torch_promptmm.nn.weighted_csr import spmm
from torch_promptmm.train import RankingObjective, RankingTask, Task


class TestMMGCN(ModelSuite):
    kwargs: dict[str, Any] = {}
    ranking_loss = 'softmax'
    epochs = 20

    def make(self, seed: int = 0) -> Task:
        model = MMGCN.from_data(TRAIN, D, seed=seed, **self.kwargs)
        return RankingTask(model, GRAPH, STORE.edge_index, l2=1e-3,
                           objective=RankingObjective(self.ranking_loss,
                                                      num_negatives=16))


class TestAddingMMGCN(TestMMGCN):
    ranking_loss = 'bpr'
    kwargs = {'combine': 'add', 'fusion': 'concat', 'content_channels': 5,
              'num_layers': 3}

    def build(self, data, seed=0):
        return MMGCN.from_data(data, D, seed=seed, **self.kwargs)


def reference(model: MMGCN, edge: np.ndarray) -> list[list[np.ndarray]]:
    """Users and items of each modality, by a dense square matrix."""
    def of(x: torch.Tensor) -> np.ndarray:
        return x.detach().double().numpy()

    def leaky(x: np.ndarray) -> np.ndarray:
        return np.where(x > 0, x, 0.01 * x)

    def linear(layer: torch.nn.Linear, x: np.ndarray) -> np.ndarray:
        out = x @ of(layer.weight).T
        return out if layer.bias is None else out + of(layer.bias)

    num_users = edge.shape[0]
    size = sum(edge.shape)
    mean = np.zeros((size, size))
    mean[:num_users, num_users:] = edge
    mean[num_users:, :num_users] = edge.T
    degree = mean.sum(axis=1, keepdims=True)
    mean /= np.maximum(degree, 1)
    ids = np.concatenate([of(model.user_embedding.weight),
                          of(model.item_embedding.weight)]) * (degree > 0)
    out = []
    for name in model.modalities:
        reduction, x = model.maps[name], model.item_features.tensors[name]
        z = (of(x) - of(reduction.mean)) * of(reduction.scale)
        z = z @ of(reduction.weight) + of(reduction.bias)
        if name in model.item_features.masks:
            z *= model.item_features.masks[name].numpy()[:, None]
        x = np.concatenate([of(model.preference(name)), z])
        norm = np.linalg.norm(x, axis=1, keepdims=True)
        x = np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)
        for layer in model.layers[modality_key(name)]:
            h = leaky(mean @ linear(layer.neighbor, x))
            own = leaky(linear(layer.own, x)) + ids
            x = leaky(linear(layer.joint, np.concatenate([h, own], axis=1))
                      if model.combine == 'concat' else
                      linear(layer.joint, h) + own)
        out.append([x[:num_users], x[num_users:]])
    return out


@pytest.mark.parametrize('kwargs', [
    {}, {'combine': 'add'}, {'fusion': 'concat', 'num_layers': 3},
    {'num_layers': 1, 'combine': 'add', 'fusion': 'concat'},
], ids=str)
def test_equals_dense_matrices(kwargs: dict[str, Any]) -> None:
    data = other_data(29, 23)
    model = MMGCN.from_data(data, 6, content_channels=4, seed=0,
                            **kwargs).double()
    for parameter in model.parameters():  # Biases too.
        torch.nn.init.normal_(parameter)
    graph = graph_of(data).to(dtype=torch.double)
    want = reference(model, graph.user_item.tensor.to_dense().numpy() > 0)
    out = model(graph)
    for side, have in enumerate(out[:2]):
        parts = [x[side] for x in want]
        both = (np.concatenate(parts, axis=1) if model.fusion == 'concat' else
                np.mean(parts, axis=0))
        assert_close(have, torch.from_numpy(both), rtol=0, atol=1e-9)
        assert have.size(1) == model.width
        for part, name in zip(parts, model.modalities, strict=True):
            assert_close(out.modalities[name][side], torch.from_numpy(part),
                         rtol=0, atol=1e-9)


def test_known_answer() -> None:
    graph = UserItemGraph(torch.tensor([[0, 0, 1], [0, 1, 1]]), 3, 3,
                          dtype=torch.double)
    layer = MMGCNLayer(1, 1, 'add').double()
    for name, parameter in layer.named_parameters():
        torch.nn.init.constant_(parameter, 0.0 if 'bias' in name else 1.0)
    user = torch.tensor([[1.0], [2.0], [3.0]]).double()
    item = torch.tensor([[4.0], [5.0], [-6.0]]).double()
    shares = _mean_values(graph)
    ids = torch.zeros_like(user)
    with torch.no_grad():
        have = torch.cat([
            layer(spmm(graph.user_item, shares[0], item), user, ids),
            layer(spmm(graph.user_item, shares[1], user, True), item, ids)])
    want = torch.tensor([5.5, 7, 3, 5, 6.5, -0.0006]).double().view(-1, 1)
    assert_close(have, want, rtol=0, atol=1e-9)


@pytest.mark.parametrize('num_layers', [1, 2, 3])
def test_number_of_parameters(num_layers: int) -> None:
    widths, d, c = {'a': 5, 'b': 7, 'c': 3}, 6, 4

    def count(**kwargs: Any) -> int:
        model = MMGCN(U, I, widths, d, content_channels=c,
                      num_layers=num_layers, **kwargs)
        return sum(p.numel() for p in model.parameters() if p.requires_grad)

    want = (U + I) * d + sum(
        w * c + c + U * c + c**2 + (c * d + d) + ((c + d) * d + d) +
        (num_layers - 1) * (d**2 + (d**2 + d) + (2 * d**2 + d))
        for w in widths.values())
    assert count() == want
    assert count(combine='add') == want - 3 * num_layers * d * d
    assert count(freeze_users=True) == want - (U + I) * d - 3 * U * c


def test_users_are_trained_unless_frozen() -> None:
    for frozen in (False, True):
        model = MMGCN.from_data(TRAIN, D, seed=0, freeze_users=frozen)
        before = {k: x.clone() for k, x in model.state_dict().items()}
        task = RankingTask(model, GRAPH, STORE.edge_index, l2=1e-3,
                           objective=RankingObjective('bpr'))
        optimizer = torch.optim.Adam(task.parameter_groups()[0]['params'])
        task(next(iter(task.loader(64))))[0].backward()
        optimizer.step()
        moved = {k for k, x in model.state_dict().items()
                 if not torch.equal(x, before[k])}
        tables = {'user_embedding.weight', 'item_embedding.weight',
                  *(f'preferences.{modality_key(name)}.weight'
                    for name in model.modalities)}
        assert moved & tables == (set() if frozen else tables)
        assert moved - tables


def test_what_nobody_touched_has_its_content_alone() -> None:
    data = other_data(29, 23)
    graph = graph_of(data)
    model = MMGCN.from_data(data, D, seed=0)
    before = model(graph).item[0]
    with torch.no_grad():
        model.item_embedding.weight[0] += 1.0
    assert_close(model(graph).item[0], before)
    other = data.clone()
    other['item'].visual = data['item'].visual.flip(0)
    model.set_features({k: other['item'][k] for k in model.modalities},
                       {'textual': data['item'].textual_mask}, fit=False)
    assert not torch.allclose(model(graph).item[0], before)


@pytest.mark.parametrize('cold', [False, True], ids=['all', 'cold'])
def test_features_are_worth_something(cold: bool) -> None:
    own, others = gain_of_features(
        MMGCN, {}, {'ranking_loss': 'softmax', 'epochs': 20, 'lr': 0.01,
                    'batch_size': 512, 'num_negatives': 64,
                    'warm_negatives': True}, cold)
    assert own > 1.2 * others, (own, others)


def test_bad_input() -> None:
    for kwargs, message in [
        ({'combine': 'mean'}, "'combine' must be one of"),
        ({'fusion': 'add'}, "'fusion' must be one of"),
        ({'num_layers': 0}, "'num_layers' must be at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            MMGCN(U, I, {'x': 3}, D, **kwargs)
    with pytest.raises(TypeError, match="'freeze_users'"):
        MMGCN(U, I, {'x': 3}, D, freeze_users=1)
    with pytest.raises(ValueError, match='no item features'):
        MMGCN(U, I, {'x': 3}, D)(GRAPH)
