"""Models on the batches of PyG's neighbour loaders."""

from __future__ import annotations

import pytest
import torch
from graphs import NUM_ITEMS, NUM_USERS, SEEDS, hand_made_batch, random_edges
from teachers import make_teacher

from torch_promptmm.models import LightGCN
from torch_promptmm.nn import UserItemGraph

ROWS = torch.arange(len(SEEDS))  # Of the seeds, in the batch.


def graphs() -> tuple[UserItemGraph, UserItemGraph]:
    edge_index = random_edges()
    full = UserItemGraph(edge_index, NUM_USERS, NUM_ITEMS,
                         dtype=torch.double)
    return full, UserItemGraph.from_batch(hand_made_batch(edge_index), full)


def check(model: torch.nn.Module, seeds, rows) -> None:
    """The seeds' rows, and their gradients, are those of the full graph."""
    full, batch = graphs()
    assert batch.num_items < NUM_ITEMS
    want, have = seeds(model(full)), rows(model(batch))
    grad = torch.randn_like(want)
    parameters = [p for p in model.parameters() if p.requires_grad]
    expected, found = (
        torch.autograd.grad(x, parameters, grad, allow_unused=True)
        for x in (want, have))
    torch.testing.assert_close(have, want)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_light_gcn() -> None:
    model = LightGCN(NUM_USERS, NUM_ITEMS, 4).double()
    check(model, lambda out: out[0][SEEDS], lambda out: out[0][ROWS])
    check(model, lambda out: out[0][SEEDS[:1]],
          lambda out: out[0].index_select(0, ROWS[:1]))


@pytest.mark.parametrize('normalize', [False, 'size', 'row'])
@pytest.mark.parametrize('prompt_layers', [None, 1, 2])
def test_teacher(normalize, prompt_layers) -> None:
    # Prompts of several layers are a sum over all items.
    model, _, _ = make_teacher(prompt_layers, normalize=normalize)
    check(model, lambda out: out.user[SEEDS], lambda out: out.user[ROWS])
    for name in model.modalities:
        check(model, lambda out, n=name: out.modalities[n][0][SEEDS],
              lambda out, n=name: out.modalities[n][0][ROWS])


def test_a_graph_of_other_sizes() -> None:
    _, batch = graphs()
    with pytest.raises(ValueError, match='rows of all users'):
        LightGCN(NUM_USERS + 1, NUM_ITEMS, 4).double()(batch)
