r"""What the tables of a recommender must be, and how they lie in a file."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_promptmm.ids import IdMap

_NAMES = {
    torch.float64: 'F64',
    torch.float32: 'F32',
    torch.float16: 'F16',
    torch.bfloat16: 'BF16',
    torch.int64: 'I64',
    torch.int32: 'I32',
    torch.int16: 'I16',
    torch.int8: 'I8',
    torch.uint16: 'U16',
    torch.uint8: 'U8',
    torch.bool: 'BOOL',
}
_FLOAT = ('F64', 'F32', 'F16', 'BF16')
_COUNT = ('U8', 'U16', 'I32', 'I64')  # The narrowest that holds it.

#: The sizes that shapes are made of.
SYMBOLS = ('num_users', 'num_items', 'channels')
#: The types and the shape of each table; None is any size.
FIELDS: dict[str, tuple[tuple[str, ...], tuple[str | None, ...]]] = {
    'user_emb': ((*_FLOAT, 'I8'), ('num_users', 'channels')),
    'item_emb': ((*_FLOAT, 'I8'), ('num_items', 'channels')),
    'user_scales': (_FLOAT, ('num_users', )),
    'item_scales': (_FLOAT, ('num_items', )),
    # The items of the users, one after the other.
    'known.degree': (_COUNT, ('num_users', )),
    'known.item': (_COUNT, (None, )),
    'cold': (('BOOL', ), ('num_items', )),
    'popularity': (_COUNT, ('num_items', )),
    'ids.user': (('U8', ), (None, )),
    'ids.item': (('U8', ), (None, )),
    'fold.rows': (_FLOAT, ('num_items', 'channels')),
    'fold.unit': (('BOOL', ), ()),
}
_TOGETHER = [('known.degree', 'known.item'), ('fold.rows', 'fold.unit')]
#: What to do about a damaged folder.
ANEW = 'write the folder anew with Recommender.save'
_MEND = 'mend it before it is written'


class Held(NamedTuple):
    r"""What a directory holds.

    Attributes:
        sizes (dict): The numbers behind :obj:`SYMBOLS`.
        tensors (dict): The tables, by the names of :obj:`FIELDS`.
        meta (dict): Plain values.
    """
    sizes: dict[str, int]
    tensors: dict[str, Tensor]
    meta: dict[str, Any]


def dtype_name(x: Tensor) -> str:
    r"""The name that safetensors gives to a tensor's type."""
    if x.dtype not in _NAMES:
        raise TypeError(f'A tensor of {x.dtype} cannot be written; convert it '
                        f'to float32, int64 or bool')
    return _NAMES[x.dtype]


def check_field(where: str, name: str, dtype: Any, shape: Any,
                sizes: dict[str, Any], fix: str = _MEND) -> None:
    r"""Checks a table's type and shape.

    Args:
        where (str): The file.
        name (str): The name of the table.
        dtype (str): Its type.
        shape (list): Its shape.
        sizes (dict): The numbers behind :obj:`SYMBOLS`.
        fix (str, optional): What to do about it.
    """
    if name not in FIELDS:
        raise ValueError(f"{where}, '{name}' is no table of a recommender; "
                         f"{fix}")
    dtypes, symbols = FIELDS[name]
    if dtype not in dtypes:
        raise ValueError(f"{where}, '{name}' is of the type {dtype!r} instead "
                         f"of {' or '.join(dtypes)}; {fix}")
    if not isinstance(shape, list) or not all(
            type(x) is int and x >= 0 for x in shape):
        raise ValueError(f"{where}, '{name}' has the shape {shape!r}, which "
                         f"is none; {fix}")
    wanted = [size if x is None else sizes[x] for x, size in zip(
        symbols, shape + [-1] * len(symbols), strict=False)]
    if shape != wanted:
        text = ', '.join(x or 'any' for x in symbols)
        raise ValueError(f"{where}, '{name}' has the shape {shape} instead of "
                         f"{wanted} [{text}]; {fix}")


def check_contents(where: str, tensors: dict[str, Tensor],
                   sizes: dict[str, int], values: bool = True,
                   fix: str = _MEND) -> None:
    r"""Checks what tables hold: which are there together, and, with
    :obj:`values`, that all numbers are finite and in range."""
    def wrong(name: str, why: str) -> ValueError:
        return ValueError(f"{where}, '{name}' {why}; {fix}")

    for pair in _TOGETHER:
        if len(found := [x for x in pair if x in tensors]) == 1:
            raise wrong(next(x for x in pair if x not in tensors),
                        f"is missing beside '{found[0]}'")
    for side in ('user', 'item'):
        if (tensors[f'{side}_emb'].dtype == torch.int8) != (
                f'{side}_scales' in tensors):
            raise wrong(f'{side}_scales', f"must be there if '{side}_emb' is "
                        f"of the type I8, and only then")
    if 'known.item' in tensors:  # It is small, and made wider in any case.
        item = tensors['known.item'].long()
        degree = tensors['known.degree'].long()
        for name, x in (('known.item', item), ('known.degree', degree)):
            if x.numel() > 0 and int(x.min()) < 0:
                raise wrong(name, 'has a negative number')
        if int(degree.sum()) != item.numel():
            raise wrong('known.degree', f'adds up to {int(degree.sum())}, but '
                        f"'known.item' has {item.numel()}")
        if item.numel() > 0 and int(item.max()) >= sizes['num_items']:
            raise wrong('known.item', f"has the item {int(item.max())}, but "
                        f"there are {sizes['num_items']}")
    if not values:
        return
    for name, x in tensors.items():
        if x.numel() == 0:
            continue
        if x.dtype == torch.bool:
            if int(x.view(torch.uint8).max()) > 1:
                raise wrong(name, 'has a byte that is neither 0 nor 1')
        elif x.is_floating_point():
            # A NaN stays in both, and this reads the table once.
            low, high = (float(y) for y in x.aminmax())
            if not (math.isfinite(low) and math.isfinite(high)):
                raise wrong(name, 'has a NaN or an infinite number')
        elif x.dtype in (torch.int32, torch.int64) and int(x.min()) < 0:
            raise wrong(name, 'has a negative number')


def narrow(x: Tensor) -> Tensor:
    r"""Counts in the narrowest type that holds them."""
    high = int(x.max()) if x.numel() > 0 else 0
    for dtype, limit in ((torch.uint8, 2**8), (torch.uint16, 2**16),
                         (torch.int32, 2**31)):
        if high < limit:
            return x.to(dtype)
    return x.long()


def pack_known(known: Tensor, num_users: int) -> dict[str, Tensor]:
    r"""Interactions :math:`(2, E)` as the items of one user after the other,
    in the order of their numbers."""
    user, item = known.detach().cpu().long()
    order = item.argsort(stable=True)
    order = order[user[order].argsort(stable=True)]
    return {
        'known.degree': narrow(torch.bincount(user, minlength=num_users)),
        'known.item': narrow(item[order]),
    }


def unpack_known(tensors: dict[str, Tensor]) -> Tensor | None:
    r"""What :func:`pack_known` packed, :math:`(2, E)`."""
    if 'known.item' not in tensors:
        return None
    item = tensors['known.item'].long()
    degree = tensors['known.degree'].long()
    return torch.stack([
        torch.arange(degree.numel()).repeat_interleave(
            degree, output_size=item.numel()), item])


def unpack_ids(where: str, name: str, tensor: Tensor, size: int) -> IdMap:
    r"""The id map of bytes, which has one id for each row."""
    try:
        ids = IdMap.from_bytes(tensor.numpy().tobytes())
    except ValueError as error:
        raise ValueError(f"{where}, '{name}' is damaged ({error}); {ANEW}"
                         ) from error
    if len(ids) != size:
        raise ValueError(f"{where}, '{name}' has {len(ids)} ids for {size} "
                         f"rows; {ANEW}")
    return ids


def pack(parts: dict[str, Any]) -> Held:
    r"""What a recommender is made of as tables.

    Args:
        parts (dict): The arguments of
            :class:`~torch_promptmm.serve.Recommender`.
    """
    user_emb, item_emb = parts['user_emb'], parts['item_emb']
    tensors = {'user_emb': user_emb, 'item_emb': item_emb}
    if parts.get('known') is not None:
        tensors.update(pack_known(parts['known'], len(user_emb)))
    for side, x in (parts.get('scales') or {}).items():
        tensors[f'{side}_scales'] = x
    tensors.update(_not_derived(parts, len(item_emb)))
    if parts.get('fold') is not None:
        tensors['fold.rows'], tensors['fold.unit'] = parts['fold']
    for kind, ids in (parts.get('ids') or {}).items():
        if len(ids) != len(rows := tensors[f'{kind}_emb']):
            raise ValueError(f"'ids' has {len(ids)} {kind}s instead of "
                             f"{len(rows)}; give one id a row")
        tensors[f'ids.{kind}'] = torch.frombuffer(bytearray(ids.to_bytes()),
                                                  dtype=torch.uint8)
    sizes = {'num_users': len(user_emb), 'num_items': len(item_emb),
             'channels': user_emb.size(1)}
    return Held(sizes, tensors, parts.get('meta') or {})


def _not_derived(parts: dict[str, Any], num_items: int) -> dict[str, Tensor]:
    r"""Popularity and coldness, where they are not what follows from the known
    interactions."""
    known, popularity, cold = [parts.get(x) for x in ('known', 'popularity',
                                                      'cold')]
    out: dict[str, Tensor] = {}
    if popularity is not None and (known is None or not torch.equal(
            popularity.cpu(), torch.bincount(known[1].long().cpu(),
                                             minlength=num_items))):
        out['popularity'] = narrow(popularity)
    if cold is not None and (popularity is None or not torch.equal(
            cold, popularity == 0)):
        out['cold'] = cold
    return out


def unpack(where: str, held: Held) -> dict[str, Any]:
    r"""What :func:`pack` packed."""
    sizes, tensors, meta = held
    out: dict[str, Any] = {
        'user_emb': tensors['user_emb'],
        'item_emb': tensors['item_emb'],
        'known': unpack_known(tensors),
        'ids': {
            kind: unpack_ids(where, f'ids.{kind}', tensors[f'ids.{kind}'],
                             sizes[f'num_{kind}s'])
            for kind in ('user', 'item') if f'ids.{kind}' in tensors
        },
    }
    for side in ('user', 'item'):
        if (name := f'{side}_scales') in tensors:
            out.setdefault('scales', {})[side] = tensors[name]
    if 'popularity' in tensors:
        out['popularity'] = tensors['popularity'].long()
    if 'cold' in tensors:
        out['cold'] = tensors['cold']
    if 'fold.rows' in tensors:
        from torch_promptmm.serve.fold_in import FoldIn
        out['fold'] = FoldIn(tensors['fold.rows'], tensors['fold.unit'])
    if meta:
        out['meta'] = meta
    return out
