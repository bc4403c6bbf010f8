from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from graphs import NUM_ITEMS, NUM_USERS, hand_made_batch, random_edges, to_graph
from torch.testing import assert_close

from torch_promptmm.nn import UserItemGraph, drop_edges


@pytest.mark.parametrize('keep', [0.0, 0.1, 0.29, 0.5, 1.0])
def test_the_number_is_exact_and_degrees_are_new(keep: float) -> None:
    edges = random_edges(num_edges=40)
    graph = to_graph(edges)
    out = drop_edges(graph, keep)
    assert out.num_edges == math.floor(round(keep * 40, 6))
    kept = set(map(tuple, out.edge_index.t().tolist()))
    assert len(kept) == out.num_edges
    assert kept <= set(map(tuple, edges.t().tolist()))
    want = UserItemGraph(out.edge_index, NUM_USERS, NUM_ITEMS)
    assert_close(out.user_item.tensor.to_dense(),
                 want.user_item.tensor.to_dense())
    assert graph.num_edges == 40


def test_float_rounding_does_not_lose_an_edge() -> None:
    edges = torch.cartesian_prod(torch.arange(10), torch.arange(10)).t()
    graph = UserItemGraph(edges, 10, 10)
    assert drop_edges(graph, 0.29).num_edges == 29
    assert drop_edges(graph, 1 - 0.9).num_edges == 10


def test_probabilities() -> None:
    # Item 0 has four users, the items 1 to 4 one each; user 0 has two.
    edges = torch.tensor([[0, 1, 2, 3, 0], [0, 0, 0, 0, 1]])
    graph = UserItemGraph(edges, 4, 2)
    weight = np.array([1 / 8**.5, .5, .5, .5, 1 / 2**.5])
    generator, count = torch.Generator().manual_seed(0), np.zeros(5)
    order = {pair: number for number, pair in enumerate(
        map(tuple, edges.t().tolist()))}
    draws = 4000
    for _ in range(draws):
        out = drop_edges(graph, 0.2, generator)
        count[order[tuple(out.edge_index[:, 0].tolist())]] += 1
    share = weight / weight.sum()
    error = np.abs(count / draws - share)
    assert (error < 4 * (share * (1 - share) / draws)**0.5).all()


def test_it_is_drawn_without_replacement_one_after_another() -> None:
    # The inclusion of two out of three with weights a, b, b.
    edges = torch.tensor([[0, 0, 1], [0, 1, 1]])
    graph = UserItemGraph(edges, 2, 2)
    w = np.array([1 / 2**.5, .5, 1 / 2**.5])
    p = w / w.sum()
    want = p[1] + sum(p[i] * p[1] / (1 - p[i]) for i in (0, 2))
    generator, draws = torch.Generator().manual_seed(0), 4000
    count = sum([0, 1] in drop_edges(graph, 0.67, generator)
                .edge_index.t().tolist() for _ in range(draws))
    assert abs(count / draws - want) < 4 * (want * (1 - want) / draws)**0.5


def test_seed_and_type() -> None:
    graph = to_graph(random_edges()).to(dtype=torch.double)
    outs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outs.append(drop_edges(graph, 0.5))
    assert outs[0].dtype == torch.double
    assert torch.equal(outs[0].edge_index, outs[1].edge_index)
    assert not torch.equal(outs[0].edge_index, outs[2].edge_index)


def test_bad_arguments() -> None:
    graph = to_graph(random_edges())
    with pytest.raises(ValueError, match="'keep' must be a finite number in"):
        drop_edges(graph, 1.1)
    batch = UserItemGraph.from_batch(hand_made_batch(random_edges()), graph)
    with pytest.raises(ValueError, match='must be the full graph'):
        drop_edges(batch, 0.5)
