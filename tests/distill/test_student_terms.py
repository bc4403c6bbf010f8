"""What a student says for itself is heard in stage 2 as well."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from torch_promptmm import PromptMMDistiller
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.loader import BatchSpec
from torch_promptmm.models import LightGCN, MultimodalTeacher
from torch_promptmm.train import train

TRAIN = SyntheticMultimodal.blocks(
    num_blocks=2, users_per_block=6, items_per_block=6,
    features={'visual': 5, 'textual': 3})[0]
U, I = TRAIN['user'].num_nodes, TRAIN['item'].num_nodes


class Own(LightGCN):
    """A student with a term and an epoch hook of its own."""
    name = 'own'

    def __init__(self) -> None:
        super().__init__(U, I, 4)
        self.epochs: list[int] = []
        self.factor = 0.5

    def on_epoch_start(self, epoch: int, graph: Any) -> None:
        assert (graph.num_users, graph.num_items) == (U, I)
        self.epochs.append(epoch)

    def extra_loss(self, batch: Any, output: Any) -> dict[str, torch.Tensor]:
        assert output.user.size(0) == batch.user.numel()
        return {self.name: self.factor * output.user.square().sum()}


def task_of(student: LightGCN, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    teacher = MultimodalTeacher.from_data(TRAIN, 4, seed=0)
    distiller = PromptMMDistiller(teacher, student, num_negatives=8,
                                  item_samples=12, **kwargs)
    return distiller.prepare(TRAIN, 'student')


SETTINGS: dict[str, dict[str, Any]] = {
    'terms': {}, 'lists': {'knowledge': 'lists', 'init': 'random'}}


@pytest.mark.parametrize('knowledge', SETTINGS)
def test_extra_loss_is_added(knowledge: str) -> None:
    student = Own()
    task = task_of(student, **SETTINGS[knowledge])
    batch = next(iter(task.loader(10)))
    torch.manual_seed(0)
    total, terms = task(batch)
    rows = student(task.graph, batch.user)[0]
    assert_close(terms['own'], 0.5 * rows.square().sum())
    student.factor = 0.0
    torch.manual_seed(0)
    assert_close(total, task(batch)[0] + terms['own'])


@pytest.mark.parametrize('knowledge', SETTINGS)
def test_epochs_are_announced(knowledge: str) -> None:
    student = Own()
    history = train(task_of(student, **SETTINGS[knowledge]), epochs=2,
                    batch_size=10, progress=False)
    assert student.epochs == [1, 2]
    assert all(record['own'] > 0.0 for record in history)


@pytest.mark.parametrize('knowledge, name', [
    ('terms', 'rank'), ('terms', 'fused_list'), ('terms', 'l2'),
    ('lists', 'list'), ('lists', 'loss')])
def test_names_that_are_taken(knowledge: str, name: str) -> None:
    student = Own()
    student.name = name
    task = task_of(student, **SETTINGS[knowledge])
    with pytest.raises(ValueError, match=f"'extra_loss' of 'Own' .*'{name}'"):
        task(next(iter(task.loader(10))))


def test_a_student_may_ask_for_more() -> None:
    class More(Own):
        def batch_spec(self, spec: BatchSpec) -> BatchSpec:
            return spec.merge(BatchSpec(num_negatives=3))

    task = task_of(More())
    assert task.batch_spec == BatchSpec(3, 8, 12)
    assert next(iter(task.loader(10))).negative.size(1) == 3
