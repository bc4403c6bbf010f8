"""The task of lists: its loss by hand, and a student started from its
teacher."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from graphs import NUM_ITEMS, NUM_USERS, random_edges
from torch.testing import assert_close

from torch_promptmm.distill import (
    ListDistillationTask,
    TopLists,
    compress_into,
    top_lists,
)
from torch_promptmm.models import LightGCN, embed
from torch_promptmm.nn import UserItemGraph, propagate
from torch_promptmm.train import train

EDGES = random_edges()
GRAPH = UserItemGraph(EDGES, NUM_USERS, NUM_ITEMS)


def teacher(width: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return (torch.randn(NUM_USERS, width, generator=generator),
            torch.randn(NUM_ITEMS, width, generator=generator))


def make(num_layers: int = 2, num_uniform: int = 4, num_top: int = 3,
         temperature: float = 0.7) -> ListDistillationTask:
    student = LightGCN(NUM_USERS, NUM_ITEMS, 6, num_layers)
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter)
    lists = top_lists(*teacher(), EDGES, num_top)
    return ListDistillationTask(student, GRAPH, EDGES, lists, temperature,
                                num_uniform)


def by_hand(task: ListDistillationTask, batch) -> float:
    user, item = (x.double().numpy()
                  for x in embed(task.student, GRAPH, 'dot'))
    t_user, t_item = (x.double().numpy() for x in teacher())
    known = {tuple(x) for x in EDGES.T.tolist()}
    losses = []
    for u in batch.user.tolist():
        order = np.argsort(-(t_item @ t_user[u]))
        top = [i for i in order.tolist() if (u, i) not in known][:3]
        target = np.exp(t_item[top] @ t_user[u] / 0.7)
        target = target / target.sum()
        score = np.exp(item @ user[u])
        others = [i for i in batch.uniform.tolist()
                  if i not in top and (u, i) not in known]
        share = NUM_ITEMS / batch.uniform.numel()
        total = score[top].sum() + share * score[others].sum()
        losses.append(-(target * np.log(score[top] / total)).sum())
    return float(np.mean(losses))


@pytest.mark.parametrize('num_layers', [0, 1, 2])
@pytest.mark.parametrize('num_uniform', [4, 100])
def test_loss_by_hand(num_layers: int, num_uniform: int) -> None:
    task = make(num_layers, num_uniform)
    for batch in task.loader(4):
        loss, terms = task(batch)
        assert loss.item() == pytest.approx(by_hand(task, batch), rel=1e-5)
        assert terms.keys() == {'list'} and terms['list'] is loss


def test_gradients_reach_both_tables() -> None:
    task = make()
    task(next(iter(task.loader(NUM_USERS))))[0].backward()
    for table in (task.student.user_embedding, task.student.item_embedding):
        assert table.weight.grad is not None
        assert table.weight.grad.isfinite().all()
        # A user learns, and so does a listed item.
        assert (table.weight.grad.abs().sum(dim=1) > 0).sum() >= 6
    assert task.lists.scores.grad is None


def test_gradient_by_differences() -> None:
    torch.set_default_dtype(torch.double)
    try:
        task = make().double()
        batch = next(iter(task.loader(4)))
        weight = task.student.item_embedding.weight

        def loss(x: torch.Tensor) -> torch.Tensor:
            return torch.func.functional_call(
                task, {'student.item_embedding.weight': x}, (batch, ))[0]

        assert torch.autograd.gradcheck(
            loss, weight.detach().clone().requires_grad_())
    finally:
        torch.set_default_dtype(torch.float)


def test_to_moves_everything() -> None:
    task = make()
    batch = next(iter(task.loader(4)))
    want = by_hand(task, batch)
    task = task.to(torch.float64)
    assert task.lists.scores.dtype == task.graph.dtype == torch.double
    assert task.lists.items.dtype == torch.int32
    loss, _ = task(batch._replace(top_score=batch.top_score.double()))
    assert loss.dtype == torch.double
    assert loss.item() == pytest.approx(want, rel=1e-6)
    assert next(iter(task.loader(4))).top_score.dtype == torch.double
    assert task.embeddings()[0].dtype == torch.double


def test_users_without_interactions_add_nothing() -> None:
    task = make()
    silent = task.lists.scores.clone()
    silent[3] = -math.inf  # As the stage does.
    quiet = ListDistillationTask(task.student, GRAPH, EDGES,
                                 TopLists(task.lists.items, silent), 0.7, 4)
    loader = quiet.loader(7)
    torch.manual_seed(0)
    both = loader.collate(torch.tensor([1, 3, 5]))
    torch.manual_seed(0)
    alone = loader.collate(torch.tensor([1, 5]))
    assert torch.equal(both.uniform, alone.uniform)
    assert_close(quiet(both)[0], quiet(alone)[0])
    torch.manual_seed(0)
    heard = task.loader(7).collate(torch.tensor([1, 3, 5]))
    assert abs(task(heard)[0].item() - quiet(both)[0].item()) > 1e-3
    only = quiet(loader.collate(torch.tensor([3])))[0]
    assert only.item() == 0.0
    only.backward()
    assert all(p.grad is None or not p.grad.any()
               for p in quiet.parameters())


def test_training_reproduces_the_lists() -> None:
    torch.manual_seed(0)
    task = make(num_uniform=100)
    losses = train(task, 60, 4, 0.05, seed=0, progress=False).values('loss')
    assert losses[-1] < 0.5 * losses[0]
    lists = top_lists(*task.embeddings(), EDGES, 3)
    assert (lists.items[:, 0] == task.lists.items[:, 0]).float().mean() > 0.8


# The start


@pytest.mark.parametrize('num_layers', [0, 2, 4])
@pytest.mark.parametrize('width', [5, 8])
@pytest.mark.parametrize('temperature', [0.1, 2.0])
def test_a_student_that_is_wide_enough_is_the_teacher(
        num_layers: int, width: int, temperature: float) -> None:
    student = LightGCN(NUM_USERS, NUM_ITEMS, width, num_layers)
    compress_into(student, GRAPH, teacher(), temperature)
    user, item = embed(student, GRAPH, 'dot')
    want = teacher()[0] @ teacher()[1].t() / temperature
    assert_close(user @ item.t(), want, rtol=0, atol=1e-4 / temperature)
    # Both sides are equally long.
    norms = [float(x.square().sum(1).mean()) for x in (user, item)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


def test_a_narrow_student_has_the_leading_directions() -> None:
    t_user, t_item = (x.numpy() for x in teacher())
    stacked = np.concatenate([x / np.linalg.norm(x)
                              for x in (t_user, t_item)])
    q = np.linalg.svd(stacked)[2][:3].T
    student = LightGCN(NUM_USERS, NUM_ITEMS, 3, 2)
    compress_into(student, GRAPH, teacher(), 0.5)
    user, item = embed(student, GRAPH, 'dot')
    np.testing.assert_allclose((user @ item.t()).numpy(),
                               t_user @ q @ q.T @ t_item.T / 0.5, atol=1e-4)


@pytest.mark.parametrize('num_layers', [1, 3])
def test_of_an_odd_number_of_layers_they_are_the_ego_rows(
        num_layers: int) -> None:
    student = LightGCN(NUM_USERS, NUM_ITEMS, 5, num_layers)
    compress_into(student, GRAPH, teacher(), 0.5)
    user, item = (student.user_embedding.weight,
                  student.item_embedding.weight)
    want = teacher()[0] @ teacher()[1].t() / 0.5
    assert_close((user @ item.t()).detach(), want, rtol=0, atol=1e-4)
    share = [1 / (num_layers + 1)] * (num_layers + 1)
    assert_close(embed(student, GRAPH, 'dot'),
                 tuple(x.detach() for x in propagate(GRAPH, user, item,
                                                     share)))


@pytest.mark.parametrize('dtype', [torch.half, torch.double])
def test_tables_in_other_types(dtype: torch.dtype) -> None:
    student = LightGCN(NUM_USERS, NUM_ITEMS, 5)
    user, item = (x.to(dtype) for x in teacher())
    compress_into(student, GRAPH, (user, item), 1.0)
    out = embed(student, GRAPH, 'dot')
    assert out[0].dtype == torch.float
    assert_close(out[0] @ out[1].t(), user.float() @ item.float().t(),
                 rtol=0, atol=1e-3)
