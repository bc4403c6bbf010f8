from __future__ import annotations

import copy
import shutil

import pytest
import torch
from graphs import (
    LAYOUTS,
    NUM_ITEMS,
    NUM_USERS,
    WEIGHTED,
    random_edges,
    square,
    to_coo,
    to_graph,
)
from torch import Tensor
from torch_geometric.nn import LightGCN

from torch_promptmm.nn import LightGCNStudent, propagation

USERS = torch.tensor([6, 3, 0, 6])
ITEMS = torch.tensor([0, 10, 4, 4, 4])
NONE = torch.empty(0, dtype=torch.long)


def pair(num_layers: int = 2) -> tuple[LightGCNStudent, LightGCN]:
    """The same weights in both."""
    student = LightGCNStudent(NUM_USERS, NUM_ITEMS, 5, num_layers)
    other = LightGCN(NUM_USERS + NUM_ITEMS, 5, num_layers)
    with torch.no_grad():
        other.embedding.weight.copy_(
            torch.cat([student.user_embedding.weight,
                       student.item_embedding.weight]))
    return student, other


def check_same(student: LightGCNStudent, other: LightGCN,
               out: tuple[Tensor, ...], want: tuple[Tensor, ...]) -> None:
    assert len(out) == len(want)
    seeds = [torch.randn_like(x) for x in want]
    have = torch.autograd.grad(out, list(student.parameters()), seeds)
    expected, = torch.autograd.grad(want, other.embedding.weight, seeds)
    for a, b in zip(out, want, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(torch.cat(have), expected)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('num_layers', [0, 1, 2, 3])
@pytest.mark.parametrize('duplicates', [False, True])
def test_equals_light_gcn(layout: str, num_layers: int,
                          duplicates: bool) -> None:
    edge_index = random_edges(duplicates=duplicates)
    student, other = pair(num_layers)
    whole = other.get_embedding(square(edge_index))
    out = student(LAYOUTS[layout](edge_index))
    assert out[0].shape == (NUM_USERS, 5)
    assert out[1].shape == (NUM_ITEMS, 5)
    check_same(student, other, out, (whole[:NUM_USERS], whole[NUM_USERS:]))


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('user_id, item_id', [
    (USERS, ITEMS), (NONE, ITEMS), (USERS, NONE), (USERS, None),
    (None, ITEMS)])
@pytest.mark.parametrize('share', [0.0, 1.1], ids=['all', 'restricted'])
def test_equals_light_gcn_on_rows(layout: str, user_id, item_id, share: float,
                                  monkeypatch) -> None:
    monkeypatch.setattr(propagation, '_RESTRICT_BELOW', share)
    edge_index = random_edges()
    student, other = pair()
    adj = LAYOUTS[layout](edge_index)
    for num_ego in (0, NUM_ITEMS if item_id is None else len(item_id)):
        whole = other.get_embedding(square(edge_index))
        ego = other.embedding.weight
        want = [whole[:NUM_USERS], whole[NUM_USERS:]]
        if num_ego > 0:
            want += [ego[:NUM_USERS], ego[NUM_USERS:]]
        ids = (user_id, item_id) * 2
        if num_ego > 0:
            rows = student.rows(adj, user_id, item_id, num_ego)
            out = (rows.user, rows.item, *rows.ego)
        else:
            out = student(adj, user_id, item_id)
        check_same(student, other, out, tuple(
            x if index is None else x[index]
            for x, index in zip(want, ids, strict=False)))


@pytest.mark.parametrize('layout', WEIGHTED)
@pytest.mark.parametrize('num_layers', [1, 3])
def test_edge_weights(layout: str, num_layers: int) -> None:
    edge_index = random_edges()
    weight = torch.rand(edge_index.size(1))
    student, other = pair(num_layers)
    whole = other.get_embedding(square(edge_index), weight.repeat(2))
    out = student(WEIGHTED[layout](edge_index, weight))
    check_same(student, other, out, (whole[:NUM_USERS], whole[NUM_USERS:]))


def test_double_precision() -> None:
    edge_index = random_edges()
    student, other = (x.double() for x in pair(3))
    whole = other.get_embedding(square(edge_index))
    check_same(student, other, student(edge_index),
               (whole[:NUM_USERS], whole[NUM_USERS:]))


def test_isolated_nodes_keep_their_own_embedding() -> None:
    student, _ = pair(2)
    user, item = student(random_edges())
    torch.testing.assert_close(user[3], student.user_embedding.weight[3] / 3)
    torch.testing.assert_close(item[[0, 10]],
                               student.item_embedding.weight[[0, 10]] / 3)


@pytest.mark.parametrize('sizes, count', [
    ((43_739, 17_239, 32), 1_951_296),  # Table 8
    ((41_691, 21_479, 64), 4_042_880),  # Table 9
    ((3, 4, 5), 35),
])
def test_number_of_parameters(sizes, count: int) -> None:
    with torch.device('meta'):
        student = LightGCNStudent(*sizes)
    assert sum(p.numel() for p in student.parameters()) == count
    assert not list(student.buffers())


def test_reset_parameters() -> None:
    student, other = pair()
    old = copy.deepcopy(student.state_dict())
    student.reset_parameters()
    for key, value in student.state_dict().items():
        assert not torch.equal(value, old[key])
    # Xavier over the table of all nodes, as in PyG.
    other.reset_parameters()
    student = LightGCNStudent(500, 1500, 64)
    torch.manual_seed(0)
    bound = LightGCN(2000, 64, 2).embedding.weight.abs().max()
    for p in student.parameters():
        assert p.abs().max() <= bound * 1.001
        assert p.abs().max() > bound * 0.99
        assert p.mean().abs() < bound / 50


def test_representation() -> None:
    student, _ = pair()
    assert str(student) == (
        'LightGCN(7, 11, hidden_channels=5, num_layers=2)')


def test_copy_and_state() -> None:
    student, _ = pair()
    other = LightGCNStudent(NUM_USERS, NUM_ITEMS, 5)
    other.load_state_dict(student.state_dict())
    graph = to_graph(random_edges())
    for twin in (other, copy.deepcopy(student)):
        assert torch.equal(twin(graph)[0], student(graph)[0])


@pytest.mark.parametrize('match, make', [
    ("'num_users' must be at least 1", lambda: LightGCNStudent(0, 1, 1)),
    ("'num_items' must be at least 1", lambda: LightGCNStudent(1, 0, 1)),
    ("'hidden_channels' must be at least 1",
     lambda: LightGCNStudent(1, 1, 0)),
    ("'num_layers' must be at least 0", lambda: LightGCNStudent(1, 1, 1, -1)),
    ('looks transposed',
     lambda: pair()[0](to_coo(random_edges()).t().coalesce())),
    ('must have 7 users and 11 items',
     lambda: pair()[0](LAYOUTS['UserItemGraph'](random_edges()).__class__(
         random_edges(), 8, 11))),
    ('has user id 9', lambda: pair()[0](random_edges().flip(0))),
])
def test_bad_input(match: str, make) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_compiles() -> None:
    if shutil.which('g++') is None and shutil.which('c++') is None:
        pytest.skip('needs a C++ compiler: no g++ or c++ on the path')
    torch._dynamo.reset()
    student, _ = pair()
    graph = to_graph(random_edges())
    compiled = torch.compile(student)
    for a, b in zip(compiled(graph), student(graph), strict=True):
        torch.testing.assert_close(a, b)
    compiled(graph)[0].sum().backward()
    assert student.user_embedding.weight.grad is not None


def test_on_device(device: torch.device) -> None:
    student, other = pair()
    whole = other.get_embedding(square(random_edges()))
    student = student.to(device)
    for adj in (random_edges(), to_graph(random_edges())):
        user, item = student(adj, USERS.to(device))
        assert user.device.type == device.type
        torch.testing.assert_close(user.cpu(), whole[USERS])
        torch.testing.assert_close(item.cpu(), whole[NUM_USERS:])
