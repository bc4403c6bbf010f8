r"""What a recommender has of files: its own directory, the hub, and what other
engines read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from torch_promptmm.serve.directory import read_directory, write_directory

if TYPE_CHECKING:  # Seconds of imports.
    from torch.export import ExportedProgram

_Self = TypeVar('_Self', bound='InFiles')
#: What a recommender is made of.
PARTS = ('user_emb', 'item_emb', 'known', 'ids', 'scales', 'cold',
         'popularity', 'fold', 'meta')


class InFiles:
    r"""The methods of a :class:`~torch_promptmm.serve.Recommender` that write
    and read files."""
    user_emb: Tensor
    item_emb: Tensor

    def parts(self) -> dict[str, Any]:
        r"""What it is made of, as the arguments of the class."""
        return {key: x for key, x in vars(self).items() if key in PARTS}

    def save(self, path: str | os.PathLike) -> None:
        r"""Writes the recommender into a folder, or swaps the one that is
        there: whoever reads sees the old or the new one whole, and an error
        leaves the old one. Tables keep their type; an index is not written.

        Args:
            path (str): The folder, which is made if it is not there.
        """
        write_directory(path, self.parts())

    @classmethod
    def load(cls: type[_Self], path: str | os.PathLike, mmap: bool = True,
             verify: bool = True) -> _Self:
        r"""Reads what :meth:`save` wrote. No code in it is run, no file
        outside of the folder is read.

        Args:
            path (str): The folder.
            mmap (bool, optional): Map the tables into memory: processes
                share them, and a row is read when it is used. Else they are
                read. (default: :obj:`True`)
            verify (bool, optional): Read the tables once to check their
                checksum and that all numbers are finite, about a second for
                3 GB. Names, sizes, types and the file's length are checked
                in any case. (default: :obj:`True`)
        """
        return cls(**read_directory(path, mmap, verify))

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        r"""Uploads the recommender with a model card to the Hugging Face hub
        (extra :obj:`hub`).

        Args:
            repo_id (str): The repository, :obj:`"owner/name"`, which is made
                if it is not there.
            **kwargs (optional): :obj:`description`, :obj:`metrics` (by name,
                default: :obj:`meta["metrics"]`), :obj:`dataset` and
                :obj:`license` of the card; :obj:`private`,
                :obj:`commit_message`, and :obj:`api`, a
                :class:`huggingface_hub.HfApi`.
        """
        from torch_promptmm.serve.hub import push
        return push(repo_id, self.parts(), **kwargs)

    @classmethod
    def from_hub(cls: type[_Self], repo_id: str, revision: str | None = None,
                 **kwargs: Any) -> _Self:
        r"""Downloads what :meth:`push_to_hub` uploaded.

        Args:
            repo_id (str): The repository.
            revision (str, optional): A branch, a tag or a commit.
                (default: the newest)
            **kwargs (optional): :obj:`mmap` and :obj:`verify` of
                :meth:`load`, :obj:`api`, and arguments of
                :meth:`huggingface_hub.HfApi.snapshot_download`.
        """
        from torch_promptmm.serve.hub import pull
        return cls(**pull(repo_id, revision, **kwargs))

    def to_parquet(self, folder: str | os.PathLike) -> None:
        r"""Writes `users.parquet` and `items.parquet` with the columns
        :obj:`id`, :obj:`vector` (single precision, a list of fixed size),
        and, where they are known, :obj:`popularity` and :obj:`cold` (extra
        :obj:`tables`).

        Args:
            folder (str): The folder, which is made if it is not there.
        """
        from torch_promptmm.serve.parquet import (
            degrees,
            parquet_paths,
            write_parquet,
        )
        parts = self.parts()
        user, item = _wide_tables(parts)
        users, items = parquet_paths(folder)
        ids = parts.get('ids') or {}
        degree = degrees(parts.get('known'), len(user))
        write_parquet(users, user, ids.get('user'), degree,
                      None if degree is None else degree == 0)
        write_parquet(items, item, ids.get('item'), parts.get('popularity'),
                      parts.get('cold'))

    def to_program(self, k: int = 20, exclude_known: bool = True
                   ) -> ExportedProgram:
        r"""Exports scoring and the choice of the best items by
        :func:`torch.export.export`. The program takes users :math:`(B)` and
        items to leave out :math:`(B, X)`, -1 for none, and returns items
        and scores as :meth:`recommend` does.

        Args:
            k (int, optional): How many items. (default: :obj:`20`)
            exclude_known (bool, optional): Leave out what users know.
                (default: :obj:`True`)
        """
        from torch_promptmm.serve.export import export_program
        return export_program(self._top_items(k, exclude_known))

    def to_onnx(self, path: str | os.PathLike, k: int = 20,
                exclude_known: bool = True) -> None:
        r"""Writes what :meth:`to_program` exports as an ONNX file (extra
        :obj:`onnx`), with the inputs :obj:`user_id` and :obj:`exclude` and
        the outputs :obj:`items` and :obj:`scores`.

        Args:
            path (str): The file.
            k (int, optional): How many items. (default: :obj:`20`)
            exclude_known (bool, optional): Leave out what users know.
                (default: :obj:`True`)
        """
        from torch_promptmm.serve.export import write_onnx
        write_onnx(path, self._top_items(k, exclude_known))

    def _top_items(self, k: int, exclude_known: bool) -> Any:
        from torch_promptmm.serve.export import TopItems
        parts = self.parts()
        return TopItems(*_wide_tables(parts), k,
                        parts.get('known') if exclude_known else None)


def _wide_tables(parts: dict[str, Any]) -> tuple[Tensor, Tensor]:
    r"""Both tables in single precision."""
    scales = parts.get('scales') or {}
    out = []
    for side in ('user', 'item'):
        x = parts[f'{side}_emb'].detach().float()
        out.append(x * scales[side].float().unsqueeze(1)
                   if side in scales else x)
    return out[0], out[1]
