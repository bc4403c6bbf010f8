from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torch_promptmm.checks import check_ids, check_int, check_matrix
from torch_promptmm.ranking import KnownItems
from torch_promptmm.serve.search import LeftOut, search
from torch_promptmm.serve.tables import table_rows


@torch.no_grad()
def recommend(
    user_emb: Tensor,
    item_emb: Tensor,
    user_ids: Tensor,
    k: int = 20,
    known: Tensor | KnownItems | None = None,
    batch_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Returns the best items of users.

    Args:
        user_emb (torch.Tensor): User embeddings :math:`(U, d)`.
        item_emb (torch.Tensor): Item embeddings :math:`(I, d)`; scores are
            dot products.
        user_ids (torch.Tensor): The users :math:`(B)`.
        k (int, optional): How many items. (default: :obj:`20`)
        known (torch.Tensor, optional): Interactions :math:`(2, E)` that are
            left out. (default: :obj:`None`)
        batch_size (int, optional): Users ranked at a time.
            (default: as many as 64 MiB of scores hold)

    Returns:
        Items :math:`(B, k)` and scores :math:`(B, k)`, best first; where a
        user has fewer items left, item -1 with score :math:`-\infty`.
    """
    check_matrix('user_emb', user_emb)
    check_matrix('item_emb', item_emb, user_emb.size(1))
    num_users, num_items = user_emb.size(0), item_emb.size(0)
    user_ids = check_ids('user_ids', user_ids, num_users, 'user')
    check_k(k, num_items)
    user_ids = user_ids.to(user_emb.device)
    left_out = LeftOut(len(user_ids), user_emb.device)
    if known is not None:
        left_out.add_known(as_known(known, num_users, num_items,
                                    user_emb.device), user_ids)
    query = table_rows(user_emb, None, user_ids)
    wide = torch.promote_types(item_emb.dtype, torch.float)
    return search(query.to(wide), item_emb, None, k, left_out,
                  batch_size=batch_size)


def check_k(k: Any, num_items: int) -> int:
    r"""Returns :obj:`k` if it is a number of items to find."""
    if check_int('k', k, 1) > num_items:
        raise ValueError(f"'k' must not be larger than the catalogue of "
                         f"{num_items} items (got {k})")
    return k


def check_known(known: Any, num_users: int, num_items: int) -> Tensor:
    r"""Returns :obj:`known` if it is interactions :math:`(2, E)`."""
    if not isinstance(known, Tensor):
        raise TypeError(f"'known' must be a torch.Tensor of shape [2, E] (got "
                        f"'{type(known).__name__}')")
    if known.dim() != 2 or known.size(0) != 2:
        raise ValueError(f"'known' must be of shape [2, E] (got "
                         f"{list(known.shape)})")
    check_ids('known', known[0], num_users, 'user')
    check_ids('known', known[1], num_items, 'item')
    return known


def as_known(known: Tensor | KnownItems, num_users: int, num_items: int,
             device: torch.device) -> KnownItems:
    r"""Returns interactions, by user, on a device."""
    if isinstance(known, KnownItems):
        return known
    known = check_known(known, num_users, num_items)
    return KnownItems(known.to(device), num_users)
