from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from splits import make_splits, same_splits, splits_of

from torch_promptmm.data import (
    item_ids,
    read_promptmm,
    user_ids,
    write_promptmm,
)

EDGE = ('user', 'interacts', 'item')
TRAIN = {'0': [0, 1], '1': [2], '2': []}
VAL = {'0': [2], '1': []}
TEST = {'1': [0]}


def lists(root: Path, train: object = TRAIN) -> Path:
    for name, value in [('train', train), ('val', VAL), ('test', TEST)]:
        (root / f'{name}.json').write_text(
            value if isinstance(value, str) else json.dumps(value))
    np.save(root / 'image_feat.npy', np.ones((3, 2), dtype=np.float32))
    return root


def matrices(root: Path, names: tuple, kind: type = sp.csr_matrix) -> Path:
    for name, value in zip(names, (TRAIN, VAL, TEST), strict=True):
        dense = np.zeros((3, 3), dtype=np.float32)
        for user, items in value.items():
            dense[int(user), items] = 1
        (root / name).write_bytes(pickle.dumps(kind(dense)))
    return root


def check(splits: tuple) -> None:
    train, val, test = splits
    assert train[EDGE].edge_index.tolist() == [[0, 0, 1], [0, 1, 2]]
    assert val[EDGE].edge_label_index.tolist() == [[0], [2]]
    assert test[EDGE].edge_label_index.tolist() == [[1], [0]]
    assert train['item'].num_nodes == 3


MATS = ('train_mat', 'val_mat', 'test_mat')


def test_lists(tmp_path: Path) -> None:
    np.save(tmp_path / 'audio_feat.npy', np.ones((3, 2), dtype=np.float16))
    splits = read_promptmm(lists(tmp_path))
    check(splits)
    assert splits[0]['user'].num_nodes == 2
    assert {'visual', 'acoustic'} <= set(splits[0]['item'].keys())


@pytest.mark.parametrize('kind', [sp.csr_matrix, sp.coo_matrix, sp.csc_matrix,
                                  sp.csr_array, np.asarray])
@pytest.mark.parametrize('names', [MATS, ('trnMat.pkl', 'valMat.pkl',
                                          'tstMat.pkl')])
def test_matrices(kind: type, names: tuple, tmp_path: Path) -> None:
    splits = read_promptmm(matrices(tmp_path, names, kind))
    check(splits)
    assert splits[0]['user'].num_nodes == 3  # The matrix tells.


@pytest.mark.parametrize('kind', [sp.csr_matrix, np.asarray])
def test_entries_that_are_no_numbers(kind: type, tmp_path: Path) -> None:
    matrices(tmp_path, MATS, kind)
    dense = np.diag([1, np.nan, np.inf])
    (tmp_path / 'train_mat').write_bytes(pickle.dumps(kind(dense)))
    with pytest.warns(UserWarning, match='2 entries of .*train_mat are NaN'):
        train, _, _ = read_promptmm(tmp_path)
    assert train[EDGE].edge_index.tolist() == [[0], [0]]


def test_both_must_agree(tmp_path: Path) -> None:
    check(read_promptmm(matrices(lists(tmp_path), MATS)))
    lists(tmp_path, {'0': [0, 1], '1': [1]})
    with pytest.raises(ValueError, match='disagree on 2 interactions, such '
                       'as user 1 with item 1'):
        read_promptmm(tmp_path)
    check(read_promptmm(tmp_path, source='mat'))
    train, _, _ = read_promptmm(tmp_path, source='json')
    assert train[EDGE].edge_index.tolist() == [[0, 0, 1], [0, 1, 1]]


@given(splits=splits_of())
def test_round_trip(splits: tuple, tmp_path_factory) -> None:
    root = tmp_path_factory.mktemp('p')
    write_promptmm(root, *splits)
    for source in (None, 'json', 'mat'):
        same_splits(splits, read_promptmm(root, source))
    with open(root / 'train_mat', 'rb') as f:  # As the authors do.
        matrix = pickle.load(f)
    assert isinstance(matrix, sp.csr_matrix)
    assert matrix.nnz == splits[0][EDGE].num_edges
    train = json.loads((root / 'train.json').read_text())
    assert sum(map(len, train.values())) == splits[0][EDGE].num_edges


def test_ids_and_masks_round_trip(tmp_path: Path) -> None:
    splits = make_splits(ids=True)
    write_promptmm(tmp_path, *splits)
    out = read_promptmm(tmp_path)
    same_splits(splits, out)
    assert user_ids(out[0]) == user_ids(splits[0])
    assert item_ids(out[2]) == item_ids(splits[0])


@pytest.mark.tiktok
def test_tiktok(tiktok_root: Path, tmp_path: Path) -> None:
    from torch_promptmm.datasets import TikTok
    splits = tuple(TikTok(tiktok_root))
    write_promptmm(tmp_path / 'raw', *splits)
    for source in ('json', 'mat'):
        same_splits(splits, read_promptmm(tmp_path / 'raw', source))
    same_splits(splits, tuple(TikTok(tmp_path, mmap=True)))


# Name: (content of train.json, what the error says).
ERRORS = {
    'truncated': ('{"0": [1, 2', 'train.json: no sound JSON'),
    'list': ('[1, 2]', 'must hold an object of users'),
    'user twice': ('{"0": [1], "0": [2]}', "the user '0' is there twice"),
    'user by name': ('{"anna": [1]}', "the user 'anna' is no row number"),
    'negative user': ('{"-1": [1]}', "the user '-1' is no row number"),
    'item by name': ('{"0": ["x"]}', 'items of user 0 must be a list of row'),
    'negative item': ('{"0": [-1]}', 'must be a list of row numbers'),
    'float item': ('{"0": [1.0]}', 'must be a list of row numbers'),
    'true as item': ('{"0": [true]}', 'must be a list of row numbers'),
    'huge item': ('{"0": [99999999999999999999]}', 'list of row numbers'),
    'one item for a list': ('{"0": 1}', 'must be a list of row numbers'),
    'deep nesting': ('{"0": ' + '[' * 100_000, 'no sound JSON'),
    'item without features': ('{"0": [7]}', 'item 7, but there are 3 items'),
    'nothing': ('{}', "'train' is empty"),
}


@pytest.mark.parametrize('case', ERRORS)
def test_error(case: str, tmp_path: Path) -> None:
    body, message = ERRORS[case]
    with pytest.raises(ValueError, match=message):
        read_promptmm(lists(tmp_path, body))


class Evil:
    def __reduce__(self) -> tuple:
        return os.system, ('touch pwned',)


def test_pickle_that_calls(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    matrices(tmp_path, MATS)
    (tmp_path / 'val_mat').write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"val_mat: .*'posix.system'"):
        read_promptmm(tmp_path)
    assert not (tmp_path / 'pwned').exists()


def test_folder_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='must be a folder'):
        read_promptmm(tmp_path / 'x')
    with pytest.raises(ValueError, match='must have train.json'):
        read_promptmm(tmp_path)
    with pytest.raises(ValueError, match="'source' must be"):
        read_promptmm(tmp_path, source='x')
    lists(tmp_path)
    (tmp_path / 'test.json').unlink()
    with pytest.raises(ValueError, match='has train.json but lacks test.json'):
        read_promptmm(tmp_path)
    for name in MATS[:2]:
        (tmp_path / name).write_bytes(b'')
    with pytest.raises(ValueError, match='lacks test_mat'):
        read_promptmm(tmp_path, source='mat')
    lists(tmp_path)
    (tmp_path / 'torch_promptmm.json').write_text('[')
    with pytest.raises(ValueError, match='torch_promptmm.json: no JSON'):
        read_promptmm(tmp_path, source='json')
