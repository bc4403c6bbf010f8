from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from torch_promptmm.data import HashingTfidf, SentenceEncoder


def test_hashing_tfidf() -> None:
    texts = ['Red running shoes', 'red SHOES running', 'blue kettle', '', '!?']
    x = HashingTfidf(512)(texts)
    assert x.shape == (5, 512) and x.dtype == np.float32
    assert np.allclose(np.linalg.norm(x, axis=1), [1, 1, 1, 0, 0])
    assert x[0] @ x[1] > 0.2 > abs(x[0] @ x[2])
    assert np.array_equal(x, HashingTfidf(512)(texts))
    # The same numbers on every machine.
    assert np.flatnonzero(HashingTfidf(8, pairs=False)(['red'])).tolist() == [
        np.flatnonzero(HashingTfidf(8, pairs=False)(['RED']))[0]]
    assert HashingTfidf(16)([]).shape == (0, 16)
    assert str(HashingTfidf(16)) == 'HashingTfidf(16, pairs=True)'


def test_rare_words_count_more() -> None:
    encoder = HashingTfidf(4096, pairs=False)
    x = encoder(['the cat', 'the dog', 'the cow'])
    assert x[0].max() ** 2 > 0.5 or (-x[0]).max() ** 2 > 0.5
    assert abs(x[0] @ x[1]) < 0.5


def test_bad_channels() -> None:
    with pytest.raises(ValueError, match="'channels' must be at least 1"):
        HashingTfidf(0)


def test_sentence_encoder(monkeypatch) -> None:
    class Model:
        def __init__(self, name: str, device: str | None = None) -> None:
            assert name == 'some-model'

        def encode(self, texts: list, **kwargs: object) -> np.ndarray:
            return np.ones((len(texts), 3))

    module = types.ModuleType('sentence_transformers')
    module.SentenceTransformer = Model
    monkeypatch.setitem(sys.modules, 'sentence_transformers', module)
    encoder = SentenceEncoder('some-model')
    assert encoder(['a', 'b']).shape == (2, 3)
    assert str(encoder) == "SentenceEncoder('some-model')"
    monkeypatch.setitem(sys.modules, 'sentence_transformers', None)
    with pytest.raises(ImportError, match=r'torch_promptmm\[text\]'):
        encoder(['a'])
