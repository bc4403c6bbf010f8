r"""What arrives after a distiller was trained, in the distiller's own
numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from torch_promptmm.data import IdMap, id_maps, read_graph
from torch_promptmm.data._edges import check_edges
from torch_promptmm.data.contract import known_interactions
from torch_promptmm.distill.distillation import Seen

Ids = Iterable[Any] | None


class Arrivals(NamedTuple):
    r"""New interactions, with the users and items that came along.

    Attributes:
        edge_index (torch.Tensor): Interactions :math:`(2, E)`, old ones among
            them or not.
        num_users (int): The number of users, with the new ones.
        num_items (int): The number of items, with the new ones.
        ids (dict): Raw ids of all users and items, if there are any.
        features (dict): Features of the new items alone, if there are any.
        masks (dict): Where these have a modality.
    """
    edge_index: Tensor
    num_users: int
    num_items: int
    ids: dict[str, IdMap]
    features: dict[str, Tensor]
    masks: dict[str, Tensor]


def read_arrivals(
    seen: Seen,
    data: HeteroData | Tensor,
    edge_type: tuple[str, str, str] | None = None,
    users: Ids = None,
    items: Ids = None,
    features: Mapping[str, Tensor] | None = None,
    masks: Mapping[str, Tensor] | None = None,
) -> Arrivals:
    r"""Reads and checks what arrives.

    Users and items keep their numbers, and new ones come behind. In a graph
    with raw ids, these say who is who; else, and in a plain tensor, numbers
    do.

    Args:
        seen (Seen): What was trained on.
        data (HeteroData or torch.Tensor): A graph, or interactions
            :math:`(2, E)`.
        edge_type (tuple, optional): The edge type of the interactions.
            (default: :obj:`None`)
        users (Iterable, optional): With a plain tensor, the raw ids of the
            new users. (default: :obj:`None`)
        items (Iterable, optional): The same for items.
            (default: :obj:`None`)
        features (dict, optional): With a plain tensor, features of the new
            items. (default: :obj:`None`)
        masks (dict, optional): Where these have a modality.
            (default: :obj:`None`)
    """
    sizes = (seen.graph.num_users, seen.graph.num_items)
    if isinstance(data, HeteroData):
        for name, value in (('users', users), ('items', items),
                            ('features', features), ('masks', masks)):
            if value is not None:
                raise ValueError(f"'{name}' is for plain interactions: a "
                                 f"graph has them itself")
        return _of_graph(seen, data, edge_type, sizes)
    edge_index = check_edges('data', data).cpu()
    if edge_index.numel() > 0 and int(edge_index.min()) < 0:
        raise ValueError(f"'data' must have no negative number (got "
                         f"{int(edge_index.min())})")
    ids = dict(seen.ids)
    num_users, num_items = (
        _grown_ids(ids, kind, given, old, int(row.max(initial=-1)) + 1)
        for kind, given, old, row in zip(('user', 'item'), (users, items),
                                         sizes, edge_index.numpy(),
                                         strict=True))
    return Arrivals(edge_index, num_users, num_items, ids,
                    dict(features or {}), dict(masks or {}))


def _grown_ids(ids: dict[str, IdMap], kind: str, given: Ids, old: int,
               top: int) -> int:
    r"""Adds the raw ids of new users or items, and returns their number
    together with the old ones."""
    if kind not in ids:
        if given is not None:
            raise ValueError(f"'{kind}s' are raw ids, but the old {kind}s "
                             f"have none")
        return max(old, top)
    ours = ids[kind]
    ids[kind] = IdMap([*ours, *(given or ())])
    if top > len(ids[kind]):
        raise ValueError(f"'data' has the {kind} {top - 1}, but there are "
                         f"{len(ids[kind])} {kind}s with a raw id: give "
                         f"those of the new ones, {kind}s=[...]")
    return len(ids[kind])


def _of_graph(seen: Seen, data: HeteroData,
              edge_type: tuple[str, str, str] | None,
              sizes: tuple[int, int]) -> Arrivals:
    view = read_graph(data, edge_type, check_finite=False)
    theirs, ids = id_maps(data, view.edge_type), dict(seen.ids)
    rows, total = [], []
    for kind, old, num in (('user', sizes[0], view.num_users),
                           ('item', sizes[1], view.num_items)):
        row = torch.arange(num)
        if (kind in theirs) != (kind in ids) and (kind in theirs or num > old):
            raise ValueError(
                f"'data' must have raw ids of its {kind}s if, and only if, "
                f"those that were trained on had some: else nothing says "
                f"which ones are new (see torch_promptmm.data.set_ids)")
        if kind in theirs:
            row = ids[kind].encode(theirs[kind].to_list(), 'mark')
            new = row < 0
            row[new] = old + torch.arange(int(new.sum()))
            ids[kind] = IdMap([*ids[kind], *theirs[kind].subset(new)])
        rows.append(row)
        total.append(max(old, int(row.max()) + 1))
    edge_index = known_interactions(view).cpu()
    edge_index = torch.stack([rows[0][edge_index[0]], rows[1][edge_index[1]]])
    new = (rows[1] >= sizes[1]).nonzero().view(-1)  # In the order of numbers.
    features = {} if new.numel() == 0 else {
        name: x[new.to(x.device)] for name, x in view.features.items()}
    masks = {name: mask[new.to(mask.device)]
             for name, mask in view.masks.items() if name in features}
    return Arrivals(edge_index, total[0], total[1], ids, features, masks)
