r"""From the texts of items to features: encoders with one method, a call."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from torch_promptmm.checks import check_int

from .extras import import_extra

WORD = re.compile(r'[^\W_]+', re.UNICODE)


class HashingTfidf:
    r"""Words and pairs of neighbouring words, hashed into a fixed number of
    columns, weighted by how rare they are, each row of length one.

    It needs no model, no vocabulary and no other package, and gives the same
    numbers on every machine. Two words that meet in a column are told apart
    by a sign at best, so take at least a few hundred columns.

    .. code-block:: python

        encoder = HashingTfidf(512)
        x = encoder(['red running shoes', 'blue kettle'])  # [2, 512]

    Args:
        channels (int, optional): The number of columns.
            (default: :obj:`1024`)
        pairs (bool, optional): If set to :obj:`False`, single words only.
            (default: :obj:`True`)
    """
    def __init__(self, channels: int = 1024, pairs: bool = True) -> None:
        self.channels = check_int('channels', channels, 1)
        self.pairs = bool(pairs)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        r"""Encodes texts.

        Args:
            texts (List[str]): :math:`N` texts.

        Returns:
            numpy.ndarray: :math:`[N, d]`, float32; zeros for a text without
            a word.
        """
        where: dict[str, tuple[int, float]] = {}
        counts = []
        seen = np.zeros(self.channels, dtype=np.int64)
        out = np.zeros((len(texts), self.channels), dtype=np.float32)
        for text in texts:
            columns: dict[int, float] = {}
            for token, count in Counter(self._tokens(text)).items():
                if token not in where:
                    code = zlib.crc32(token.encode())
                    # One bit of the hash decides the sign, others the column.
                    where[token] = ((code >> 1) % self.channels,
                                    1.0 if code & 1 else -1.0)
                column, sign = where[token]
                columns[column] = (columns.get(column, 0.0)
                                   + sign * (1 + np.log(count)))
            counts.append(columns)
            seen[list(columns)] += 1
        rarity = np.log((1 + len(texts)) / (1 + seen)) + 1
        for row, columns in enumerate(counts):
            index = list(columns)
            out[row, index] = np.fromiter(
                columns.values(), np.float32, len(index)) * rarity[index]
        norm = np.linalg.norm(out, axis=1, keepdims=True)
        return out / np.where(norm > 0, norm, 1)

    def _tokens(self, text: str) -> list[str]:
        words = WORD.findall(text.lower())
        if not self.pairs:
            return words
        return words + [f'{a} {b}' for a, b in zip(words, words[1:],
                                                   strict=False)]

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.channels}, '
                f'pairs={self.pairs})')


class SentenceEncoder:
    r"""A model of the `sentence-transformers <https://sbert.net>`_ package
    (extra ``text``), loaded when it is first called.

    The paper encodes title, description, categories and brand into 1,024
    numbers with Sentence-BERT, and does not name the model.

    Args:
        model (str): The name of a model, or its folder.
        batch_size (int, optional): Texts at a time. (default: :obj:`64`)
        device (str, optional): Where it runs. (default: :obj:`None`)
    """
    def __init__(
        self,
        model: str,
        batch_size: int = 64,
        device: str | None = None,
    ) -> None:
        self.model = model
        self.batch_size = check_int('batch_size', batch_size, 1)
        self.device = device

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        r"""Encodes texts, see :class:`HashingTfidf`.

        Args:
            texts (List[str]): :math:`N` texts.
        """
        package = import_extra('sentence_transformers', 'text',
                               'SentenceEncoder')
        model: Any = package.SentenceTransformer(self.model,
                                                 device=self.device)
        out = model.encode(list(texts), batch_size=self.batch_size,
                           show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(out, dtype=np.float32)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.model!r})'


def check_encoded(value: Any, count: int, encoder: Any) -> np.ndarray:
    r"""Returns what an encoder returned if it is one finite row a text.

    Args:
        value (Any): What it returned.
        count (int): The number of texts.
        encoder (Any): The encoder.
    """
    out = np.asarray(value)
    if out.ndim != 2 or len(out) != count or out.dtype.kind != 'f':
        raise ValueError(f"'encoder' must return a float array with one row a "
                         f"text, {count} here ({encoder!r} returned the "
                         f"shape {list(out.shape)} and dtype {out.dtype})")
    if not np.isfinite(out).all():
        raise ValueError(f"'encoder' must return finite numbers "
                         f"({encoder!r} did not)")
    return out
