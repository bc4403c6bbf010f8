from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import reference
import torch
from contrasts import (
    BATCH,
    GRAPH,
    ITEMS,
    WIDTHS,
    I,
    U,
    array,
    count,
    light_gcn,
    linear,
    make,
    planted,
    planted_recall,
    shuffled,
    unit_features,
)
from test_every_model import GRAPH as BLOCKS
from test_every_model import STORE, TEST, TRAIN, D, ModelSuite

from torch_promptmm.evaluate import evaluate
from torch_promptmm.models import ModelOutput, SLMRec
from torch_promptmm.train import RankingObjective, RankingTask, Task, fit


class TestSuite(ModelSuite):
    epochs = 30
    objective = 'own'

    def make(self, seed: int = 0) -> Task:
        model = SLMRec.from_data(TRAIN, D, seed=seed)
        return RankingTask(model, BLOCKS, STORE.edge_index, l2=1e-3,
                           objective=RankingObjective(self.objective, 'cosine',
                                                      num_negatives=16))


class TestSoftmax(TestSuite):
    objective = 'softmax'


def naive(model: SLMRec, standardize: bool = True,
          ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The parts, and what they are fused to."""
    user, item = (array(x.weight) for x in (model.user_embedding,
                                            model.item_embedding))
    out = {'id': light_gcn(user, item, model.num_layers)}
    for name, x in unit_features(standardize).items():
        reduction = model.maps[name]
        x = x @ array(reduction.weight) + array(reduction.bias)
        out[name] = light_gcn(user, x, model.num_layers)
    both = [np.concatenate([pair[side] for pair in out.values()], axis=1)
            for side in (0, 1)]
    out['fused'] = (linear(model.fuse_user, both[0]),
                    linear(model.fuse_item, both[1]))
    return out


@pytest.mark.parametrize('num_layers', [0, 1, 3])
@pytest.mark.parametrize('standardize', [True, False])
def test_equals_numpy(num_layers: int, standardize: bool) -> None:
    model = make(SLMRec, num_layers=num_layers, standardize=standardize)
    out, want = model(GRAPH), naive(model, standardize)
    pairs = {**out.modalities, 'fused': (out.user, out.item)}
    for name, pair in pairs.items():
        for x, y in zip(pair, want[name], strict=True):
            np.testing.assert_allclose(array(x), y, atol=1e-6)
    assert list(out.modalities) == list(WIDTHS)


def naive_contrast(a: np.ndarray, b: np.ndarray, temperature: float,
                   *ids: torch.Tensor) -> float:
    values = []
    for i in range(len(a)):
        kept = [k for k in range(len(b)) if k == i or not any(
            int(x[i]) == int(x[k]) for x in ids)]
        scores = np.array([a[i] @ b[k] for k in kept]) / temperature
        values.append(-np.log(reference.softmax(scores)[kept.index(i)]))
    return float(np.mean(values))


@pytest.mark.parametrize('masked', [True, False])
def test_losses_equal_numpy(masked: bool) -> None:
    model = make(SLMRec, temperature=0.4, ssl_temperature=0.6, ssl_weight=0.3,
                 mask_duplicates=masked)
    batch = BATCH._replace(positive=torch.tensor([0, 2, 0]))
    x = naive(model)
    out = model.rows(GRAPH, batch.user,
                     torch.cat([batch.positive, ITEMS[3:]]), 3)
    user, item = (reference.unit_rows(x['fused'][i][index]) for i, index in
                  enumerate((batch.user, batch.positive)))
    ids = (batch.user, batch.positive) if masked else ()
    want = naive_contrast(user, item, 0.4, *ids)
    assert model.own_loss(batch, out).item() == pytest.approx(want, abs=1e-6)

    chain, total = x['id'][1][batch.positive], 0.0
    for number, name in enumerate(WIDTHS):
        chain = linear(model.heads[2 * number], chain)
        target = linear(model.heads[2 * number + 1],
                        x[name][1][batch.positive])
        total += naive_contrast(chain, target, 0.6, *ids[1:])
    value = model.extra_loss(batch, out)['ssl'].item()
    assert value == pytest.approx(0.3 * total, abs=1e-6)
    assert chain.shape[1] == 2  # Half the width.
    for ego, table, index in zip(
            out.ego, (model.user_embedding, model.item_embedding),
            (batch.user, batch.positive), strict=True):
        assert torch.equal(ego, table.weight[index])


def test_known_answers() -> None:
    model = make(SLMRec, ssl=None)
    eye = torch.eye(2, dtype=torch.double)
    pair = BATCH._replace(user=torch.tensor([0, 1]),
                          positive=torch.tensor([0, 1]))
    value = model.own_loss(pair, ModelOutput(eye, eye)).item()
    assert value == pytest.approx(math.log1p(math.exp(-5)))
    assert value == pytest.approx(.0067, abs=5e-5)
    same = ModelOutput(eye[[0, 0]], eye[[0, 0]])
    for twice in (pair._replace(positive=torch.tensor([1, 1])),
                  pair._replace(user=torch.tensor([1, 1]))):
        model.mask_duplicates = True
        assert model.own_loss(twice, same).item() == 0.0
        model.mask_duplicates = False
        assert model.own_loss(twice, same).item() == pytest.approx(
            math.log(2))
    assert model.extra_loss(pair, same) == {}


def test_views_with_dropout() -> None:
    model = make(SLMRec, ssl='fd', dropout=0.0, ssl_temperature=0.5)
    out = model.rows(GRAPH, BATCH.user, ITEMS)
    for number in range(2):  # Without dropout both are the output.
        torch.testing.assert_close(out.own[f'user {number}'], out.user)
        torch.testing.assert_close(out.own[f'item {number}'], out.item[:3])
    user, item = (reference.unit_rows(array(x)) for x in (out.user,
                                                          out.item[:3]))
    want = (naive_contrast(user, user, 0.5, BATCH.user) +
            naive_contrast(item, item, 0.5, BATCH.positive))
    value = model.extra_loss(BATCH, out)['ssl'].item()
    assert value == pytest.approx(0.1 * want, abs=1e-9)
    # Layer 0 has no dropout: with all of it, that one is left.
    model.dropout = 1.0
    out = model.rows(GRAPH, BATCH.user, ITEMS)
    parts = model.inputs()[0] / 4
    torch.testing.assert_close(out.own['user 1'],
                               model.fuse_user(parts)[BATCH.user])
    model.dropout = 0.5
    own = model.rows(GRAPH, BATCH.user, ITEMS).own
    assert not torch.equal(own['user 0'], own['user 1'])
    own = model.eval().rows(GRAPH, BATCH.user, ITEMS).own
    assert torch.equal(own['user 0'], own['user 1'])


def test_views_that_lack_a_part() -> None:
    model = make(SLMRec, ssl='fm')
    x = naive(model)
    wanted = []
    for lacking in ('id', *WIDTHS):
        parts = np.concatenate([0 * x[k][0] if k == lacking else x[k][0]
                                for k in ('id', *WIDTHS)], axis=1)
        wanted.append(linear(model.fuse_user, parts)[BATCH.user])
    seen = set()
    for _ in range(20):
        own = model.rows(GRAPH, BATCH.user, ITEMS).own
        pair = tuple(
            next(i for i, y in enumerate(wanted)
                 if np.allclose(array(own[f'user {number}']), y, atol=1e-6))
            for number in range(2))
        assert pair[0] != pair[1]
        seen |= {pair}
    assert {i for pair in seen for i in pair} == {0, 1, 2}


def test_both_kinds_of_views() -> None:
    model = make(SLMRec, ssl='fd+fm')
    out = model.rows(GRAPH, BATCH.user, ITEMS)
    value = model.extra_loss(BATCH, out)['ssl']
    parts = []
    for numbers in ((0, 1), (2, 3)):
        some = copy.copy(out)
        some.own = {f'{side} {i}': out.own[f'{side} {number}']
                    for i, number in enumerate(numbers)
                    for side in ('user', 'item')}
        parts.append(model.extra_loss(BATCH, some)['ssl'])
    torch.testing.assert_close(value, sum(parts))


def test_the_dot_product_is_ranked_and_cosines_may_be() -> None:
    scores = {}
    for score in ('cosine', None):
        model = SLMRec.from_data(TRAIN, D, seed=0)
        fit(model, TRAIN, epochs=2, seed=0, ranking_loss='own', score=score,
            progress=False)
        scores[model.score] = evaluate(model, TEST, k=5)
    assert scores.keys() == {'cosine', 'dot'}
    assert scores['cosine'] != scores['dot']
    # Another loss has its own score.
    fit(model, TRAIN, epochs=1, ranking_loss='bpr', progress=False)
    assert model.score == 'dot'


@pytest.mark.parametrize('ssl', ['fac', 'fd', None])
def test_number_of_parameters(ssl: str | None) -> None:
    d, m = 4, 2
    want = (U + I) * d + (6 + 1) * d + (3 + 1) * d
    want += 2 * ((m + 1) * d * d + d)
    if ssl == 'fac':
        want += (2 * m - 2) * (d * d + d) + 2 * (d * d // 2 + d // 2)
    assert count(make(SLMRec, ssl=ssl)) == want


@pytest.mark.parametrize('kwargs, message', [
    ({'ssl': 'both'}, "'ssl' must be one of 'fac', 'fd', 'fm', 'fd.fm', None"),
    ({'temperature': 0.0}, "'temperature' must be"),
    ({'ssl_temperature': -1.0}, "'temperature' must be"),
    ({'ssl_weight': -1.0}, "'ssl_weight' must be"),
    ({'dropout': 2.0}, "'dropout' must be"),
    ({'in_channels': {}}, "'in_channels' must map"),
])
def test_bad_input(kwargs, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SLMRec(**{'num_users': U, 'num_items': I, 'in_channels': WIDTHS,
                  **kwargs})
    assert str(make(SLMRec)).endswith("num_layers=3, ssl='fac')")


@pytest.mark.slow
def test_content_pays() -> None:
    data, val, test = planted()
    whole, less = (
        planted_recall(SLMRec, x, val, test, epochs=40, ranking_loss='own',
                       score='cosine')[0] for x in (data, shuffled(data)))
    assert whole > less + 0.01
