"""The shared suite itself: models with one defect each, which it must find."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from baselines import MF, Content
from test_every_model import GRAPH, STORE, TRAIN, D, ModelSuite

from torch_promptmm.models import ModelOutput
from torch_promptmm.models.base import take
from torch_promptmm.train import RankingObjective, RankingTask, Task


class Unused(MF):
    """Has a parameter that nothing reads."""
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.more = torch.nn.Parameter(torch.ones(3))


class Detached(MF):
    """Users never learn."""
    def forward(self, graph, user_id=None, item_id=None):
        user, item = super().forward(graph, user_id, item_id)
        return user.detach(), item


class Stale(MF):
    """Ranks what it computed first."""
    kept: Any = None

    def forward(self, graph, user_id=None, item_id=None):
        if self.training or user_id is not None:
            return super().forward(graph, user_id, item_id)
        if self.kept is None:
            self.kept = super().forward(graph)[0].clone(), self.item.weight
        return self.kept


class Named(MF):
    """Looks at the number of a user."""
    def forward(self, graph, user_id=None, item_id=None):
        number = torch.arange(self.num_users, device=self.user.weight.device)
        user = self.user.weight * (1.0 + number.view(-1, 1))
        return take(user, user_id), take(self.item.weight, item_id)


class Elsewhere(MF):
    """Makes a tensor wherever new ones are made."""
    def forward(self, graph, user_id=None, item_id=None):
        user, item = super().forward(graph, user_id, item_id)
        return user + torch.zeros(user.shape), item


class Quadratic(MF):
    """Compares all items with all, and keeps nothing of it."""
    def forward(self, graph, user_id=None, item_id=None):
        item = self.item.weight
        item = item + 0.0 * (item @ item.t())[:, :1]
        return take(self.user.weight, user_id), take(item, item_id)


class Noisy(MF):
    """Draws in evaluation too."""
    def forward(self, graph, user_id=None, item_id=None):
        user, item = super().forward(graph, user_id, item_id)
        return user + 0.01 * torch.rand_like(user), item


class Square(MF):
    """Takes users and items for as many."""
    def forward(self, graph, user_id=None, item_id=None):
        rows = torch.arange(self.num_items)  # Fails where there are less.
        user = self.user.weight.index_add(0, rows, 0.0 * self.item.weight)
        return take(user, user_id), take(self.item.weight, item_id)


class Means(MF):
    """Divides by the degree, which may be zero."""
    def forward(self, graph, user_id=None, item_id=None):
        degree = graph.user_item.crow.diff().view(-1, 1)
        return (take(self.user.weight / degree, user_id),
                take(self.item.weight, item_id))


class Unmasked(Content):
    """Reads what a mask hides."""
    def forward(self, graph, user_id=None, item_id=None):
        item = 0.0
        for name in self.modalities:
            x, _ = self.item_features.rows(name, item_id)
            item = item + self.linear[name](x)
        return take(self.user.weight, user_id), item


class Two(Content):
    """Knows two modalities, whatever there is."""
    def forward(self, graph, user_id=None, item_id=None):
        visual, textual = (
            self.linear[name](self.item_features.rows(name, item_id)[0])
            for name in ('visual', 'textual'))
        return ModelOutput(take(self.user.weight, user_id), visual + textual)


class Suite(ModelSuite):
    def __init__(self, cls: type[MF]) -> None:
        self.cls = cls

    def make(self, seed: int = 0) -> Task:
        return RankingTask(self.cls.from_data(TRAIN, D, seed=seed), GRAPH,
                           STORE.edge_index,
                           objective=RankingObjective(num_negatives=16))


@pytest.mark.parametrize('cls, test, args', [
    (Unused, 'test_an_epoch_reaches_every_parameter', ()),
    (Detached, 'test_an_epoch_reaches_every_parameter', ()),
    (Stale, 'test_nothing_stale_is_ranked', ()),
    (Named, 'test_other_names_of_users_and_items', ()),
    (Elsewhere, 'test_makes_nothing_on_the_default_device', ()),
    (Quadratic, 'test_nothing_is_quadratic', ()),
    (Noisy, 'test_training_differs_by_dropout_alone', ()),
    (Square, 'test_any_sizes_and_nodes_without_an_edge', ((23, 29), )),
    (Means, 'test_any_sizes_and_nodes_without_an_edge', ((29, 23), )),
    (Unmasked, 'test_what_an_item_lacks', ()),
    (Two, 'test_any_number_of_modalities', ()),
])
def test_it_finds(cls: type[MF], test: str, args: tuple[Any, ...],
                  monkeypatch: pytest.MonkeyPatch) -> None:
    if cls is Quadratic:  # Not that large, for what it really makes.
        monkeypatch.setattr(Suite, 'big', (2000, 2000))
    with pytest.raises((AssertionError, RuntimeError, IndexError, KeyError)):
        getattr(Suite(cls), test)(*args)
    base = Content if issubclass(cls, Content) else MF
    getattr(Suite(base), test)(*args)


def test_one_that_drops_out_must_do_so() -> None:
    suite = Suite(MF)
    suite.dropout = True
    with pytest.raises(AssertionError):
        suite.test_training_differs_by_dropout_alone()
