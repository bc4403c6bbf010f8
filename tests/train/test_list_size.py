"""The lists of a step: K of Eq. 6 counts the positive and the negatives."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch

from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.loader import Batch, InteractionLoader
from torch_promptmm.loss import DisentangledListKD
from torch_promptmm.nn import ConstantTables, LightGCNStudent, UserItemGraph
from torch_promptmm.train import DistillationTask, RankingObjective

EDGES = SyntheticMultimodal.blocks()[0]['user', 'interacts', 'item'].edge_index
USERS, ITEMS = 40, 36


def make_task(ranking_loss: str, **kwargs) -> DistillationTask:
    objective = RankingObjective(ranking_loss, num_negatives=11)
    student = LightGCNStudent(USERS, ITEMS, 4)
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter)
    pair = torch.randn(USERS, 5), torch.randn(ITEMS, 5)
    teacher = torch.randn(USERS, 3), torch.randn(ITEMS, 3), {'visual': pair}
    return DistillationTask(student, UserItemGraph(EDGES, USERS, ITEMS),
                            EDGES, EDGES, ConstantTables(teacher), objective,
                            **kwargs)


def first_batch(task: DistillationTask) -> Batch:
    return next(iter(InteractionLoader(EDGES, EDGES, USERS, ITEMS, 32,
                                       task.batch_spec)))


@pytest.mark.parametrize('term', ['list_weight', 'fused_list_weight'])
@pytest.mark.parametrize('list_size', [2, 5, 10])
def test_bpr_has_lists_of_their_size(monkeypatch, term: str,
                                     list_size: int) -> None:
    task = make_task('bpr', list_size=list_size, **{term: 1.0})
    batch = first_batch(task)
    assert batch.negative.shape == (32, list_size - 1)
    assert batch.shared.numel() == 0

    lengths, of_lists = [], DisentangledListKD.of_lists

    def spy(self, *lists):
        lengths.extend(x.positive.view(32, -1).size(1) + x.negative.size(1)
                       for x in lists)
        return of_lists(self, *lists)

    monkeypatch.setattr(DisentangledListKD, 'of_lists', spy)
    _, terms = task(batch)
    assert lengths == [list_size, list_size]  # Student and teacher.

    # And the value is that of Eq. 6 over exactly these K items.
    item = torch.cat([batch.positive.view(-1, 1), batch.negative], dim=1)
    name = term.removesuffix('_weight')
    user_t, item_t, modalities = task.teacher_rows()
    if name == 'list':
        user_t, item_t = modalities['visual']
    user_s, item_s = task.embeddings()

    def lists(user, table):
        scores = (user[batch.user].unsqueeze(1) * table[item]).sum(-1)
        return [reference.softmax(row) for row in scores.double().numpy()]

    want = np.mean([reference.kl(t, s) for t, s in zip(
        lists(user_t, item_t), lists(user_s, item_s), strict=True)])
    assert float(terms[name].detach()) == pytest.approx(want, rel=1e-4)


def test_bpr_without_lists_has_one_negative() -> None:
    task = make_task('bpr', list_size=10, pair_weight=1.0, emb_weight=1.0)
    assert task.batch_spec.num_negatives == 1
    assert first_batch(task).negative.shape == (32, 1)


def test_the_softmax_has_its_negatives_in_the_list(monkeypatch) -> None:
    task = make_task('softmax', list_size=5, fused_list_weight=1.0)
    batch = first_batch(task)
    assert batch.negative.numel() == 0
    lengths, of_lists = [], DisentangledListKD.of_lists

    def spy(self, *lists):
        lengths.extend(x.negative.size(1) + 1 for x in lists)
        return of_lists(self, *lists)

    monkeypatch.setattr(DisentangledListKD, 'of_lists', spy)
    task(batch)
    assert lengths == [12, 12]


@pytest.mark.parametrize('ranking_loss', ['bpr', 'softmax'])
def test_items_are_sampled_where_embeddings_are_distilled(
        ranking_loss: str) -> None:
    for kwargs, want in (({}, 0), ({'pair_weight': 1.0}, 0),
                         ({'emb_weight': 1.0}, 17),
                         ({'fused_emb_weight': 1.0}, 17)):
        task = make_task(ranking_loss, item_samples=17, **kwargs)
        assert first_batch(task).item.numel() == want
