from __future__ import annotations

import os
import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from torch_promptmm.data.unpickle import read_pickle

MATRIX = sp.random(20, 30, 0.2, format='csr', random_state=0)


def dump(path: Path, value: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize('kind', ['csr', 'csc', 'coo'])
@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('suffix', ['matrix', 'array'])
def test_sparse(kind: str, protocol: int, suffix: str, tmp_path: Path) -> None:
    value = getattr(sp, f'{kind}_{suffix}')(MATRIX)
    out = read_pickle(dump(tmp_path / 'x', value, protocol))
    assert out.format == 'coo' and out.shape == MATRIX.shape
    assert abs(out - MATRIX).sum() == 0


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('value', [
    np.arange(6).reshape(2, 3), np.asfortranarray(np.eye(3)[:2]),
    np.arange(4, dtype='>f4'), np.zeros((0, 3)), np.array([True, False]),
], ids=['int', 'fortran', 'big', 'empty', 'bool'])
def test_arrays(value: np.ndarray, protocol: int, tmp_path: Path) -> None:
    out = read_pickle(dump(tmp_path / 'x', value, protocol))
    assert np.array_equal(out, value)


class Call:
    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple:
        return self.call


def sparse_with(**state: object) -> bytes:
    """A csr_matrix with a forged state."""
    value = sp.csr_matrix(np.eye(3))
    value.__dict__.update(state)
    return pickle.dumps(value)


MARK = []
INTS = np.array([0, 1, 2, 3], dtype=np.int32)

# Name: (pickle, what the error says).
ERRORS = {
    'os.system': (Call(os.system, 'touch pwned'), r"names 'posix.system'"),
    'eval': (Call(eval, 'MARK.append(1)'), "names '__builtin__.eval'"),
    'getattr': (Call(getattr, int, 'real'), "names '__builtin__.getattr'"),
    'inside of an array': (np.array([Call(os.system, 'touch pwned')],
                                    dtype=object), 'posix.system'),
    'inside of a matrix': (b'cos\nsystem\n(S"touch pwned"\ntR.', 'os.system'),
    'numpy function': (b'cnumpy\nsave\n(S"pwned"\nI1\ntR.', 'numpy.save'),
    'scipy function': (b'cscipy.sparse\nload_npz\n(S"x"\ntR.',
                       'scipy.sparse.load_npz'),
    'outside object': (b'Pid\n.', 'outside object'),
    'dict': ({'a': 1}, 'it holds a dict'),
    'list of arrays': ([np.zeros(3)], 'it holds a list'),
    'number': (3, 'it holds a int'),
    'array of objects': (np.array([None, [1]], dtype=object), 'dtype object'),
    'text array': (np.array(['a']), 'dtype <U1'),
    'empty file': (b'', 'no whole pickle'),
    'truncated': (pickle.dumps(MATRIX)[:-50], 'no whole pickle'),
    'garbage': (b'\x80\x04garbage', 'no whole pickle'),
    'column outside': (sparse_with(indices=np.array([0, 1, 9])),
                       'a column 9 outside of the shape'),
    'negative column': (sparse_with(indices=np.array([0, 1, -1])),
                        'outside of the shape'),
    'pointers too high': (sparse_with(indptr=np.array([0, 1, 2, 99])),
                          'pointers are not sound'),
    'pointers that fall': (sparse_with(indptr=np.array([0, 3, 1, 3])),
                           'pointers are not sound'),
    'pointers too few': (sparse_with(indptr=np.array([0, 3])),
                         'pointers are not sound'),
    'float indices': (sparse_with(indices=np.array([0., 1., 2.])),
                      'an array of the dtype float64'),
    'values too few': (sparse_with(data=np.ones(2)), 'values'),
    'no shape': (sparse_with(_shape=None), 'no sound matrix'),
    'negative shape': (sparse_with(_shape=(-3, 3)), 'no sound matrix'),
    'diagonals': (sp.dia_matrix(np.eye(3)), 'dia_matrix; save it with'),
    'lists': (sp.lil_matrix(np.eye(3)), 'lil_matrix; save it with .tocsr'),
    'dictionary': (sp.dok_matrix(np.eye(3)), 'dok_matrix; save it with .tocsr'),
    'called dtype': (b'cnumpy\ndtype\n(S"f8"\ntR.', 'it holds a _Dtype'),
    'ndarray itself': (b'cnumpy\nndarray\n(I3\ntR.', 'no whole pickle'),
    'array of another class': (
        b'cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\nI0\nS"b"\n'
        b'tR.', 'an array of the class'),
}


@pytest.mark.parametrize('case', ERRORS)
def test_error(case: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    value, message = ERRORS[case]
    path = tmp_path / 'x'
    path.write_bytes(value if isinstance(value, bytes)
                     else pickle.dumps(value, protocol=2))
    with pytest.raises(ValueError, match=message):
        read_pickle(path)
    assert not (tmp_path / 'pwned').exists()
    assert not MARK


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_pickle(tmp_path / 'x')


def test_array_that_claims_more_than_there_is(tmp_path: Path) -> None:
    body = pickle.dumps(np.zeros(7, dtype=np.int8), protocol=2)
    assert b'K\x07\x85' in body  # The shape (7,).
    (tmp_path / 'x').write_bytes(body.replace(b'K\x07\x85', b'K\xff\x85'))
    with pytest.raises(ValueError, match='7 bytes for the shape'):
        read_pickle(tmp_path / 'x')


VALID = pickle.dumps(MATRIX[:3, :3], protocol=2)


@given(at=st.integers(0, len(VALID) - 1), byte=st.integers(0, 255))
def test_one_wrong_byte(at: int, byte: int, tmp_path_factory) -> None:
    path = tmp_path_factory.getbasetemp() / 'wrong.pkl'
    path.write_bytes(VALID[:at] + bytes([byte]) + VALID[at + 1:])
    try:
        out = read_pickle(path)
    except ValueError:
        return
    assert isinstance(out, (sp.coo_matrix, np.ndarray))


def test_names_in_real_pickles() -> None:
    """What the writers of numpy and scipy name today, all of it known."""
    found = set()
    for protocol in range(6):
        body = pickle.dumps(MATRIX, protocol=protocol)
        for op, arg, _ in pickletools.genops(body):
            if op.name == 'GLOBAL':
                found.add(arg)
    assert found
