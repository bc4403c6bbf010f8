"""The chosen fusion is what brute force over the same candidates picks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch

from torch_promptmm.data import from_interactions, held_out, read_graph
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.distill import choice, choose_fusion
from torch_promptmm.evaluate import evaluate_embeddings
from torch_promptmm.models import Ensemble, Fusion, MultimodalTeacher, embed
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.train import fit

TRAIN, VAL, _ = SyntheticMultimodal(
    90, 70, 1500, {'visual': 12, 'textual': 9}, informative=0.5,
    cold_fraction=0.1, seed=1)
VIEW, VAL_VIEW = read_graph(TRAIN), read_graph(VAL)
GRAPH = UserItemGraph(VIEW.edge_index, 90, 70)
POSITIVES, KNOWN = held_out(VAL_VIEW), VAL_VIEW.edge_index


def make(num_members: int = 2, **kwargs) -> Ensemble:
    # Propagated, random rows know something already.
    return Ensemble.from_data(TRAIN, 16, seed=0, num_members=num_members,
                              **kwargs)


def recall(model: Ensemble, fusion: Fusion, k: int,
           positives: torch.Tensor = POSITIVES,
           metric: str = 'recall') -> float:
    model.fusion = fusion
    return evaluate_embeddings(*embed(model, GRAPH, 'dot'), positives, KNOWN,
                               k, metrics=(metric, ))[f'{metric}@{k}']


def first_best(model: Ensemble, candidates: Iterable[Fusion], k: int,
               positives: torch.Tensor, metric: str) -> Fusion:
    best, out = -1.0, Fusion()
    for fusion in candidates:
        value = recall(model, fusion, k, positives, metric)
        if value > best + 1e-9:
            best, out = value, fusion
    return out


def brute_force(model: Ensemble, k: int, positives: torch.Tensor,
                metric: str = 'recall') -> Fusion:
    names, run = model.content_modalities, (k, positives, metric)
    standard = dict.fromkeys(names, 'standardize')
    start = Fusion(dict.fromkeys(names, 0.0), scaling=standard,
                   cold_weight=1.25 if names else 1.0)
    weights = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0) if names else (0.0, )
    best = first_best(model, [
        replace(start, popularity=rho, weights=dict.fromkeys(names, weight))
        for weight in weights for rho in (0.0, 0.1, 0.2, 0.3)], *run)
    for name in names if len(names) > 1 else ():
        best = first_best(model, [best, *(
            replace(best, weights={**best.weights, name: weight})
            for weight in weights)], *run)
    for name in names:
        for scaling in ('raw', 'whiten'):
            best = first_best(model, [best, *(
                replace(best, weights={**best.weights, name: weight},
                        scaling={**best.scaling, name: scaling})
                for weight in weights[1:])], *run)
    if len(model.members) > 1:
        best = first_best(model, [best, *(
            replace(best, rank=rank, whole=whole, popularity=rho)
            for rank in (24, 32, 48) for whole in (0.25, 0.5, 1.0)
            for rho in (0.0, 0.1, 0.2))], *run)
    if model.prompted is not None:
        best = first_best(model, [best, *(
            replace(best, whole=share * best.whole, prompted=weight,
                    weights={k: other * v for k, v in best.weights.items()})
            for other in (1.0, 0.5) for share in (1.0, 0.5)
            for weight in (0.25, 0.5, 1.0, 2.0))], *run)
    if model.co_occurrence is not None:
        best = first_best(model, [best, *(
            replace(best, co_occurrence=weight)
            for weight in (0.02, 0.05, 0.1, 0.2, 0.4))], *run)
    if names:
        best = first_best(model, [best, *(
            replace(best, cold_weight=kappa)
            for kappa in (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0))], *run)
    return best


@pytest.mark.parametrize('metric, kwargs', [
    ('recall', {'num_members': 1}),
    ('recall', {'num_members': 3, 'neighbors': 20}),
    ('ndcg', {'num_members': 2, 'neighbors': 20}),
    ('mrr', {'num_members': 1, 'modalities': ['visual']}),
    ('recall', {'num_members': 2, 'use_content': False, 'neighbors': 20}),
    ('recall', {'num_members': 2, 'prompt': 'pca', 'neighbors': 20}),
    ('ndcg', {'num_members': 1, 'modalities': ['visual'],
              'train_content': True})])
def test_equals_brute_force(metric: str, kwargs) -> None:
    model = make(**kwargs)
    fusion, value = choose_fusion(model, GRAPH, POSITIVES, KNOWN,
                                  f'{metric}@7')
    assert model.fusion == fusion
    assert value == pytest.approx(recall(model, fusion, 7, metric=metric),
                                  abs=1e-6)
    assert fusion == brute_force(model, 7, POSITIVES, metric)
    # Something was to be chosen, and it was worth it.
    start = Fusion(dict.fromkeys(model.content_modalities, 0.0))
    assert fusion != start and value > recall(model, start, 7, metric=metric)
    if model.content_modalities:
        assert max(fusion.weights.values()) > 0.0


def test_the_scaling_that_suits_is_chosen() -> None:
    """Taste is among copies of noise, among large noise, or itself large."""
    generator = torch.Generator().manual_seed(0)
    taste = torch.randn(70, 4, generator=generator)
    noise = torch.randn(70, 3, generator=generator)
    user = torch.randn(90, 4, generator=generator)
    score = user @ taste.t()
    top = score.topk(24, dim=1).indices
    user_id = torch.arange(90).repeat_interleave(24)
    edges = torch.stack([user_id, top.flatten()])
    held = torch.rand(edges.size(1), generator=generator) < 0.3
    x = {'copies': torch.cat([taste, noise.repeat(1, 20) + 0.01 * torch.randn(
            70, 60, generator=generator)], dim=1),
         'scales': torch.cat([taste, 30 * noise], dim=1),
         'plain': torch.cat([3 * taste, 0.1 * noise.repeat(1, 4)], dim=1)}
    want = {'copies': {'whiten'}, 'scales': {'standardize', 'whiten'},
            'plain': {'raw'}}
    graph = UserItemGraph(edges[:, ~held], 90, 70)
    for name in x:
        data = from_interactions(edges[:, ~held], {name: x[name]}, 90, 70)
        model = Ensemble.from_data(data, 2, seed=0, num_layers=0, hop=0.0)
        fusion, _ = choose_fusion(model, graph, edges[:, held],
                                  edges[:, ~held], 'recall@5')
        assert fusion.scaling[name] in want[name], name
        assert model.content.scaling == fusion.scaling
        kept = Ensemble.from_data(data, 2, seed=0, num_layers=0, hop=0.0)
        fusion, _ = choose_fusion(kept, graph, edges[:, held],
                                  edges[:, ~held], scalings=())
        assert fusion.scaling == {name: 'standardize'}


@pytest.mark.parametrize('held_out_cold', [True, False])
def test_the_weight_of_cold_items_needs_some(held_out_cold: bool) -> None:
    cold = GRAPH.item_user.crow.diff() == 0
    assert cold[POSITIVES[1]].any()
    positives = POSITIVES
    if not held_out_cold:
        positives = positives[:, ~cold[positives[1]]]
    model = make(1)
    fusion, _ = choose_fusion(model, GRAPH, positives, KNOWN)
    if not held_out_cold:  # Else it would be zero: no cold item is right.
        assert fusion.cold_weight == choice._COLD_WEIGHT
    # Random members and content that says nothing: best left out.
    data = from_interactions(VIEW.edge_index, {
        'x': torch.randn(70, 4)}, 90, 70)
    other = Ensemble.from_data(data, 16, seed=0)
    chosen = choose_fusion(other, GRAPH, POSITIVES, KNOWN, 'recall@60')[0]
    values = [recall(other, replace(chosen, cold_weight=kappa), 60)
              for kappa in choice.COLD_WEIGHTS]
    assert chosen.cold_weight == choice.COLD_WEIGHTS[
        values.index(max(values))] or max(values) == pytest.approx(
            recall(other, chosen, 60))


def test_a_sample_of_the_users() -> None:
    model = make(1)
    users = POSITIVES[0].unique()
    assert users.numel() > 60
    some = users[::-(-users.numel() // 30)]
    positives = POSITIVES[:, torch.isin(POSITIVES[0], some)]
    fusion, value = choose_fusion(model, GRAPH, POSITIVES, KNOWN, 'recall@10',
                                  num_users=30)
    assert fusion == brute_force(model, 10, positives)
    assert value == pytest.approx(recall(model, fusion, 10, positives),
                                  abs=1e-6)


def test_of_equally_good_ones_the_first() -> None:
    # Whoever ranks all items finds all of them.
    model = make(2)
    fusion, value = choose_fusion(model, GRAPH, POSITIVES, KNOWN, 'recall@70')
    assert value == 1.0
    assert fusion == Fusion(
        {'visual': 0.0, 'textual': 0.0}, cold_weight=choice._COLD_WEIGHT,
        scaling={'visual': 'standardize', 'textual': 'standardize'})
    model = make(2, use_content=False)
    assert choose_fusion(model, GRAPH, POSITIVES, KNOWN,
                         'recall@70')[0] == Fusion()


def test_content_that_is_worth_nothing_weighs_nothing() -> None:
    """Users of two halves of the catalogue, whose members know it all; the
    features say the contrary."""
    user = torch.arange(40).repeat_interleave(20)
    item = torch.arange(20).repeat(40) + 20 * (user % 2)
    held = (item % 20 - user // 2) % 20 == 0
    edges = torch.stack([user, item])
    x = torch.randn(40, 6)
    data = from_interactions(edges[:, ~held], {'x': x}, 40, 40)
    # Many steps of propagation leave which half it is.
    model = Ensemble.from_data(data, 16, seed=0, num_layers=12, hop=0.0)
    graph = UserItemGraph(edges[:, ~held], 40, 40)
    fusion, value = choose_fusion(model, graph, edges[:, held],
                                  edges[:, ~held], 'recall@1')
    assert fusion == Fusion({'x': 0.0}, scaling={'x': 'standardize'})
    assert value > 0.99


def test_dropout_does_not_blur_it() -> None:
    teacher = MultimodalTeacher.from_data(TRAIN, 8, seed=0, dropout=0.9)
    model = Ensemble([teacher]).train()
    (_, first), (_, again) = (
        choose_fusion(model, GRAPH, POSITIVES, KNOWN) for _ in range(2))
    assert first == again == pytest.approx(recall(model, model.fusion, 20),
                                           abs=1e-6)
    assert model.training and teacher.training


@pytest.mark.parametrize('kwargs, match', [
    ({'num_users': 0}, "'num_users' must be at least 1"),
    ({'metric': 'recall@0'}, "'metric' must have a cut-off"),
    ({'metric': 'recall'}, "'metric' must be one of"),
    ({'metric': 'coverage@5'}, "'metric' must be one of"),
    ({'scalings': ('raw', 'centre')}, "'scaling.*centre'"),
])
def test_bad_input(kwargs, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        choose_fusion(make(1), GRAPH, POSITIVES, KNOWN, **kwargs)


def test_a_member_that_learned_content_weighs_something() -> None:
    """One that knows the answer, beside parts that do not."""
    model = make(1, prompt='pca')
    assert model.prompted is not None
    torch.manual_seed(0)
    for x in model.members.parameters():
        torch.nn.init.normal_(x)
    fit(model.prompted, TRAIN, VAL, epochs=20, patience=None, seed=0,
        progress=False)
    fusion, value = choose_fusion(model, GRAPH, POSITIVES, KNOWN)
    assert fusion.prompted > 0.0
    assert value == pytest.approx(recall(model, fusion, 20), abs=1e-6)
    assert value > recall(model, replace(fusion, prompted=0.0), 20) + 0.01
