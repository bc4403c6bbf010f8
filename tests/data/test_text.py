from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from torch_promptmm.data import SentenceEncoder, TfidfSVD

TEXTS = ['Red running shoes', 'red SHOES, running; red_red', 'blue kettle',
         'Kettle: blue steel', '', '!?', 'a steel lamp 2', 'lamp 2']


def slow_tfidf(texts: list[str], pairs: bool) -> np.ndarray:
    """The equation of :class:`TfidfSVD`, word by word, in float64."""
    tokens = []
    for text in texts:
        words = ''.join(c if c.isalnum() else ' ' for c in text.lower()).split()
        tokens.append(words + pairs * [
            f'{a} {b}' for a, b in zip(words, words[1:], strict=False)])
    vocabulary = sorted({x for row in tokens for x in row})
    out = np.zeros((len(texts), len(vocabulary)))
    for column, word in enumerate(vocabulary):
        having = sum(word in row for row in tokens)
        for row, words in enumerate(tokens):
            if word in words:
                out[row, column] = ((1 + np.log(words.count(word)))
                                    * (1 + np.log((1 + len(texts))
                                                  / (1 + having))))
    norm = np.linalg.norm(out, axis=1, keepdims=True)
    return out / np.where(norm > 0, norm, 1)


@pytest.mark.parametrize('pairs', [False, True])
@pytest.mark.parametrize('channels', [1, 3, 512])
def test_tfidf_svd(pairs: bool, channels: int) -> None:
    x = TfidfSVD(channels, pairs)(TEXTS)
    assert x.shape == (8, channels) and x.dtype == np.float32
    weights = slow_tfidf(TEXTS, pairs)
    u, sigma, _ = np.linalg.svd(weights, full_matrices=False)
    rank = min(channels, 8)
    expected = np.zeros((8, channels))
    expected[:, :rank] = (u * sigma)[:, :rank]
    rank = min(channels, 6)  # Beyond it the directions are arbitrary.
    for column in range(rank):
        same = expected[:, column] @ x[:, column]
        assert np.allclose(x[:, column], np.sign(same) * expected[:, column],
                           atol=1e-5)
    assert np.abs(x[:, rank:]).max(initial=0) < 1e-5
    if channels == 512:  # Nothing is lost.
        assert np.allclose(x @ x.T, weights @ weights.T, atol=1e-5)


def test_tfidf_svd_numbers() -> None:
    # By hand: "a" is in both texts and weighs 1, "b" and "c" in one of two
    # and weigh 1 + ln 1.5 = 1.405465, so the cosine is 1 / (1 + 1.405465^2).
    x = TfidfSVD(2, pairs=False)(['a b', 'a c'])
    assert x[0] @ x[1] == pytest.approx(0.336097, abs=1e-6)
    assert np.abs(x[0]) == pytest.approx([0.817342, 0.576153], abs=1e-6)


def test_a_text_without_a_word_is_zero() -> None:
    x = TfidfSVD(4)(TEXTS)
    assert np.count_nonzero(x[[4, 5]]) == 0
    assert np.array_equal(TfidfSVD(4)(['', '!']), np.zeros((2, 4)))
    assert TfidfSVD(16)([]).shape == (0, 16)


def test_tfidf_svd_depends_on_its_seed_alone() -> None:
    rng = np.random.RandomState(0)
    texts = [' '.join(map(str, rng.randint(0, 300, 9))) for _ in range(200)]
    before = np.random.get_state()[1].copy()
    x = TfidfSVD(16)(texts)
    assert np.array_equal(x, TfidfSVD(16)(texts))
    assert not np.array_equal(x, TfidfSVD(16, seed=1)(texts))
    assert np.array_equal(np.random.get_state()[1], before)
    # The key of a dataset that was made with it.
    assert str(TfidfSVD(16)) == 'TfidfSVD(16, pairs=True, seed=0)'


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="'channels' must be at least 1"):
        TfidfSVD(0)
    with pytest.raises(TypeError, match="'pairs' must be True or False"):
        TfidfSVD(8, pairs=2)
    with pytest.raises(ValueError, match="'seed' must be at least 0"):
        TfidfSVD(8, seed=-1)


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
