"""The scores of a list as a function of the prompt: what the ensemble itself
yields with that prompt."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.testing import assert_close

from torch_promptmm.data import read_graph
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.distill import ListDistillationTask, top_lists
from torch_promptmm.distill.prompted_scores import PromptedScores
from torch_promptmm.models import (
    Ensemble,
    Fusion,
    LightGCN,
    ModelOutput,
    embed,
)
from torch_promptmm.nn import UserItemGraph

TRAIN, _, _ = SyntheticMultimodal(
    90, 70, 1500, {'visual': 12, 'textual': 9}, informative=0.5,
    cold_fraction=0.1, seed=1)
VIEW = read_graph(TRAIN)
GRAPH = UserItemGraph(VIEW.edge_index, 90, 70)
FUSION = Fusion({'visual': 0.5, 'textual': 1.0}, 0.1, 1.5, prompted=0.8)


def make(**kwargs) -> Ensemble:
    return Ensemble.from_data(TRAIN, 8, seed=0, fusion=FUSION, prompt='pca',
                              **kwargs).eval()


def change(model: Ensemble) -> None:
    torch.manual_seed(3)
    for parameter in model.prompt.parameters():
        torch.nn.init.normal_(parameter)


def task(model: Ensemble, num: int = 12) -> ListDistillationTask:
    pair = embed(model, GRAPH, 'dot')
    lists = top_lists(*pair, VIEW.edge_index, num)
    prompted = PromptedScores(model, GRAPH)
    student = LightGCN(90, 70, 6)
    torch.nn.init.normal_(student.user_embedding.weight)
    return ListDistillationTask(student, GRAPH, VIEW.edge_index,
                                prompted.taken_from(lists), 0.3, 16, prompted,
                                model.prompt)


@pytest.mark.parametrize('kwargs', [{}, {'normalize': 'row'},
                                    {'prompt_layers': 2}])
@pytest.mark.parametrize('users', [3, 90])  # Few rows, and all of them.
def test_as_the_ensemble_scores(kwargs, users: int) -> None:
    model = make(**kwargs)
    made = task(model)
    user = torch.randperm(90)[:users]
    items = made.lists.items[user].long().clamp(min=0)
    base = made.lists.scores[user]
    valid = ~base.isneginf()
    seen = []
    for step in (lambda: None, lambda: change(model)):
        step()
        u, i = embed(model, GRAPH, 'dot')
        wanted = (u[user].unsqueeze(1) * i[items]).sum(2)
        out = base + made.prompted(user, items)
        assert_close(out[valid], wanted[valid], rtol=0, atol=1e-5)
        seen.append(wanted)
    assert (seen[0] - seen[1]).abs().max() > 0.05
    assert (GRAPH.item_user.crow.diff() == 0)[items].any()


def test_the_prompt_learns_and_the_teacher_does_not() -> None:
    model = make()
    model.requires_grad_(False)
    made = task(model)
    batch = next(iter(made.loader(90)))
    loss, terms = made(batch)
    loss.backward()
    for parameter in (*model.prompt.parameters(),
                      *made.student.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0
    assert all(x.grad is None for x in model.parameters())
    assert terms.keys() == {'list'}
    assert set(made.prompt.parameters()) <= set(made.parameters())


def test_the_loss_is_a_divergence() -> None:
    """It is zero, with a zero gradient, where student and teacher agree."""
    model = make()
    made = task(model, num=1000)  # Nothing is outside of such a list.
    u, i = embed(model, GRAPH, 'dot')

    class Agreeing(LightGCN):
        def rows(self, graph, user_id, item_id, num_ego=0):
            out = super().rows(graph, user_id, item_id, num_ego)
            return ModelOutput(u[user_id] / 0.3 + 0 * out.user.sum(),
                               i[item_id])

    made.student = Agreeing(90, 70, 6)
    loss, _ = made(next(iter(made.loader(90))))
    assert abs(loss.item()) < 1e-5
    loss.backward()
    for parameter in model.prompt.parameters():
        assert parameter.grad.abs().max() < 1e-6
    change(model)
    assert made(next(iter(made.loader(90))))[0].item() > 1e-3


def test_apply_reaches_all_tables() -> None:
    model = make()
    made = task(model).double()
    assert made.prompted.weight.dtype == torch.double
    assert made.lists.scores.dtype == torch.double
    batch = next(iter(made.loader(90)))
    assert made(batch)[0].dtype == torch.double


def test_needs_a_member_that_learns_content() -> None:
    bare = Ensemble.from_data(TRAIN, 8)
    with pytest.raises(ValueError, match="'ensemble' must have a member"):
        PromptedScores(bare, GRAPH)


def test_steps_follow_the_prompt() -> None:
    """Tuned alone, it brings the teacher to the student."""
    model = make()
    model.requires_grad_(False)
    made = task(model)
    run: Callable = torch.optim.Adam(model.prompt.parameters(), 0.01).step
    batch = next(iter(made.loader(90)))
    losses = []
    for _ in range(20):
        model.prompt.zero_grad()
        loss, _ = made(batch)
        loss.backward()
        run()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1e-3
