from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import HeteroData

from torch_promptmm.data import (
    add_feature_folder,
    add_features,
    from_interactions,
    item_ids,
    read_graph,
    read_interactions,
)
from torch_promptmm.data.npy import read_array

ITEMS = ['x', 'y', 'z']


def graph(items: list | None = None) -> HeteroData:
    items = items or ITEMS
    return read_interactions(pd.DataFrame({'user': [1] * len(items),
                                           'item': items}))


def matrix(rows: int = 3, width: int = 4) -> np.ndarray:
    return np.arange(rows * width, dtype=np.float32).reshape(rows, width) + 1


@pytest.mark.parametrize('kind', ['npy', 'npz', 'array', 'tensor', 'mapping',
                                  'lists', 'columns', 'float16', 'big-endian',
                                  'fortran', 'mmap'])
def test_by_id_in_any_order(kind: str, tmp_path: Path) -> None:
    ids, x = ['z', 'x', 'y'], matrix()
    kwargs: dict = {'ids': ids}
    source: object = x
    if kind in ('npy', 'float16', 'big-endian', 'fortran', 'mmap'):
        value = {'float16': x.astype(np.float16), 'big-endian': x.astype('>f4'),
                 'fortran': np.asfortranarray(x)}.get(kind, x)
        source = tmp_path / 'x.npy'
        np.save(source, value)
        kwargs['mmap'] = kind == 'mmap'
    elif kind == 'npz':
        source = tmp_path / 'x.npz'
        np.savez_compressed(source, x=x)
    elif kind == 'tensor':
        source = torch.from_numpy(x)
    elif kind == 'mapping':
        source = dict(zip(ids, x.tolist(), strict=True))
        kwargs = {}
    elif kind == 'lists':
        source = tmp_path / 'x.parquet'
        pd.DataFrame({'sku': ids, 'x': list(x)}).to_parquet(source)
        kwargs = {'id_column': 'sku'}
    elif kind == 'columns':
        source = tmp_path / 'x.parquet'
        table = pd.DataFrame(x, columns=list('abcd'))
        table.insert(0, 'sku', ids)
        table.to_parquet(source)
        kwargs = {}
    before = graph()
    data = add_features(before, 'visual', source, **kwargs)
    expected = torch.from_numpy(x)[[1, 2, 0]]
    assert torch.equal(data['item'].visual.float(), expected)
    assert data['item'].visual.is_floating_point()
    assert 'visual_mask' not in data['item']
    assert 'visual' not in before['item']
    assert list(read_graph(data).features) == ['visual']


def test_missing_are_masked_and_counted() -> None:
    with pytest.warns(UserWarning, match="1 of 3 items have no 'visual'"):
        data = add_features(graph(), 'visual', matrix(2), ids=['z', 'x'])
    assert data['item'].visual_mask.tolist() == [True, False, True]
    assert data['item'].visual[1].tolist() == [0] * 4
    assert data.report.count('masked') == 1


@pytest.mark.filterwarnings('ignore')
def test_repairs() -> None:
    x = matrix(6)
    x[1, 2] = np.nan
    x[5, 0] = np.inf
    data = add_features(graph(), 'visual', x,
                        ids=['x', 'y', 'x', 'unknown', 'z', 'other'])
    assert data['item'].visual_mask.tolist() == [True, False, True]
    assert data['item'].visual[0].tolist() == x[0].tolist()
    report = data.report
    assert report.count('repeat an id') == 1
    assert report.count('no item of the graph') == 2
    assert report.count('NaN or infinite') == 1
    assert np.isnan(x[1, 2])  # The user's own array stays as it was.


def test_order_is_never_guessed() -> None:
    with pytest.raises(ValueError, match="'ids' must say which item each row"):
        add_features(graph(), 'visual', matrix())
    plain = from_interactions(np.array([[0], [2]]), {})
    data = add_features(plain, 'visual', matrix())
    assert torch.equal(data['item'].visual, torch.from_numpy(matrix()))
    with pytest.raises(ValueError, match='2 rows for 3 items'):
        add_features(plain, 'visual', matrix(2))


def test_in_order_it_stays_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / 'x.npy', matrix())
    data = add_features(graph(), 'visual', tmp_path / 'x.npy', ids=ITEMS,
                        mmap=True)
    assert torch.equal(data['item'].visual, torch.from_numpy(matrix()))


def test_integer_ids_of_a_text_file(tmp_path: Path) -> None:
    (tmp_path / 'ids.txt').write_text('30\n10\n20\n')
    data = add_features(graph([10, 20, 30]), 'visual', matrix(),
                        ids=tmp_path / 'ids.txt')
    assert data['item'].visual[:, 0].tolist() == [5, 9, 1]


@pytest.mark.parametrize('kind', ['txt', 'json', 'npy'])
def test_folder(kind: str, tmp_path: Path) -> None:
    ids = ['z', 'x', 'y']
    np.save(tmp_path / 'visual.npy', matrix())
    np.save(tmp_path / 'sound.npy', -matrix(3, 2))
    for name in ('ids', 'sound_ids'):
        path = tmp_path / f'{name}.{kind}'
        if kind == 'npy':
            np.save(path, np.array(ids))
        else:
            path.write_bytes(json.dumps(ids).encode() if kind == 'json' else
                             b'\xef\xbb\xbf' + '\r\n'.join(ids).encode()
                             + b'\r\n\r\n')
    data = add_feature_folder(graph(), tmp_path)
    assert set(read_graph(data).features) == {'visual', 'sound'}
    assert data['item'].sound[:, 0].tolist() == [-3, -5, -1]
    assert item_ids(data).to_list() == ITEMS


def test_mask_of_a_folder(tmp_path: Path) -> None:
    np.save(tmp_path / 'visual.npy', matrix())
    np.save(tmp_path / 'visual_mask.npy', np.array([True, True, False]))
    (tmp_path / 'ids.txt').write_text('z\nx\ny\n')
    with pytest.warns(UserWarning, match="1 of 3 items have no 'visual'"):
        data = add_feature_folder(graph(), tmp_path)
    assert data['item'].visual_mask.tolist() == [True, False, True]
    assert data['item'].visual[:, 0].tolist() == [5, 0, 1]
    np.save(tmp_path / 'visual_mask.npy', np.ones(2, bool))
    with pytest.raises(ValueError, match=r'visual_mask.npy.*\[3\]'):
        add_feature_folder(graph(), tmp_path)


def test_one_modality_in_two_files(tmp_path: Path) -> None:
    np.save(tmp_path / 'visual.npy', matrix())
    parquet(tmp_path / 'visual.parquet', sku=ITEMS, v=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="both hold 'visual'; keep one"):
        add_feature_folder(graph(), tmp_path)


class Stream:
    """A table of any library, known by its protocol alone."""
    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __arrow_c_stream__(self, schema: object = None) -> object:
        return self.table.__arrow_c_stream__(schema)


SOURCES = {
    'pandas': lambda table: table.to_pandas(),
    'pyarrow': lambda table: table,
    'stream': Stream,
    'reader': lambda table: table.to_reader(),
    'large text': lambda table: table.cast(pa.schema(
        [('sku', pa.large_string()), *list(table.schema)[1:]])),
    'chunks': lambda table: pa.concat_tables([table[:1], table[1:]]),
}


@pytest.mark.parametrize('source', SOURCES)
@pytest.mark.parametrize('lists', [False, True])
def test_tables_of_any_library(source: str, lists: bool) -> None:
    x = matrix(3, 2)
    columns = {'v': list(x)} if lists else {'a': x[:, 0], 'b': x[:, 1]}
    table = pa.table({'sku': ['z', 'x', 'y'], **columns})
    data = add_features(graph(), 'visual', SOURCES[source](table))
    assert torch.equal(data['item'].visual, torch.from_numpy(x)[[1, 2, 0]])
    assert data.report.count('columns of the table were taken as features: '
                             f'{", ".join(columns)}') == len(columns)


def frame(**columns: list) -> pd.DataFrame:
    return pd.DataFrame({'sku': ITEMS, 'a': [1.0, 2.0, 3.0],
                         'b': [4.0, 5.0, 6.0], **columns})


def as_source(value: pd.DataFrame, kind: str, folder: Path) -> object:
    if kind == 'frame':
        return value
    value.to_parquet(folder / 'x.parquet')
    if kind == 'rewritten':  # Without the note that pandas left.
        table = pa.parquet.read_table(folder / 'x.parquet')
        pa.parquet.write_table(table.replace_schema_metadata(None),
                               folder / 'x.parquet')
    return folder / 'x.parquet'


KINDS = pytest.mark.parametrize('kind', ['frame', 'file', 'rewritten'])


@KINDS
def test_saved_index_is_no_feature(kind: str, tmp_path: Path) -> None:
    value = frame()
    value.index = [7, 3, 5]  # As is left when rows were taken out.
    data = add_features(graph(), 'visual', as_source(value, kind, tmp_path))
    assert data['item'].visual.tolist() == [[1, 4], [2, 5], [3, 6]]
    report = data.report
    assert report.count('were taken as features: a, b') == 2
    assert report.count('were not taken: __index_level_0__') == 1
    wide = as_source(value, kind, tmp_path)
    data = add_features(graph([7, 3, 5]), 'visual', wide, columns=['b'],
                        id_column='__index_level_0__')
    assert data['item'].visual.tolist() == [[4], [5], [6]]


@pytest.mark.parametrize('kind', ['frame', 'file'])
def test_named_index(kind: str, tmp_path: Path) -> None:
    value = frame().set_index('sku')
    data = add_features(graph(), 'visual', as_source(value, kind, tmp_path))
    assert data['item'].visual.tolist() == [[1, 4], [2, 5], [3, 6]]
    value = frame().rename_axis('row')
    value.index = pd.Index([5, 6, 7], name='row')
    with pytest.raises(ValueError, match=r"cannot tell .*\['sku', 'row'\]"):
        add_features(graph(), 'visual', as_source(value, kind, tmp_path))
    data = add_features(graph(), 'visual', as_source(value, kind, tmp_path),
                        id_column='sku')
    assert data['item'].visual.tolist() == [[1, 4], [2, 5], [3, 6]]
    assert data.report.count('were not taken: row') == 1


# Columns that a table should not have, and what the error says of them.
ODD = {
    'second id': ({'asin': [31, 12, 23]}, "'asin' holds a different integer"),
    'second id that is text': ({'asin': list('pqr')}, "'asin' holds no num"),
    'date': ({'day': pd.to_datetime(['2024-01-01'] * 3)}, "'day' holds no"),
    'flag': ({'new': [True, False, True]}, "'new' holds no numbers .got bool"),
    'vectors too': ({'v': [[1.0]] * 3}, 'one column of lists beside the ids'),
}


@pytest.mark.parametrize('kind', ['frame', 'file'])
@pytest.mark.parametrize('case', ODD)
def test_columns_that_are_no_features(case: str, kind: str,
                                      tmp_path: Path) -> None:
    columns, message = ODD[case]
    source = as_source(frame(**columns), kind, tmp_path)
    with pytest.raises(ValueError, match=f'{message}.*columns='):
        add_features(graph(), 'visual', source)
    data = add_features(graph(), 'visual', source, columns=['b', 'a'])
    assert data['item'].visual.tolist() == [[4, 1], [5, 2], [6, 3]]
    assert data.report.count(f'not taken: {next(iter(columns))}') == 1


def test_columns_of_integers() -> None:
    value = frame(stock=[3, 0, 3])  # Repeats itself: a feature.
    data = add_features(graph(), 'visual', value)
    assert data['item'].visual.tolist() == [[1, 4, 3], [2, 5, 0], [3, 6, 3]]
    value = frame(year=[2001, 2003, 2002])
    data = add_features(graph(), 'visual', value, columns=['a', 'year'])
    assert data['item'].visual[1].tolist() == [2, 2003]
    counts = pd.DataFrame({'sku': ITEMS, 'stock': [3, 0, 9]})
    data = add_features(graph(), 'stock', counts)
    assert data['item'].stock.tolist() == [[3], [0], [9]]


def test_first_column_is_no_id() -> None:
    value = frame()[['a', 'b', 'sku']]
    with pytest.raises(ValueError, match=r"id_column=.*\['sku'\]"):
        add_features(graph(), 'visual', value)
    data = add_features(graph(), 'visual', value, id_column='sku')
    assert data['item'].visual.tolist() == [[1, 4], [2, 5], [3, 6]]


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def save(path: Path, value: object) -> Path:
    np.save(path, value, allow_pickle=True)
    return path


def bomb(path: Path) -> Path:
    """70 MB of zeros in 70 kB."""
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        with archive.open('x.npy', 'w') as f:
            np.lib.format.write_array_header_1_0(
                f, {'descr': '<f4', 'fortran_order': False,
                    'shape': (3, 6_000_000)})
            for _ in range(72):
                f.write(bytes(1_000_000))
    return path


def shape_bomb(path: Path) -> Path:
    with open(path, 'wb') as f:
        np.lib.format.write_array_header_1_0(
            f, {'descr': '<f4', 'fortran_order': False, 'shape': (10**12, 9)})
        f.write(bytes(100))
    return path


def cut(path: Path, size: int) -> Path:
    path.write_bytes(path.read_bytes()[:size])
    return path


def parquet(path: Path, **columns: list) -> Path:
    pd.DataFrame(columns).to_parquet(path)
    return path


CUT = 'x.npy: no whole array .*greater than file size'

# Name: (what makes the source of a folder, arguments, what the error says).
ERRORS = {
    'missing file': (lambda p: p / 'x.npy', {'ids': ITEMS}, 'No such file'),
    'objects in .npy': (
        lambda p: save(p / 'x.npy', np.array([[1], None, 'a'], dtype=object)),
        {'ids': ITEMS}, 'x.npy: no whole array .*[Oo]bject'),
    'objects in .npz': (
        lambda p: npz(p / 'x.npz', x=np.array([{}], dtype=object)),
        {'ids': ITEMS}, 'x.npz: no whole array .*Object arrays'),
    'truncated .npy': (lambda p: cut(save(p / 'x.npy', matrix()), 150),
                       {'ids': ITEMS}, CUT),
    'truncated .npy, mapped': (lambda p: cut(save(p / 'x.npy', matrix()), 150),
                               {'ids': ITEMS, 'mmap': True}, CUT),
    'truncated header': (lambda p: cut(save(p / 'x.npy', matrix()), 20),
                         {'ids': ITEMS}, 'x.npy: no whole array'),
    'text called .npy': (lambda p: p / 'x.npy' if (p / 'x.npy').write_text(
        '1,2') else p, {'ids': ITEMS}, 'x.npy: no whole array'),
    'shape that lies': (lambda p: shape_bomb(p / 'x.npy'), {'ids': ITEMS},
                        CUT),
    'zip bomb': (lambda p: bomb(p / 'x.npz'), {'ids': ITEMS},
                 'x.npz: .*unpacks to 72,000,128 bytes, over the limit'),
    'truncated .npz': (lambda p: cut(npz(p / 'x.npz', x=matrix()), 60),
                       {'ids': ITEMS}, 'x.npz: no whole array'),
    'several arrays': (lambda p: npz(p / 'x.npz', a=matrix(), b=matrix()),
                       {'ids': ITEMS}, r"x.npz: holds the arrays .*'a', 'b'"),
    'ids of another number': (lambda p: matrix(), {'ids': ['x', 'y']},
                              '2 ids for 3 rows'),
    'no known id': (lambda p: matrix(), {'ids': ['a', 'b', 'c']},
                    "no item has a feature .*such as 'x'"),
    'ids of another type': (lambda p: matrix(), {'ids': [1, 2, 3]},
                            'ids are integers, such as 1, but .*text'),
    'ids that are no list': (lambda p: matrix(), {'ids': 3}, '1 ids for 3'),
    'vector': (lambda p: matrix()[0], {'ids': ITEMS}, 'must be a matrix'),
    'text features': (lambda p: np.array([['a'], ['b'], ['c']]),
                      {'ids': ITEMS}, 'must be numbers'),
    'empty mapping': (lambda p: {}, {}, 'empty mapping'),
    'mapping with ids': (lambda p: {'x': [1.0]}, {'ids': ITEMS},
                         "'ids' must not be given"),
    'vectors of two lengths': (lambda p: {'x': [1.0], 'y': [1.0, 2.0]}, {},
                               "2 numbers for 'y' and of 1 for 'x'"),
    'mapping to text': (lambda p: {'x': 'y'}, {}, 'vectors of numbers'),
    'unknown kind of file': (lambda p: p / 'x.pkl', {'ids': ITEMS},
                             'must be a .npy, .npz or .parquet file'),
    'unknown kind of source': (lambda p: 3, {}, 'must be a path, a matrix'),
    'parquet without that column': (
        lambda p: parquet(p / 'x.parquet', sku=['x'], v=[[1.0]]),
        {'id_column': 'id'}, "'id', which .* does not have"),
    'parquet without those columns': (
        lambda p: parquet(p / 'x.parquet', sku=['x'], v=[1.0]),
        {'columns': ['w']}, "'columns' names 'w', which .* does not have"),
    'columns of no table': (lambda p: matrix(), {'ids': ITEMS,
                                                 'columns': ['a']},
                            "'columns' must not be given"),
    'table with ids': (lambda p: frame(), {'ids': ITEMS},
                       "'ids' must not be given with a table"),
    'table of nothing but ids': (lambda p: frame()[['sku']], {},
                                 'no column beside the ids'),
    'table with a column twice': (
        lambda p: frame().set_axis(['sku', 'a', 'a'], axis=1), {},
        'the table: no whole table'),
    'column that is no table': (lambda p: Stream(pa.chunked_array([[1]])), {},
                                'the table: no whole table'),
    'parquet with text': (
        lambda p: parquet(p / 'x.parquet', sku=['x'], v=['a']), {},
        "column 'v' holds no numbers"),
    'parquet with nothing but ids': (
        lambda p: parquet(p / 'x.parquet', sku=['x']), {}, 'no column beside'),
    'parquet with lists of two lengths': (
        lambda p: parquet(p / 'x.parquet', sku=ITEMS,
                          v=[[1.0, 2.0], [1.0], [1.0, 2.0]]), {},
        "row 1: a vector of 1 numbers for 'y', elsewhere of 2"),
    'truncated parquet': (
        lambda p: cut(parquet(p / 'x.parquet', sku=['x'], v=[[1.0]]), 99), {},
        'x.parquet: no whole table'),
}


@pytest.mark.parametrize('case', ERRORS)
def test_error(case: str, tmp_path: Path) -> None:
    make, kwargs, message = ERRORS[case]
    source = make(tmp_path)
    with pytest.raises((ValueError, TypeError, FileNotFoundError),
                       match=message), pytest.MonkeyPatch.context() as patch:
        # Nothing may even look at a pickle.
        patch.setattr('pickle.load', None)
        add_features(graph(), 'visual', source, **kwargs)


@pytest.mark.parametrize(('name', 'body', 'message'), [
    ('ids.json', b'{"a": 1}', 'must hold a list of ids'),
    ('ids.json', b'[1, 2', 'no JSON'),
    ('ids.txt', b'x\ny\xff\n', 'line 2: not UTF-8'),
    ('ids.npy', b'1', 'ids.npy: no whole array'),
])
def test_bad_id_files(name: str, body: bytes, message: str,
                      tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(body)
    with pytest.raises(ValueError, match=message):
        add_features(graph(), 'visual', matrix(), ids=tmp_path / name)


def test_bad_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='must be a folder'):
        add_feature_folder(graph(), tmp_path / 'x')
    with pytest.raises(ValueError, match='no .npy or .parquet file'):
        add_feature_folder(graph(), tmp_path)
    np.save(tmp_path / 'visual.npy', matrix())
    with pytest.raises(ValueError, match="'ids' must say"):
        add_feature_folder(graph(), tmp_path)


def test_limit_of_an_archive(tmp_path: Path) -> None:
    path = bomb(tmp_path / 'x.npz')
    assert read_array(path, max_bytes=10**8).shape == (3, 6_000_000)
    with pytest.raises(ValueError, match='over the limit of 10'):
        read_array(npz(tmp_path / 'y.npz', x=matrix()), max_bytes=10)


@given(order=st.permutations(range(6)), known=st.sets(st.integers(0, 5),
                                                      min_size=1))
@pytest.mark.filterwarnings('ignore')
def test_every_item_gets_its_own_row(order: list, known: set) -> None:
    items = [f'i{i}' for i in range(6)]
    data = graph(items)
    rows = [i for i in order if i in known]
    x = matrix(6)[rows]
    data = add_features(data, 'visual', x, ids=[items[i] for i in rows])
    for i, item in enumerate(item_ids(data)):
        number = int(item[1:])
        if number in known:
            assert data['item'].visual[i].tolist() == matrix(6)[
                number].tolist()
        else:
            assert not data['item'].visual_mask[i]
