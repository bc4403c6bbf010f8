r"""Pickled matrices, read without running anything that is in the pickle.

Not one function of the file is called, not even numpy's own constructors:
what the pickle names is replaced by plain records, and the arrays are built
from these afterwards, with every size checked.
"""

from __future__ import annotations

import os
import os.path as osp
import pickle
from typing import Any

import numpy as np

from .extras import import_extra

MAX_ITEMS = 1 << 31
NUMPY = ('numpy.core.multiarray', 'numpy._core.multiarray')
NUMERIC = ('numpy.core.numeric', 'numpy._core.numeric')
SPARSE = ('csr', 'csc', 'coo', 'lil', 'dok', 'bsr', 'dia')


def read_pickle(path: str | os.PathLike[str]) -> Any:
    r"""Reads a pickle of a numpy array or a :obj:`scipy.sparse` matrix, and
    of nothing else.

    Args:
        path (str): The file.

    Returns:
        numpy.ndarray or scipy.sparse.coo_matrix: The array, or the matrix.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the pickle holds, or calls, anything else.
    """
    path = osp.expanduser(os.fspath(path))
    with open(path, 'rb') as f:
        reader = _Reader(f, encoding='latin1')
        try:
            value = reader.load()
        except _Refused as error:
            raise ValueError(f"{path}: the pickle names "
                             f"'{error}', which is neither a numpy array nor "
                             f"a scipy matrix; it was not run. Do not trust "
                             f"this file") from None
        except Exception as error:  # A damaged pickle raises about anything.
            raise ValueError(f'{path}: no whole pickle of a matrix '
                             f'({type(error).__name__}: {error})') from error
    try:
        return _build(value)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError,
            AttributeError, MemoryError) as error:
        raise ValueError(f'{path}: no sound matrix ({error})') from error


# Private ######################################################################


class _Refused(Exception):
    pass


class _Array:
    def __init__(self) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Dtype:
    def __init__(self, code: Any, *flags: Any) -> None:
        self.code = code
        self.order: Any = '='

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


class _Sparse:
    kind = ''

    def __init__(self, *args: Any) -> None:
        self.state: dict[str, Any] = {}
        self.items: dict[Any, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple):  # With slots.
            state = {k: v for part in state for k, v in (part or {}).items()}
        self.state = dict(state)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value


class _Scalar:
    def __init__(self, dtype: Any, raw: Any = b'') -> None:
        self.dtype, self.raw = dtype, raw


class _Buffer:
    def __init__(self, raw: Any, dtype: Any, shape: Any, order: str) -> None:
        self.state = (1, shape, dtype, order == 'F', raw)


class _Shape:
    r"""Stands for the class of arrays, which must not be called itself."""


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not _Shape:
        raise _Refused(f'an array of the class {kind!r}')
    return _Array()


def _encode(text: Any, encoding: Any = 'latin1') -> bytes:
    if encoding != 'latin1' or not isinstance(text, str):
        raise _Refused('_codecs.encode')
    return text.encode('latin1')


def _empty_bytes() -> bytes:
    return b''


def _dict(*args: Any) -> dict[Any, Any]:
    if args:
        raise _Refused('dict')
    return {}


def _copyreg_new(kind: Any, base: Any = None, state: Any = None) -> Any:
    if not (isinstance(kind, type) and issubclass(kind, _Sparse)):
        raise _Refused('copyreg._reconstructor')
    return kind()


_KINDS = {kind: type(f'_{kind}', (_Sparse,), {'kind': kind})
          for kind in SPARSE}


_BUILTINS: dict[str, Any] = {
    'object': object,
    'bytes': _empty_bytes,
    'dict': _dict,
}


class _Reader(pickle.Unpickler):
    r"""Knows a handful of names, all of them answered by records."""
    def find_class(self, module: str, name: str) -> Any:
        if module in NUMPY and name == '_reconstruct':
            return _reconstruct
        if module in NUMPY and name == 'scalar':
            return _Scalar
        if module in NUMERIC and name == '_frombuffer':
            return _Buffer
        if module == 'numpy' and name == 'ndarray':
            return _Shape
        if module == 'numpy' and name == 'dtype':
            return _Dtype
        if module == '_codecs' and name == 'encode':
            return _encode
        if module == 'copy_reg' or module == 'copyreg':
            if name == '_reconstructor':
                return _copyreg_new
        if module in ('builtins', '__builtin__') and name in _BUILTINS:
            return _BUILTINS[name]
        if module.split('.')[:2] == ['scipy', 'sparse']:
            kind = name.partition('_')[0]
            if name in (f'{kind}_matrix', f'{kind}_array') and kind in _KINDS:
                return _KINDS[kind]
        raise _Refused(f'{module}.{name}')

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused(f'the outside object {pid!r}')


def _build(value: Any) -> Any:
    if isinstance(value, (_Array, _Buffer)):
        return _array(value)
    if isinstance(value, _Sparse):
        return _sparse(value)
    raise ValueError(f'it holds a {type(value).__name__}')


def _dtype(value: Any) -> np.dtype:
    if not isinstance(value, _Dtype):
        raise ValueError('an array without a dtype')
    out = np.dtype(str(value.code))
    if out.kind not in 'biufO':
        raise ValueError(f'an array of the dtype {out}')
    if value.order in ('<', '>'):
        out = out.newbyteorder(value.order)
    return out


def _array(value: Any) -> np.ndarray:
    _, shape, dtype, fortran, raw = value.state
    kind = _dtype(dtype)
    if isinstance(shape, int):
        shape = (shape,)
    shape = tuple(int(x) for x in shape)
    count = int(np.prod(shape, dtype=object)) if shape else 1
    if min(shape, default=0) < 0 or count > MAX_ITEMS:
        raise ValueError(f'an array of the shape {list(shape)}')
    if kind.hasobject:
        if not isinstance(raw, list) or len(raw) != count:
            raise ValueError(f'an object array of the shape {list(shape)}')
        out = np.empty(count, dtype=object)
        out[:] = raw
    else:
        raw = raw.encode('latin1') if isinstance(raw, str) else bytes(raw)
        if len(raw) != count * kind.itemsize:
            raise ValueError(f'{len(raw)} bytes for the shape {list(shape)} '
                             f'and dtype {kind}')
        out = np.frombuffer(raw, kind).astype(kind.newbyteorder('='))
    return out.reshape(shape, order='F' if fortran else 'C')


def _sparse(value: _Sparse) -> Any:
    r"""A matrix of records as a checked :class:`scipy.sparse.coo_matrix`."""
    sparse = import_extra('scipy.sparse', 'tables', 'Reading a matrix')
    state = value.state
    shape: Any = state.get('_shape', state.get('shape'))
    num_rows, num_cols = (_number(x) for x in shape)
    if num_rows < 0 or num_cols < 0:
        raise ValueError(f'a matrix of the shape {list(shape)}')
    if value.kind in ('csr', 'csc'):
        major, minor, data = _compressed(
            value.kind, state, num_rows if value.kind == 'csr' else num_cols)
        row, col = (major, minor) if value.kind == 'csr' else (minor, major)
    elif value.kind == 'coo':
        if 'coords' in state:
            row, col = (_ints(x) for x in state['coords'])
        else:
            row, col = _ints(state['row']), _ints(state['col'])
        data = _numbers(state['data'])
    elif value.kind == 'lil':
        row, col, data = _lists(_build(state['rows']), _build(state['data']))
    elif value.kind == 'dok':
        entries = state.get('_dict') or value.items
        row = np.array([_number(k[0]) for k in entries], dtype=np.int64)
        col = np.array([_number(k[1]) for k in entries], dtype=np.int64)
        data = np.array([_number(x) for x in entries.values()],
                        dtype=np.float64)
    else:
        raise ValueError(f'a {value.kind}_matrix; save it with .tocsr()')
    if not len(row) == len(col) == len(data):
        raise ValueError(f'{len(row)} rows, {len(col)} columns and '
                         f'{len(data)} values')
    for name, index, size in [('row', row, num_rows), ('column', col,
                                                       num_cols)]:
        if len(index) and not 0 <= index.min() <= index.max() < size:
            raise ValueError(f'a {name} {index.max()} outside of the shape '
                             f'{[num_rows, num_cols]}')
    return sparse.coo_matrix((data, (row, col)), shape=(num_rows, num_cols))


def _compressed(
    kind: str,
    state: dict[str, Any],
    size: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pointer = _ints(state['indptr'])
    index, data = _ints(state['indices']), _numbers(state['data'])
    count = np.diff(pointer)
    if (len(pointer) != size + 1 or pointer[0] != 0 or (count < 0).any()
            or pointer[-1] > len(index)):
        raise ValueError(f'a {kind}_matrix whose pointers are not sound')
    index, data = index[:pointer[-1]], data[:pointer[-1]]
    return np.repeat(np.arange(size), count), index, data


def _ints(value: Any) -> np.ndarray:
    out = _build(value)
    if out.ndim != 1 or out.dtype.kind not in 'iu':
        raise ValueError(f'indices of the dtype {out.dtype}')
    return out.astype(np.int64)


def _numbers(value: Any) -> np.ndarray:
    out = _build(value)
    if out.ndim != 1 or out.dtype.kind not in 'biuf':
        raise ValueError(f'values of the dtype {out.dtype}')
    return out


def _number(value: Any) -> Any:
    if isinstance(value, _Scalar):
        kind = _dtype(value.dtype)
        raw = value.raw
        raw = raw.encode('latin1') if isinstance(raw, str) else bytes(raw)
        return np.frombuffer(raw, kind, 1)[0].item()
    if not isinstance(value, (int, float)):
        raise ValueError(f'a {type(value).__name__} for a number')
    return value


def _lists(
    rows: np.ndarray,
    values: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if rows.ndim != 1 or len(rows) != len(values):
        raise ValueError('a lil_matrix whose lists are not sound')
    row, col, data = [], [], []
    for i, (indices, entries) in enumerate(zip(rows, values, strict=True)):
        if len(indices) != len(entries):
            raise ValueError('a lil_matrix whose lists are not sound')
        row += [i] * len(indices)
        col += [_number(x) for x in indices]
        data += [_number(x) for x in entries]
    return (np.array(row, dtype=np.int64), np.array(col, dtype=np.int64),
            np.array(data, dtype=np.float64))
