"""The parts of a planted dataset: tastes, interactions, splits, features."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

VERSION = 1  # To be raised when the same seed gives another dataset.
BLOCK_NUMEL = 1 << 24  # Entries that are worked on at a time.


def sample_tastes(num_users: int, num_items: int, channels: int,
                  num_clusters: int,
                  generator: Generator) -> tuple[Tensor, Tensor]:
    r"""Unit vectors: an item lies around the centre of its cluster, a user
    between those of a few.
    """
    centers = _unit(torch.randn(num_clusters, channels, generator=generator))
    cluster = torch.randint(num_clusters, (num_items, ), generator=generator)
    noise = torch.randn(num_items, channels, generator=generator)
    item = _unit(centers[cluster] + 0.6 * _unit(noise))

    # High powers of uniform numbers: a few clusters have all the weight.
    weight = torch.rand(num_users, num_clusters, generator=generator)
    weight = weight.pow_(num_clusters)
    noise = torch.randn(num_users, channels, generator=generator)
    user = _unit(_unit(weight @ centers) + 0.6 * _unit(noise))
    return user, item


def sample_popularity(num_items: int, generator: Generator) -> Tensor:
    r"""The logarithm of a long-tailed popularity of each item."""
    rank = torch.randperm(num_items, generator=generator)
    return -0.8 * (rank + 1.0 + 0.01 * num_items).log()


def sample_activity(num_users: int, num_items: int, num_interactions: int,
                    generator: Generator) -> Tensor:
    r"""A long-tailed number of interactions for each user; their sum is
    exactly what is asked for.
    """
    low = min(3, num_interactions // num_users)
    high = max(num_items // 2, -(-num_interactions // num_users))
    weight = torch.randn(num_users, generator=generator).double().exp_()
    count = torch.full((num_users, ), low)
    while (rest := num_interactions - int(count.sum())) > 0:
        share = weight * (count < high)
        share = share / share.sum() * rest
        more = (share - 1e-6).floor().long().clamp_(min=0)
        # The largest remainders get what rounding left over.
        left = rest - int(more.sum())
        more[(share - more).topk(min(left, num_users)).indices] += 1
        count = (count + more).clamp_(max=high)
    return count


def sample_interactions(user: Tensor, item: Tensor, popularity: Tensor,
                        activity: Tensor, strength: float,
                        generator: Generator) -> Tensor:
    r"""Draws for each user as many different items as asked for, with a
    probability that is proportional to ``popularity * exp(strength * taste)``.

    Adding Gumbel noise to the logarithm of that and taking the largest ones
    is the same as drawing without replacement.
    """
    order = activity.argsort(descending=True, stable=True)
    rows, cols = [], []
    for users in order.split(max(1, BLOCK_NUMEL // item.size(0))):
        noise = torch.rand(users.numel(), item.size(0), generator=generator)
        noise.log_().neg_().log_()
        score = torch.addmm(popularity, user[users] * strength, item.t())
        count = activity[users]
        top = score.sub_(noise).topk(int(count.max())).indices
        chosen = torch.arange(top.size(1)) < count.unsqueeze(1)
        rows.append(users.repeat_interleave(count))
        cols.append(top[chosen])
    return torch.stack([torch.cat(rows), torch.cat(cols)])


def sample_cold(popularity: Tensor, fraction: float,
                generator: Generator) -> Tensor:
    r"""A mask of cold items, spread evenly over the popular and the rare."""
    num_items = popularity.numel()
    num_cold = round(fraction * num_items)
    cold = torch.zeros(num_items, dtype=torch.bool)
    if num_cold > 0:
        # One from each of as many ranges of popularity.
        bound = torch.arange(num_cold + 1) * num_items // num_cold
        draw = torch.rand(num_cold, generator=generator)
        rank = bound[:-1] + (draw * bound.diff()).long()
        cold[popularity.argsort()[rank]] = True
    return cold


def split_interactions(
    edge_index: Tensor,
    cold: Tensor,
    num_users: int,
    val_fraction: float,
    test_fraction: float,
    cold_in_val: bool,
    generator: Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Splits the interactions of each user at random. Those with cold items
    are never among the first of the three.
    """
    draw = torch.rand(edge_index.size(1), generator=generator)
    is_cold = cold[edge_index[1]]
    warm_index, draw_warm = edge_index[:, ~is_cold], draw[~is_cold]
    cold_index, draw_cold = edge_index[:, is_cold], draw[is_cold]

    # The place of each interaction in the random order of its user's:
    perm = draw_warm.argsort()
    perm = perm[warm_index[0][perm].argsort(stable=True)]
    warm_index = warm_index[:, perm]
    count = warm_index[0].bincount(minlength=num_users)
    start = count.cumsum(0) - count
    place = torch.arange(perm.numel()) - start[warm_index[0]]

    # Fractions are rounded at random, and one interaction stays for training.
    rand = torch.rand(2, num_users, generator=generator)
    num_test = (count * test_fraction + rand[0]).long()
    num_test = num_test.minimum((count - 1).clamp_(min=0))
    num_val = (count * val_fraction + rand[1]).long()
    num_val = num_val.minimum((count - 1 - num_test).clamp_(min=0))
    in_test = place < num_test[warm_index[0]]
    in_val = ~in_test & (place < (num_test + num_val)[warm_index[0]])

    share = val_fraction / max(val_fraction + test_fraction, 1e-12)
    cold_val = draw_cold < (share if cold_in_val else 0.0)
    return (
        warm_index[:, ~in_test & ~in_val],
        torch.cat([warm_index[:, in_val], cold_index[:, cold_val]], dim=1),
        torch.cat([warm_index[:, in_test], cold_index[:, ~cold_val]], dim=1),
    )


def sample_features(taste: Tensor, channels: int, informative: float,
                    dtype: torch.dtype, generator: Generator) -> Tensor:
    r"""A matrix whose columns have their variance from three sources: a
    non-linear view of the taste (a share of ``informative``), low-rank
    factors that have nothing to do with it (three quarters of the rest), and
    noise of each entry. Columns have arbitrary means and scales.
    """
    num_items, rank = taste.size(0), min(64, channels)
    hidden = torch.randn(taste.size(1), 64, generator=generator)
    bias = torch.randn(64, generator=generator)
    hidden = (2.0 * taste @ hidden + bias).tanh_()
    hidden -= hidden.mean(dim=0)
    view = torch.randn(64, channels, generator=generator)
    cov = hidden.t() @ hidden / num_items
    view /= (view * (cov @ view)).sum(dim=0).clamp_(min=1e-12).sqrt_()

    spectrum = torch.arange(1, rank + 1).float().rsqrt_().unsqueeze(1)
    factor = torch.randn(rank, channels, generator=generator) * spectrum
    factor /= factor.norm(dim=0)

    scale = (0.5 * torch.randn(channels, generator=generator)).exp_()
    offset = 5.0 * torch.randn(channels, generator=generator)
    view *= scale * informative**0.5
    factor *= scale * (0.75 * (1 - informative))**0.5
    noise = scale * (0.25 * (1 - informative))**0.5
    offset *= scale

    out = torch.empty(num_items, channels, dtype=dtype)
    size = max(1, BLOCK_NUMEL // 8 // channels)
    for start in range(0, num_items, size):
        rows = hidden[start:start + size]
        x = torch.randn(rows.size(0), channels, generator=generator)
        x.mul_(noise).add_(offset).addmm_(rows, view)
        x.addmm_(torch.randn(rows.size(0), rank, generator=generator), factor)
        out[start:start + size] = x
    return out


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=-1)
