"""New users: against propagation over the grown graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from baselines import MF
from torch.testing import assert_close

from torch_promptmm import PromptMMDistiller
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.models import LightGCN
from torch_promptmm.serve import FoldIn, Recommender

U, I, D = 9, 8, 4
HISTORIES = [[3, 7, 3], [5], list(range(I))]
TRAIN, _, _ = SyntheticMultimodal.blocks(
    num_blocks=2, users_per_block=6, items_per_block=6,
    features={'visual': 5, 'textual': 3})


def edges(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    dense = rng.random((U, I)) < 0.4
    dense[:, 5] = False  # Nobody has it; the second new user comes with it.
    return dense.astype(np.float64)


def propagated(dense: np.ndarray, user: np.ndarray, item: np.ndarray,
               num_layers: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the layers, by dense matrices."""
    n = len(dense)
    adj = np.block([[np.zeros((n, n)), dense],
                    [dense.T, np.zeros((I, I))]])
    degree = adj.sum(axis=1)
    norm = np.divide(1, np.sqrt(degree), where=degree > 0,
                     out=np.zeros_like(degree))
    adj = norm[:, None] * adj * norm
    x = np.concatenate([user, item])
    total = x.copy()
    for _ in range(num_layers):
        x = adj @ x
        total += x
    total /= num_layers + 1
    return total[:n], total[n:]


def model_of(dense: np.ndarray, num_layers: int) -> LightGCN:
    torch.manual_seed(1)
    model = LightGCN(U, I, D, num_layers).double()
    for table in (model.user_embedding, model.item_embedding):
        torch.nn.init.normal_(table.weight)
    return model


def grown_rows(dense: np.ndarray, model: LightGCN) -> np.ndarray:
    """The row of each new user, in a graph of his own."""
    user = model.user_embedding.weight.detach().numpy()
    item = model.item_embedding.weight.detach().numpy()
    out = []
    for history in HISTORIES:
        row = np.zeros((1, I))
        row[0, history] = 1.0
        out.append(propagated(np.concatenate([dense, row]),
                              np.concatenate([user, np.zeros((1, D))]), item,
                              model.num_layers)[0][-1])
    return np.stack(out)


def folded(model: LightGCN, dense: np.ndarray,
           score: str = 'dot') -> Recommender:
    edge_index = torch.from_numpy(np.stack(dense.nonzero()))
    user, item = (x.detach() for x in model(edge_index))
    rows = model.fold_rows(edge_index)
    assert not rows.requires_grad
    return Recommender(user, item, edge_index, fold=FoldIn(
        rows, torch.tensor(score == 'cosine')))


@pytest.mark.parametrize('score', ['dot', 'cosine'])
@pytest.mark.parametrize('num_layers', [1, 2])
def test_it_is_the_row_of_the_grown_graph(num_layers: int,
                                          score: str) -> None:
    dense = edges(0)
    model = model_of(dense, num_layers)
    want = grown_rows(dense, model)
    if score == 'cosine':
        want /= np.linalg.norm(want, axis=1, keepdims=True)
    rec = folded(model, dense, score)
    items, scores = rec.recommend_from_history(HISTORIES, I,
                                               exclude_known=False)
    assert scores.dtype == torch.double
    everything = want @ rec.item_emb.numpy().T
    order = (-everything).argsort(axis=1)
    assert items.tolist() == order.tolist()
    assert np.abs(np.take_along_axis(everything, order, 1)
                  - scores.numpy()).max() < 1e-12
    items, scores = rec.recommend_from_history(HISTORIES, I)
    for row, history in enumerate(HISTORIES):
        left = [i for i in order[row] if i not in history]
        assert items[row].tolist() == left + [-1] * (I - len(left))


def test_with_three_layers_it_is_near() -> None:
    dense = edges(0)
    model = model_of(dense, 3)
    want = torch.from_numpy(grown_rows(dense, model))
    rec = folded(model, dense)
    _, scores = rec.recommend_from_history(HISTORIES[:2], 1,
                                           exclude_known=False)
    have = (rec.fold.rows[[3, 7]].sum(dim=0) / 2**0.5, rec.fold.rows[5])
    for row, x in enumerate(have):
        assert_close(scores[row, 0], (rec.item_emb @ x).max())
        assert torch.cosine_similarity(x, want[row], dim=0) > 0.9


def test_without_a_layer_there_is_the_mean() -> None:
    dense = edges(0)
    model = model_of(dense, 0)
    assert model.fold_rows(torch.zeros(2, 1, dtype=torch.long)) is None


@pytest.mark.parametrize('fold_in', [None, 'mean'])
def test_the_mean_of_the_items(fold_in: str | None) -> None:
    rec = Recommender.from_model(MF(12, 12), TRAIN)
    assert rec.fold is None
    histories = [[3, 7, 3], [5]]
    items, scores = rec.recommend_from_history(histories, 4, fold_in=fold_in)
    table = rec.item_emb.double().numpy()
    for row, history in enumerate(([3, 7], [5])):
        score = table @ table[history].mean(axis=0)
        score[history] = -np.inf
        order = (-score).argsort()[:4]
        assert items[row].tolist() == order.tolist()
        assert_close(scores[row].double(), torch.from_numpy(score[order]),
                     rtol=1e-5, atol=1e-6)


def test_a_distiller_folds_in() -> None:
    distiller = PromptMMDistiller.from_data(TRAIN, 4, seed=0)
    rec = distiller.recommender()
    student = distiller.student
    rows = student.fold_rows(distiller.graph)
    assert torch.equal(rec.fold.rows, rows)
    model = Recommender.from_model(student, TRAIN, score=distiller.score)
    for a, b in zip(model.fold, rec.fold, strict=True):
        assert torch.equal(a, b)
    assert bool(rec.fold.unit) == (distiller.score == 'cosine')
    items, scores = rec.recommend_from_history([[1, 2]], 3)
    assert items.shape == scores.shape == (1, 3)
    assert not set(items[0].tolist()) & {1, 2}
    # Half precision keeps the order of what is far apart.
    half = rec.to_dtype('int8')
    assert half.fold.rows.dtype == torch.half
    assert_close(half.recommend_from_history([[1, 2]], 3)[1], scores,
                 rtol=0.05, atol=1e-4)


def test_nobody() -> None:
    rec = folded(model_of(edges(0), 2), edges(0))
    for fold_in in (None, 'mean'):
        items, scores = rec.recommend_from_history([], 3, fold_in=fold_in)
        assert items.shape == scores.shape == (0, 3)
