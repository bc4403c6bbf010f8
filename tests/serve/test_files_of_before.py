"""What the version before saved still loads; see ``tests/files``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from baselines import Tables
from torch.testing import assert_close

from torch_promptmm import PromptMMDistiller
from torch_promptmm.data import set_ids
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.loss import as_scored
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.serve import Recommender, load_student, recommend

FILES = Path(__file__).parents[1] / 'files' / 'v0.1.0'
WANTED = json.loads((FILES / 'wanted.json').read_text('utf-8'))
RUN: dict[str, Any] = dict(epochs=3, batch_size=16, seed=0, progress=False)


@pytest.fixture
def splits() -> list:
    out = list(SyntheticMultimodal.blocks(
        num_blocks=2, users_per_block=4, items_per_block=5,
        features={'visual': 5, 'textual': 3}))
    for data in out:
        set_ids(data, [f'u{i}' for i in range(8)],
                [f'i{i}' for i in range(12)])
    return out


def check(distiller: PromptMMDistiller, name: str, test: Any) -> None:
    wanted = WANTED[name]
    assert distiller.score == wanted['score']
    have = distiller.settings.to_dict()
    assert {key: have[key] for key in wanted['settings']} == wanted['settings']
    raw = name == 'raw_ids'
    users = [f'u{i}' for i in range(8)] if raw else range(8)
    for model in ('student', 'teacher'):
        want = wanted[model]
        items, scores = distiller.recommend(users, k=4, model=model, raw=raw)
        assert_close(scores, torch.tensor(want['scores']), rtol=1e-4,
                     atol=1e-5)
        assert (items if raw else items.tolist()) == want['items']
        assert distiller.evaluate(test, k=(2, 4),
                                  model=model) == pytest.approx(
                                      want['metrics'], abs=1e-6)


@pytest.mark.parametrize('name', ['default', 'faithful', 'raw_ids',
                                  'foreign'])
def test_distiller(name: str, splits: list, tmp_path: Path) -> None:
    path = FILES / f'{name}.safetensors'
    distiller = PromptMMDistiller.load(path)
    check(distiller, name, splits[2])
    # Saved by this version, it stays what it was.
    distiller.save(tmp_path / 'x')
    check(PromptMMDistiller.load(tmp_path / 'x'), name, splits[2])


@pytest.mark.parametrize('name', ['default', 'faithful'])
def test_goes_on(name: str, splits: list) -> None:
    distiller = PromptMMDistiller.load(FILES / f'{name}.safetensors')
    distiller.prepare(splits[0], 'student')
    # With the features, the teacher says what it said.
    assert_close(distiller.recommend(range(8), k=4, model='teacher')[1],
                 torch.tensor(WANTED[name]['teacher']['scores']), rtol=1e-4,
                 atol=1e-5)
    distiller.fit(*splits[:2], **RUN)


def test_a_teacher_of_another_class(splits: list) -> None:
    path = FILES / 'foreign.safetensors'
    distiller = PromptMMDistiller.load(path, teacher=Tables(8, 12))
    check(distiller, 'foreign', splits[2])
    distiller.fit_student(*splits[:2], **RUN)  # It says what it said.
    with pytest.raises(ValueError, match='of another model'):
        PromptMMDistiller.load(path, teacher=Tables(8, 12, 4))


def test_student() -> None:
    student, edge_index, score = load_student(FILES / 'student.safetensors')
    graph = UserItemGraph(edge_index, 8, 12)
    user, item = (as_scored(x, score) for x in student(graph))
    items, scores = recommend(user, item, range(8), 4, edge_index)
    wanted = WANTED['default']['student']
    assert items.tolist() == wanted['items']
    assert_close(scores, torch.tensor(wanted['scores']), rtol=1e-4, atol=1e-5)


def test_checkpoint(splits: list, tmp_path: Path) -> None:
    path = tmp_path / 'x'
    shutil.copy(FILES / 'student.checkpoint', path)
    distiller = PromptMMDistiller.from_data(
        splits[0], hidden_channels=4, num_negatives=6, item_samples=12,
        seed=2)
    history = distiller.fit(*splits[:2], checkpoint=path, resume=True,
                            **{**RUN, 'epochs': 5})
    assert len(history['teacher']) == 3 and len(history['student']) == 5
    check(distiller, 'resumed', splits[2])


def test_a_folder_of_format_1() -> None:
    folder = FILES.parent / 'recommender-1'
    wanted = json.loads((folder / 'wanted.json').read_text('utf-8'))
    rec = Recommender.load(folder)
    items, scores = rec.recommend(['u0', 'u3'], 4, raw=True)
    assert items == wanted['items'] and rec.meta == wanted['meta']
    assert_close(scores, torch.tensor(wanted['scores']))
    folded, _ = rec.recommend_from_history([[1, 2]], 3)
    assert folded.tolist() == wanted['folded']
