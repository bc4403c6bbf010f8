"""GRCN: the shared suite, its equations in NumPy, and what is its own."""

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

from torch_promptmm.models import GRCN
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.train import RankingObjective, RankingTask, Task

TOY = UserItemGraph(torch.tensor([[0, 0, 1], [0, 1, 1]]), 3, 3,
                    dtype=torch.double)


class TestGRCN(ModelSuite):
    kwargs: dict[str, Any] = {}
    ranking_loss = 'bpr'
    epochs = 20

    def make(self, seed: int = 0) -> Task:
        model = GRCN.from_data(TRAIN, D, seed=seed, **self.kwargs)
        return RankingTask(model, GRAPH, STORE.edge_index, l2=1e-3,
                           objective=RankingObjective(self.ranking_loss,
                                                      num_negatives=16))


class TestHardGRCN(TestGRCN):
    ranking_loss = 'softmax'
    kwargs = {'pruning': 'hard', 'content_channels': 5, 'num_routing': 1}


def toy(num_routing: int) -> GRCN:
    """One modality of the toy graph, in which the map is the identity."""
    model = GRCN(3, 3, {'x': 2}, 2, num_routing=num_routing,
                 standardize=False).double()
    model.set_features({'x': torch.tensor([[1.0, 1.0], [0.0, 1.0],
                                           [1.0, 0.0]]).double()})
    with torch.no_grad():
        model.preference('x').copy_(torch.tensor([[1.0, 0.0]]).expand(3, 2))
        model.maps['x'].weight.copy_(torch.eye(2))
    return model


def unit(x: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)


def softmax(score: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """Over the edges of each row of a dense matrix."""
    out = np.where(edge, np.exp(score), 0.0)
    return out / np.maximum(out.sum(axis=1, keepdims=True), 1e-300)


def reference(model: GRCN, edge: np.ndarray) -> list[np.ndarray]:
    """Users and items, by dense matrices."""
    def of(x: torch.Tensor) -> np.ndarray:
        return x.detach().double().numpy()

    contents, shares = [], []
    for number, name in enumerate(model.modalities):
        reduction, x = model.maps[name], model.item_features.tensors[name]
        z = (of(x) - of(reduction.mean)) * of(reduction.scale)
        z = z @ of(reduction.weight) + of(reduction.bias)
        z = np.where(z > 0, z, 0.01 * z)
        if name in model.item_features.masks:
            z *= model.item_features.masks[name].numpy()[:, None]
        z, p = unit(z), unit(of(model.preference(name)))
        for _ in range(model.num_routing):
            p = unit(p + softmax(p @ z.T, edge) @ z)
        user, item = softmax(p @ z.T, edge), softmax(z @ p.T, edge.T)
        contents.append((p + user @ z, z + item @ p))
        if model.refine == 'confidence':
            user = user * of(model.item_confidence)[:, number]
            item = item * of(model.user_confidence)[:, number]
        shares.append((user, item))
    reduce = np.mean if model.refine == 'mean' else np.max
    a_user, a_item = (np.where(e, reduce(np.stack(x), axis=0), 0.0)
                      for x, e in zip(zip(*shares, strict=True),
                                      (edge, edge.T), strict=True))
    if model.pruning == 'hard':
        a_user, a_item = np.maximum(a_user, 0), np.maximum(a_item, 0)
    user = unit(of(model.user_embedding.weight)) * edge.any(1)[:, None]
    item = unit(of(model.item_embedding.weight)) * edge.any(0)[:, None]
    sums = [user, item]
    for _ in range(model.num_layers):
        user, item = a_user @ item, a_item @ user
        sums = [sums[0] + user, sums[1] + item]
    return [np.concatenate([x, *(c[i] for c in contents)], axis=1)
            for i, x in enumerate(sums)]


@pytest.mark.parametrize('kwargs', [
    {}, {'refine': 'mean'}, {'refine': 'max', 'num_routing': 1},
    {'pruning': 'hard', 'num_layers': 1}, {'num_routing': 0},
], ids=str)
def test_equals_dense_matrices(kwargs: dict[str, Any]) -> None:
    data = other_data(29, 23)
    model = GRCN.from_data(data, 6, content_channels=4, seed=0,
                           **kwargs).double()
    for name in ('user_confidence', 'item_confidence'):
        if (confidence := getattr(model, name)) is not None:
            torch.nn.init.normal_(confidence)
    graph = graph_of(data).to(dtype=torch.double)
    edge = graph.user_item.tensor.to_dense().numpy() > 0
    out = model(graph)
    for have, want in zip(out[:2], reference(model, edge), strict=True):
        assert_close(have, torch.from_numpy(want), rtol=0, atol=1e-9)
        assert have.size(1) == model.width == 6 + 2 * 4


def test_known_answer() -> None:
    root = 0.5**0.5
    for num_routing, want in [
        (0, [[1, 0], [1, 0], [1, 0]]),
        (1, [[.87788219, .47887666], [root, root], [1, 0]]),
        (3, [[.58866779, .80837506], [.19509032, .98078528], [1, 0]]),
    ]:
        routed = toy(num_routing).route('x', TOY.user_item)
        assert_close(routed.user, torch.tensor(want).double(), rtol=0,
                     atol=1e-6)
        if num_routing == 1:  # Edges (0, 0), (0, 1), (1, 1).
            for have, shares in [
                (routed.to_user, [.61786516, .38213484, 1]),
                (routed.to_item, [1, .44318886, .55681114]),
            ]:
                assert_close(have, torch.tensor(shares).double(), rtol=0,
                             atol=1e-6)


def test_the_code_routes_nobody() -> None:
    # Its messages go to the items, and it reads those of the users.
    model = toy(0)
    z, p = unit(model.content('x').detach().numpy()), np.array([[1.0, 0]] * 3)
    for _ in range(3):
        to_item = np.zeros((6, 2))
        for user, item in TOY.edge_index.t().tolist():
            to_item[3 + item] += p[user] * z[item].sum()
        p = unit(p + to_item[:3])
    assert_close(model.route('x', TOY.user_item).user, torch.from_numpy(p))
    assert not torch.allclose(toy(3).route('x', TOY.user_item).user[0],
                              torch.from_numpy(p[0]))


def test_routing_trains_through_its_shares() -> None:
    # With users fixed, the map of the features moves them.
    model = toy(2)
    user = model.route('x', TOY.user_item).user
    grad, = torch.autograd.grad(user.square()[:, 0].sum(),
                                model.maps['x'].weight)
    assert grad.abs().sum() > 1e-3


@pytest.mark.parametrize('refine', ['confidence', 'max', 'mean'])
def test_number_of_parameters(refine: str) -> None:
    widths, d, c = {'a': 5, 'b': 7, 'c': 3}, 6, 4
    model = GRCN(U, I, widths, d, content_channels=c, refine=refine)
    want = (U + I) * d + sum(U * c + w * c + c for w in widths.values())
    want += (U + I) * len(widths) if refine == 'confidence' else 0
    assert sum(p.numel() for p in model.parameters()) == want


def test_hard_pruning_cuts_what_is_negative() -> None:
    model = GRCN.from_data(TRAIN, D, seed=0, pruning='hard')
    with torch.no_grad():
        model.item_confidence.fill_(-1.0)
    matrix = GRAPH.user_item
    routed = {name: model.route(name, matrix) for name in model.modalities}
    to_user, to_item = model.edge_weights(matrix, routed)
    assert (to_user == 0).all() and (to_item > 0).all()
    model.pruning = 'soft'
    assert (model.edge_weights(matrix, routed)[0] < 0).all()


def test_what_nobody_touched_has_its_content_alone() -> None:
    data = other_data(29, 23)
    model = GRCN.from_data(data, D, seed=0)
    out = model(graph_of(data))
    assert (out.item[0, :D] == 0).all() and (out.item[0, D:] != 0).any()
    assert (out.user[-1, :D] == 0).all()
    x = torch.nn.functional.leaky_relu(
        model.maps['visual'](data['item'].visual), 0.01)
    assert_close(out.item[0, D:2 * D], x[0] / x[0].norm())


@pytest.mark.parametrize('cold', [False, True], ids=['all', 'cold'])
def test_features_are_worth_something(cold: bool) -> None:
    own, others = gain_of_features(
        GRCN, {}, {'ranking_loss': 'softmax', 'epochs': 15, 'lr': 0.01,
                   'batch_size': 512, 'num_negatives': 64,
                   'warm_negatives': True}, cold)
    assert own > 1.2 * others, (own, others)


def test_bad_input() -> None:
    for kwargs, message in [
        ({'refine': 'min'}, "'refine' must be one of"),
        ({'pruning': 'none'}, "'pruning' must be one of"),
        ({'num_routing': -1}, "'num_routing' must be at least 0"),
        ({'content_channels': 0}, "'content_channels' must be at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            GRCN(U, I, {'x': 3}, D, **kwargs)
    with pytest.raises(ValueError, match='no item features'):
        GRCN(U, I, {'x': 3}, D)(GRAPH)
