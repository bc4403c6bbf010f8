from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from graphs import NUM_ITEMS, NUM_USERS, random_edges, to_graph
from torch import Tensor

from torch_promptmm.nn import propagation
from torch_promptmm.nn.graph import UserItemGraph
from torch_promptmm.nn.propagation import propagate

WEIGHTS = [(1.0, ), (0.3, ), (0.0, 1.0), (0.5, 0.25), (0.2, 0.3, 0.5),
           (0.0, 0.0, 2.0), (0.1, 0.0, 0.7, 0.4)]
USERS = torch.tensor([5, 3, 5, 0])
ITEMS = torch.tensor([10, 1, 2, 2, 0, 7])
ROWS = [(None, None), (USERS, ITEMS), (None, ITEMS), (USERS, None),
        (USERS[:0], ITEMS), (USERS.int(), ITEMS.int())]


@pytest.fixture(params=[0.0, 1.1], ids=['all rows', 'restricted'])
def branch(request: pytest.FixtureRequest,
           monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to get at some rows: all of them, or a smaller product."""
    monkeypatch.setattr(propagation, '_RESTRICT_BELOW', request.param)


def graph() -> UserItemGraph:
    return UserItemGraph(random_edges(), NUM_USERS, NUM_ITEMS,
                         dtype=torch.double)


def inputs(requires_grad: bool = True) -> tuple[Tensor, Tensor]:
    return (torch.randn(NUM_USERS, 3, dtype=torch.double,
                        requires_grad=requires_grad),
            torch.randn(NUM_ITEMS, 3, dtype=torch.double,
                        requires_grad=requires_grad))


def naive(weights: tuple[float, ...]) -> Tensor:
    """The operator as a dense matrix over users and items."""
    matrix = reference.adjacency(random_edges().numpy(), NUM_USERS, NUM_ITEMS)
    return torch.from_numpy(
        reference.polynomial(matrix, np.eye(len(matrix)), list(weights)))


def rows(x: Tensor, index: Tensor | None) -> Tensor:
    return x if index is None else x[index.long()]


@pytest.mark.parametrize('weights', WEIGHTS)
@pytest.mark.parametrize('user_id, item_id', ROWS)
@pytest.mark.parametrize('with_ego', [False, True])
def test_equals_the_dense_operator(branch, weights, user_id, item_id,
                                   with_ego: bool) -> None:
    num_ego = NUM_ITEMS if item_id is None else len(item_id)
    x_user, x_item = inputs()
    out = propagate(graph(), x_user, x_item, weights, user_id, item_id,
                    num_ego if with_ego else 0)
    whole = naive(weights) @ torch.cat([x_user, x_item])
    want = [rows(whole[:NUM_USERS], user_id), rows(whole[NUM_USERS:], item_id)]
    if with_ego and num_ego > 0:
        want += [rows(x_user, user_id), rows(x_item, item_id)]
    assert len(out) == len(want)
    seeds = [torch.randn_like(x) for x in want]
    for have, expected in zip(out, want, strict=True):
        torch.testing.assert_close(have, expected)
    have = torch.autograd.grad(out, (x_user, x_item), seeds)
    expected = torch.autograd.grad(want, (x_user, x_item), seeds)
    for a, b in zip(have, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_the_inputs_of_the_first_items_alone(branch) -> None:
    x_user, x_item = inputs()
    out = propagate(graph(), x_user, x_item, (0.2, 0.3, 0.5), USERS, ITEMS, 3)
    want = propagate(graph(), x_user, x_item, (0.2, 0.3, 0.5), USERS, ITEMS,
                     len(ITEMS))
    want = (*want[:3], want[3][:3])
    seeds = [torch.randn_like(x) for x in want]
    for a, b in zip(out, want, strict=True):
        torch.testing.assert_close(a, b)
    have = torch.autograd.grad(out, (x_user, x_item), seeds)
    expected = torch.autograd.grad(want, (x_user, x_item), seeds)
    for a, b in zip(have, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('weights', WEIGHTS)
@pytest.mark.parametrize('user_id, item_id', ROWS[:2])
def test_no_users_are_zero_users(branch, weights, user_id, item_id) -> None:
    _, x_item = inputs()
    zero = torch.zeros(NUM_USERS, 3, dtype=torch.double)
    num_ego = NUM_ITEMS if item_id is None else len(item_id)
    out = propagate(graph(), None, x_item, weights, user_id, item_id, num_ego)
    want = propagate(graph(), zero, x_item, weights, user_id, item_id,
                     num_ego)
    assert out[2] is None
    seeds = [torch.randn_like(x) for x in want]
    for i in (0, 1, 3):
        torch.testing.assert_close(out[i], want[i])
    del seeds[2]
    have, = torch.autograd.grad([out[i] for i in (0, 1, 3)], x_item, seeds)
    expected, = torch.autograd.grad([want[i] for i in (0, 1, 3)], x_item,
                                    seeds)
    torch.testing.assert_close(have, expected)


@pytest.mark.parametrize('which', range(4))
@pytest.mark.parametrize('weights', [(0.4, ), (0.0, 1.0), (0.2, 0.3, 0.5)])
def test_gradient_of_one_output_alone(branch, which: int, weights) -> None:
    x_user, x_item = inputs()
    out = propagate(graph(), x_user, x_item, weights, USERS, ITEMS,
                    len(ITEMS))
    whole = naive(weights) @ torch.cat([x_user, x_item])
    want = (whole[:NUM_USERS][USERS], whole[NUM_USERS:][ITEMS], x_user[USERS],
            x_item[ITEMS])[which]
    # The gradient of a sum is one number, expanded.
    have = torch.autograd.grad(out[which].sum(), (x_user, x_item),
                               allow_unused=True)
    expected = torch.autograd.grad(want.sum(), (x_user, x_item),
                                   allow_unused=True)
    for a, b, x in zip(have, expected, (x_user, x_item), strict=True):
        zero = torch.zeros_like(x)
        torch.testing.assert_close(zero if a is None else a,
                                   zero if b is None else b)


@pytest.mark.parametrize('frozen', [0, 1])
def test_gradient_where_one_side_is_frozen(branch, frozen: int) -> None:
    pair = inputs()
    pair[frozen].requires_grad_(False)
    weights = (0.2, 0.3, 0.5)
    out = propagate(graph(), *pair, weights, USERS, ITEMS)
    whole = naive(weights) @ torch.cat(pair)
    loss = out[0].square().sum() + out[1].sum()
    want = whole[USERS].square().sum() + whole[NUM_USERS + ITEMS].sum()
    torch.testing.assert_close(*[
        torch.autograd.grad(x, pair[1 - frozen])[0] for x in (loss, want)
    ])


@pytest.mark.parametrize('weights', WEIGHTS)
def test_gradcheck(branch, weights) -> None:
    g = graph()

    def run(x_user: Tensor, x_item: Tensor) -> tuple[Tensor, ...]:
        return propagate(g, x_user, x_item, weights, USERS, ITEMS, True)

    assert torch.autograd.gradcheck(run, inputs())


def test_inputs_are_not_changed_and_not_shared() -> None:
    x_user, x_item = inputs(requires_grad=False)
    copies = x_user.clone(), x_item.clone()
    for weights in WEIGHTS:
        out = propagate(graph(), x_user, x_item, weights, num_ego=NUM_ITEMS)
        for x in out[:2]:
            x.zero_()
    assert torch.equal(x_user, copies[0])
    assert torch.equal(x_item, copies[1])


def test_autocast_leaves_it_alone() -> None:
    x_user, x_item = (x.float().detach() for x in inputs())
    with torch.autocast('cpu', torch.bfloat16):
        out = propagate(to_graph(random_edges()), x_user, x_item, (0.5, 0.5))
    assert out[0].dtype == torch.float


@pytest.mark.parametrize('bad, match', [
    (torch.tensor([7]), "'user_id' has user id 7, but there are 7 users"),
    (torch.tensor([-1, 2]), 'has user id -1'),
    (torch.tensor([1.0]), 'integers'),
    (torch.tensor([True]), 'integers'),
    (torch.tensor([[1]]), 'one-dimensional'),
])
def test_bad_rows(bad: Tensor, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        propagate(graph(), *inputs(), (0.0, 1.0), bad)


def test_on_device(device: torch.device, branch) -> None:
    x_user, x_item = inputs()
    args = ((0.2, 0.3, 0.5), USERS, ITEMS, True)
    want = propagate(graph(), x_user, x_item, *args)
    here = [x.detach().to(device).requires_grad_() for x in (x_user, x_item)]
    out = propagate(graph().to(device), *here, args[0], USERS.to(device),
                    ITEMS.to(device), True)
    seeds = [torch.randn_like(x) for x in want]
    torch.autograd.backward(want, seeds)
    torch.autograd.backward(out, [x.to(device) for x in seeds])
    for a, b in zip(out, want, strict=True):
        torch.testing.assert_close(a.cpu(), b)
    torch.testing.assert_close(here[0].grad.cpu(), x_user.grad)
    torch.testing.assert_close(here[1].grad.cpu(), x_item.grad)
