from __future__ import annotations

import errno
import gzip
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from amazon_raw import asin, image, image_record, serve, write_amazon_raw
from hypothesis import given
from hypothesis import strategies as st
from splits import same_splits

from torch_promptmm.data import (
    LeaveOneOutSplit,
    TemporalSplit,
    TfidfSVD,
    item_ids,
    read_graph,
    user_ids,
)
from torch_promptmm.datasets import AmazonReviews
from torch_promptmm.datasets.amazon_raw import item_text, parse_record

EDGE = ('user', 'interacts', 'item')
REVIEWS = 'reviews_Electronics_5.json.gz'
META = 'meta_Electronics.json.gz'
IMAGES = 'image_features_Electronics.b'

pytestmark = pytest.mark.filterwarnings('ignore:.*are masked')


@pytest.fixture(scope='module')
def raw(tmp_path_factory) -> Path:
    return write_amazon_raw(tmp_path_factory.mktemp('raw'))


@pytest.fixture
def root(raw: Path, tmp_path: Path) -> Path:
    """A root whose raw files are there."""
    (tmp_path / 'raw').mkdir()
    for path in raw.iterdir():
        os.symlink(path, tmp_path / 'raw' / path.name)
    return tmp_path


def replace(root: Path, name: str, body: bytes) -> None:
    (root / 'raw' / name).unlink()
    (root / 'raw' / name).write_bytes(body)


def lines(root: Path, name: str) -> list:
    return gzip.decompress((root / 'raw' / name).read_bytes()).splitlines(True)


def test_from_the_server_to_the_graphs(raw: Path, tmp_path: Path) -> None:
    seen: list = []
    with serve(raw, requests=seen) as address:
        dataset = AmazonReviews(tmp_path, base_url=address)
        assert {x[0] for x in seen} == {f'/{x}' for x in (REVIEWS, META,
                                                          IMAGES)}
        AmazonReviews(tmp_path, base_url=address, force_reload=True)
        assert len(seen) == 3
    train, val, test = dataset
    assert (train['user'].num_nodes, train['item'].num_nodes) == (40, 30)
    assert sum([train[EDGE].num_edges, val[EDGE].edge_label_index.size(1),
                test[EDGE].edge_label_index.size(1)]) == 400
    graph = read_graph(train, need_features=True)
    assert {k: list(v.shape) for k, v in graph.features.items()} == {
        'textual': [30, 512], 'visual': [30, 4096]}
    items = item_ids(train)
    assert items.kind == 'str' and '0000000003' in items
    assert user_ids(train)[0].startswith('A0')
    for row, name in enumerate(items):
        number = int(name) if name.isdigit() else int(name[1:], 16)
        has = number != 2
        assert bool(graph.masks['visual'][row]) == has
        assert graph.features['visual'][row].tolist() == (
            image(number) * has).tolist()
        assert bool(graph.masks['textual'][row]) == (number != 5)
    assert train['item'].visual is test['item'].visual
    assert test[EDGE].edge_label_time.min() >= 1_300_000_000_000
    assert 'found: 40 users, 30 items, 400 interactions' in dataset.table3()
    assert 'paper: 41,691 users, 21,479 items, 359,165' in dataset.table3()
    assert str(dataset).startswith('AmazonReviews(users=40, items=30')


def test_reading_again_gives_the_same(root: Path) -> None:
    first = AmazonReviews(root)
    for mmap in (False, True):
        again = AmazonReviews(root, mmap=mmap)
        same_splits(tuple(first), tuple(again))
        assert again[0].report == first[0].report
        assert torch.equal(first[2][EDGE].edge_label_time,
                           again[2][EDGE].edge_label_time)
    wide = AmazonReviews(root, known='train+val')[2][EDGE]
    assert wide.edge_index.size(1) == 360 == len(wide.time)
    times = {}
    for data, index, time in [(first[0], 'edge_index', 'time'),
                              (first[1], 'edge_label_index',
                               'edge_label_time')]:
        keys = map(tuple, data[EDGE][index].t().tolist())
        times.update(zip(keys, data[EDGE][time].tolist(), strict=True))
    assert wide.time.tolist() == [times[tuple(x)]
                                  for x in wide.edge_index.t().tolist()]


@pytest.mark.parametrize('literals', [True, False])
def test_literals_and_json_are_alike(literals: bool, tmp_path: Path) -> None:
    write_amazon_raw(tmp_path / 'raw', literals=literals)
    train, _, _ = AmazonReviews(tmp_path, modalities=['textual'])
    other = write_amazon_raw(tmp_path / 'o' / 'raw', literals=True)
    expected, _, _ = AmazonReviews(other.parent, modalities=['textual'])
    assert torch.equal(train['item'].textual, expected['item'].textual)
    assert 'visual' not in train['item']


def test_arguments_make_another_dataset(root: Path) -> None:
    a = AmazonReviews(root)
    b = AmazonReviews(root, split=TemporalSplit(0.2, 0.2),
                      encoder=TfidfSVD(64), require=['visual', 'textual'])
    assert b.num_items == 28 and b.statistics['features']['textual'] == 64
    assert b[0].report.count('no visual or no textual') == 2
    assert 'visual_mask' not in b[0]['item']
    assert b[0][EDGE].time.max() < b[2][EDGE].edge_label_time.min()
    c = AmazonReviews(root, core=2, min_rating=5,
                      split=LeaveOneOutSplit(), modalities=['visual'])
    assert c.statistics['features'] == {'visual': 4096}
    assert AmazonReviews(root).statistics == a.statistics


def test_the_paper_is_of_its_size_not_of_its_rows(root: Path) -> None:
    sizes = []
    for wanted in (10, 20, 40):
        dataset = AmazonReviews(root, num_users=wanted, core=3,
                                modalities=['textual'])
        assert dataset.num_users <= wanted
        sizes.append(dataset.num_users)
        edges = torch.cat([dataset[0][EDGE].edge_index,
                           dataset[1][EDGE].edge_label_index,
                           dataset[2][EDGE].edge_label_index], dim=1)
        for row in edges:
            assert int(row.bincount().min()) >= 3
    assert sizes == sorted(sizes) and sizes[-1] == 40
    paper = AmazonReviews(root, subset='paper', modalities=['textual'])
    assert paper.num_users_wanted == 41_691
    with pytest.raises(ValueError, match='the paper has Electronics only'):
        AmazonReviews(root, category='Baby', subset='paper')


def test_other_addresses(raw: Path, tmp_path: Path) -> None:
    (tmp_path / 'raw').mkdir()
    (tmp_path / 'raw' / META).write_bytes((raw / META).read_bytes())
    urls = {REVIEWS: (raw / REVIEWS).as_uri()}
    dataset = AmazonReviews(tmp_path, modalities=['textual'], urls=urls)
    assert dataset.num_users == 40
    with pytest.raises(ValueError, match='checksum'):
        AmazonReviews(tmp_path, modalities=['textual'], force_reload=True,
                      checksums={META: 'md5:' + '0' * 32})


# Name: (what is done to the raw files, what the error says).
def cut_reviews(root: Path) -> None:
    replace(root, REVIEWS, (root / 'raw' / REVIEWS).read_bytes()[:-30])


def cut_record(root: Path) -> None:
    body = b''.join(lines(root, REVIEWS))
    replace(root, REVIEWS, gzip.compress(body[:-40]))


def no_gzip(root: Path) -> None:
    replace(root, REVIEWS, b'<html>Moved</html>')


def not_utf8(root: Path) -> None:
    body = lines(root, REVIEWS)
    body[6] = body[6].replace(b'Works', b'W\xf6rks')
    replace(root, REVIEWS, gzip.compress(b''.join(body)))


def number_as_id(root: Path) -> None:
    body = [*lines(root, REVIEWS), b'{"reviewerID": 3, "asin": "x"}\n']
    replace(root, REVIEWS, gzip.compress(b''.join(body)))


def rating_in_words(root: Path) -> None:
    body = lines(root, REVIEWS)
    body[2] = body[2].replace(b'"overall": ', b'"overall": "five", "x": ')
    replace(root, REVIEWS, gzip.compress(b''.join(body)))


def no_object(root: Path) -> None:
    replace(root, REVIEWS, gzip.compress(b'[1, 2]\n'))


def empty_reviews(root: Path) -> None:
    replace(root, REVIEWS, gzip.compress(b'\n\n'))


def code_in_metadata(root: Path) -> None:
    line = f"{{'asin': '{asin(3)}', 'title': __import__('os').getcwd()}}\n"
    replace(root, META, gzip.compress(line.encode()))


def deep_metadata(root: Path) -> None:
    line = f"{{'asin': '{asin(3)}', 'x': " + '[' * 100_000
    replace(root, META, gzip.compress(line.encode()))


def cut_metadata(root: Path) -> None:
    replace(root, META, (root / 'raw' / META).read_bytes()[:-30])


def endless_line(root: Path) -> None:
    replace(root, META, gzip.compress(b'x' * (1 << 24), 1))


def other_metadata(root: Path) -> None:
    replace(root, META, gzip.compress(b"{'asin': 'OTHER', 'title': 'x'}\n"))


def cut_images(root: Path) -> None:
    replace(root, IMAGES, (root / 'raw' / IMAGES).read_bytes()[:-9])


def empty_images(root: Path) -> None:
    replace(root, IMAGES, b'')


def other_images(root: Path) -> None:
    replace(root, IMAGES, image_record(3).replace(asin(3).encode(),
                                                  b'OTHERITEM0'))


def wrong_encoder(root: Path) -> None:
    AmazonReviews(root, encoder=lambda texts: np.zeros((2, 3)))


def nan_encoder(root: Path) -> None:
    AmazonReviews(root, encoder=lambda x: np.full((len(x), 3), np.nan))


ERRORS = {
    cut_reviews: r'reviews_Elec.*after line \d+: .*cut off',
    cut_record: 'reviews_Elec.*gz, line 400: neither JSON nor a Python',
    no_gzip: 'reviews_Elec.*damaged',
    not_utf8: 'reviews_Elec.*gz, line 7: not UTF-8',
    number_as_id: "line 401: 'reviewerID' must be text .got 3",
    rating_in_words: "line 3: 'overall' must be a number .got 'five'",
    no_object: 'line 1: a record must be an object .got list',
    empty_reviews: 'holds no review',
    code_in_metadata: 'meta_Elec.*gz, line 1: neither JSON nor a Python lit',
    deep_metadata: 'meta_Elec.*gz, line 1: neither JSON nor a Python literal',
    cut_metadata: 'meta_Elec.*after line .*cut off',
    endless_line: 'meta_Elec.*gz, line 1: longer than 16,777,216 bytes',
    other_metadata: 'meta_Elec.*none of the 30 items',
    cut_images: r'cut off in record 34, at byte 557,387 .*16,394 bytes',
    empty_images: 'image_features.*empty',
    other_images: 'image_features.*none of the 30 items',
    wrong_encoder: 'one row a text, 30 here',
    nan_encoder: 'must return finite numbers',
}


@pytest.mark.parametrize('damage', ERRORS, ids=lambda x: x.__name__)
def test_error_then_the_whole_dataset(damage, root: Path, raw: Path) -> None:
    with pytest.raises(ValueError, match=ERRORS[damage]):
        damage(root)
        AmazonReviews(root)
    assert not list(root.glob('processed/*/dataset.json'))
    assert not list(root.rglob('*.npy'))
    for path in raw.iterdir():
        replace(root, path.name, path.read_bytes())
    assert AmazonReviews(root).num_users == 40


@pytest.mark.filterwarnings('ignore')
def test_repairs(root: Path) -> None:
    body = lines(root, REVIEWS)
    first = json.loads(body[0])
    extra = [{**first, 'overall': None}, {**first, 'asin': None},
             {**first, 'reviewerID': ''}, {**first, 'unixReviewTime': None},
             first]
    body = [b'\xef\xbb\xbf', *body, b'\n', b'\r\n',
            *(json.dumps(x).encode() + b'\r\n' for x in extra)]
    body.append(json.dumps({**first, 'overall': float('nan')}).encode())
    replace(root, REVIEWS, gzip.compress(b''.join(body)))
    meta = lines(root, META)
    meta[3] = meta[3].replace(b'Acme', b'Acm\xe9')
    replace(root, META, gzip.compress(b''.join([*meta, meta[4]])))
    images = (root / 'raw' / IMAGES).read_bytes()
    bad = np.full(4096, np.nan, '<f4').tobytes()
    replace(root, IMAGES, images + images[:16394]
            + asin(2).encode() + bad)
    dataset = AmazonReviews(root)
    report = dataset[0].report
    assert dataset.statistics['interactions'] == 400
    for text in ('without a rating', 'without an item', 'without a user',
                 'without a time', 'repeated interactions'):
        assert report.count(text) >= 1, text
    assert report.count('meta_Electronics.json.gz repeat') == 1
    assert report.count('not UTF-8') == 1
    assert report.count('image_features_Electronics.b repeat') == 1
    assert report.count('NaN or infinite') == 1
    assert report == AmazonReviews(root)[0].report


def test_full_disk(root: Path, monkeypatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    for name in ('posix_fallocate', 'fsync'):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(OSError, match='No space left'):
                AmazonReviews(root)
        assert not list(root.rglob('*.npy'))
        assert not list(root.rglob('dataset.json'))
    assert AmazonReviews(root).num_users == 40


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs os.fork')
def test_a_real_limit_on_file_size(root: Path) -> None:
    resource = pytest.importorskip('resource')

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        try:
            AmazonReviews(root)
        except OSError as error:
            os._exit(7 if error.errno == errno.EFBIG else 8)
        os._exit(9)

    assert os.waitstatus_to_exitcode(fork(limited)) == 7
    assert not list(root.rglob('*.npy'))
    assert AmazonReviews(root).num_users == 40


def fork(function) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            function()
        finally:
            os._exit(99)
    return os.waitpid(pid, 0)[1]


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs os.fork')
@pytest.mark.parametrize('reload', [False, True])
def test_killed_at_any_moment(reload: bool, tmp_path: Path) -> None:
    root = tmp_path
    write_amazon_raw(root / 'raw', num_users=8, num_items=8)
    expected = tuple(AmazonReviews(root, core=2))
    finished = False
    for moment in range(0, 200, 4):
        if not reload:
            for path in root.rglob('dataset.json'):
                path.unlink()

        def child(left: int = moment) -> None:
            count = [left]

            def wrap(name: str) -> None:
                original = getattr(os, name)

                def step(*args: object, **kwargs: object) -> object:
                    if count[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    count[0] -= 1
                    return original(*args, **kwargs)

                setattr(os, name, step)

            for name in ('replace', 'fsync', 'mkdir', 'unlink', 'rename',
                         'listdir'):
                wrap(name)
            AmazonReviews(root, core=2, force_reload=reload)
            os._exit(0)

        finished = os.waitstatus_to_exitcode(fork(child)) == 0
        same_splits(expected, tuple(AmazonReviews(root, core=2)))
        if finished:
            break
    assert finished and moment > 20
    AmazonReviews(root, core=2, force_reload=True)
    left = [x.name for x in root.rglob('.*partial*')]
    assert not left


def test_damaged_afterwards(root: Path) -> None:
    dataset = AmazonReviews(root)
    path = Path(dataset.features_dir) / 'visual.npy'
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match='visual.npy is missing or damaged; '
                       'make the dataset anew'):
        AmazonReviews(root)
    assert AmazonReviews(root, force_reload=True).num_users == 40


def test_arguments(tmp_path: Path) -> None:
    for kwargs, message in [
        ({'category': '../x'}, "'category' must be the name"),
        ({'subset': 'all'}, "'subset' must be one of '5-core', 'paper'"),
        ({'modalities': 'visual'}, "'modalities' must be a list"),
        ({'require': ['acoustic']}, "'require' must be a list"),
        ({'core': -1}, "'core' must be at least 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            AmazonReviews(tmp_path, **kwargs)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(), x,
                                                         max_size=3),
    max_leaves=8)


@given(record=st.dictionaries(st.text(), values, max_size=4))
def test_records_round_trip(record: dict) -> None:
    for body in (repr(record), json.dumps(record)):
        line = body.encode('utf-8', 'surrogatepass')
        assert parse_record(line, 'x') == record


def test_text_of_an_item() -> None:
    record = {'title': ' Red\n cable ', 'brand': None, 'categories':
              [['Electronics', 'Cables'], ['x']], 'description': ['A', 'b'],
              'price': 3}
    assert item_text(record) == 'Red cable Electronics Cables x A b'
    assert item_text({'title': '', 'description': 3}) == ''
