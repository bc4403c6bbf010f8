from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from amazon_raw import serve
from splits import make_splits, same_splits

from torch_promptmm.data import write_mmrec, write_promptmm
from torch_promptmm.datasets import Netflix, TikTok


def write_npy(root: Path, *splits: object) -> None:
    for name, data in zip(('train', 'val', 'test'), splits, strict=True):
        store = data['user', 'interacts', 'item']
        index = store.get('edge_label_index', store.edge_index)
        np.save(root / f'{name}.npy', index.numpy())
    for name in ('visual', 'odd name'):
        np.save(root / f'{name}.npy', splits[0]['item'][name].numpy())


@pytest.mark.parametrize('where', ['.', 'raw'])
@pytest.mark.parametrize('write', [write_promptmm, write_mmrec, write_npy])
def test_any_layout(write, where: str, tmp_path: Path) -> None:
    splits = make_splits()
    (tmp_path / where).mkdir(exist_ok=True)
    write(tmp_path / where, *splits)
    for cls in (Netflix, TikTok):
        dataset = cls(tmp_path, mmap=True)
        if write is not write_npy:  # It does not tell of the last user.
            same_splits(splits, tuple(dataset))
        assert dataset.statistics['interactions'] == 7
        assert set(dataset.statistics['features']) == {'visual', 'odd name'}
        assert f'{cls.name}, found:' in dataset.table3()
        assert '(Table 3)' in dataset.table3()


def test_download(tmp_path: Path) -> None:
    source, splits = tmp_path / 'source', make_splits()
    for data in splits:
        data['item'].textual = data['item'].pop('odd name')
    write_promptmm(source, *splits)
    seen: list = []
    with serve(source, requests=seen) as address:
        dataset = Netflix(tmp_path / 'x', base_url=address + '/')
    assert {Path(x[0]).name for x in seen} == {
        'train.json', 'val.json', 'test.json', 'image_feat.npy',
        'text_feat.npy'}
    assert seen[-1][0] == '/train.json'  # What shows that all is there.
    assert dataset.statistics['interactions'] == 7
    with pytest.raises(ValueError, match='checksum'):
        Netflix(tmp_path / 'x', checksums={'val.json': 'md5:' + '0' * 32})


def test_half_a_download_is_none(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr('time.sleep', lambda seconds: None)
    source = tmp_path / 'source'
    write_promptmm(source, *make_splits())
    with serve(source) as address:
        with pytest.raises(ConnectionError, match='text_feat.npy .*404'):
            Netflix(tmp_path / 'x', base_url=address)
    with pytest.raises(FileNotFoundError):
        Netflix(tmp_path / 'x')


def test_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='Netflix is not at .*put its '
                       'files .*image_feat.npy'):
        Netflix(tmp_path)
    with pytest.raises(ValueError, match='no address for image_feat.npy'):
        TikTok(tmp_path, urls={'x': 'http://x'})
    with pytest.raises(TypeError, match="'root' must be the path"):
        TikTok(3)


@pytest.mark.tiktok
def test_tiktok(tiktok_root: Path) -> None:
    dataset = TikTok(tiktok_root)
    assert (dataset.num_users, dataset.num_items) == (9308, 6710)
    assert dataset.statistics['interactions'] == 68722
    assert dataset.table3().splitlines() == [
        'TikTok, found: 9,308 users, 6,710 items, 68,722 interactions, '
        '99.890 % empty; acoustic 128, visual 128',
        'TikTok, paper: 14,343 users, 8,690 items, 276,637 interactions, '
        '99.778 % empty; visual 128, acoustic 128, textual 768 (Table 3)',
    ]
