r"""Pickled matrices, read without running anything that is in the pickle.

Not one function of the file is called, not even numpy's own constructors:
what the pickle names is replaced by plain records, and the arrays are built
from these afterwards, with every size checked.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

MAX_ITEMS = 1 << 31
NUMPY = ('numpy.core.multiarray', 'numpy._core.multiarray')
NUMERIC = ('numpy.core.numeric', 'numpy._core.numeric')
SPARSE = ('csr', 'csc', 'coo', 'lil', 'dok', 'bsr', 'dia')


def read_pickle(path: str | os.PathLike[str]) -> Any:
    r"""Reads a pickle of a numpy array of numbers or a :obj:`scipy.sparse`
    matrix (CSR, CSC or COO, as COO then). One that holds, or calls, anything
    else is a :class:`ValueError`."""
    path = Path(path).expanduser()
    with open(path, 'rb') as f:
        try:
            value = _Reader(f, encoding='latin1').load()
        except _Refused as error:
            raise ValueError(f"{path}: the pickle names "
                             f"'{error}', which is neither a numpy array nor "
                             f"a scipy matrix; it was not run. Do not trust "
                             f"this file") from None
        except Exception as error:  # A damaged pickle raises about anything.
            raise ValueError(f'{path}: no whole pickle of a matrix '
                             f'({type(error).__name__}: {error})') from error
    try:
        return _matrix(value) if isinstance(value, _Sparse) else _array(value)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError,
            AttributeError, MemoryError) as error:
        raise ValueError(f'{path}: no sound matrix ({error})') from error


class _Refused(Exception):
    pass


class _Record:
    r"""What a pickle says of an object, instead of the object."""
    args: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(_Record):
    pass


class _Dtype(_Record):
    pass


class _Sparse(_Record):
    kind = ''

    def __setitem__(self, key: Any, value: Any) -> None:
        pass  # A `dok_matrix` is a dictionary; what is in it is not read.


class _Shape:
    r"""Stands for the class of arrays, which must not be called itself."""


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not _Shape:
        raise _Refused(f'an array of the class {kind!r}')
    return _Array()


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: str) -> _Array:
    out = _Array()
    out.state = (1, shape, dtype, order == 'F', raw)
    return out


def _encode(text: Any, encoding: Any = 'latin1') -> bytes:
    if encoding != 'latin1' or not isinstance(text, str):
        raise _Refused('_codecs.encode')
    return text.encode('latin1')


def _new_sparse(kind: Any, base: Any = None, state: Any = None) -> Any:
    if not (isinstance(kind, type) and issubclass(kind, _Sparse)):
        raise _Refused('copyreg._reconstructor')
    return kind()


NAMES: dict[tuple[str, str], Any] = {
    **{(module, '_reconstruct'): _reconstruct for module in NUMPY},
    **{(module, 'scalar'): _Record for module in NUMPY},  # In a `dok_matrix`.
    **{(module, '_frombuffer'): _from_buffer for module in NUMERIC},
    ('numpy', 'ndarray'): _Shape,
    ('numpy', 'dtype'): _Dtype,
    ('_codecs', 'encode'): _encode,
    ('copy_reg', '_reconstructor'): _new_sparse,
    ('copyreg', '_reconstructor'): _new_sparse,
    **{(module, name): value for module in ('builtins', '__builtin__')
       for name, value in [('object', object), ('bytes', lambda: b''),
                           ('dict', lambda: {})]},
}
KINDS = {f'{kind}_{suffix}': type(f'_{kind}', (_Sparse, ), {'kind': kind})
         for kind in SPARSE for suffix in ('matrix', 'array')}


class _Reader(pickle.Unpickler):
    r"""Knows a handful of names, all of them answered by records."""
    def find_class(self, module: str, name: str) -> Any:
        if module.split('.')[:2] == ['scipy', 'sparse'] and name in KINDS:
            return KINDS[name]
        if (module, name) not in NAMES:
            raise _Refused(f'{module}.{name}')
        return NAMES[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused(f'the outside object {pid!r}')


def _array(value: Any, kinds: str = 'biuf') -> np.ndarray:
    if not isinstance(value, _Array):
        raise ValueError(f'it holds a {type(value).__name__}')
    _, shape, dtype, fortran, raw = value.state
    if not isinstance(dtype, _Dtype):
        raise ValueError('an array without a dtype')
    kind = np.dtype(str(dtype.args[0]))
    if kind.kind not in kinds:
        raise ValueError(f'an array of the dtype {kind}')
    if dtype.state and dtype.state[1] in ('<', '>'):
        kind = kind.newbyteorder(dtype.state[1])
    shape = tuple(int(x) for x in np.atleast_1d(shape))
    count = int(np.prod(shape, dtype=object))
    if min(shape, default=0) < 0 or count > MAX_ITEMS:
        raise ValueError(f'an array of the shape {list(shape)}')
    raw = raw.encode('latin1') if isinstance(raw, str) else bytes(raw)
    if len(raw) != count * kind.itemsize:
        raise ValueError(f'{len(raw)} bytes for the shape {list(shape)} and '
                         f'dtype {kind}')
    out = np.frombuffer(raw, kind).astype(kind.newbyteorder('='))
    return out.reshape(shape, order='F' if fortran else 'C')


def _vector(value: Any, kinds: str) -> np.ndarray:
    out = _array(value, kinds)
    if out.ndim != 1:
        raise ValueError(f'a vector of the shape {list(out.shape)}')
    return out


def _matrix(value: _Sparse) -> Any:
    r"""A matrix of records as a checked :class:`scipy.sparse.coo_matrix`."""
    state = value.state
    if isinstance(state, tuple):  # With slots.
        state = {k: v for part in state for k, v in (part or {}).items()}
    if value.kind not in ('csr', 'csc', 'coo'):
        raise ValueError(f'a {value.kind}_matrix; save it with .tocsr()')
    shape = [int(x) for x in state.get('_shape', state.get('shape'))]
    data = _vector(state['data'], 'biuf')
    if value.kind == 'coo':
        index = state.get('coords') or (state['row'], state['col'])
        row, col = (_vector(x, 'iu').astype(np.int64) for x in index)
    else:
        pointer = _vector(state['indptr'], 'iu').astype(np.int64)
        col = _vector(state['indices'], 'iu').astype(np.int64)
        count = np.diff(pointer)
        if (len(pointer) != shape[value.kind == 'csc'] + 1 or pointer[0] != 0
                or (count < 0).any() or pointer[-1] > len(col)):
            raise ValueError(f'a {value.kind}_matrix whose pointers are not '
                             f'sound')
        col, data = col[:pointer[-1]], data[:pointer[-1]]
        row = np.repeat(np.arange(len(count)), count)
        if value.kind == 'csc':
            row, col = col, row
    if not len(row) == len(col) == len(data):
        raise ValueError(f'{len(row)} rows, {len(col)} columns and '
                         f'{len(data)} values')
    for name, at, size in [('row', row, shape[0]), ('column', col, shape[1])]:
        if size < 0 or len(at) and not 0 <= at.min() <= at.max() < size:
            raise ValueError(f'a {name} {at.max(initial=0)} outside of the '
                             f'shape {shape}')
    return sparse.coo_matrix((data, (row, col)), shape=shape)
