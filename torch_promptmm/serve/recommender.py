r"""What serves: embeddings, and recommendations from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from torch_promptmm.checks import (
    check_bool,
    check_ids,
    check_int,
    check_matrix,
)
from torch_promptmm.data import IdMap, id_maps
from torch_promptmm.data.contract import known_interactions
from torch_promptmm.evaluate import embed_view, read_for
from torch_promptmm.models import as_model
from torch_promptmm.nn import unit_rows
from torch_promptmm.nn.content_map import ContentMap, new_items
from torch_promptmm.serve.recommend import recommend


class Recommender:
    r"""What serves: one vector for each user and item, whose dot product is
    the score, with what the users have already and the data's own ids.

    It holds its embeddings: a model that is trained further does not change
    it.

    Args:
        user_emb (torch.Tensor): User embeddings :math:`(|\mathcal{U}|, d)`.
        item_emb (torch.Tensor): Item embeddings :math:`(|\mathcal{I}|, d)`.
        known (torch.Tensor, optional): The interactions :math:`(2, E)` that
            are not recommended. (default: :obj:`None`)
        ids (dict, optional): The :class:`~torch_promptmm.data.IdMap` of
            :obj:`"user"` and of :obj:`"item"`. (default: :obj:`None`)
    """
    def __init__(
        self,
        user_emb: Tensor,
        item_emb: Tensor,
        known: Tensor | None = None,
        ids: dict[str, IdMap] | None = None,
    ) -> None:
        check_matrix('user_emb', user_emb)
        check_matrix('item_emb', item_emb, user_emb.size(1))
        self.user_emb, self.item_emb = user_emb, item_emb
        self.known, self.ids = known, dict(ids or {})
        # From content to item embeddings, where a distiller learned one.
        self.content_map: ContentMap | None = None

    @classmethod
    def from_model(
        cls,
        model: torch.nn.Module,
        data: HeteroData,
        score: str | None = None,
        edge_type: tuple[str, str, str] | None = None,
    ) -> Recommender:
        r"""Makes a recommender of any model.

        Args:
            model (torch.nn.Module): The model.
            data (HeteroData): The training graph, which is propagated over
                and whose interactions are not recommended.
            score (str, optional): :obj:`"dot"` or :obj:`"cosine"`.
                (default: what the model was trained with, else
                :obj:`"dot"`)
            edge_type (tuple, optional): The edge type of the interactions.
                (default: :obj:`("user", "interacts", "item")`, or the only
                one)
        """
        ranked = as_model(model)
        view = read_for(ranked, data, edge_type)
        user, item = embed_view(ranked, view, score)
        return cls(user, item, known_interactions(view),
                   id_maps(data, view.edge_type))

    @property
    def num_users(self) -> int:
        r"""The number of users."""
        return self.user_emb.size(0)

    @property
    def num_items(self) -> int:
        r"""The number of items."""
        return self.item_emb.size(0)

    def to(self, device: Any) -> Recommender:
        r"""Returns the recommender on a device; itself if it is there."""
        if self.user_emb.device == torch.device(device):
            return self
        out = Recommender(self.user_emb.to(device), self.item_emb.to(device),
                          self.known, self.ids)
        out.content_map = self.content_map
        return out

    def recommend(
        self,
        user_ids: Any,
        k: int = 20,
        exclude_known: bool = True,
        known: Tensor | None = None,
        batch_size: int | None = None,
        raw: bool = False,
    ) -> tuple[Any, Tensor]:
        r"""Returns the best items of users.

        Args:
            user_ids (torch.Tensor or list): Users :math:`(B)`.
            k (int, optional): How many items, at most the catalogue.
                (default: :obj:`20`)
            exclude_known (bool, optional): Leave out what users know.
                (default: :obj:`True`)
            known (torch.Tensor, optional): Other interactions
                :math:`(2, E)` to leave out instead. (default: :obj:`None`)
            batch_size (int, optional): Users ranked at a time.
                (default: as many as 64 MiB of scores hold)
            raw (bool, optional): If :obj:`True`, users are given and items
                returned by the ids of the data's own (see
                :class:`~torch_promptmm.data.IdMap`): items are then a list
                of lists, with :obj:`None` where there is no item left.
                (default: :obj:`False`)

        Returns:
            Items :math:`(B, k)` and scores :math:`(B, k)`, best first. For a
            user with fewer items left, the rest are item -1 with score
            :math:`-\infty`.
        """
        if not check_bool('exclude_known', exclude_known):
            if known is not None:
                raise ValueError("'known' is left out, but 'exclude_known' is "
                                 "False")
        elif known is None:
            known = self.known
        if not check_bool('raw', raw):
            return recommend(self.user_emb, self.item_emb, user_ids, k, known,
                             batch_size)
        users, items = self._id_map('user'), self._id_map('item')
        found, scores = recommend(self.user_emb, self.item_emb,
                                  users.encode(user_ids), k, known,
                                  batch_size)
        return items.decode(found), scores

    def add_items(
        self,
        features: Mapping[str, Tensor],
        ids: Iterable[Any] | None = None,
        masks: Mapping[str, Tensor] | None = None,
        calibrate: bool = True,
    ) -> Tensor:
        r"""Adds items that nobody has had yet, behind the others, where their
        content says; see :func:`~torch_promptmm.nn.content_map.new_items`.

        Args:
            features (dict): Features :math:`(n, d_m)` of one or more of the
                modalities.
            ids (Iterable, optional): Their raw ids, where the others have
                some. (default: :obj:`None`)
            masks (dict, optional): For some modalities, True where the item
                has it :math:`(n)`. (default: :obj:`None`)
            calibrate (bool, optional): If :obj:`False`, they rise as high as
                the map puts them, not as validation has found best.
                (default: :obj:`True`)

        Returns:
            Their numbers :math:`(n)`.
        """
        rows, item_ids = new_items(self.content_map, self.ids.get('item'),
                                   features, ids, masks, calibrate)
        start = self.num_items
        self.item_emb = torch.cat([self.item_emb, rows.to(self.item_emb)])
        if item_ids is not None:
            self.ids['item'] = item_ids
        return torch.arange(start, self.num_items)

    def similar_items(self, item_ids: Any, k: int = 20,
                      batch_size: int | None = None
                      ) -> tuple[Tensor, Tensor]:
        r"""Returns the items whose vectors have the highest cosine with
        those of given items, without these themselves.

        Args:
            item_ids (torch.Tensor or list): Items :math:`(B)`.
            k (int, optional): How many, at most the rest of the catalogue.
                (default: :obj:`20`)
            batch_size (int, optional): Items ranked at a time.
                (default: as many as 64 MiB of scores hold)

        Returns:
            Items :math:`(B, k)` and cosines :math:`(B, k)`, best first.
        """
        if check_int('k', k, 1) >= self.num_items:
            raise ValueError(f"'k' must be below the number of items, "
                             f"{self.num_items} (got {k})")
        item_ids = check_ids('item_ids', item_ids, self.num_items, 'item')
        unit = unit_rows(self.item_emb)
        return recommend(unit, unit, item_ids, k,
                         torch.stack([item_ids.unique()] * 2), batch_size)

    def predict(self, user_ids: Any, item_ids: Any) -> Tensor:
        r"""Returns the scores of pairs :math:`(B)`.

        Args:
            user_ids (torch.Tensor or list): Users :math:`(B)`.
            item_ids (torch.Tensor or list): Items :math:`(B)`.
        """
        user_ids = check_ids('user_ids', user_ids, self.num_users, 'user')
        item_ids = check_ids('item_ids', item_ids, self.num_items, 'item')
        if user_ids.shape != item_ids.shape:
            raise ValueError(f"'user_ids' and 'item_ids' must be of one "
                             f"length (got {user_ids.numel()} and "
                             f"{item_ids.numel()})")
        device = self.user_emb.device
        return (self.user_emb[user_ids.to(device)] *
                self.item_emb[item_ids.to(device)]).sum(dim=-1)

    def _id_map(self, kind: str) -> IdMap:
        ids = self.ids.get(kind)
        if ids is None:
            raise ValueError(f"'raw=True' needs the {kind}s' own ids, which "
                             f"the data did not have: read it with "
                             f"torch_promptmm.data.read_interactions, or add "
                             f"them with torch_promptmm.data.set_ids")
        return ids

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}(num_users={self.num_users}, '
                f'num_items={self.num_items}, '
                f'channels={self.user_emb.size(1)})')
