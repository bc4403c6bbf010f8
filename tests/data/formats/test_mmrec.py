from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from splits import make_splits, same_splits, splits_of

from torch_promptmm.data import (
    from_splits,
    item_ids,
    read_mmrec,
    user_ids,
    write_mmrec,
)

EDGE = ('user', 'interacts', 'item')
HEAD = 'userID\titemID\trating\ttimestamp\tx_label\n'
BODY = '0\t0\t5\t1\t0\n0\t1\t5\t2\t1\n1\t1\t3\t3\t0\n1\t2\t3\t4\t2\n'


def folder(root: Path, body: str = HEAD + BODY, rows: int = 3) -> Path:
    (root / 'baby.inter').write_text(body)
    np.save(root / 'image_feat.npy', np.ones((rows, 2), dtype=np.float32))
    return root


def test_read_mmrec(tmp_path: Path) -> None:
    np.save(tmp_path / 'text_feat.npy', np.zeros((3, 4)))
    np.save(tmp_path / 'price_feat.npy', np.zeros((3, 1)))
    np.save(tmp_path / 'user_graph_dict.npy', np.zeros(3))  # Another thing.
    train, val, test = read_mmrec(folder(tmp_path))
    assert train[EDGE].edge_index.tolist() == [[0, 1], [0, 1]]
    assert val[EDGE].edge_label_index.tolist() == [[0], [1]]
    assert test[EDGE].edge_label_index.tolist() == [[1], [2]]
    assert {'visual', 'textual', 'price'} <= set(train['item'].keys())
    assert train['item'].visual is test['item'].visual
    assert (train['user'].num_nodes, train['item'].num_nodes) == (2, 3)
    assert item_ids(train) is None


def test_raw_ids_of_mmrec(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / 'i_id_mapping.csv').write_text(
        'asin\titemID\nB00\t0\n007\t2\nB01\t1\n')
    assert item_ids(read_mmrec(tmp_path)[2]).to_list() == ['B00', 'B01', '007']


@given(splits=splits_of())
def test_round_trip(splits: tuple, tmp_path_factory) -> None:
    root = tmp_path_factory.mktemp('m') / 'name'
    write_mmrec(root, *splits)
    same_splits(splits, read_mmrec(root))
    table = pd.read_csv(root / 'name.inter', sep='\t')  # As MMRec does.
    assert list(table.columns) == ['userID', 'itemID', 'x_label']
    assert len(table) == sum(
        x[EDGE].edge_index.size(1) if i == 0
        else x[EDGE].edge_label_index.size(1) for i, x in enumerate(splits))


def test_ids_and_masks_round_trip(tmp_path: Path) -> None:
    splits = make_splits(ids=True)
    write_mmrec(tmp_path / 'x', *splits, name='other')
    out = read_mmrec(tmp_path / 'x')
    same_splits(splits, out)
    assert user_ids(out[0]).to_list() == user_ids(splits[0]).to_list()
    assert item_ids(out[0]).to_list() == item_ids(splits[0]).to_list()
    write_mmrec(tmp_path / 'x', *make_splits(), name='other')
    same_splits(make_splits(), read_mmrec(tmp_path / 'x'))  # Nothing stale.


@pytest.mark.tiktok
def test_tiktok(tiktok_root: Path, tmp_path: Path) -> None:
    from torch_promptmm.datasets import TikTok
    splits = tuple(TikTok(tiktok_root))
    write_mmrec(tmp_path / 'tiktok', *splits)
    same_splits(splits, read_mmrec(tmp_path / 'tiktok'))
    same_splits(splits, tuple(TikTok(tmp_path / 'tiktok')))


# Name: (content of the .inter, rows of the features, what the error says).
ERRORS = {
    'no label': ('userID\titemID\n0\t0\n', 3, "names the column 'x_label'"),
    'unknown label': (HEAD + BODY + '0\t2\t1\t1\t3\n', 3,
                      r'row 6: an x_label other than 0, 1, 2 .*\[0.0, 2.0, 3'),
    'ids that are text': (HEAD + 'anna\t0\t1\t1\t0\n', 3,
                          "Row #2: .*'anna'.* correct the number"),
    'negative id': (HEAD + BODY + '0\t-2\t1\t1\t0\n', 3,
                    r'row 6: a number that is negative.*-2'),
    'broken id': (HEAD + BODY + '0\t1.5\t1\t1\t0\n', 3,
                  r'row 6: a number that is negative or not whole.*1\.5'),
    'too few features': (HEAD + BODY, 2, 'item 2, but there are 2 items'),
    'cut off': (HEAD + BODY + '0\t2', 3, 'Row #6: Expected 5 columns, got 2'),
    'commas': ((HEAD + BODY).replace('\t', ','), 3,
               "names the column 'userID'"),
    'nothing': (HEAD, 3, 'no interaction is left'),
}


@pytest.mark.parametrize('case', ERRORS)
def test_error(case: str, tmp_path: Path) -> None:
    body, rows, message = ERRORS[case]
    with pytest.raises(ValueError, match=message):
        read_mmrec(folder(tmp_path, body, rows))


def test_repairs(tmp_path: Path) -> None:
    folder(tmp_path, HEAD + BODY + '\t2\t1\t1\t0\n0\t2\t1\t1\t\n')
    x = np.ones((3, 2), dtype=np.float32)
    x[1, 1] = np.nan
    np.save(tmp_path / 'text_feat.npy', x)
    with pytest.warns(UserWarning) as found:
        train, _, _ = read_mmrec(tmp_path)
    assert train.report.count('without user') == 2
    assert train.report.count('NaN') == 1
    assert train['item'].textual_mask.tolist() == [True, False, True]
    assert len(found) == 2


def test_folder_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='must be a folder'):
        read_mmrec(tmp_path / 'x')
    with pytest.raises(ValueError, match='must have one .inter file'):
        read_mmrec(tmp_path)
    folder(tmp_path)
    with pytest.raises(ValueError, match="'name' is 'x', but there is no"):
        read_mmrec(tmp_path, 'x')
    (tmp_path / 'u_id_mapping.csv').write_text('id\tuserID\na\t0\nb\t9\n')
    with pytest.raises(ValueError, match='u_id_mapping.csv: line 3: no row'):
        read_mmrec(tmp_path)
    (tmp_path / 'u_id_mapping.csv').write_text('id\tuserID\na\t0\n')
    with pytest.raises(ValueError, match='no id for the row 1'):
        read_mmrec(tmp_path)
    (tmp_path / 'u_id_mapping.csv').unlink()
    np.save(tmp_path / 'text_feat.npy', np.ones((4, 2)))
    with pytest.raises(ValueError, match='disagree on the number of items'):
        read_mmrec(tmp_path)
    np.save(tmp_path / 'text_feat.npy', np.array([{}, []], dtype=object))
    with pytest.raises(ValueError, match='text_feat.npy: .*object'):
        read_mmrec(tmp_path)


def test_write_errors(tmp_path: Path) -> None:
    train, val, test = make_splits()
    other = from_splits(np.array([[0], [0]]), np.array([[0], [0]]),
                        np.array([[0], [0]]), {})[1]
    with pytest.raises(ValueError, match="'train' has 5 users but 'val'"):
        write_mmrec(tmp_path, train, other, test)
    for data in (train, val, test):
        data['item'].image = data['item'].visual
    with pytest.raises(ValueError, match='Two modalities would become one'):
        write_mmrec(tmp_path, train, val, test)
    for data in (train, val, test):
        del data['item'].image
        data['item'].visual = torch.ones(6, 2, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match='bfloat16'):
        write_mmrec(tmp_path, train, val, test)
