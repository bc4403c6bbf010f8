from __future__ import annotations

import copy

import pytest
import torch
from graphs import NUM_ITEMS, NUM_USERS, random_edges

from torch_promptmm.nn import (
    MultimodalTeacher,
    PropagatedFeatures,
    SoftPrompt,
    UserItemGraph,
)

USERS = torch.tensor([5, 3, 5, 0])
ITEMS = torch.tensor([10, 1, 2, 2, 0, 7])


def make(prompt: bool = True, layers: int = 1, masked: bool = False,
         **kwargs) -> tuple[MultimodalTeacher, UserItemGraph]:
    soft = None
    if prompt:
        soft = SoftPrompt(torch.randn(NUM_ITEMS, 4), layers)
        torch.nn.init.normal_(soft.weight)
        torch.nn.init.normal_(soft.bias)
    teacher = MultimodalTeacher(NUM_USERS, NUM_ITEMS, {'a': 7, 'b': 3}, 4,
                                prompt=soft, **kwargs).double()
    features = {'a': 5 + 3 * torch.randn(NUM_ITEMS, 7, dtype=torch.double),
                'b': torch.randn(NUM_ITEMS, 3, dtype=torch.double) - 4}
    mask = torch.rand(NUM_ITEMS) < 0.7
    mask[:2] = True
    if soft is not None:
        soft.double()
    teacher.set_features(features, {'b': mask} if masked else None)
    for name in features:
        torch.nn.init.normal_(teacher.reduction(name).bias)
    graph = UserItemGraph(random_edges(), NUM_USERS, NUM_ITEMS,
                          dtype=torch.double)
    return teacher, graph


def gradients(teacher: MultimodalTeacher, graph: UserItemGraph):
    out = teacher(graph, USERS, ITEMS)
    parameters = list(teacher.parameters())
    if teacher.prompt is not None:
        parameters += list(teacher.prompt.parameters())
    seeds = torch.Generator().manual_seed(1)
    outs = [out.user, out.item]
    for pair in out.modalities.values():
        outs += pair
    loss = sum((x * torch.randn(x.shape, generator=seeds)).sum()
               for x in outs)
    return outs, torch.autograd.grad(loss, parameters)


@pytest.mark.parametrize('kwargs', [
    {}, {'prompt': False}, {'normalize': False}, {'masked': True},
    {'prompt': False, 'normalize': 'row'}, {'num_layers': 3},
    {'self_weight': 0.0}
])
def test_equals_the_plain_order(kwargs) -> None:
    teacher, graph = make(**kwargs)
    want = gradients(teacher, graph)
    teacher.propagated = PropagatedFeatures(teacher, graph, torch.double)
    have = gradients(teacher, graph)
    for a, b in zip(have, want, strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y)


def test_half_precision_is_close() -> None:
    teacher, graph = make()
    want, _ = gradients(teacher, graph)
    teacher.propagated = PropagatedFeatures(teacher, graph)
    have, _ = gradients(teacher, graph)
    for a, b in zip(have, want, strict=True):
        torch.testing.assert_close(a, b, atol=1e-2, rtol=1e-2)


def test_it_serves_rows_of_its_graph_alone() -> None:
    teacher, graph = make()
    teacher.propagated = lambda *args: pytest.fail('it was asked')
    teacher.propagated.graph = UserItemGraph(random_edges(), NUM_USERS,
                                             NUM_ITEMS, dtype=torch.double)
    teacher(graph, USERS, ITEMS)
    teacher(teacher.propagated.graph)


def test_it_is_shared_and_let_go() -> None:
    teacher, graph = make()
    teacher.propagated = PropagatedFeatures(teacher, graph)
    assert copy.deepcopy(teacher).propagated is teacher.propagated
    assert not any('propagated' in key for key in teacher.state_dict())
    teacher.release_features()
    assert teacher.propagated is None


@pytest.mark.parametrize('kwargs, message', [
    ({'dropout': 0.1}, 'dropout'),
    ({'normalize': 'row'}, 'normalize'),
    ({'layers': 2}, 'one layer'),
])
def test_bad_input(kwargs, message: str) -> None:
    teacher, graph = make(**kwargs)
    with pytest.raises(ValueError, match=message):
        PropagatedFeatures(teacher, graph)
