"""The prompt's own ranking loss of stage 1."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from graphs import NUM_ITEMS, NUM_USERS, random_edges
from torch.testing import assert_close

from torch_promptmm import PromptMMDistiller
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.distill import PromptedRankingTask
from torch_promptmm.distill.prompt_task import mean_of_items
from torch_promptmm.models import LightGCN
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.train import RankingTask

TRAIN = SyntheticMultimodal.blocks()[0]


def prepare(**kwargs) -> RankingTask:
    distiller = PromptMMDistiller.from_data(
        TRAIN, hidden_channels=8, seed=0, setting='faithful', **kwargs)
    return distiller.prepare(TRAIN, 'teacher')


def batch_of(task: RankingTask):
    torch.manual_seed(0)
    return next(iter(task.loader(30)))


def test_mean_of_items() -> None:
    edges = random_edges()
    x = torch.randn(NUM_ITEMS, 3)
    have = mean_of_items(UserItemGraph(edges, NUM_USERS, NUM_ITEMS), x)
    for user in range(NUM_USERS):
        own = x[edges[1][edges[0] == user]]
        want = own.mean(dim=0) if len(own) else torch.zeros(3)
        assert_close(have[user], want)


@pytest.mark.parametrize('prompt_layers', [1, 2])
def test_the_term(prompt_layers: int) -> None:
    task = prepare(prompt_ranking_weight=2.5, prompt_layers=prompt_layers)
    assert isinstance(task, PromptedRankingTask)
    torch.manual_seed(1)
    for parameter in task.extra.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    batch = batch_of(task)
    total, terms = task(batch)
    prompt = task.extra().detach().double().numpy()
    edges = TRAIN['user', 'interacts', 'item'].edge_index.numpy()
    z = task.extra.basis
    users = torch.stack([z[edges[1][edges[0] == u]].mean(dim=0)
                         for u in range(40)])
    users = task.extra.network(users).detach().double().numpy()
    u, i, j = (x.reshape(-1).numpy() for x in (batch.user, batch.positive,
                                               batch.negative))
    margin = (users[u] * (prompt[i] - prompt[j])).sum(1)
    want = np.log1p(np.exp(-margin)).mean()
    assert terms['prompt'].item() == pytest.approx(want, rel=1e-4)
    # The rest is as without it.
    plain = copy.copy(task)
    rest, _ = RankingTask.forward(plain, batch)
    assert total.item() == pytest.approx(rest.item() + 2.5 * want, rel=1e-4)
    grads = torch.autograd.grad(terms['prompt'], list(
        task.extra.parameters()))
    assert all(g.abs().sum() > 0 for g in grads)


def test_without_weight_or_prompt_there_is_none() -> None:
    for kwargs in ({}, {'prompt': None, 'prompt_ranking_weight': 1.0}):
        assert type(prepare(**kwargs)) is RankingTask
    graph = UserItemGraph(random_edges(), NUM_USERS, NUM_ITEMS)
    with pytest.raises(TypeError, match="'extra' must be a SoftPrompt"):
        PromptedRankingTask(1.0, LightGCN(NUM_USERS, NUM_ITEMS, 3), graph,
                            random_edges())


def test_it_moves_as_a_whole() -> None:
    task = prepare(prompt_ranking_weight=1.0).to(torch.double)
    assert task.user_basis.dtype == torch.double
    task(batch_of(task))
