"""A task moves as a whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from baselines import MF
from torch import Tensor
from torch.testing import assert_close

from torch_promptmm import PromptMMDistiller
from torch_promptmm.data import from_interactions
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.loader import InteractionLoader
from torch_promptmm.models import LightGCN
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.train import RankingObjective, RankingTask, Task

DATA = SyntheticMultimodal.blocks(
    num_blocks=2, users_per_block=6, items_per_block=6,
    features={'visual': 5, 'textual': 3})[0]
U, I = DATA['user'].num_nodes, DATA['item'].num_nodes
EDGES = DATA['user', 'interacts', 'item'].edge_index
MASKED = from_interactions(
    EDGES, {'visual': DATA['item'].visual, 'textual': DATA['item'].textual},
    U, I)
MASKED['item'].visual_mask = torch.arange(I) % 3 > 0

TASKS: dict[str, dict[str, Any]] = {
    'teacher': {'stage': 'teacher'},
    'propagated teacher': {'stage': 'teacher', 'propagate_features': True},
    'default': {},
    'faithful': {'setting': 'faithful'},
    'row': {'setting': 'faithful', 'normalize': 'row'},
    'deep prompt': {'prompt_layers': 2},
    'fixed prompt': {'tune_prompt': False},
    'wide teacher': {'teacher_channels': 6},
}


def make(name: str) -> Task:
    if name in ('LightGCN', 'MF'):
        torch.manual_seed(0)
        model = (LightGCN if name == 'LightGCN' else MF)(U, I, 4)
        return RankingTask(model, UserItemGraph(EDGES, U, I), EDGES,
                           objective=RankingObjective('bpr'), l2=0.1)
    options = dict(TASKS[name])
    stage = options.pop('stage', 'student')
    return PromptMMDistiller.from_data(
        MASKED, hidden_channels=4, seed=0, num_negatives=8, item_samples=12,
        **options).prepare(MASKED, stage)


def tensors(value: Any, seen: dict[int, Any] | None = None) -> list[Tensor]:
    """All that an object of ours holds, raw features aside."""
    seen = {} if seen is None else seen
    if id(value) in seen:
        return []
    seen[id(value)] = value  # Alive, so that no id comes back.
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [x for key, y in value.items() if key != 'item_features'
                for x in tensors(y, seen)]
    if isinstance(value, (list, tuple, set)):
        out = [x for y in value for x in tensors(y, seen)]
        return out + tensors(getattr(value, '__dict__', {}), seen)
    if type(value).__module__.startswith('torch_promptmm') or isinstance(
            value, torch.nn.Module):
        return tensors(vars(value), seen)
    return []


def batch_of(task: Task):
    torch.manual_seed(0)
    return next(iter(InteractionLoader(EDGES, EDGES, U, I, 20,
                                       task.batch_spec)))


@pytest.mark.parametrize('name', ['LightGCN', 'MF', *TASKS])
def test_in_double_the_loss_is_the_same(name: str) -> None:
    task = make(name)
    task.eval()
    batch = batch_of(task)
    want, terms = task(batch)
    embeddings = task.embeddings()
    assert task.double() is task
    assert task.graph.dtype == torch.double
    assert not task.positives.is_floating_point()
    total, double_terms = task(batch)
    assert total.dtype == torch.double
    assert total.item() == pytest.approx(want.item(), rel=1e-3 if
                                         name.startswith('prop') else 1e-6,
                                         abs=1e-6)
    assert terms.keys() == double_terms.keys()
    for key, value in terms.items():
        # Features that were propagated once are kept in half precision.
        assert double_terms[key].item() == pytest.approx(
            value.item(), rel=1e-3 if name.startswith('prop') else 2e-5,
            abs=1e-5)
    total.backward()
    assert_close(task.embeddings(), tuple(x.double() for x in embeddings),
                 rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['LightGCN', 'MF', *TASKS])
def test_nothing_stays_behind(name: str) -> None:
    task = make(name).to('meta')
    where = {x.device.type for x in tensors(task)}
    assert where == {'meta'}
    assert task.device.type == task.graph.device.type == 'meta'


@pytest.mark.parametrize('name', ['LightGCN', 'default', 'faithful',
                                  'fixed prompt'])
def test_on_device(name: str, device: torch.device) -> None:
    task = make(name)
    want = task(batch_of(task))[0]
    batch = type(batch_of(task))(*(x.to(device) for x in batch_of(task)))
    assert_close(task.to(device)(batch)[0].cpu(), want)


def test_a_moved_task_has_its_own_loader() -> None:
    task = make('LightGCN').double()
    batch = next(iter(task.loader(7)))
    assert batch.user.numel() == 7 and batch.negative.shape == (7, 1)


def test_a_task_without_parameters_is_where_its_graph_is() -> None:
    task = Task(UserItemGraph(EDGES, U, I), EDGES, EDGES, 'dot')
    assert task.device.type == 'cpu'
    assert task.to('meta').device.type == 'meta'
    assert task.known.device.type == task.positives.device.type == 'meta'
