from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from torch_promptmm.distill import ListBatch, TopLists, UserLoader, top_lists
from torch_promptmm.seeding import seeded

U, I = 13, 40


def interactions(num: int = 90, num_users: int = U,
                 num_items: int = I) -> torch.Tensor:
    """Unsorted, and some are there twice."""
    return torch.stack([torch.randint(num_users, (num, )),
                        torch.randint(num_items, (num, ))])


def brute_force(user: torch.Tensor, item: torch.Tensor, known: torch.Tensor,
                num: int) -> tuple[Any, Any]:
    scores = user.double().numpy() @ item.double().numpy().T
    for u, i in known.T.tolist():
        scores[u, i] = -np.inf
    order = (-scores).argsort(1, kind='stable')[:, :num]
    top = np.take_along_axis(scores, order, 1)
    return np.where(np.isinf(top), -1, order), top


@pytest.mark.parametrize('num', [1, 5, 38, 1000])
@pytest.mark.parametrize('batch_size', [None, 4])
@pytest.mark.parametrize('dtype', [torch.float, torch.half])
def test_equals_brute_force(num: int, batch_size: int | None,
                            dtype: torch.dtype) -> None:
    user, item = torch.randn(U, 6).to(dtype), torch.randn(I, 6).to(dtype)
    known = torch.cat([interactions(),
                       torch.stack([torch.full((I - 2, ), 4),
                                    torch.arange(I - 2)])], 1)
    lists = top_lists(user, item, known, num, batch_size)
    items, scores = brute_force(user, item, known, num)
    assert lists.items.dtype == torch.int32
    assert lists.scores.dtype == torch.float
    np.testing.assert_array_equal(lists.items.numpy(), items)
    np.testing.assert_allclose(lists.scores.numpy(), scores, atol=1e-5)
    if num > 2:
        assert (lists.items[4, 2:] == -1).all()


def test_many_items() -> None:
    """Enough of them that they are ranked in blocks."""
    user, item = torch.randn(5, 6), torch.randn(900, 6)
    known = interactions(300, 5, 900)
    lists = top_lists(user, item, known, 20)
    items, _ = brute_force(user, item, known, 20)
    np.testing.assert_array_equal(lists.items.numpy(), items)


def check_batch(batch: ListBatch, lists: TopLists,
                known: torch.Tensor) -> None:
    have = {tuple(pair) for pair in known.T.tolist()}
    for row, u in enumerate(batch.user.tolist()):
        own = [i for i in lists.items[u].tolist() if i >= 0]
        assert batch.top[row, :len(own)].tolist() == own
        assert (batch.top[row, len(own):] == 0).all()
        assert torch.equal(batch.top_score[row], lists.scores[u])
        want = [(u, i) not in have and i not in own
                for i in batch.uniform.tolist()]
        assert batch.uniform_mask[row].tolist() == want


@given(st.integers(1, 9), st.integers(1, 14), st.integers(0, 40),
       st.integers(1, 15), st.integers(0, 16), st.integers(0, 2**31))
def test_mask_equals_brute_force(num_users: int, num_items: int,
                                 num_known: int, num: int, num_uniform: int,
                                 seed: int) -> None:
    torch.manual_seed(seed)
    known = interactions(num_known, num_users, num_items)
    lists = top_lists(torch.randn(num_users, 3), torch.randn(num_items, 3),
                      known, num)
    loader = UserLoader(lists, known, num_items, 4, num_uniform)
    users = []
    for batch in loader:
        check_batch(batch, lists, known)
        uniform = batch.uniform.tolist()
        assert len(set(uniform)) == len(uniform) == min(num_uniform,
                                                        num_items)
        users += batch.user.tolist()
    assert sorted(users) == list(range(num_users))


def make(**kwargs: Any) -> tuple[UserLoader, TopLists, torch.Tensor]:
    known = interactions()
    lists = top_lists(torch.randn(U, 6), torch.randn(I, 6), known, 8)
    kwargs = {'batch_size': 5, 'num_uniform': 10, **kwargs}
    return UserLoader(lists, known, I, **kwargs), lists, known


def test_batches() -> None:
    loader, lists, known = make()
    batches = list(loader)
    assert len(loader) == len(batches) == 3
    assert [len(b.user) for b in batches] == [5, 5, 3]
    assert batches[0].top.dtype == torch.long
    assert batches[0].top.shape == batches[0].top_score.shape == (5, 8)
    assert batches[0].uniform_mask.shape == (5, 10)
    # Users and uniform items are drawn anew.
    again = next(iter(loader))
    assert not torch.equal(again.user, batches[0].user)
    assert not torch.equal(batches[0].uniform, batches[1].uniform)
    batch = loader.collate(torch.tensor([7, 2]))
    assert batch.user.tolist() == [7, 2]
    check_batch(batch, lists, known)
    assert str(loader) == ('UserLoader(13 users, 40 items, lists of 8, '
                           'batch_size=5, num_uniform=10)')


def test_the_global_generator_governs_it() -> None:
    loader, _, _ = make()
    drawn = []
    for seed in (3, 3, 4):
        with seeded(seed, loader.device):
            drawn.append([(b.user, b.uniform) for b in loader])
    for a, b in zip(drawn[0], drawn[1], strict=True):
        assert_close(a, b, atol=0, rtol=0)
    assert not torch.equal(drawn[0][0][0], drawn[2][0][0])


def test_uniform_items_stand_for_the_catalogue() -> None:
    """The corrected sum over them is that over all outside the list."""
    loader, _, known = make()
    value = torch.randn(I, dtype=torch.double).exp()
    user, total = torch.tensor([4]), []
    for _ in range(4000):
        batch = loader.collate(user)
        total.append(value[batch.uniform][batch.uniform_mask[0]].sum())
    whole, _, _ = make(num_uniform=1000)
    assert whole.log_correction == 0.0
    outside = torch.ones(I, dtype=torch.bool)
    outside[known[1][known[0] == 4]] = False
    outside[batch.top[0]] = False
    mean = torch.stack(total).mean() * np.exp(loader.log_correction)
    assert float(mean) == pytest.approx(float(value[outside].sum()), rel=0.05)


def test_bad_input() -> None:
    _, lists, known = make()
    with pytest.raises(TypeError, match="'lists' must be TopLists"):
        UserLoader(tuple(lists), known, I)
    with pytest.raises(ValueError, match="'lists' has item id"):
        UserLoader(lists, known[:, :0], 2)
    with pytest.raises(ValueError, match='known.* has item id'):
        UserLoader(TopLists(lists.items % 3, lists.scores), known, 5)
    with pytest.raises(ValueError, match=r"'known' must be of shape \[2, E\]"):
        top_lists(torch.randn(U, 3), torch.randn(I, 3), known[0])
    with pytest.raises(TypeError, match="'known' must be a torch.Tensor"):
        UserLoader(lists, known.tolist(), I)
    with pytest.raises(ValueError, match="'num' must be at least 1"):
        top_lists(torch.randn(U, 3), torch.randn(I, 3), known, 0)
    with pytest.raises(ValueError, match="'item_emb' must have 3 columns"):
        top_lists(torch.randn(U, 3), torch.randn(I, 4), known)


def test_on_a_device(device: torch.device) -> None:
    loader, lists, known = make(device=device)
    for batch in loader:
        assert all(x.device.type == device.type for x in batch)
        check_batch(ListBatch(*(x.cpu() for x in batch)), lists, known)
