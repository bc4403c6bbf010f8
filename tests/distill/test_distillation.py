"""What is trained, saved and served of a distiller's parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from baselines import MF, BiasedMF, Content, Tables
from torch.testing import assert_close

from torch_promptmm import PromptMMDistiller
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.models import LightGCN, as_model
from torch_promptmm.serve import Recommender
from torch_promptmm.train import fit

TRAIN, VAL, TEST = SyntheticMultimodal.blocks(
    num_blocks=2, users_per_block=6, items_per_block=6,
    features={'visual': 5, 'textual': 3})
U, I = TRAIN['user'].num_nodes, TRAIN['item'].num_nodes
RUN: dict[str, Any] = dict(epochs=3, batch_size=16, seed=0, progress=False)


class Visual(torch.nn.Module):
    """Of another class, with features that are not in its state."""
    def __init__(self, x: torch.Tensor | None = None) -> None:
        super().__init__()
        self.x = x
        self.linear = torch.nn.Linear(5, 6)
        self.user = torch.nn.Embedding(U, 6)

    def forward(self, graph: Any) -> Any:
        x = torch.zeros(I, 5) if self.x is None else self.x
        return self.user.weight, self.linear(x)


def build(teacher: torch.nn.Module | None = None,
          **kwargs: Any) -> PromptMMDistiller:
    return PromptMMDistiller.from_data(
        TRAIN, hidden_channels=4, seed=0, teacher=teacher, num_negatives=8,
        item_samples=12, **kwargs)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[PromptMMDistiller, Path]:
    distiller = build(Visual(TRAIN['item'].visual))
    distiller.fit(TRAIN, VAL, **RUN)
    distiller.save(tmp_path / 'x')
    return distiller, tmp_path / 'x'


def test_a_teacher_that_lost_its_features_is_not_distilled(saved) -> None:
    distiller, path = saved
    lost = PromptMMDistiller.load(path, teacher=Visual())
    before = lost.student.user_embedding.weight.clone()
    with pytest.raises(ValueError, match="'teacher' yields other item "
                       "embeddings.*item features"):
        lost.fit_student(TRAIN, VAL, **RUN)
    assert torch.equal(lost.student.user_embedding.weight, before)
    # Not on the second try either, and it still says what it said.
    assert_close(lost.embeddings('teacher'), distiller.embeddings('teacher'))
    with pytest.raises(ValueError, match="'teacher' yields other item"):
        lost.fit_student(TRAIN, VAL, **RUN)
    lost.teacher.x = TRAIN['item'].visual
    lost.fit_student(TRAIN, VAL, **RUN)
    distiller.fit_student(TRAIN, VAL, **RUN)
    for key, value in distiller.state_dict().items():
        assert torch.equal(lost.state_dict()[key], value)


def test_features_at_the_door(saved) -> None:
    _, path = saved
    PromptMMDistiller.load(path, teacher=Visual(
        TRAIN['item'].visual)).fit_student(TRAIN, VAL, **RUN)


def test_trained_again_it_is_another_teacher(saved) -> None:
    distiller, path = saved
    lost = PromptMMDistiller.load(path, teacher=Visual())
    lost.fit(TRAIN, VAL, **RUN)
    assert not torch.equal(lost.embeddings('teacher')[0],
                           distiller.embeddings('teacher')[0])


def test_other_weights_drop_what_was_saved(saved) -> None:
    distiller, path = saved
    loaded = PromptMMDistiller.load(path, Visual(TRAIN['item'].visual))
    state = {k: v + 1 if k == 'teacher.user.weight' else v
             for k, v in distiller.state_dict().items()}
    before = loaded.embeddings('teacher')[0]
    loaded.load_state_dict(state)
    after = loaded.embeddings('teacher')[0]
    assert not torch.equal(before, after)
    assert_close(after, torch.nn.functional.normalize(
        state['teacher.user.weight'], dim=1))
    loaded.fit_student(TRAIN, **RUN)  # These are no longer expected.


TEACHERS = {
    'LightGCN': lambda: LightGCN.from_data(TRAIN, 4, seed=1),
    'wide LightGCN': lambda: LightGCN.from_data(TRAIN, 6, seed=1),
    'MF': lambda: MF.from_data(TRAIN, 4, seed=1),
    'Content': lambda: Content.from_data(TRAIN, 4, seed=1),
    'wrapped': lambda: as_model(Tables(U, I)),
}


@pytest.mark.parametrize('name', TEACHERS)
def test_a_model_as_teacher(name: str, tmp_path: Path) -> None:
    teacher = TEACHERS[name]()
    fit(teacher, TRAIN, VAL, num_negatives=8, **RUN)
    distiller = build(teacher)
    assert distiller.teacher is teacher
    distiller.fit(TRAIN, VAL, **RUN)
    distiller.save(tmp_path / 'x')
    given = None if 'LightGCN' in name else TEACHERS[name]()
    loaded = PromptMMDistiller.load(tmp_path / 'x', teacher=given)
    if given is None:
        assert type(loaded.teacher) is LightGCN
        assert loaded.teacher.config() == teacher.config()
        with pytest.raises(ValueError, match="'teacher'.*holds a LightGCN"):
            PromptMMDistiller.load(tmp_path / 'x', teacher=teacher)
    for model in ('student', 'teacher'):
        assert (loaded.evaluate(TEST, k=(1, 3), model=model) ==
                distiller.evaluate(TEST, k=(1, 3), model=model))
        for a, b in zip(loaded.recommend(range(U), 4, model=model),
                        distiller.recommend(range(U), 4, model=model),
                        strict=True):
            assert torch.equal(a, b)
    for each in (loaded, distiller):
        each.fit(TRAIN, VAL, **RUN)
    for key, value in distiller.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


def test_a_loaded_one_without_features(tmp_path: Path) -> None:
    distiller = build()
    distiller.fit(TRAIN, VAL, **RUN)
    distiller.save(tmp_path / 'x')
    bare = [x.clone() for x in (TRAIN, VAL, TEST)]
    for data in bare:
        del data['item'].visual, data['item'].textual
        data['item'].num_nodes = I
    loaded = PromptMMDistiller.load(tmp_path / 'x')
    for model in ('student', 'teacher'):
        assert (loaded.evaluate(bare[2], k=3, model=model) ==
                distiller.evaluate(TEST, k=3, model=model))
        assert torch.equal(loaded.recommend(range(U), 4, model=model)[0],
                           distiller.recommend(range(U), 4, model=model)[0])
    with pytest.raises(ValueError, match='no modality|visual'):
        loaded.fit_student(bare[0], **RUN)


@pytest.mark.parametrize('model', ['student', 'teacher'])
@pytest.mark.parametrize('teacher', [None, lambda: Tables(U, I)])
def test_a_recommender_is_frozen(teacher: Any, model: str) -> None:
    distiller = build(teacher and teacher(), ranking_loss='bpr')
    distiller.fit_teacher(TRAIN, **RUN)
    rec = distiller.recommender(model)
    assert isinstance(rec, Recommender)
    for x in (rec.user_emb, rec.item_emb, *distiller.embeddings(model),
              distiller.predict([0], [1], model=model),
              distiller.recommend([0], 2, model=model)[1]):
        assert not x.requires_grad
    items, scores = rec.recommend(range(U), 4)
    similar = rec.similar_items([0, 1], 3)
    before = rec.user_emb.clone(), rec.item_emb.clone()
    distiller.fit(TRAIN, **RUN)
    assert torch.equal(rec.user_emb, before[0])
    assert torch.equal(rec.item_emb, before[1])
    again = rec.recommend(range(U), 4)
    assert torch.equal(again[0], items) and torch.equal(again[1], scores)
    assert_close(rec.similar_items([0, 1], 3), similar, rtol=0, atol=0)
    assert not torch.equal(distiller.embeddings(model)[0], before[0])


def test_a_teacher_whose_scores_are_products() -> None:
    teacher = BiasedMF(U, I)
    fit(teacher, TRAIN, **RUN)
    distiller = build(teacher, ranking_loss='bpr')
    distiller.fit(TRAIN, VAL, **RUN)
    assert distiller.embeddings('teacher')[0].size(1) == 9
