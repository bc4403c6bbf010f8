r"""What a distillation keeps to go on learning: the map that places new
items, the items that it placed, and what the teacher said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torch_promptmm.models.base import Pair
from torch_promptmm.nn.content_map import ContentMap


@dataclass
class Growth:
    r"""What is kept beside the models.

    Attributes:
        content_map (ContentMap, optional): From content to the student's
            item embeddings.
        items (torch.Tensor, optional): New items without an interaction
            :math:`(n)`.
        rows (torch.Tensor, optional): Their embeddings :math:`(n, d)`.
        anchor (tuple, optional): The teacher's user and item embeddings when
            the student was distilled, of the users and items there were.
        grown (bool): Whether there are users or items that the teacher does
            not know, which is then no more.
    """
    content_map: ContentMap | None = None
    items: Tensor | None = None
    rows: Tensor | None = None
    anchor: Pair | None = None
    grown: bool = False

    def add(self, items: Tensor, rows: Tensor) -> None:
        r"""Adds new items."""
        if self.items is not None and self.rows is not None:
            items = torch.cat([self.items, items])
            rows = torch.cat([self.rows, rows])
        self.items, self.rows = items, rows

    def placed(self, item_emb: Tensor) -> Tensor:
        r"""Returns the student's item embeddings, with those of the new
        items."""
        if self.items is None or self.rows is None:
            return item_emb
        return item_emb.index_copy(0, self.items.to(item_emb.device),
                                   self.rows.to(item_emb))

    def drop(self, warm: Tensor) -> tuple[Tensor, Tensor] | None:
        r"""Drops the items that have interactions now :math:`(|\mathcal{I}|)`,
        and returns them with their embeddings."""
        if self.items is None or self.rows is None:
            return None
        chosen = warm[self.items]
        out = self.items[chosen], self.rows[chosen]
        if bool(chosen.all()):
            self.items = self.rows = None
        else:
            self.items, self.rows = self.items[~chosen], self.rows[~chosen]
        return out

    def tensors(self) -> dict[str, Tensor]:
        r"""Returns all tensors, for a file."""
        out = {} if self.content_map is None else {
            f'map.{key}': value
            for key, value in self.content_map.state_dict().items()}
        if self.items is not None and self.rows is not None:
            out |= {'items': self.items, 'rows': self.rows}
        if self.anchor is not None:
            out |= {'anchor.user': self.anchor[0],
                    'anchor.item': self.anchor[1]}
        return out

    def config(self) -> dict[str, Any]:
        r"""Returns plain values, see :meth:`restored`."""
        return {'map': None if self.content_map is None else
                self.content_map.config(), 'grown': self.grown}

    @classmethod
    def restored(cls, config: Mapping[str, Any],
                 tensors: Mapping[str, Tensor]) -> Growth:
        r"""Puts together what :meth:`config` and :meth:`tensors`
        returned."""
        out = cls(grown=bool(config.get('grown', False)))
        if config.get('map') is not None:
            out.content_map = ContentMap(**config['map'])
            out.content_map.load_state_dict({
                key.removeprefix('map.'): value
                for key, value in tensors.items() if key.startswith('map.')})
        out.items, out.rows = tensors.get('items'), tensors.get('rows')
        if 'anchor.user' in tensors:
            out.anchor = tensors['anchor.user'], tensors['anchor.item']
        return out
