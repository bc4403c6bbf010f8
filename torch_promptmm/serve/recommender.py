r"""What serves: embeddings, and recommendations from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torch_promptmm.checks import (
    check_bool,
    check_choice,
    check_ids,
    check_int,
)
from torch_promptmm.nn.content_map import new_items
from torch_promptmm.ranking import KnownItems
from torch_promptmm.serve.fold_in import FOLD_INS, mean_rows
from torch_promptmm.serve.in_files import InFiles
from torch_promptmm.serve.lists import ItemLists, read_histories, read_lists
from torch_promptmm.serve.recommend import as_known, check_k
from torch_promptmm.serve.search import LeftOut, search
from torch_promptmm.serve.served import Served

if TYPE_CHECKING:  # Serving needs no PyG.
    from torch_geometric.data import HeteroData


class Recommender(InFiles, Served):
    r"""What serves: one vector for each user and item, whose dot product is
    the score, with what the users have already and the data's own ids. It
    needs neither PyG nor features.

    It holds its embeddings: a model that is trained further does not change
    it. Its tensors are not to be changed either.

    Args:
        user_emb (torch.Tensor): User embeddings :math:`(|\mathcal{U}|, d)`:
            floating-point, or int8 with :obj:`scales`.
        item_emb (torch.Tensor): Item embeddings :math:`(|\mathcal{I}|, d)`.
        known (torch.Tensor, optional): The interactions :math:`(2, E)` that
            are not recommended. (default: :obj:`None`)
        ids (dict, optional): The :class:`~torch_promptmm.data.IdMap` of
            :obj:`"user"` and of :obj:`"item"`. (default: :obj:`None`)
        scales (dict, optional): What rows of int8 are multiplied by, under
            :obj:`"user"` :math:`(|\mathcal{U}|)` and :obj:`"item"`
            :math:`(|\mathcal{I}|)`. (default: :obj:`None`)
        cold (torch.Tensor, optional): Which items nobody had in training
            :math:`(|\mathcal{I}|)`, boolean. (default: by
            :obj:`popularity`, if that is known)
        popularity (torch.Tensor, optional): How many users had each item
            :math:`(|\mathcal{I}|)`. (default: counted in :obj:`known`, if
            that is given)
        fold (FoldIn, optional): What new users are made of.
            (default: :obj:`None`)
        meta (dict, optional): Plain values: metrics, a name, a version.
            (default: :obj:`None`)
        index (str, optional): How the best items are found: by comparing
            all (:obj:`None`), or by :obj:`"faiss-flat"`,
            :obj:`"faiss-hnsw"` or :obj:`"faiss-ivf"`, which needs
            :obj:`faiss-cpu`. (default: :obj:`None`)
        content_map (ContentMap, optional): What :meth:`add_items` places new
            items by; a distiller has one. It is not in a directory.
            (default: :obj:`None`)
        **kwargs (optional): Arguments of
            :class:`~torch_promptmm.serve.FaissIndex`.
    """
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
        from torch_promptmm.serve.of_model import parts_of_model
        return cls(**parts_of_model(model, data, score, edge_type))

    def recommend(
        self,
        user_ids: Any,
        k: int = 20,
        exclude_known: bool = True,
        known: Tensor | KnownItems | None = None,
        batch_size: int | None = None,
        raw: bool = False,
        candidates: Any = None,
        exclude: Any = None,
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
            raw (bool, optional): If :obj:`True`, users and items are given
                and items returned by the ids of the data's own (see
                :class:`~torch_promptmm.data.IdMap`): items are then a list
                of lists, with :obj:`None` where there is no item left.
                (default: :obj:`False`)
            candidates (torch.Tensor or list, optional): The only items to
                choose from: one list for all users, or one for each.
                (default: all)
            exclude (torch.Tensor or list, optional): Items to leave out in
                this call as well, in the same form. (default: none)

        Returns:
            Items :math:`(B, k)` and scores :math:`(B, k)`, best first. For a
            user with fewer items left, the rest are item -1 with score
            :math:`-\infty`.
        """
        if check_bool('raw', raw):
            user_ids = self._id_map('user').encode(user_ids)
        users = check_ids('user_ids', user_ids, self.num_users,
                          'user').to(self.device)
        left_out = LeftOut(len(users), self.device)
        if not check_bool('exclude_known', exclude_known):
            if known is not None:
                raise ValueError("'known' is left out, but 'exclude_known' is "
                                 "False")
        elif known is not None:
            left_out.add_known(as_known(known, self.num_users, self.num_items,
                                        self.device), users)
        elif self.known is not None:
            left_out.add_known(self._known, users)
        return self._best(self._rows('user', users), k, left_out, candidates,
                          exclude, batch_size, raw)

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
        return self._append(rows, item_ids)

    def recommend_from_history(
        self,
        histories: Any,
        k: int = 20,
        exclude_known: bool = True,
        batch_size: int | None = None,
        raw: bool = False,
        candidates: Any = None,
        exclude: Any = None,
        fold_in: str | None = None,
    ) -> tuple[Any, Tensor]:
        r"""Returns the best items of users nobody has trained, from all that
        each of them has.

        A recommender of a LightGCN gives such a user the row that
        propagation over the grown graph would
        (:meth:`LightGCN.fold_rows()
        <torch_promptmm.models.LightGCN.fold_rows>`), each of them alone;
        the items' vectors stay as they are, and nothing is remembered.

        Args:
            histories (list): For each user, the items that he has, each one
                once; in any order, repeats do not count.
            k (int, optional): See :meth:`recommend`. (default: :obj:`20`)
            exclude_known (bool, optional): Leave out what is in his history.
                (default: :obj:`True`)
            batch_size (int, optional): See :meth:`recommend`.
            raw (bool, optional): See :meth:`recommend`.
                (default: :obj:`False`)
            candidates (torch.Tensor or list, optional): See
                :meth:`recommend`.
            exclude (torch.Tensor or list, optional): See :meth:`recommend`.
            fold_in (str, optional): :obj:`"propagate"`, or :obj:`"mean"` of
                the vectors of his items, which any model allows.
                (default: :obj:`"propagate"`, where the model has it)
        """
        ids = self._id_map('item') if check_bool('raw', raw) else None
        lists = read_histories(histories, self.num_items, ids, self.device)
        if fold_in is None:
            fold_in = 'mean' if self.fold is None else 'propagate'
        check_choice('fold_in', fold_in, FOLD_INS)
        left_out = LeftOut(len(histories), self.device)
        if check_bool('exclude_known', exclude_known):
            left_out.add_lists(lists)
        if fold_in == 'mean':
            query = mean_rows(self.item_emb, self._scale('item'), lists,
                              len(histories))
        elif self.fold is None:
            raise ValueError("'fold_in' is 'propagate', but the recommender "
                             "has no 'fold', which a LightGCN gives; use "
                             "fold_in='mean'")
        else:
            query = self.fold.users(lists, len(histories))
        return self._best(query, k, left_out, candidates, exclude, batch_size,
                          raw)

    def similar_items(
        self,
        item_ids: Any,
        k: int = 20,
        batch_size: int | None = None,
        raw: bool = False,
        exclude_self: bool = True,
    ) -> tuple[Any, Tensor]:
        r"""Returns the items whose vectors have the highest cosine with
        those of given items. They are found by comparing all.

        Args:
            item_ids (torch.Tensor or list): Items :math:`(B)`.
            k (int, optional): How many, at most the rest of the catalogue.
                (default: :obj:`20`)
            batch_size (int, optional): Items ranked at a time.
                (default: as many as 64 MiB of scores hold)
            raw (bool, optional): See :meth:`recommend`.
                (default: :obj:`False`)
            exclude_self (bool, optional): Leave out the item itself.
                (default: :obj:`True`)

        Returns:
            Items :math:`(B, k)` and cosines :math:`(B, k)`, best first.
        """
        if check_bool('exclude_self', exclude_self):
            if check_int('k', k, 1) >= self.num_items:
                raise ValueError(f"'k' must be below the number of items, "
                                 f"{self.num_items} (got {k})")
        ids = self._id_map('item') if check_bool('raw', raw) else None
        items = check_ids('item_ids', item_ids if ids is None
                          else ids.encode(item_ids), self.num_items,
                          'item').to(self.device)
        left_out = LeftOut(len(items), self.device)
        if exclude_self:
            left_out.add_lists(ItemLists(left_out.row, items))
        query, scale = self._rows('item', items), self._scale('item')
        norm = self._inverse_norm
        found, cosines = search(
            query * norm[items].view(-1, 1), self.item_emb,
            norm if scale is None else norm * scale,
            check_k(k, self.num_items), left_out, None, batch_size)
        return found if ids is None else ids.decode(found), cosines

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
        return (self._rows('user', user_ids.to(self.device)) *
                self._rows('item', item_ids.to(self.device))).sum(dim=-1)

    def _best(self, query: Tensor, k: int, left_out: LeftOut,
              candidates: Any, exclude: Any, batch_size: int | None,
              raw: bool) -> tuple[Any, Tensor]:
        check_k(k, self.num_items)
        ids = self._id_map('item') if raw else None
        size = query.size(0)
        if exclude is not None:
            left_out.add_lists(read_lists('exclude', exclude, size,
                                          self.num_items, ids, self.device))
        only = None
        if candidates is not None:
            only = read_lists('candidates', candidates, size, self.num_items,
                              ids, self.device)
            if only.row is None and only.item.numel() == 0:
                raise ValueError("'candidates' is empty; leave it out to "
                                 "choose from all items")
        table, scale = self.item_emb, self._scale('item')
        query = query.to(torch.promote_types(
            torch.float, table.dtype if scale is None else torch.float))

        def exact(query: Tensor, left_out: LeftOut) -> tuple[Tensor, Tensor]:
            return search(query, table, scale, k, left_out, only, batch_size)

        # An index knows no candidates; with a few of them it would find none.
        found, scores = (
            exact(query, left_out) if self.index is None or only is not None
            else self.index.search(query, k, left_out, exact))
        return found if ids is None else ids.decode(found), scores
