from __future__ import annotations

import bz2
import copy
import gzip
import lzma
import uuid
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import torch_geometric.transforms as T
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import HeteroData

from torch_promptmm.data import (
    item_ids,
    read_graph,
    read_interactions,
    user_ids,
)
from torch_promptmm.data.read import stable_sort

EDGE = ('user', 'interacts', 'item')
ROWS = [('anna', 'x', 5.0, 1_300_000_000), ('ben', 'y', 2.0, 1_300_000_100),
        ('anna', 'y', 4.0, 1_300_000_050), ('cleo', '007', 3.0, 1_300_000_200)]


def frame() -> pd.DataFrame:
    return pd.DataFrame(ROWS, columns=['user', 'item', 'rating', 'time'])


def pairs(data: HeteroData) -> set:
    users, items = user_ids(data), item_ids(data)
    index = data[EDGE].edge_index
    return set(zip(users.decode(index[0]), items.decode(index[1]),
                   strict=True))


def write(path: Path, kind: str) -> Path:
    table = frame()
    path = path / f'table.{kind}'
    if kind == 'parquet':
        table.to_parquet(path)
    elif kind == 'inter':
        table.columns = ['user:token', 'item:token', 'rating:float',
                         'time:float']
        table.to_csv(path, sep='\t', index=False)
    else:
        sep = '\t' if kind.startswith('tsv') else ','
        body = table.to_csv(sep=sep, index=False).encode()
        pack = {'gz': gzip.compress, 'bz2': bz2.compress,
                'xz': lzma.compress}.get(kind.rpartition('.')[2])
        path.write_bytes(pack(body) if pack else body)
    return path


KINDS = ['csv', 'tsv', 'inter', 'parquet', 'csv.gz', 'csv.bz2', 'tsv.xz']


@pytest.mark.parametrize('kind', [*KINDS, 'frame'])
def test_read_interactions(kind: str, tmp_path: Path) -> None:
    source = frame() if kind == 'frame' else write(tmp_path, kind)
    data = read_interactions(source, rating='rating', time='time')
    assert pairs(data) == {x[:2] for x in ROWS}
    assert user_ids(data).to_list() == ['anna', 'ben', 'cleo']
    assert item_ids(data).to_list() == ['x', 'y', '007']
    graph = read_graph(data)
    assert (graph.num_users, graph.num_items) == (3, 3)
    assert torch.equal(graph.edge_index, data[EDGE].edge_index)
    at = {(u, i): (r, t) for u, i, r, t in ROWS}
    names = zip(user_ids(data).decode(data[EDGE].edge_index[0]),
                item_ids(data).decode(data[EDGE].edge_index[1]), strict=True)
    for k, key in enumerate(names):
        assert float(data[EDGE].rating[k]) == at[key][0]
        assert int(data[EDGE].time[k]) == at[key][1] * 1000
    assert len(data.report) == 0


def test_folder_of_parquet_files(tmp_path: Path) -> None:
    frame()[:2].to_parquet(tmp_path / 'part-0.parquet')
    frame()[2:].to_parquet(tmp_path / 'part-1.parquet')
    assert pairs(read_interactions(tmp_path)) == {x[:2] for x in ROWS}


def test_names_of_columns_and_nodes(tmp_path: Path) -> None:
    table = frame().rename(columns={'user': 'customer', 'item': 'sku'})
    edge_type = ('customer', 'buys', 'product')
    data = read_interactions(table, 'customer', 1, edge_type=edge_type)
    assert data.edge_types == [edge_type]
    assert item_ids(data).to_list() == ['x', 'y', '007']
    path = tmp_path / 'x.csv'
    path.write_text('1,2\n3,4\n')
    data = read_interactions(path, 0, 1, header=False)
    assert user_ids(data).to_list() == [1, 3]


def test_min_rating_looks_at_the_latest() -> None:
    table = pd.DataFrame({'user': ['a', 'a', 'b'], 'item': ['x', 'x', 'x'],
                          'rating': [5, 2, 4], 'time': [10, 20, 5]})
    with pytest.warns(UserWarning, match='1 repeated'):
        data = read_interactions(table, rating='rating', time='time',
                                 min_rating=4)
    assert pairs(data) == {('b', 'x')}
    assert data.report.count('rated below 4') == 1
    table['time'] = [20, 10, 5]  # Now the five stars come last.
    with pytest.warns(UserWarning, match='1 repeated'):
        data = read_interactions(table, rating='rating', time='time',
                                 min_rating=4)
    assert pairs(data) == {('a', 'x'), ('b', 'x')}


def test_catalogue(tmp_path: Path) -> None:
    data = read_interactions(frame(), items=['cold', '007', 'y', 'x'])
    assert data['item'].num_nodes == 4
    assert pairs(data) == {x[:2] for x in ROWS}
    assert item_ids(data)[0] == 'cold'
    with pytest.raises(ValueError, match="1 item ids, such as '007'"):
        read_interactions(frame(), items=['y', 'x'])
    data = read_interactions(frame(), items=['y', 'x'], unknown='drop')
    assert data.report.count('unknown items') == 1
    path = tmp_path / 'x.csv'
    path.write_text('user,item\n1,2\n')  # Given as text, read as text.
    assert pairs(read_interactions(path, items=['2', '3'])) == {(1, '2')}


def test_ids_keep_their_type(tmp_path: Path) -> None:
    path = tmp_path / 'x.csv'
    path.write_text('user,item\n1,01\n-2,2\n')
    data = read_interactions(path)
    assert user_ids(data).to_list() == [1, -2]
    assert item_ids(data).to_list() == ['01', '2']
    data = read_interactions(path, id_type='str')
    assert user_ids(data).to_list() == ['1', '-2']


@pytest.mark.parametrize('values', [
    [uuid.UUID(int=i) for i in range(3)], [1, 'one', 2], ['a', 2, 'b'],
    [(1, 2), (3, 4), (5, 6)], [b'a', b'b', b'c'], [1.5, 2.5, 3.5],
    [2**70, 1, 2], [True, False, True], pd.to_datetime(['2020-01-01'] * 3),
], ids=['uuid', 'int and str', 'str and int', 'tuple', 'bytes', 'float',
        'large', 'bool', 'date'])
def test_ids_of_other_types(values: list) -> None:
    table = pd.DataFrame({'user': pd.Series(
        values, dtype=None if isinstance(values, pd.Index) else object),
        'item': [1, 2, 3]})
    with pytest.raises(TypeError, match='ids must be .*strings or .*integers'):
        read_interactions(table)
    # In a column that nobody asks for, anything may stand.
    data = read_interactions(table.assign(who=['a', 'b', 'c']), user='who')
    assert user_ids(data).to_list() == ['a', 'b', 'c']


@pytest.mark.parametrize('kind', [
    'table', 'stream', 'batch of views', 'large', 'categories',
    'pandas on arrow'])
def test_arrow_data(kind: str) -> None:
    table = pa.Table.from_pandas(frame(), preserve_index=False)
    source: object = table
    if kind == 'stream':  # Which can be read once.
        source = table.to_reader(max_chunksize=2)
    elif kind == 'batch of views':
        source = table.cast(pa.schema([
            ('user', pa.string_view()), ('item', pa.string_view()),
            ('rating', pa.float32()), ('time', pa.uint64())]))
    elif kind == 'large':
        source = table.set_column(0, 'user', table['user'].cast(
            pa.large_string()))
    elif kind == 'categories':  # Each chunk has a dictionary of its own.
        parts = [pa.table({name: part[name].dictionary_encode()
                           if name in ('user', 'item') else part[name]
                           for name in part.column_names})
                 for part in (table[:2], table[2:])]
        source = pa.concat_tables(parts)
    elif kind == 'pandas on arrow':
        source = frame().convert_dtypes(dtype_backend='pyarrow')
    data = read_interactions(source, rating='rating', time='time')
    expected = read_interactions(frame(), rating='rating', time='time')
    for name in ('edge_index', 'rating', 'time'):
        assert torch.equal(data[EDGE][name], expected[EDGE][name])
    assert user_ids(data).to_list() == ['anna', 'ben', 'cleo']
    assert item_ids(data).to_list() == ['x', 'y', '007']


class Wrapped:
    """Nothing but the protocol, as a library that we do not know has it."""
    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)


def test_anything_that_speaks_arrow() -> None:
    table = pa.table({'user': [1, None, 3], 'item': ['x', 'y', None],
                      'rating': ['5', '4', '3']})
    with pytest.warns(UserWarning, match='1 rows of the Wrapped without an? '):
        data = read_interactions(Wrapped(table), rating='rating')
    assert pairs(data) == {(1, 'x')}
    with pytest.raises(ValueError, match="the Wrapped, row 1: the rating "
                       "'bad' is no number"):
        read_interactions(Wrapped(table.set_column(2, 'rating', pa.array(
            ['5', 'bad', None]))), rating='rating')
    with pytest.raises(ValueError, match='the Wrapped does not have'):
        read_interactions(Wrapped(table), user='who')
    with pytest.raises(ValueError, match='the Wrapped: no interaction'), \
            pytest.warns(UserWarning, match='1 rows .* without a user'):
        read_interactions(Wrapped(pa.table({
            'user': pa.array([None], pa.null()), 'item': [1]})))
    with pytest.raises(ValueError, match='no interaction is left'):
        read_interactions(Wrapped(table.schema.empty_table()))


def test_polars() -> None:
    polars = pytest.importorskip('polars')
    data = read_interactions(polars.from_pandas(frame()), rating='rating',
                             time='time')
    assert pairs(data) == {x[:2] for x in ROWS}


def test_floats_that_were_integers() -> None:
    table = pd.DataFrame({'user': [1.0, np.nan, 3.0], 'item': [1, 2, 3]})
    with pytest.warns(UserWarning, match='1 rows .* without a user'):
        data = read_interactions(table)
    assert user_ids(data).to_list() == [1, 3]


@pytest.mark.parametrize(('values', 'expected'), [
    ([1_300_000_000, 1_400_000_000], [1_300_000_000_000, 1_400_000_000_000]),
    ([1_300_000_000_123, 1_400_000_000_000], [1_300_000_000_123,
                                              1_400_000_000_000]),
    ([1_300_000_000_123_456] * 2, [1_300_000_000_123] * 2),
    ([1_300_000_000_123_456_789] * 2, [1_300_000_000_123] * 2),
    ([3, 7], [3000, 7000]),
    (['2011-03-13T07:06:40Z', '2014-05-13 16:53:20'],
     [1_300_000_000_000, 1_400_000_000_000]),
], ids=['s', 'ms', 'us', 'ns', 'steps', 'iso'])
def test_times(values: list, expected: list, tmp_path: Path) -> None:
    table = pd.DataFrame({'user': [1, 2], 'item': [1, 1], 'when': values})
    table.to_csv(tmp_path / 'x.csv', index=False)
    for source in (table, tmp_path / 'x.csv'):
        data = read_interactions(source, time='when')
        assert data[EDGE].time.tolist() == expected


@pytest.mark.parametrize(('value', 'expected'), [
    (99_999_999_999, 99_999_999_999_000),  # Seconds, the year 5138,
    (100_000_000_000, 100_000_000_000),  # or milliseconds, 1973.
    (99_999_999_999_999, 99_999_999_999_999),
    (100_000_000_000_000, 100_000_000_000),
    (99_999_999_999_999_000, 99_999_999_999_999),
    (100_000_000_000_000_000, 100_000_000_000),
    (-99_999_999_999, -99_999_999_999_000),
    (-100_000_000_000, -100_000_000_000),
])
def test_where_one_unit_of_time_ends(value: int, expected: int) -> None:
    table = pd.DataFrame({'user': [1], 'item': [1], 'when': [value]})
    data = read_interactions(table, time='when')
    assert data[EDGE].time.tolist() == [expected]
    for unit, factor in [('s', 1000), ('ms', 1)]:
        if abs(value) < 1e12:
            data = read_interactions(table, time='when', time_unit=unit)
            assert data[EDGE].time.tolist() == [value * factor]


def test_dates_of_pandas() -> None:
    when = pd.to_datetime(['2011-03-13T07:06:40', None]).tz_localize('UTC')
    table = pd.DataFrame({'user': [1, 2], 'item': [1, 1], 'when': when})
    with pytest.warns(UserWarning, match='1 rows .* without a time'):
        data = read_interactions(table, time='when')
    assert data[EDGE].time.tolist() == [1_300_000_000_000]


def test_time_format(tmp_path: Path) -> None:
    path = tmp_path / 'x.csv'
    path.write_text('user,item,when\n1,1,13.03.2011\n')
    data = read_interactions(path, time='when', time_format='%d.%m.%Y')
    assert data[EDGE].time.tolist() == [1_299_974_400_000]


def test_ids_survive_pyg() -> None:
    data = read_interactions(frame())
    for other in (data.to('cpu'), copy.copy(data), data.clone()):
        assert item_ids(other) == item_ids(data)
    split = T.RandomLinkSplit(0.25, 0.25, edge_types=[EDGE],
                              neg_sampling_ratio=0.0,
                              add_negative_train_samples=False)
    for part in split(data):
        assert user_ids(part) == user_ids(data)
    assert 'IdMap(3)' in str(data)


def test_sorting_with_and_without_packing() -> None:
    key = np.random.RandomState(0).randint(0, 50, 1000)
    order = np.argsort(key, kind='stable')
    for shift in (0, 40, 47, 48, 55):  # The last ones leave no room for places.
        value, found = stable_sort(key << shift)
        assert found.tolist() == order.tolist()
        assert value.tolist() == (key[order] << shift).tolist()
    assert stable_sort(key[:0])[1].tolist() == []


# Property: whatever the table, all readers see the same interactions.

names = st.text(st.characters(blacklist_categories=('Cs', 'Cc', 'Zs', 'Zl',
                                                    'Zp')),
                min_size=1, max_size=6)
tables = st.lists(st.tuples(names, names), min_size=1, max_size=20)


@given(rows=tables)
def test_all_readers_agree(rows: list, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp('t')
    table = pd.DataFrame(rows, columns=['user', 'item'])
    table.to_csv(folder / 'a.csv', index=False)
    table.to_csv(folder / 'a.tsv', index=False, sep='\t',
                 lineterminator='\r\n')
    table.to_csv(folder / 'b.csv.gz', index=False, quoting=1,
                 encoding='utf-8-sig')
    table.to_parquet(folder / 'a.parquet')
    expected = {(str(u), str(i)) for u, i in rows}
    for source in (table, *sorted(folder.iterdir())):
        import warnings
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # Repeated ones.
            data = read_interactions(source, id_type='str')
        assert pairs(data) == expected
