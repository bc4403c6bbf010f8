"""What is wrong with tables: an error with file and line, or a repair with a
count. Each case has a name.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd
import pytest

from torch_promptmm.data import item_ids, read_interactions, user_ids

EDGE = ('user', 'interacts', 'item')
HEAD = b'user,item,rating,time\n'
GOOD = b'a,x,5,1\nb,y,4,2\n'
ALL = {'rating': 'rating', 'time': 'time'}

# Name: (file name, content, arguments, what the error says).
ERRORS = {
    'missing file': ('', None, {}, 'does not exist'),
    'empty file': ('t.csv', b'', {}, 't.csv: the file is empty'),
    'only empty lines': ('t.csv', b'\n\r\n\n', {}, 't.csv: .*Empty CSV file'),
    'header only': ('t.csv', HEAD, {}, 't.csv: no interaction is left'),
    'unknown column': ('t.csv', HEAD + GOOD, {'user': 'client'},
                       "'client', which .*t.csv does not have; it has"),
    'column number too high': ('t.csv', HEAD + GOOD, {'user': 9},
                               'column 9, but .* has 4 columns'),
    'column twice': ('t.csv', b'user,item,user\na,x,b\n', {},
                     "column 'user' 2 times"),
    'truncated last record': ('t.csv', HEAD + GOOD + b'c,z', {},
                              't.csv: .*Row #4: Expected 4 columns, got 2'),
    'unquoted separator': ('t.csv', HEAD + b'a,x,y,5,1\n', {},
                           't.csv: .*Row #2: Expected 4 columns, got 5'),
    'too few fields': ('t.csv', HEAD + GOOD + b'c,z,1\n' + GOOD, {},
                       't.csv: .*Row #4: Expected 4 columns, got 3'),
    'quote never closed': ('t.csv', HEAD + b'a,"x,5,1\n' + GOOD, {},
                           't.csv: .*Row #2: Expected 4 columns, got 2'),
    'quote never closed in the last field': (
        't.csv', b'item,user\nx,a\ny,"b\nz,c\n', {},
        't.csv: a quote in the last row, row 3, is never closed'),
    'line break in an id': ('t.csv', b'user,item\n"a\nb",x\n', {},
                            "row 2: the user id 'a.*b' has a line break"),
    'control character in an id': ('t.csv', b'user,item\na\x00b,x\n', {},
                                   't.csv, row 2: .*control character'),
    'latin-1 bytes': ('t.csv', HEAD + GOOD + b'Z\xfcrich,x,5,1\n', {},
                      "t.csv: .*Row #4: .*UTF8 data; .*encoding='latin-1'"),
    'two encodings': ('t.csv', 'user,item\nZürich,x\n'.encode()
                      + 'Zürich,y\n'.encode('latin-1'), {},
                      't.csv: .*Row #3: .*UTF8 data.*two encodings'),
    'unknown encoding': ('t.csv', HEAD, {'encoding': 'klingon'},
                         "'klingon', which Python does not know"),
    'rating in words': ('t.csv', HEAD + GOOD + b'c,z,five,1\n', ALL,
                        "t.csv: .*Row #4: .*invalid value 'five'; correct"),
    'decimal comma': ('t.tsv', b'user\titem\trating\na\tx\t4,5\n',
                      {'rating': 'rating'}, "pass decimal=','"),
    'time in words': ('t.csv', HEAD + GOOD + b'c,z,5,soon\n', ALL,
                      "t.csv: .*Row #4: .*invalid value 'soon'; correct"),
    'date of another format': ('t.csv', b'user,item,time\na,x,13.03.2011\n',
                               {'time': 'time'},
                               "t.csv, row 2: the time '13.03.2011' is no "
                               'date of the format ISO 8601'),
    'date gone wrong later': (
        't.csv', b'user,item,time\na,x,2011-03-13\nb,x,2011-99-13\n',
        {'time': 'time'}, "t.csv, row 3: the time '2011-99-13'"),
    'truncated gzip': ('t.csv.gz', gzip.compress(HEAD + GOOD * 999)[:-20], {},
                       't.csv.gz.*cut off'),
    'damaged gzip': ('t.csv.gz', gzip.compress(HEAD + GOOD)[:12] + b'\xff' * 9,
                     {}, 't.csv.gz.*(damaged|cut off)'),
    'no gzip at all': ('t.csv.gz', HEAD + GOOD, {}, 't.csv.gz.*damaged'),
    'truncated parquet': ('t.parquet', b'PAR1' + b'\0' * 20, {},
                          't.parquet: no whole Parquet file'),
    'text called parquet': ('t.parquet', HEAD + GOOD, {},
                            't.parquet: no whole Parquet file'),
    'unknown separator': ('t.txt', HEAD + GOOD, {},
                          "'sep' must be given for .*t.txt"),
    'separator of two characters': ('t.dat', b'1::2\n', {'sep': '::'},
                                    'must be one character'),
    'ids that are no integers': ('t.csv', HEAD + GOOD, {'id_type': 'int'},
                                 "the user 'a' is no plain integer"),
    'minimum without ratings': ('t.csv', HEAD + GOOD, {'min_rating': 4},
                                "no 'rating' column is named"),
    'nothing good enough': ('t.csv', HEAD + GOOD, {**ALL, 'min_rating': 6},
                            'no interaction is left .*2 interactions rated '
                            'below 6'),
    'wrong unit': ('t.csv', HEAD + GOOD, {**ALL, 'time_unit': 'h'},
                   "'time_unit' must be one of None, 's', 'ms', 'us'"),
    'wrong id_type': ('t.csv', HEAD + GOOD, {'id_type': 'x'}, "'id_type'"),
    'wrong unknown': ('t.csv', HEAD + GOOD, {'unknown': 'x'}, "'unknown'"),
}


@pytest.mark.parametrize('case', ERRORS)
def test_error(case: str, tmp_path: Path) -> None:
    name, content, kwargs, message = ERRORS[case]
    path = tmp_path / (name or 'nowhere.csv')
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_interactions(path, **kwargs)


@pytest.mark.parametrize('tail', [
    b'"good\n', b'"good', b'"', b'"good""', b'"good\nb,y,bad',
    b'"a\n\nb"",x,c\n',
])
def test_file_that_ends_within_quotes(tail: bytes, tmp_path: Path) -> None:
    # In a column that nobody asks for, Arrow takes it without a word.
    path = tmp_path / 't.csv'
    for head in (b'user,item,text\n', b'user,item,text\nc,z,"good"\n'):
        path.write_bytes(head + b'a,x,' + tail)
        with pytest.raises(ValueError, match='t.csv: a quote in the last row, '
                           f'row {2 + head.count(b"c,z")}, is never closed'):
            read_interactions(path)
        path.write_bytes(head + b'a,x,' + tail + b'"')
        assert 'a' in user_ids(read_interactions(path)).to_list()


@pytest.mark.parametrize('row', [1, 20_000, 150_000, 199_999, 200_000])
def test_open_quote_in_a_large_file(row: int, tmp_path: Path) -> None:
    # With threads, Arrow would lose the rest of the block in silence.
    path = tmp_path / 't.csv'
    lines = ['user,item,text', *(f'u{i},i,some text' for i in range(200_000))]
    lines[row] = lines[row].replace('some', '"some')
    path.write_text('\n'.join(lines))
    with pytest.raises(ValueError, match='t.csv: .*(never closed|straddling)'):
        read_interactions(path)
    lines[row] = lines[row] + '\nof two\n\nlines"'
    path.write_text('\n'.join(lines))
    assert len(user_ids(read_interactions(path))) == 200_000


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / 't.csv'
    path.write_bytes(b'id,id,x\na,b,c\n')
    with pytest.raises(ValueError, match="column 'id' 2 times"):
        read_interactions(path, user=0, item=1)
    assert len(user_ids(read_interactions(path, user='x', item='x'))) == 1


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16',
                                      'utf-16-le', 'utf-16-be', 'latin-1'])
def test_encodings(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / 't.csv'
    for body in ('user,item\nü,x\n', 'user,item\nü,"x"'):
        path.write_bytes(body.encode(encoding))
        data = read_interactions(path, encoding=encoding)
        assert user_ids(data).to_list() == ['ü']
    path.write_bytes('user,item\nü,"x'.encode(encoding))
    with pytest.raises(ValueError, match='never closed'):
        read_interactions(path, encoding=encoding)


# Name: (content, arguments, interactions that stay, {repair: count}).
REPAIRS = {
    'byte order mark': (b'\xef\xbb\xbf' + HEAD + GOOD, {}, 'ax by', {}),
    'byte order mark and quotes': (
        b'\xef\xbb\xbf"user","item"\n"a","x"\n', {}, 'ax', {}),
    'utf-16': ('user,item\na,x\n'.encode('utf-16'), {}, 'ax', {}),
    'crlf': (HEAD.replace(b'\n', b'\r\n') + GOOD.replace(b'\n', b'\r\n'), ALL,
             'ax by', {}),
    'no line end at the end': (HEAD + GOOD[:-1], ALL, 'ax by', {}),
    'empty lines': (b'\n' + HEAD + b'\n\na,x,5,1\n\r\n\nb,y,4,2\n\n', ALL,
                    'ax by', {}),
    'quoted separator': (b'user,item\n"a,1",x\nb,y\n', {'header': True},
                         [('a,1', 'x'), ('b', 'y')], {}),
    'doubled quotes': (b'user,item\n"a""1",x\n', {}, [('a"1', 'x')], {}),
    'line break in another column': (
        b'user,review,item\na,"good,\nvery good",x\nb,bad,y\n', {}, 'ax by',
        {}),
    'latin-1 by name': ('user,item\nü,x\n'.encode('latin-1'),
                        {'encoding': 'latin-1'}, [('ü', 'x')], {}),
    'white space around ids': (b'user,item\n a ,x\na,y\n', {}, 'ax ay',
                               {'white space': 1}),
    'white space around column names': (b' user , item \na,x\n', {}, 'ax',
                                        {}),
    'missing user': (HEAD + GOOD + b',x,5,1\n', ALL, 'ax by',
                     {'without a user': 1}),
    'user of blanks': (HEAD + GOOD + b'  ,x,5,1\n', ALL, 'ax by',
                       {'without a user': 1, 'white space': 1}),
    'missing item': (HEAD + GOOD + b'a,,5,1\n', ALL, 'ax by',
                     {'without an item': 1}),
    'ids called NA and null': (b'user,item\nNA,null\nnan,None\n', {},
                               [('NA', 'null'), ('nan', 'None')], {}),
    'missing rating': (HEAD + GOOD + b'c,x,,1\n', ALL, 'ax by',
                       {'without a rating': 1}),
    'NaN rating': (HEAD + GOOD + b'c,x,NaN,1\nd,x,nan,1\n', ALL, 'ax by',
                   {'without a rating': 2}),
    'infinite rating': (HEAD + GOOD + b'c,x,inf,1\n', ALL, 'ax by',
                        {'without a rating': 1}),
    'NaN rating that is not asked for': (HEAD + GOOD + b'c,x,NaN,1\n', {},
                                         'ax by cx', {}),
    'missing time': (HEAD + GOOD + b'c,x,5,\n', ALL, 'ax by',
                     {'without a time': 1}),
    'repeated rows': (HEAD + GOOD * 3, ALL, 'ax by', {'repeated': 4}),
    'repeated rows without time': (HEAD + GOOD * 3, {}, 'ax by',
                                   {'repeated': 4}),
    'seconds and milliseconds': (
        HEAD + b'a,x,5,1300000000\nb,y,5,1400000000000\nc,z,5,1300000001\n',
        ALL, 'ax by cz', {"to count in 'ms'": 1}),
    'leading zeros': (b'user,item\n007,x\n7,x\n', {},
                      [('007', 'x'), ('7', 'x')], {}),
    'large integers': (b'user,item\n123456789012345678901234567890,x\n', {},
                       [('123456789012345678901234567890', 'x')], {}),
    'decimal comma by name': (b'user;item;rating\na;x;4,5\n',
                              {'sep': ';', 'decimal': ',',
                               'rating': 'rating', 'min_rating': 4.5}, 'ax',
                              {}),
    'quotes without a meaning': (b'user,item\n"a,x\n', {'quote': None},
                                 [('"a', 'x')], {}),
}


@pytest.mark.parametrize('case', REPAIRS)
@pytest.mark.filterwarnings('ignore')
def test_repair(case: str, tmp_path: Path) -> None:
    content, kwargs, expected, counts = REPAIRS[case]
    path = tmp_path / 't.csv'
    path.write_bytes(content)
    data = read_interactions(path, **kwargs)
    index = data[EDGE].edge_index
    found = set(zip(user_ids(data).decode(index[0]),
                    item_ids(data).decode(index[1]), strict=True))
    if isinstance(expected, str):
        expected = [tuple(x) for x in expected.split()]
    assert found == set(expected)
    assert {k: data.report.count(k) for k in counts} == counts
    assert len(data.report) == len(counts)


def test_repairs_warn(tmp_path: Path) -> None:
    path = tmp_path / 't.csv'
    path.write_bytes(HEAD + GOOD + b'c,x,NaN,1\n')
    with pytest.warns(UserWarning, match='1 rows of .*t.csv without a rating'):
        read_interactions(path, **ALL)


def test_bad_frames() -> None:
    table = pd.DataFrame({'user': ['a'], 'item': ['x'], 'rating': ['five']})
    with pytest.raises(ValueError, match="DataFrame, row 0: .*'five'"):
        read_interactions(table, rating='rating')
    with pytest.raises(ValueError, match="'user' names the column 'who'"):
        read_interactions(table, user='who')
    with pytest.raises(TypeError, match='must be the path of a file, a '
                       'DataFrame, or have __arrow_c_stream__'):
        read_interactions([1, 2])
    table['time'] = ['sooner']
    with pytest.raises(ValueError, match="DataFrame, row 0: .*'sooner'"):
        read_interactions(table, time='time')


def test_without_pyarrow(tmp_path: Path, monkeypatch) -> None:
    import sys
    path = tmp_path / 't.csv'
    path.write_bytes(HEAD + GOOD)
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    with pytest.raises(ImportError, match=r'pip install torch_promptmm\['
                       r'tables\]'):
        read_interactions(path)
