from __future__ import annotations

import torch
from torch import Tensor

from torch_promptmm.checks import check_ids, check_int, check_matrix
from torch_promptmm.ranking import KnownItems, top_items


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
    if check_int('k', k, 1) > num_items:
        raise ValueError(f"'k' must not be larger than the catalogue of "
                         f"{num_items} items (got {k})")
    if isinstance(known, Tensor):
        if known.dim() != 2 or known.size(0) != 2:
            raise ValueError(f"'known' must be of shape [2, E] (got "
                             f"{list(known.shape)})")
        check_ids('known', known[0], num_users, 'user')
        check_ids('known', known[1], num_items, 'item')
        known = KnownItems(known.to(user_emb.device), num_users)
    user_ids = user_ids.to(user_emb.device)
    items, scores = [user_ids.new_empty(0, k)], [user_emb.new_empty(0, k)]
    for _, item, score in top_items(user_emb, item_emb, user_ids, k, known,
                                    batch_size):
        items.append(item.masked_fill(score.isneginf(), -1))
        scores.append(score)
    return torch.cat(items), torch.cat(scores)
