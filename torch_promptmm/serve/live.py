r"""A model that is served while new versions of it arrive."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_promptmm.serve.recommender import Recommender


class UnknownId(LookupError):
    r"""An id that the model does not have."""


class Ask(NamedTuple):
    r"""What requests must have in common to be computed together."""
    version: Version
    method: str
    k: int
    options: tuple[tuple[str, Any], ...] = ()


Row = tuple[list[Any], list[float]]


class Version:
    r"""One version of a model, with raw ids in and out; rows where the model
    has no ids.

    Args:
        recommender (Recommender): The model.
        name (str): What the version is called.
    """
    def __init__(self, recommender: Recommender, name: str) -> None:
        self.recommender, self.name = recommender, name
        self.loaded = time.time()

    def rows(self, kind: str, ids: Iterable[Any]) -> Tensor:
        r"""Rows :math:`(B)` of users or items.

        Raises:
            UnknownId: If there is no such user or item.
        """
        ids, known = list(ids), self.recommender.ids.get(kind)
        if known is not None:
            rows = known.encode(ids, unknown='mark')
        else:
            size = getattr(self.recommender, f'num_{kind}s')
            rows = torch.tensor([x if type(x) is int and 0 <= x < size else -1
                                 for x in ids], dtype=torch.long)
        lost = (rows < 0).nonzero().view(-1).tolist()
        if lost:
            what = 'integers' if known is None or known.kind == 'int' else (
                'strings')
            raise UnknownId(f'{len(lost)} unknown {kind}s, such as '
                            f'{_short(ids[lost[0]])} (their ids are {what})')
        return rows

    def compute(self, ask: Ask, values: list[Any]) -> list[list[Row]]:
        r"""The lists of several requests of one kind, each without the
        places that are empty."""
        sizes = [len(value) for value in values]
        joined = (torch.cat(values) if isinstance(values[0], Tensor) else
                  [each for value in values for each in value])
        options = {name: torch.tensor(value) if isinstance(value, tuple)
                   else value for name, value in ask.options}
        found, scores = getattr(self.recommender, ask.method)(
            joined, ask.k, **options)
        lengths = (found >= 0).sum(dim=1).tolist()
        ids = self.recommender.ids.get('item')
        items = found.tolist() if ids is None else ids.decode(found)
        rows = [(item[:n], score[:n]) for item, score, n in zip(
            items, scores.tolist(), lengths, strict=True)]
        out, start = [], 0
        for size in sizes:
            out.append(rows[start:start + size])
            start += size
        return out

    def warm_up(self) -> None:
        r"""Answers once, so that the first request is as fast as any."""
        users = torch.zeros(1, dtype=torch.long)
        self.compute(Ask(self, 'recommend', 1), [users])
        for kind, ids in self.recommender.ids.items():
            self.rows(kind, [ids[0]])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f'{text[:37]}...'


class LiveModel:
    r"""The current version of a model in a directory. A new version that
    appears there is loaded beside it and takes its place; one that is
    damaged does not, and :attr:`error` says why.

    Args:
        source (str or Recommender): The directory of
            :meth:`Recommender.save`, or a recommender, which then never
            changes.
        **kwargs (optional): Arguments of :meth:`Recommender.load`.
    """
    def __init__(self, source: str | os.PathLike | Recommender,
                 **kwargs: Any) -> None:
        self.path: Path | None = None
        self.error: str | None = None
        self.failures = 0
        self._kwargs = kwargs
        self._seen: tuple[Any, ...] | None = None
        if isinstance(source, Recommender):
            self.current = Version(source, 'given')
        else:
            self.path = Path(source).absolute()
            self._seen = self._stamp()
            self.current = self._load()

    def refresh(self) -> bool:
        r"""Looks for a new version and takes it; returns whether it did.
        What is being computed with the old one goes on with it."""
        stamp = self._stamp()
        if self.path is None or stamp == self._seen:
            return False
        # Before it is loaded: what changes meanwhile is seen the next time.
        self._seen = stamp
        try:
            self.current, self.error = self._load(), None
        except Exception as error:  # A damaged directory fails in many ways.
            text = ' '.join(str(error).split()) or type(error).__name__
            self.error = text.replace(str(self.path), str(self.path.name))
            self.failures += 1
            return False
        return True

    def _load(self) -> Version:
        assert self.path is not None
        while True:
            name = self._name()
            recommender = Recommender.load(self.path, **self._kwargs)
            if self._name() == name:  # Else a writer came in between.
                break
        version = Version(recommender, name)
        version.warm_up()
        return version

    def _stamp(self) -> tuple[Any, ...] | None:
        # All files count, whatever the layout; there are a few.
        if self.path is None:
            return None
        try:
            stats = [(str(x), x.stat()) for x in sorted(self.path.rglob('*'))]
        except OSError:  # Replaced at this moment, or gone.
            return (time.monotonic_ns(), )
        return tuple((name, x.st_ino, x.st_mtime_ns, x.st_size)
                     for name, x in stats)

    def _name(self) -> str:
        # The same in all processes that serve it, and after a restart.
        assert self.path is not None
        crc = 0
        for path in sorted(self.path.rglob('*.json')):
            crc = zlib.crc32(path.read_bytes(), crc)
        return f'{crc:08x}'
