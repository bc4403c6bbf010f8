from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor

from torch_promptmm.loader import Batch, BatchSpec, InteractionLoader


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, int, Tensor, Tensor]:
    """Sizes, known interactions (in no order, some of them twice) and the
    positives among them.
    """
    num_users = draw(st.integers(1, 6))
    num_items = draw(st.integers(1, 8))
    cells = st.integers(0, num_users * num_items - 1)
    known = draw(st.lists(cells, min_size=1, max_size=40))
    positives = draw(st.lists(st.sampled_from(known), min_size=1,
                              max_size=20))
    return num_users, num_items, *(
        torch.tensor([[x // num_items for x in xs],
                      [x % num_items for x in xs]])
        for xs in (known, positives))


def sets(known: Tensor) -> dict[int, set[int]]:
    out: dict[int, set[int]] = {}
    for user, item in known.t().tolist():
        out.setdefault(user, set()).add(item)
    return out


def check(batch: Batch, known: dict[int, set[int]], num_items: int,
          spec: BatchSpec) -> None:
    candidates = set(range(num_items))
    if spec.warm_negatives:
        candidates = set().union(*known.values())
    size = batch.user.numel()
    assert batch.negative.shape == (size, spec.num_negatives)
    assert batch.negative_mask.shape == batch.negative.shape
    shared = batch.shared.tolist()
    assert len(shared) == min(spec.shared_negatives, len(candidates))
    assert len(set(shared)) == len(shared)
    assert set(shared) <= candidates
    assert batch.shared_mask.shape == (size, len(shared))
    assert batch.item.shape == (spec.item_samples, )
    assert all(0 <= i < num_items for i in batch.item.tolist())
    for row, user in enumerate(batch.user.tolist()):
        unknown = candidates - known[user]
        # Whoever knows everything is masked, nobody else.
        assert batch.negative_mask[row].tolist() == (
            [bool(unknown)] * spec.num_negatives)
        assert int(batch.positive[row]) in known[user]
        for item in batch.negative[row].tolist():
            assert item in (unknown or range(num_items))
        assert batch.shared_mask[row].tolist() == [
            item not in known[user] for item in shared]


@given(graphs(), st.integers(0, 4), st.integers(0, 10), st.integers(0, 3),
       st.booleans(), st.integers(1, 25))
def test_no_negative_is_known(graph, own: int, shared: int, samples: int,
                              warm: bool, batch_size: int) -> None:
    num_users, num_items, known, positives = graph
    spec = BatchSpec(own, shared, samples, warm)
    loader = InteractionLoader(positives, known, num_users, num_items,
                               batch_size, spec)
    batches = list(loader)
    assert len(batches) == len(loader)
    for batch in batches:
        check(batch, sets(known), num_items, spec)
    # Every positive comes once an epoch.
    pairs = torch.cat([torch.stack([x.user, x.positive]) for x in batches], 1)
    assert sorted(pairs.t().tolist()) == sorted(positives.t().tolist())
    assert {x.user.numel() for x in batches[:-1]} <= {batch_size}


@given(graphs())
def test_positives_are_known_in_any_case(graph) -> None:
    num_users, num_items, known, positives = graph
    spec = BatchSpec(3, 4)
    loader = InteractionLoader(positives, known[:, :1], num_users, num_items,
                               spec=spec)
    both = torch.cat([positives, known[:, :1]], dim=1)
    for batch in loader:
        check(batch, sets(both), num_items, spec)


def test_collate_takes_any_interactions() -> None:
    known = torch.tensor([[0, 0, 1], [0, 2, 1]])
    loader = InteractionLoader(known, known, 2, 4, spec=BatchSpec(2, 3))
    user = torch.tensor([1, 1, 0])
    batch = loader.collate(user, torch.tensor([1, 1, 2]))
    assert batch.user is user
    check(batch, sets(known), 4, loader.spec)


def uniform(draws: Tensor, allowed: list[int], num_items: int) -> None:
    counts = np.bincount(draws.view(-1).numpy(), minlength=num_items)
    assert counts.sum() == counts[allowed].sum()
    expected = counts.sum() / len(allowed)
    statistic = ((counts[allowed] - expected)**2 / expected).sum()
    assert statistic < chi2.ppf(1 - 1e-4, len(allowed) - 1)


@pytest.mark.parametrize('warm', [False, True])
def test_negatives_are_uniform(warm: bool) -> None:
    num_items = 30
    known = {0: [0, 1, 2, 7, 29], 1: [5], 2: list(range(1, 28))}
    pairs = torch.tensor([(u, i) for u, items in known.items()
                          for i in items]).t()
    loader = InteractionLoader(pairs, pairs, 4, num_items,
                               spec=BatchSpec(2000, warm_negatives=warm))
    candidates = set(range(num_items))
    if warm:
        candidates = set(pairs[1].tolist())
        assert candidates == set(range(30)) - {28}
    for user, items in known.items():
        users = torch.full((20, ), user)
        batch = loader.collate(users, users)
        uniform(batch.negative, sorted(candidates - set(items)), num_items)


def test_shared_negatives_and_samples_are_uniform() -> None:
    pairs = torch.tensor([[0, 0, 1], [1, 3, 4]])
    for warm, allowed in ((False, list(range(12))), (True, [1, 3, 4])):
        spec = BatchSpec(0, 2, 5, warm)
        loader = InteractionLoader(pairs, pairs, 2, 12, spec=spec)
        batches = [batch for _ in range(1500) for batch in loader]
        uniform(torch.cat([x.shared for x in batches]), allowed, 12)
        uniform(torch.cat([x.item for x in batches]), list(range(12)), 12)


def test_epochs_are_shuffled() -> None:
    pairs = torch.stack([torch.arange(50) % 5, torch.arange(50)])
    loader = InteractionLoader(pairs, pairs, 5, 50, batch_size=50)
    one, two = next(iter(loader)), next(iter(loader))
    assert not torch.equal(one.positive, two.positive)
    assert not torch.equal(one.positive, pairs[1])


def test_same_seed_same_batches() -> None:
    pairs = torch.stack([torch.arange(60) % 6, torch.arange(60) % 11])
    epochs = []
    for _ in range(2):
        torch.manual_seed(3)
        loader = InteractionLoader(pairs, pairs, 6, 20, 7,
                                   BatchSpec(2, 5, 3))
        epochs.append([x for _ in range(2) for batch in loader
                       for x in batch])
    assert len(epochs[0]) == len(epochs[1])
    for a, b in zip(*epochs, strict=True):
        assert torch.equal(a, b)


SKEWED = torch.stack([torch.tensor([0] * 16 + [1] * 4 + [2]),
                      torch.arange(21)])


@pytest.mark.parametrize('alpha', [0.5, 1.0, 2.0])
def test_users_are_drawn_by_their_degree(alpha: float) -> None:
    loader = InteractionLoader(SKEWED, SKEWED, 4, 30, user_weight=alpha)
    batches = [batch for _ in range(1000) for batch in loader]
    # As many as there are, an epoch.
    assert {x.user.numel() for x in batches} == {21}
    user = torch.cat([x.user for x in batches])
    item = torch.cat([x.positive for x in batches])
    assert torch.equal(SKEWED[0][item], user)
    degree = np.array([16.0, 4.0, 1.0])
    share = degree**(1 - alpha) / (degree**(1 - alpha)).sum()
    count = np.bincount(user.numpy(), minlength=3)
    expected = share * user.numel()
    statistic = ((count - expected)**2 / expected).sum()
    assert statistic < chi2.ppf(1 - 1e-4, 2)
    # Among the interactions of a user none is preferred.
    uniform(item[user == 0], list(range(16)), 30)


def test_a_weight_of_zero_is_a_permutation() -> None:
    for kwargs, same in (({}, True), ({'user_weight': 0.0}, True),
                         ({'user_weight': 0.5}, False)):
        torch.manual_seed(3)
        loader = InteractionLoader(SKEWED, SKEWED, 3, 30, 5, **kwargs)
        item = torch.cat([x.positive for x in loader])
        assert (item.sort().values.tolist() == list(range(21))) is same
    torch.manual_seed(3)
    assert torch.equal(item[:5], next(iter(loader)).positive)
    assert len(loader) == 5


def test_negatives_of_drawn_interactions_are_unknown() -> None:
    spec = BatchSpec(3, 6)
    loader = InteractionLoader(SKEWED, SKEWED, 3, 30, 8, spec,
                               user_weight=1.0)
    for batch in loader:
        check(batch, sets(SKEWED), 30, spec)


def test_inputs_are_left_alone_and_may_be_int32() -> None:
    pairs = torch.tensor([[1, 0, 1], [3, 2, 0]], dtype=torch.int32)
    copy = pairs.clone()
    # Keys of user and item pass the range of 32 bits.
    loader = InteractionLoader(pairs, pairs, 100_000, 100_000,
                               spec=BatchSpec(4, 4))
    batch = next(iter(loader))
    assert batch.user.dtype == batch.negative.dtype == torch.long
    assert torch.equal(pairs, copy)


def test_spec() -> None:
    spec = BatchSpec(1, 2, 3).merge(BatchSpec(4, 1, 0, True))
    assert spec == BatchSpec(4, 2, 3, True)
    assert hash(spec) == hash(BatchSpec(4, 2, 3, True))
    for name in ('num_negatives', 'shared_negatives', 'item_samples'):
        with pytest.raises(ValueError, match=f"'{name}' must be at least 0"):
            BatchSpec(**{name: -1})
        with pytest.raises(TypeError, match=f"'{name}' must be an integer"):
            BatchSpec(**{name: 1.5})
    with pytest.raises(TypeError, match="'warm_negatives' must be True or F"):
        BatchSpec(warm_negatives=1)


def test_representation() -> None:
    pairs = torch.tensor([[0], [1]])
    assert str(InteractionLoader(pairs, pairs, 1, 2)) == (
        'InteractionLoader(1 interactions, batch_size=2048, '
        'BatchSpec(num_negatives=1, shared_negatives=0, item_samples=0, '
        'warm_negatives=False))')


PAIRS = torch.tensor([[0, 1], [1, 2]])
EMPTY = torch.empty(2, 0, dtype=torch.long)


@pytest.mark.parametrize('error, match, args', [
    (ValueError, "'positives' must be of shape", (EMPTY, PAIRS, 2, 3)),
    (ValueError, "'known' must be of shape", (PAIRS, EMPTY, 2, 3)),
    (ValueError, r'got \[2\]', (PAIRS[0], PAIRS, 2, 3)),
    (ValueError, r'got \[1, 2\]', (PAIRS, PAIRS[:1], 2, 3)),
    (ValueError, r"'positives\[0\]' has user id 1", (PAIRS, PAIRS, 1, 3)),
    (ValueError, r"'positives\[1\]' has item id 2", (PAIRS, PAIRS, 2, 2)),
    (ValueError, r"'known\[0\]' has user id -1", (PAIRS, PAIRS - 1, 2, 3)),
    (TypeError, "'positives' must be a torch.Tensor",
     (PAIRS.tolist(), PAIRS, 2, 3)),
    (TypeError, "'known' must be a torch.Tensor", (PAIRS, None, 2, 3)),
    (TypeError, 'integer user ids', (PAIRS.float(), PAIRS, 2, 3)),
    (ValueError, "'num_users' must be at least 1", (PAIRS, PAIRS, 0, 3)),
    (ValueError, "'num_items' must be at least 1", (PAIRS, PAIRS, 2, -3)),
    (ValueError, "'batch_size' must be at least 1", (PAIRS, PAIRS, 2, 3, 0)),
    (TypeError, "'batch_size' must be an integer", (PAIRS, PAIRS, 2, 3, 0.5)),
    (ValueError, "'user_weight' must be",
     (PAIRS, PAIRS, 2, 3, 4, None, None, -0.5)),
])
def test_bad_input(error: type[Exception], match: str, args) -> None:
    with pytest.raises(error, match=match):
        InteractionLoader(*args)


def test_on_device(device: torch.device) -> None:
    pairs = torch.stack([torch.arange(60) % 6, torch.arange(60) % 11])
    spec = BatchSpec(2, 5, 3, True)
    loader = InteractionLoader(pairs, pairs, 6, 20, 7, spec, device)
    for batch in loader:
        assert all(x.device.type == device.type for x in batch)
        check(Batch(*(x.cpu() for x in batch)), sets(pairs), 20, spec)
