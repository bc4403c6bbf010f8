from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from torch_promptmm.data.matrices import load_ids, matrix_files, read_matrices


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ('b_feat', 'a_feat', 'a-c_feat', 'b_feat_mask', 'ids', '.b'):
        np.save(tmp_path / f'{name}.npy', np.ones((3, 2), np.float32))
    np.save(tmp_path / 'b_feat_mask.npy', np.array([True, False, True]))
    (tmp_path / 'd_feat.parquet').write_bytes(b'')
    return tmp_path


def test_matrix_files(root: Path) -> None:
    assert list(matrix_files(root)) == ['a-c_feat', 'a_feat', 'b_feat', 'ids']
    assert matrix_files(root, '_feat', ('.npy', '.parquet')) == {
        name: next(root.glob(f'{name}_feat.[np]*'))
        for name in ('a-c', 'a', 'b', 'd')}


@pytest.mark.parametrize('mmap', [False, True])
def test_read_matrices(root: Path, mmap: bool) -> None:
    features, masks = read_matrices(matrix_files(root, '_feat'), mmap)
    assert list(features) == ['a-c', 'a', 'b'] and list(masks) == ['b']
    assert masks['b'].tolist() == [True, False, True]
    for value in features.values():
        assert torch.equal(value, torch.ones(3, 2))
        value.zero_()  # Never written to the file.
    assert np.load(root / 'a_feat.npy').all()


@pytest.mark.parametrize(('name', 'value', 'error', 'message'), [
    ('b_feat', np.ones(3), ValueError, 'b_feat.npy.*one row an item'),
    ('b_feat', np.ones((3, 2), int), TypeError, 'b_feat.npy.*int64'),
    ('b_feat', np.array(['a']), ValueError, 'b_feat.npy.*must hold numbers'),
    ('b_feat_mask', np.ones(2, bool), ValueError, r'feat_mask.npy.*\[3\]'),
    ('b_feat_mask', np.ones(3), ValueError, 'b_feat_mask.npy.*boolean'),
])
def test_errors_name_the_file(root: Path, name: str, value: np.ndarray,
                              error: type, message: str) -> None:
    np.save(root / f'{name}.npy', value)
    with pytest.raises(error, match=message):
        read_matrices(matrix_files(root, '_feat'))


@pytest.mark.parametrize('source', [
    ['a', 'b'], ('a', 'b'), np.array(['a', 'b']),
    np.array(['a', 'b'], dtype=object), [np.str_('a'), np.str_('b')],
])
def test_ids_at_hand(source: object) -> None:
    out = load_ids(source)
    assert out == ['a', 'b'] and all(type(x) is str for x in out)


def test_ids_of_numbers() -> None:
    for source in (torch.tensor([1, 2]), np.array([1, 2]), range(1, 3),
                   pd.Series([1, 2]), pa.array([1, 2])):
        assert load_ids(source) == [1, 2]
        assert type(load_ids(source)[0]) is int


def test_ids_of_a_text_file(tmp_path: Path) -> None:
    # Only a line feed ends a line: ids may hold what else looks like one.
    path = tmp_path / 'ids.txt'
    path.write_bytes('\ufeffa\u2028b\r\n\r\n c \n'.encode())
    assert load_ids(path) == ['a\u2028b', 'c']
    path.write_bytes(b'a\n' * 70_000 + b'\xff\n')
    with pytest.raises(ValueError, match='ids.txt, line 70001: not UTF-8'):
        load_ids(path)
