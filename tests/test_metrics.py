"""Every metric by name, against lists of one user after another."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from baselines import Content
from hypothesis import given
from hypothesis import strategies as st
from rankings import cases, distinct_scores, embeddings
from torch import Tensor
from torch_geometric.metrics import (
    LinkPredDiversity,
    LinkPredMRR,
)

from torch_promptmm.data import from_interactions
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.evaluate import HITS, LISTS, evaluate, evaluate_embeddings

NAMES = [*HITS, *LISTS]


def lists_of(scores: Tensor, held_out: Tensor, known: Tensor | None,
             k: int) -> list[tuple[list[int], set[int]]]:
    """The best items of each user with positives, and these."""
    out = []
    pairs = set(map(tuple, [] if known is None else known.t().tolist()))
    for user, row in enumerate(scores.double().numpy()):
        positives = {i for u, i in held_out.t().tolist() if u == user}
        left = [i for i in np.argsort(-row).tolist() if (user, i) not in pairs]
        if positives:
            out.append((left[:k], positives))
    return out


def of_hits(items: list[int], positives: set[int], k: int) -> dict[str, float]:
    hit = np.array([i in positives for i in items] +
                   [False] * (k - len(items)), dtype=np.float64)
    place = np.arange(1, k + 1)
    most = min(k, len(positives))
    precision, recall = hit.sum() / k, hit.sum() / len(positives)
    return {
        'recall': recall,
        'ndcg': (hit / np.log2(place + 1)).sum() / sum(
            1 / math.log2(x + 1) for x in range(1, most + 1)),
        'precision': precision,
        'f1': 2 * precision * recall / max(precision + recall, 1e-12),
        'map': (hit * hit.cumsum() / place).sum() / most,
        'mrr': (hit / place).max(),
        'hit_ratio': float(hit.any()),
    }


def of_lists(lists: list[list[int]], known: Tensor, k: int,
             num_items: int) -> dict[str, float]:
    count = np.bincount(known[1].numpy(), minlength=num_items)
    apart = [1 - len(set(a) & set(b)) / k for i, a in enumerate(lists)
             for b in lists[i + 1:]]
    return {
        'coverage': len(set().union(*lists)) / num_items,
        'personalization': float(np.mean(apart)) if apart else math.nan,
        'popularity': float(np.mean([count[x].mean() for x in lists if x]))
        if any(lists) else 0.0,
    }


@given(cases(), st.integers(1, 9), st.sampled_from([1, 2, None]))
def test_against_a_loop(case, k: int, batch_size: int | None) -> None:
    scores, held_out, known = case
    k = min(k, scores.size(1))
    if known is None:
        known = torch.empty(2, 0, dtype=torch.long)
    lists = lists_of(scores, held_out, known, k)
    want = of_lists([items for items, _ in lists], known, k, scores.size(1))
    each = [of_hits(*pair, k) for pair in lists]
    want |= {name: float(np.mean([x[name] for x in each])) for name in HITS}
    args = (*embeddings(scores), held_out, known)
    have = evaluate_embeddings(*args, k, batch_size, metrics=NAMES)
    assert list(have) == [f'{name}@{k}' for name in NAMES]
    for name in NAMES:
        assert isinstance(have[f'{name}@{k}'], float)
        assert have[f'{name}@{k}'] == pytest.approx(
            want[name], abs=1e-5, nan_ok=True), name
    per_user = evaluate_embeddings(*args, k, batch_size, True, list(HITS))
    for name in HITS:
        np.testing.assert_allclose(per_user[f'{name}@{k}'],
                                   [x[name] for x in each], atol=1e-5)


def test_lists_of_all_lengths() -> None:
    """User 0 has all four places filled, user 1 two, user 2 none at all."""
    scores = torch.tensor([[5.0, 4, 3, 2, 1]] * 3)
    known = torch.tensor([[1] * 3 + [2] * 5, [0, 2, 4, 0, 1, 2, 3, 4]])
    held_out = torch.tensor([[0, 1, 2], [3, 1, 0]])
    out = evaluate_embeddings(*embeddings(scores), held_out, known, 4,
                              metrics=NAMES)
    # Of 8 known interactions 2 are of each item, but item 1 and 3 have one.
    assert out['popularity@4'] == pytest.approx(
        ((2 + 1 + 2 + 1) / 4 + (1 + 1) / 2) / 2)
    assert out['coverage@4'] == pytest.approx(4 / 5)  # Never item 4.
    assert out['personalization@4'] == pytest.approx((0.5 + 1 + 1) / 3)
    assert out['precision@4'] == pytest.approx((1 / 4 + 1 / 4 + 0) / 3)


def test_several_cut_offs() -> None:
    scores = distinct_scores(5, 9, 1)
    held_out = torch.tensor([[0, 1, 4], [3, 3, 8]])
    known = torch.tensor([[0, 2], [1, 1]])
    args = (*embeddings(scores), held_out, known)
    both = evaluate_embeddings(*args, (2, 5), metrics=NAMES)
    for k in (2, 5):
        one = evaluate_embeddings(*args, k, metrics=NAMES)
        assert one == {key: both[key] for key in one}
    assert len(both) == 2 * len(NAMES)


def test_a_function_that_makes_a_metric() -> None:
    scores = distinct_scores(4, 8, 3)
    held_out = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])
    category = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    out = evaluate_embeddings(
        *embeddings(scores), held_out, k=3,
        metrics=['recall', lambda k: LinkPredDiversity(k, category),
                 LinkPredMRR])
    want = [1 - sum(int(category[a] == category[b])
                    for a in items for b in items if a != b) / 6
            for items, _ in lists_of(scores, held_out, None, 3)]
    assert list(out) == ['recall@3', 'LinkPredDiversity@3', 'LinkPredMRR@3']
    assert out['LinkPredDiversity@3'] == pytest.approx(np.mean(want))
    assert out['LinkPredMRR@3'] == pytest.approx(evaluate_embeddings(
        *embeddings(scores), held_out, k=3, metrics=['mrr'])['mrr@3'])




class Seen:
    def __init__(self) -> None:
        self.lists: list[tuple[list, set]] = []

    def to(self, device: Any) -> Seen:
        return self

    def update(self, item: Tensor, label: tuple[Tensor, Tensor]) -> None:
        for row, items in enumerate(item.tolist()):
            self.lists.append((items, set(label[1][label[0] == row].tolist())))

    def compute(self) -> float:
        return 1.0


@given(cases(), st.integers(1, 9))
def test_a_metric_sees_lists_and_positives(case, k: int) -> None:
    scores, held_out, known = case
    k = min(k, scores.size(1))
    seen = Seen()
    evaluate_embeddings(*embeddings(scores), held_out, known, k,
                        metrics=[lambda _: seen])
    want = [x for x in lists_of(scores, held_out, known, k) if x[0]]
    key = str
    assert sorted(seen.lists, key=key) == sorted(want, key=key)


def test_what_has_no_value_of_each_user() -> None:
    args = (*embeddings(distinct_scores(3, 4, 0)), torch.tensor([[0], [1]]),
            torch.tensor([[0], [0]]))
    for name in LISTS:
        with pytest.raises(ValueError, match=f"'metrics' has '{name}'.*"
                           f"per_user=False"):
            evaluate_embeddings(*args, 2, None, True, ['recall', name])
        evaluate_embeddings(*args, 2, metrics=[name])


@pytest.mark.parametrize('metrics, error, match', [
    (['recal'], ValueError, "'metrics' must be of recall, ndcg"),
    ([None], ValueError, 'got None'),
    ([], ValueError, 'at least one metric'),
    ('recall', TypeError, "'metrics' must be a list of names .got 'recall'"),
    (3, TypeError, 'got 3'),
    ([LinkPredMRR, LinkPredMRR], ValueError, "has two 'LinkPredMRR@2'"),
])
def test_metrics_that_are_none(metrics, error, match) -> None:
    with pytest.raises(error, match=match):
        evaluate_embeddings(*embeddings(distinct_scores(3, 4, 0)),
                            torch.tensor([[0], [1]]), k=2, metrics=metrics)


def test_popularity_needs_what_is_known() -> None:
    args = *embeddings(distinct_scores(3, 4, 0)), torch.tensor([[0], [1]])
    with pytest.raises(ValueError, match="'popularity' counts 'known'"):
        evaluate_embeddings(*args, k=2, metrics=['popularity'])


# Of a model


def test_a_model_that_lost_its_features_takes_those_of_the_data() -> None:
    train, _, test = SyntheticMultimodal.blocks()
    model = Content.from_data(train, 4, seed=0)
    want = evaluate(model, test, k=5, metrics=NAMES)
    model.item_features.release()
    assert evaluate(model, test, k=5, metrics=NAMES) == want
    assert model.item_features.available
    # Those that it has are its own.
    other = test.clone()
    other['item'].visual = torch.zeros_like(other['item'].visual)
    assert evaluate(model, other, k=5, metrics=NAMES) == want
    model.item_features.release()
    del other['item'].visual
    with pytest.raises(ValueError, match='visual'):
        evaluate(model, other, k=5)


def test_any_module_and_any_metric() -> None:
    data = from_interactions([[0, 1], [0, 1]], {}, 2, 4,
                             edge_label_index=[[0, 1], [2, 3]])

    class Fixed(torch.nn.Module):
        def forward(self, graph):
            return torch.eye(2, 4), torch.tensor([
                [9.0, 0, 0, 0], [1, 9, 0, 0], [8, 1, 0, 0], [2, 2, 0, 0]])

    out = evaluate(Fixed(), data, k=1, metrics=['recall', 'coverage'])
    assert out == {'recall@1': 0.5 + 0.5, 'coverage@1': 0.5}
    out = evaluate(Fixed(), data, k=2, per_user=True, metrics=['hit_ratio'])
    assert out['user'].tolist() == [0, 1]
    assert out['hit_ratio@2'].tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="'score' must be one of"):
        evaluate(Fixed(), data, k=1, score='l2')
