r"""From the texts of items to features: encoders with one method, a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from torch_promptmm.checks import check_bool, check_int
from torch_promptmm.data.extras import import_extra


class TfidfSVD:
    r"""Words and pairs of neighbouring words, weighted by how rare they are,
    and of that matrix :math:`\mathbf{A}` the strongest directions:

    .. math::
        \mathbf{A}_{tw} = (1 + \ln n_{tw}) \left( 1 + \ln \frac{1 + N}
        {1 + N_w} \right), \qquad \mathbf{A} \approx \mathbf{U}
        \boldsymbol{\Sigma} \mathbf{V}^{\top},

    with :math:`n_{tw}` the count of word :math:`w` in text :math:`t` and
    :math:`N_w` the number of texts that have it. Rows of :math:`\mathbf{A}`
    are brought to length one before the decomposition, so that the product
    of two rows of the result, :math:`\mathbf{A} \mathbf{V}`, is about the
    cosine of the two texts. It is fitted on the texts that it encodes, and
    needs no model; both steps are scikit-learn's.

    .. code-block:: python

        encoder = TfidfSVD(512)
        x = encoder(['red running shoes', 'blue kettle'])  # [2, 512]

    Args:
        channels (int, optional): The number of columns :math:`d`. Fewer texts
            or words than that leave zeros in the last ones.
            (default: :obj:`512`)
        pairs (bool, optional): If set to :obj:`False`, single words only.
            (default: :obj:`True`)
        seed (int, optional): The seed of the decomposition.
            (default: :obj:`0`)
    """
    def __init__(
        self,
        channels: int = 512,
        pairs: bool = True,
        seed: int = 0,
    ) -> None:
        self.channels = check_int('channels', channels, 1)
        self.pairs = check_bool('pairs', pairs)
        self.seed = check_int('seed', seed)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        r"""Encodes :math:`N` texts: :math:`[N, d]`, float32; zeros for a text
        without a word."""
        out = np.zeros((len(texts), self.channels), dtype=np.float32)
        vectorizer = TfidfVectorizer(
            token_pattern=r'[^\W_]+', sublinear_tf=True, dtype=np.float32,
            ngram_range=(1, 2 if self.pairs else 1))
        try:
            weights = vectorizer.fit_transform(texts)
        except ValueError as error:
            if 'empty vocabulary' in str(error):
                return out
            raise
        rank = min(self.channels, *weights.shape)
        svd = TruncatedSVD(rank, random_state=self.seed).fit(weights)
        out[:, :rank] = svd.transform(weights)
        return out

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.channels}, '
                f'pairs={self.pairs}, seed={self.seed})')


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
        r"""Encodes :math:`N` texts."""
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
    r"""Returns what an encoder returned for :obj:`count` texts, if it is one
    finite row a text."""
    out = np.asarray(value)
    if out.ndim != 2 or len(out) != count or out.dtype.kind != 'f':
        raise ValueError(f"'encoder' must return a float array with one row a "
                         f"text, {count} here ({encoder!r} returned the "
                         f"shape {list(out.shape)} and dtype {out.dtype})")
    if not np.isfinite(out).all():
        raise ValueError(f"'encoder' must return finite numbers "
                         f"({encoder!r} did not)")
    return out
