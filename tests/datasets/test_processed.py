from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from amazon_raw import write_amazon_raw
from splits import make_splits, same_splits

from torch_promptmm.data.npy import save_npy
from torch_promptmm.datasets import AmazonReviews
from torch_promptmm.datasets.processed import (
    partial_folder,
    read_splits,
    reserve,
    write_splits,
)
from torch_promptmm.files import alone


def names(folder: Path) -> list:
    return sorted(x.name for x in folder.iterdir())


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / 'new' / 'x'
    for body in ('first', 'second'):
        with partial_folder(target, clean=True) as folder:
            (folder / 'file').write_text(body)
            (folder / body).touch()
            assert not (target / body).exists()
        assert names(target) == sorted(['file', body])
        assert (target / 'file').read_text() == body
    with pytest.raises(KeyboardInterrupt):
        with partial_folder(target, clean=True) as folder:
            (folder / 'file').write_text('third')
            raise KeyboardInterrupt
    assert (target / 'file').read_text() == 'second'
    assert names(target.parent) == ['x']


def test_what_was_left_behind(tmp_path: Path) -> None:
    for left in ('.x.partial-abc', '.x.partial-abc-old', '.y.partial-abc'):
        (tmp_path / left).mkdir()
    with partial_folder(tmp_path / 'x', clean=False):
        pass
    assert len(names(tmp_path)) == 4  # Somebody may be writing there.
    with partial_folder(tmp_path / 'x', clean=True):
        pass
    assert names(tmp_path) == ['.y.partial-abc', 'x']


def test_somebody_else_was_quicker(tmp_path: Path) -> None:
    with partial_folder(tmp_path / 'x', clean=False) as slow:
        (slow / 'file').write_text('slow')
        rename = os.rename

        def race(source: str, target: str) -> None:
            if Path(source) == slow:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(os, 'rename', rename)
                    with partial_folder(tmp_path / 'x', clean=False) as quick:
                        (quick / 'file').write_text('quick')
            rename(source, target)

        patch = pytest.MonkeyPatch()
        patch.setattr(os, 'rename', race)
    patch.undo()
    assert (tmp_path / 'x' / 'file').read_text() == 'quick'
    assert names(tmp_path) == ['x']


@pytest.mark.parametrize('ids', [False, True])
def test_round_trip(ids: bool, tmp_path: Path) -> None:
    splits = make_splits(ids=ids)
    folder, features = tmp_path / 'processed', tmp_path / 'features'
    folder.mkdir()
    for name in ('visual', 'odd name'):
        save_npy(features / f'{name}.npy', splits[0]['item'][name])
        mask = splits[0]['item'].get(f'{name}_mask')
        if mask is not None:
            save_npy(features / f'{name}_mask.npy', mask)
    write_splits(folder, splits, {}, features)
    np.save(features / 'stray.npy', np.ones((6, 2)))  # Nobody wrote it.
    same_splits(splits, read_splits(folder, features, 'train', mmap=True))
    (features / 'visual.npy').unlink()
    with pytest.raises(ValueError, match='visual.npy is missing or damaged'):
        read_splits(folder, features, 'train', mmap=False)
    (folder / 'dataset.json').write_text('{')
    with pytest.raises(ValueError, match='dataset.json is missing or dam'):
        read_splits(folder, features, 'train', mmap=False)


@pytest.mark.parametrize('allocate', [True, False])
def test_reserve(allocate: bool, tmp_path: Path, monkeypatch) -> None:
    if not allocate:
        monkeypatch.delattr(os, 'posix_fallocate', raising=False)
    out = reserve(tmp_path / 'x.npy', (300, 4096), np.float32)
    out[7] = 1
    out.flush()
    stat = (tmp_path / 'x.npy').stat()
    assert stat.st_blocks * 512 >= stat.st_size  # No hole is in it.
    again = np.load(tmp_path / 'x.npy')
    assert again.shape == (300, 4096) and again.sum() == 4096


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs os.fork')
@pytest.mark.filterwarnings('ignore')
def test_many_processes_make_it_once(tmp_path: Path, monkeypatch) -> None:
    write_amazon_raw(tmp_path / 'raw', num_users=8, num_items=8)
    make = AmazonReviews._interactions

    def counted(self: AmazonReviews, paths: dict) -> object:
        with open(tmp_path / 'log', 'a') as f:
            f.write('made\n')
        return make(self, paths)

    monkeypatch.setattr(AmazonReviews, '_interactions', counted)


    def fork(function: Callable[[], object]) -> int:
        if (pid := os.fork()) == 0:
            try:
                function()
                os._exit(0)
            finally:
                os._exit(1)
        return pid

    def hold() -> None:  # The lock, until all of them have arrived.
        with alone(tmp_path) as locked:
            assert locked
            (tmp_path / 'held').touch()
            time.sleep(1)

    children = [fork(hold)]
    while not (tmp_path / 'held').exists():
        time.sleep(0.01)
    children += [fork(lambda: AmazonReviews(tmp_path, core=2))
                 for _ in range(3)]
    for pid in children:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (tmp_path / 'log').read_text() == 'made\n'
    AmazonReviews(tmp_path, core=2, force_reload=True)
    assert (tmp_path / 'log').read_text() == 'made\n' * 2
