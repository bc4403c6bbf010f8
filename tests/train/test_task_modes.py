"""What is validated is the model without its dropout; training goes on with
it.
"""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.nn import MultimodalTeacher, UserItemGraph
from torch_promptmm.train import RankingObjective, RankingTask, train

EDGES = SyntheticMultimodal.blocks()[0]['user', 'interacts', 'item'].edge_index


def task_with_dropout() -> tuple[RankingTask, MultimodalTeacher]:
    torch.manual_seed(0)
    teacher = MultimodalTeacher(40, 36, {'visual': 6}, 4, dropout=0.5,
                                fusion_weight=1.0)
    teacher.set_features({'visual': torch.randn(36, 6)})
    return RankingTask(teacher, UserItemGraph(EDGES, 40, 36), EDGES,
                       objective=RankingObjective('bpr')), teacher


def plain(teacher: MultimodalTeacher) -> tuple[torch.Tensor, torch.Tensor]:
    mode = teacher.training
    with torch.no_grad():
        out = teacher.eval()(UserItemGraph(EDGES, 40, 36))
    teacher.train(mode)
    return out.user, out.item


@pytest.mark.parametrize('mode', [True, False])
def test_embeddings_have_no_dropout(mode: bool) -> None:
    task, teacher = task_with_dropout()
    task.train(mode)
    one, two = task.embeddings(), task.embeddings()
    assert_close(one, two, rtol=0, atol=0)
    assert_close(one, plain(teacher), rtol=0, atol=0)
    assert task.training is teacher.training is mode
    # With it, they would be others each time.
    task.train()
    assert not torch.equal(teacher(task.graph).user, one[0])


def test_a_teacher_with_dropout_in_the_loop() -> None:
    task, teacher = task_with_dropout()
    seen, modes = [], []

    def validate() -> dict[str, float]:
        have, want = task.embeddings(), plain(teacher)
        assert_close(have, want, rtol=0, atol=0)
        seen.append(have[0])
        return {'recall@20': float(len(seen))}

    # The hook of a part that steps and embeddings call alike; dropout is
    # in another one.
    teacher.backbone.conv.register_forward_pre_hook(
        lambda module, _: modes.append(
            (torch.is_grad_enabled(), teacher.training,
             teacher.reduction('visual').training)))
    train(task, epochs=3, batch_size=100, progress=False, seed=0,
          validate=validate)
    assert len(seen) == 3
    assert not torch.equal(seen[0], seen[-1])  # It did learn.
    assert {mode[1:] for mode in modes if mode[0]} == {(True, True)}
    assert {mode[1:] for mode in modes if not mode[0]} == {(False, False)}
