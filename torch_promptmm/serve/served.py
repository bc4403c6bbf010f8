r"""What a recommender holds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from torch_promptmm.checks import check_mask
from torch_promptmm.ids import IdMap
from torch_promptmm.nn.content_map import ContentMap
from torch_promptmm.ranking import KnownItems
from torch_promptmm.serve.faiss_index import FaissIndex
from torch_promptmm.serve.fold_in import FoldIn
from torch_promptmm.serve.recommend import as_known, check_known
from torch_promptmm.serve.tables import check_table, table_rows, to_table

Self = TypeVar('Self', bound='Served')


class Served:
    r"""What a :class:`~torch_promptmm.serve.Recommender` holds, checked, and
    where and in which type; see there."""
    def __init__(
        self,
        user_emb: Tensor,
        item_emb: Tensor,
        known: Tensor | None = None,
        ids: Mapping[str, IdMap] | None = None,
        *,
        scales: Mapping[str, Tensor] | None = None,
        cold: Tensor | None = None,
        popularity: Tensor | None = None,
        fold: FoldIn | None = None,
        meta: Mapping[str, Any] | None = None,
        index: str | None = None,
        content_map: ContentMap | None = None,
        **kwargs: Any,
    ) -> None:
        scale = scales or {}
        self.content_map = content_map
        check_table('user_emb', user_emb, scale.get('user'))
        check_table('item_emb', item_emb, scale.get('item'), user_emb.size(1))
        if user_emb.device != item_emb.device:
            raise ValueError(f"'user_emb' and 'item_emb' must be on one device "
                             f"(got {user_emb.device} and {item_emb.device})")
        self.user_emb, self.item_emb = user_emb.detach(), item_emb.detach()
        self.scales = dict(scales) if scales else None
        self.ids, self.meta = dict(ids or {}), dict(meta or {})
        for kind, num in (('user', self.num_users), ('item', self.num_items)):
            if kind in self.ids and len(self.ids[kind]) != num:
                raise ValueError(f"'ids' has {len(self.ids[kind])} {kind} ids "
                                 f"for {num} {kind}s; give one a row")
        if known is not None:
            check_known(known, self.num_users, self.num_items)
            if popularity is None and known.device.type != 'meta':
                popularity = torch.bincount(known[1].long(),
                                            minlength=self.num_items)
        if popularity is not None and (
                list(popularity.shape) != [self.num_items]):
            raise ValueError(f"'popularity' must be of shape "
                             f"[{self.num_items}] (got "
                             f"{list(popularity.shape)})")
        if cold is not None:
            check_mask('cold', cold, self.num_items)
        elif popularity is not None:
            cold = popularity == 0
        self.known, self.popularity, self.cold = known, popularity, cold
        if fold is not None and fold.rows.shape != item_emb.shape:
            raise ValueError(f"'fold' must have rows of shape "
                             f"{list(item_emb.shape)}, as 'item_emb' (got "
                             f"{list(fold.rows.shape)})")
        self.fold = fold
        self.index = None if index is None else FaissIndex(
            table_rows(item_emb, scale.get('item')), index, **kwargs)
        if index is None and kwargs:
            raise TypeError(f"{sorted(kwargs)} are arguments of an index, but "
                            f"'index' is None; set index='faiss-hnsw'")

    @property
    def num_users(self) -> int:
        r"""The number of users."""
        return self.user_emb.size(0)

    @property
    def num_items(self) -> int:
        r"""The number of items."""
        return self.item_emb.size(0)

    @property
    def device(self) -> torch.device:
        r"""Where the items are ranked."""
        return self.item_emb.device

    def to(self: Self, device: Any) -> Self:
        r"""Returns the recommender on a device; itself if it is there."""
        if self.device == torch.device(device):
            return self
        out = self._with(
            user_emb=self.user_emb.to(device),
            item_emb=self.item_emb.to(device),
            scales={kind: x.to(device)
                    for kind, x in (self.scales or {}).items()},
            fold=self.fold and FoldIn(*(x.to(device) for x in self.fold)))
        out.index = self.index
        return out

    def to_dtype(self: Self, dtype: str) -> Self:
        r"""Returns the recommender with its vectors in another type. Scores
        are in single precision all the same.

        Args:
            dtype (str): :obj:`"float32"`, :obj:`"float16"` (half the size),
                or :obj:`"int8"` (a quarter; each row has a scale). What new
                users are made of is then in half precision.
        """
        user, user_scale = to_table(self._rows('user'), dtype)
        item, item_scale = to_table(self._rows('item'), dtype)
        scales = None
        if user_scale is not None and item_scale is not None:
            scales = {'user': user_scale, 'item': item_scale}
        kind = torch.float if dtype == 'float32' else torch.half
        fold = self.fold
        return self._with(
            user_emb=user, item_emb=item, scales=scales,
            fold=fold and fold._replace(rows=fold.rows.to(kind)),
            index=self.index and self.index.kind,
            **({} if self.index is None else self.index.options))

    def with_index(self: Self, index: str | None, **kwargs: Any) -> Self:
        r"""Returns the recommender with another :obj:`index`.

        Args:
            index (str, optional): See the class.
            **kwargs (optional): Arguments of
                :class:`~torch_promptmm.serve.FaissIndex`.
        """
        return self._with(index=index, **kwargs)

    def _append(self, rows: Tensor, ids: IdMap | None) -> Tensor:
        r"""Adds items that nobody has, and returns their numbers."""
        if self.scales is not None:
            raise ValueError("Items cannot be added to vectors of 'int8': add "
                             "them before 'to_dtype'")
        start, num = self.num_items, rows.size(0)
        parts: dict[str, Any] = {
            'user_emb': self.user_emb,
            'item_emb': torch.cat([self.item_emb, rows.to(self.item_emb)]),
            'known': self.known,
            'ids': self.ids,
            'meta': self.meta,
            'content_map': self.content_map,
        }
        if ids is not None:
            parts['ids'] = {**self.ids, 'item': ids}
        if self.popularity is not None:
            parts['popularity'] = torch.cat(
                [self.popularity, self.popularity.new_zeros(num)])
        if self.cold is not None:
            parts['cold'] = torch.cat([self.cold, self.cold.new_ones(num)])
        if self.fold is not None:  # Nobody's: they say nothing of a user.
            old = self.fold.rows
            parts['fold'] = self.fold._replace(
                rows=torch.cat([old, old.new_zeros(num, old.size(1))]))
        if self.index is not None:
            parts.update(index=self.index.kind, **self.index.options)
        for cached in ('_known', '_inverse_norm'):
            self.__dict__.pop(cached, None)
        Served.__init__(self, **parts)
        return torch.arange(start, self.num_items)

    @cached_property
    def _known(self) -> KnownItems:
        assert self.known is not None
        return as_known(self.known, self.num_users, self.num_items,
                        self.device)

    @cached_property
    def _inverse_norm(self) -> Tensor:
        norm = torch.linalg.vector_norm(self._rows('item'), dim=1)
        return torch.where(norm > 0, 1 / norm, 0.0)

    def _scale(self, kind: str) -> Tensor | None:
        return None if self.scales is None else self.scales.get(kind)

    def _rows(self, kind: str, index: Tensor | None = None) -> Tensor:
        table = self.user_emb if kind == 'user' else self.item_emb
        return table_rows(table, self._scale(kind), index)

    def _with(self: Self, **kwargs: Any) -> Self:
        parts = {name: getattr(self, name)
                 for name in ('user_emb', 'item_emb', 'known', 'ids', 'scales',
                              'cold', 'popularity', 'fold', 'meta',
                              'content_map')}
        return type(self)(**{**parts, **kwargs})

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
