r"""Tables that other engines read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torch_promptmm.files import atomic_path
from torch_promptmm.ids import IdMap


def write_parquet(
    path: str | os.PathLike,
    vectors: Tensor,
    ids: IdMap | None = None,
    popularity: Tensor | None = None,
    cold: Tensor | None = None,
) -> None:
    r"""Writes one side as a Parquet file of a row for each user or item.

    Args:
        path (str): The file.
        vectors (torch.Tensor): :math:`(N, d)`, written in single precision
            as the column :obj:`vector`, a list of :math:`d`.
        ids (IdMap, optional): The column :obj:`id`. (default: the numbers of
            the rows)
        popularity (torch.Tensor, optional): Numbers of interactions
            :math:`(N)`. (default: :obj:`None`)
        cold (torch.Tensor, optional): Which have none :math:`(N)`.
            (default: :obj:`None`)
    """
    pa, pq = _pyarrow()
    num, channels = vectors.shape
    flat = vectors.detach().float().cpu().contiguous().view(-1).numpy()
    raw = pa.array(range(num) if ids is None else ids.to_list(),
                   pa.string() if ids is not None and ids.kind == 'str'
                   else pa.int64())
    columns = {'id': raw, 'vector': pa.FixedSizeListArray.from_arrays(
        pa.array(flat), channels)}
    if popularity is not None:
        columns['popularity'] = pa.array(popularity.cpu().long().numpy())
    if cold is not None:
        columns['cold'] = pa.array(cold.cpu().numpy())
    table = pa.table(columns).replace_schema_metadata(
        {'torch_promptmm': 'score: inner product'})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)


def degrees(known: Tensor | None, num_users: int) -> Tensor | None:
    r"""How many items each user has."""
    if known is None:
        return None
    return torch.bincount(known[0].long().cpu(), minlength=num_users)


def parquet_paths(folder: str | os.PathLike) -> tuple[Path, Path]:
    r"""The files of the users and of the items in a folder."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"'folder' must name a folder, but {str(folder)!r} "
                         f"is a file")
    return folder / 'users.parquet', folder / 'items.parquet'


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow: pip install "
                          "'torch_promptmm[tables]'") from error
    return pyarrow, pyarrow.parquet
