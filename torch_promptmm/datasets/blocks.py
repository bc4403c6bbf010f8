r"""A planted dataset on which the right answer is known."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from torch_promptmm.checks import check_int
from torch_promptmm.data import from_splits
from torch_promptmm.datasets.base import SplitDataset, Transform


class BlockDataset(SplitDataset):
    r"""A planted dataset on which the right answer is known, for tests.

    The users of a block like the items of that block, and no others. Of the
    block's items each user lacks two in training, one of them for validation
    and one for the test, and the cold items, which nobody has in training and
    only their features can place: they are positives of half of the block's
    users in validation, of the other half in the test. So a working
    recommender has Recall@\ :obj:`k` = 1 and a broken one cannot, where
    :obj:`k` is the number of items of the block that a user lacks.

    The features of an item are its block in a random basis, with a mean far
    from zero and some noise. The ids of users and items are shuffled.

    Args:
        num_blocks (int, optional): The number of blocks. (default: :obj:`4`)
        users_per_block (int, optional): The number of users of a block.
            (default: :obj:`10`)
        items_per_block (int, optional): The number of items of a block, the
            cold ones not among them. (default: :obj:`8`)
        cold_per_block (int, optional): The number of cold items of a block.
            (default: :obj:`1`)
        features (dict, optional): The width of each modality. If
            :obj:`None`, it is :obj:`{"visual": 48, "textual": 32}`.
            (default: :obj:`None`)
        noise (float, optional): The standard deviation of the noise, where
            the block's part has that of one. (default: :obj:`0.1`)
        known (str, optional): The interactions that the test graph knows of,
            :obj:`"train"` or :obj:`"train+val"`. (default: :obj:`"train"`)
        seed (int, optional): The same seed gives the same dataset.
            (default: :obj:`0`)
        transform (callable, optional): Applied to each graph at each access.
            (default: :obj:`None`)
    """

    user_block: Tensor  #: The block of each user :math:`[U]`.
    item_block: Tensor  #: The block of each item :math:`[I]`.
    cold_items: Tensor  #: The ids of the cold items.
    k: int  #: The number of items of the block that a user lacks.

    def __init__(
        self,
        num_blocks: int = 4,
        users_per_block: int = 10,
        items_per_block: int = 8,
        cold_per_block: int = 1,
        features: Mapping[str, int] | None = None,
        noise: float = 0.1,
        known: str = 'train',
        seed: int = 0,
        transform: Transform | None = None,
    ) -> None:
        check_int('num_blocks', num_blocks, 1)
        check_int('users_per_block', users_per_block, 3)
        check_int('items_per_block', items_per_block, 3)
        check_int('cold_per_block', cold_per_block, 0)
        super().__init__(None, transform)
        if features is None:
            features = {'visual': 48, 'textual': 32}
        self.k = cold_per_block + (1 if known == 'train+val' else 2)

        generator = torch.Generator().manual_seed(seed)
        size = items_per_block + cold_per_block
        num_users, num_items = num_blocks * users_per_block, num_blocks * size
        user_id = torch.randperm(num_users, generator=generator)
        item_id = torch.randperm(num_items, generator=generator)
        self.user_block = torch.empty_like(user_id)
        self.item_block = torch.empty_like(item_id)
        self.user_block[user_id] = torch.arange(num_users) // users_per_block
        self.item_block[item_id] = torch.arange(num_items) // size

        # All pairs of a user and an item of the same block:
        block, user, item = torch.meshgrid(
            torch.arange(num_blocks), torch.arange(users_per_block),
            torch.arange(size), indexing='ij')
        edge_index = torch.stack([user_id[block * users_per_block + user],
                                  item_id[block * size + item]])
        is_cold = item >= items_per_block
        is_val = is_cold & (user % 2 == 0)
        is_val |= ~is_cold & (item == user % items_per_block)
        is_test = is_cold & (user % 2 == 1)
        is_test |= ~is_cold & (item == (user + 1) % items_per_block)
        self.cold_items = item_id[
            (block * size + item)[is_cold & (user == 0)]].sort().values

        tensors = {}
        for name, width in features.items():
            basis = torch.randn(num_blocks, width, generator=generator)
            x = torch.randn(num_items, width, generator=generator)
            mean = 3.0 * torch.randn(width, generator=generator)
            tensors[name] = noise * x + basis[self.item_block] + mean
        self.set_splits(*from_splits(
            edge_index[:, ~is_val & ~is_test], edge_index[:, is_val],
            edge_index[:, is_test], tensors, num_users, num_items,
            known=known))
