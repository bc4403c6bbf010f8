"""The weights of several teachers, chosen on validation."""

from __future__ import annotations

import pytest
import torch
from baselines import MF

from torch_promptmm.data import held_out, read_graph
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.distill import choose_member_weights
from torch_promptmm.evaluate import evaluate_embeddings
from torch_promptmm.models import Ensemble
from torch_promptmm.nn import UserItemGraph

TRAIN, VAL, TEST = SyntheticMultimodal.blocks()
VIEW = read_graph(VAL)
GRAPH = UserItemGraph(TRAIN['user', 'interacts', 'item'].edge_index, 40, 36)
DATA = (GRAPH, held_out(VIEW), VIEW.edge_index)


def blocks() -> tuple[torch.Tensor, torch.Tensor]:
    """The block of each user and item: what hangs together."""
    a = torch.zeros(40, 36).index_put_(tuple(GRAPH.edge_index),
                                       torch.tensor(1.0))
    near = torch.linalg.matrix_power(a.t() @ a, 6) > 0
    item = near.int().argmax(dim=1).unique(return_inverse=True)[1]
    return item[a.argmax(dim=1)], item


def good(seed: int) -> MF:
    """Knows the blocks of users and items, with some noise."""
    torch.manual_seed(seed)
    model = MF(40, 36, 4)
    with torch.no_grad():
        for table, block in zip((model.user, model.item), blocks(),
                                strict=True):
            table.weight.copy_(torch.eye(4)[block])
            table.weight.add_(torch.randn_like(table.weight), alpha=0.3)
    return model


def noise(seed: int) -> MF:
    torch.manual_seed(seed)
    return MF(40, 36, 2)


def recall(ensemble: Ensemble, k: int = 5) -> float:
    return evaluate_embeddings(*ensemble(GRAPH)[:2], DATA[1], DATA[2],
                               k)[f'recall@{k}']


def test_noise_is_left_out() -> None:
    ensemble = Ensemble([noise(0), good(1), noise(2)],
                        member_weights=[1.0, 1.0, 1.0])
    before = recall(ensemble)
    value = choose_member_weights(ensemble, *DATA, metric='recall@5')
    first, second, third = ensemble.member_weights
    assert second > 2 * max(first, third)
    assert recall(ensemble) == pytest.approx(value) and value > before


def test_weights_that_do_not_matter_stay() -> None:
    ensemble = Ensemble([good(1), good(1)], member_weights=[1.0, 3.0])
    choose_member_weights(ensemble, *DATA, metric='recall@5')
    assert ensemble.member_weights == [1.0, 3.0]
    out = Ensemble([good(1), good(2)], member_weights=[1.0, 0.0])
    choose_member_weights(out, *DATA, metric='recall@5')
    assert out.member_weights[1] == 0.0 < out.member_weights[0]
    alone = Ensemble([good(1)], member_weights=[2.0])
    choose_member_weights(alone, *DATA, metric='recall@5')
    assert alone.member_weights == [2.0]


def test_the_mode_is_left_alone_and_weights_are_needed() -> None:
    ensemble = Ensemble([good(1), noise(0)], member_weights=[1.0, 1.0])
    for mode in (True, False):
        ensemble.train(mode)
        choose_member_weights(ensemble, *DATA, metric='recall@5', num_users=7)
        assert ensemble.training is mode
    with pytest.raises(ValueError, match="'member_weights'"):
        choose_member_weights(Ensemble([good(1)]), *DATA)
