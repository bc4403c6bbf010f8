"""How high new items may rise."""

from __future__ import annotations

import pytest
import torch

from torch_promptmm.distill import choose_level, learn_content_map
from torch_promptmm.distill.cold_items import KEPT, LEVELS
from torch_promptmm.evaluate import evaluate_embeddings
from torch_promptmm.nn import UserItemGraph

USERS, ITEMS, K = 60, 80, 10


def data() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    user = torch.randn(USERS, 4, generator=generator)
    item = torch.randn(ITEMS, 4, generator=generator)
    score = user @ item.t() + torch.randn(USERS, ITEMS, generator=generator)
    positives = score.topk(6, dim=1).indices
    known = score.topk(12, dim=1).indices[:, 6:]
    users = torch.arange(USERS).view(-1, 1)
    return (user, item, *(torch.stack([users.expand_as(x).reshape(-1),
                                       x.reshape(-1)])
                          for x in (positives, known)))


@pytest.mark.parametrize('too_long', [0.5, 1.0, 4.0])
def test_level_is_the_best_that_leaves_the_others_alone(
        too_long: float) -> None:
    """By the metric of the package itself, one level after another."""
    user, item, positives, known = data()
    new = torch.arange(ITEMS) % 8 == 0
    item[new] *= too_long
    level = choose_level((user, item), new, positives, known, K)

    def recall(scale: float, part: torch.Tensor) -> float:
        placed = torch.where(new.view(-1, 1), scale * item, item)
        values = evaluate_embeddings(user, placed, positives[:, part], known,
                                     (K, ), metrics=('recall', ),
                                     per_user=True)[f'recall@{K}']
        _, count = positives[0, part].unique(return_counts=True)
        return float((values * count).sum() / 6 / USERS)

    is_new = new[positives[1]]
    alone = recall(0.0, ~is_new)
    values = {x: recall(x, is_new) for x in LEVELS
              if recall(x, ~is_new) >= KEPT * alone - 1e-6}
    if values:
        assert values[level] == pytest.approx(max(values.values()))
    else:
        assert level == LEVELS[0]


def test_map_learns_of_warm_items_alone() -> None:
    user, item, positives, known = data()
    features = {'x': item @ torch.randn(4, 12)}
    graph = UserItemGraph(known, USERS, ITEMS)
    cold = graph.item_user.crow.diff() == 0
    lost = item.clone()
    lost[cold] = 0.0
    out = learn_content_map((user, lost), graph, features, None, positives,
                            known, K)
    placed = out(features, calibrate=False)
    assert torch.cosine_similarity(placed, item)[cold].mean() > 0.5 or (
        not bool(cold.any()))
    assert float(out.level) in [pytest.approx(x) for x in LEVELS]
    plain = learn_content_map((user, lost), graph, features)
    assert float(plain.level) == 1.0
    torch.testing.assert_close(plain(features), placed)
