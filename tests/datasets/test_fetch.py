from __future__ import annotations

import errno
import hashlib
import threading
from pathlib import Path

import pytest
from amazon_raw import serve

from torch_promptmm.datasets import download, fetch

BODY = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / 'source'
    folder.mkdir()
    (folder / 'x.bin').write_bytes(BODY)
    return folder


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch) -> None:
    monkeypatch.setattr('time.sleep', lambda seconds: None)


def parts(folder: Path) -> list:
    return sorted(x.name for x in folder.iterdir())


def test_download(source: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / 'new' / 'x.bin'
    digest = hashlib.sha256(BODY).hexdigest()
    with serve(source) as address:
        out = download(f'{address}/x.bin', path, f'sha256:{digest}',
                       progress=True)
    assert out == str(path) and path.read_bytes() == BODY
    assert parts(path.parent) == ['x.bin']
    assert 'x.bin' in capsys.readouterr().err
    download(source.joinpath('x.bin').as_uri(), path)


def test_resume_within_a_run(source: Path, tmp_path: Path) -> None:
    seen: list = []
    with serve(source, break_after=(1000, 5000), requests=seen) as address:
        download(f'{address}/x.bin', tmp_path / 'x.bin')
    assert (tmp_path / 'x.bin').read_bytes() == BODY
    assert [x[1] for x in seen] == [None, 'bytes=1000-', 'bytes=6000-']


def test_resume_in_a_later_run(source: Path, tmp_path: Path) -> None:
    seen: list = []
    with serve(source, break_after=(1000,), requests=seen) as address:
        url = f'{address}/x.bin'
        with pytest.raises(ConnectionError, match='broke off.*is kept in'):
            download(url, tmp_path / 'x.bin', retries=0)
        assert not (tmp_path / 'x.bin').exists()
        download(url, tmp_path / 'x.bin')
    assert (tmp_path / 'x.bin').read_bytes() == BODY
    assert seen[1][1] == 'bytes=1000-'


def test_no_resume_of_a_file_that_changed(source: Path,
                                          tmp_path: Path) -> None:
    with serve(source, break_after=(1000,)) as address:
        url = f'{address}/x.bin'
        with pytest.raises(ConnectionError):
            download(url, tmp_path / 'x.bin', retries=0)
        (source / 'x.bin').write_bytes(BODY[::-1])
        download(url, tmp_path / 'x.bin')
    assert (tmp_path / 'x.bin').read_bytes() == BODY[::-1]


def test_killed_before_the_first_byte(source: Path, tmp_path: Path,
                                      monkeypatch) -> None:
    """What is there of an old file is never taken for a piece of the new."""
    with serve(source, break_after=(1000,)) as address:
        url = f'{address}/x.bin'
        with pytest.raises(ConnectionError):
            download(url, tmp_path / 'x.bin', retries=0)
        (source / 'x.bin').write_bytes(BODY[::-1])

        def killed(*args: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(fetch, 'open', killed, raising=False)
            with pytest.raises(KeyboardInterrupt):
                download(url, tmp_path / 'x.bin')
        download(url, tmp_path / 'x.bin')
    assert (tmp_path / 'x.bin').read_bytes() == BODY[::-1]


def test_one_fetches_and_the_others_wait(source: Path,
                                         tmp_path: Path) -> None:
    seen: list = []
    failed: list = []
    with serve(source, requests=seen) as address:
        def run() -> None:
            try:
                download(f'{address}/x.bin', tmp_path / 'x.bin')
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=run) for _ in range(4)]
        with fetch.alone(tmp_path) as locked:  # All of them arrive first.
            assert locked
            for thread in threads:
                thread.start()
        for thread in threads:
            thread.join()
    assert not failed and len(seen) == 1
    assert (tmp_path / 'x.bin').read_bytes() == BODY
    assert parts(tmp_path) == ['source', 'x.bin']


def test_asked_for_again_it_is_fetched_again(source: Path,
                                             tmp_path: Path) -> None:
    with serve(source) as address:
        for body in (BODY, BODY[::-1]):
            (source / 'x.bin').write_bytes(body)
            download(f'{address}/x.bin', tmp_path / 'x.bin')
            assert (tmp_path / 'x.bin').read_bytes() == body


def test_no_resume_without_a_strong_tag(source: Path, tmp_path: Path) -> None:
    seen: list = []
    with serve(source, break_after=(1000,), requests=seen,
               weak=True) as address:
        download(f'{address}/x.bin', tmp_path / 'x.bin')
    assert (tmp_path / 'x.bin').read_bytes() == BODY
    assert [x[1] for x in seen] == [None, None]


def test_part_longer_than_the_file(source: Path, tmp_path: Path) -> None:
    with serve(source, break_after=(1000,)) as address:
        url = f'{address}/x.bin'
        with pytest.raises(ConnectionError):
            download(url, tmp_path / 'x.bin', retries=0)
        with open(tmp_path / 'x.bin.part', 'ab') as f:
            f.write(BODY * 2)
        download(url, tmp_path / 'x.bin')
    assert (tmp_path / 'x.bin').read_bytes() == BODY


@pytest.mark.parametrize('checksum', ['sha256:' + '0' * 64, 'md5:' + '0' * 32])
def test_wrong_checksum(checksum: str, source: Path, tmp_path: Path) -> None:
    with serve(source) as address:
        with pytest.raises(ConnectionError, match='checksum .* instead of 00'):
            download(f'{address}/x.bin', tmp_path / 'x.bin', checksum,
                     retries=0)
    assert parts(tmp_path) == ['source']


def test_not_found_is_not_asked_for_again(source: Path,
                                          tmp_path: Path) -> None:
    seen: list = []
    with serve(source, requests=seen) as address:
        with pytest.raises(ConnectionError, match='404'):
            download(f'{address}/y.bin', tmp_path / 'y.bin')
    assert len(seen) == 1


def test_no_server(tmp_path: Path) -> None:
    with serve(tmp_path) as address:
        pass
    with pytest.raises(ConnectionError, match='or fetch the file by other'):
        download(f'{address}/x.bin', tmp_path / 'x.bin', retries=1)


def test_full_disk(source: Path, tmp_path: Path, monkeypatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('torch_promptmm.datasets.fetch._copy', full)
    with serve(source) as address:
        with pytest.raises(OSError, match='No space left'):
            download(f'{address}/x.bin', tmp_path / 'x.bin')
    assert not (tmp_path / 'x.bin').exists()


def test_arguments(tmp_path: Path) -> None:
    for url in ('ftp://x/y', 'x.bin', 'javascript:alert(1)'):
        with pytest.raises(ValueError, match="'url' must begin with"):
            download(url, tmp_path / 'x')
    for checksum in ('sha1:00', 'md5:', '0' * 64):
        with pytest.raises(ValueError, match="'checksum' must be"):
            download('http://x/y', tmp_path / 'x', checksum)
