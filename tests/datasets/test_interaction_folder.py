from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from torch_promptmm.data import held_out, read_graph
from torch_promptmm.datasets import InteractionFolder

UI = ('user', 'interacts', 'item')


@pytest.fixture
def root(tmp_path: Path) -> Path:
    np.save(tmp_path / 'train.npy', np.array([[0, 0, 1, 3], [0, 2, 2, 1]]))
    np.save(tmp_path / 'val.npy', np.array([[0], [3]], np.int32))
    np.save(tmp_path / 'test.npy', np.array([[1, 2], [0, 3]], np.int16))
    rng = np.random.default_rng(0)
    np.save(tmp_path / 'visual.npy', rng.random((5, 4), dtype=np.float32))
    np.save(tmp_path / 'audio.npy', rng.random((5, 2)).astype(np.float16))
    np.save(tmp_path / 'audio_mask.npy', np.array([1, 1, 1, 1, 0], bool))
    np.save(tmp_path / 'item_ids.npy', np.array(list('abcde')))
    np.save(tmp_path / 'brands.npy', np.ones((5, 2), int))
    np.save(tmp_path / 'titles.npy', np.array(['a'] * 5, dtype=object))
    (tmp_path / 'README.md').write_text('nothing to read')
    return tmp_path


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.name: (path.stat().st_mtime_ns, path.read_bytes())
        for path in root.iterdir()
    }


@pytest.mark.parametrize('mmap', [False, True])
def test_interaction_folder(root: Path, mmap: bool) -> None:
    before = snapshot(root)
    dataset = InteractionFolder(root, mmap=mmap)
    assert str(dataset) == (
        "InteractionFolder(users=4, items=5, train=4, val=1, test=2, "
        "features={'audio': 2, 'visual': 4})")
    assert len(dataset) == 3
    assert (dataset.num_users, dataset.num_items) == (4, 5)

    train, val, test = dataset
    assert train[UI].edge_index.tolist() == [[0, 0, 1, 3], [0, 2, 2, 1]]
    assert held_out(read_graph(val)).tolist() == [[0], [3]]
    assert held_out(read_graph(test)).tolist() == [[1, 2], [0, 3]]
    for data in [train, val, test, dataset[0], dataset[-1]]:
        graph = read_graph(data, need_features=True)
        assert graph.edge_index.tolist() == train[UI].edge_index.tolist()
        assert list(graph.masks) == ['audio']
        assert graph.features['audio'].dtype == torch.float16
        for name in ['audio', 'visual']:  # One storage.
            pointer = train['item'][name].data_ptr()
            assert graph.features[name].data_ptr() == pointer
    with pytest.raises(IndexError):
        dataset[3]

    visual = np.load(root / 'visual.npy')
    assert np.array_equal(train['item'].visual, visual)
    assert snapshot(root) == before


def test_a_graph_may_be_changed(root: Path) -> None:
    dataset = InteractionFolder(root)
    data = dataset[0]
    del data['item'].visual
    data[UI].edge_index = data[UI].edge_index[:, :1]
    assert dataset[0][UI].edge_index.size(1) == 4
    assert 'visual' in dataset[0]['item']


def test_statistics(root: Path) -> None:
    assert InteractionFolder(root).statistics == {
        'users': 4,
        'items': 5,
        'interactions': 7,
        'train': 4,
        'val': 1,
        'test': 2,
        'density': 7 / 20,
        'sparsity': 1 - 7 / 20,
        'features': {'audio': 2, 'visual': 4},
        'cold_users': 1,
        'cold_items': 2,
        'cold_test_items': 1,
        'cold_test_interactions': 1,
    }


def test_arguments(root: Path) -> None:
    dataset = InteractionFolder(str(root), modalities=['visual'])
    assert list(read_graph(dataset[0]).features) == ['visual']

    dataset = InteractionFolder(root, known='train+val')
    assert dataset[1][UI].edge_index.size(1) == 4
    assert dataset[2][UI].edge_index.size(1) == 5

    dataset = InteractionFolder(root, transform=lambda data: data.num_nodes)
    assert list(dataset) == [9, 9, 9]


def test_without_features(root: Path) -> None:
    for name in ['visual', 'audio', 'audio_mask']:
        os.unlink(root / f'{name}.npy')
    dataset = InteractionFolder(root)
    assert dataset.num_items == 4
    assert dataset.statistics['features'] == {}


def write(name: str, value: np.ndarray | bytes | None):
    def apply(root: Path) -> None:
        if value is None:
            os.unlink(root / name)
        elif isinstance(value, bytes):
            (root / name).write_bytes(value)
        else:
            np.save(root / name, value)

    return apply


BAD = {
    'no test': (write('test.npy', None), {}, 'lacks test.npy'),
    'wrong rows': (write('visual.npy', np.ones((4, 2))), {},
                   r"'features'.*'visual': 4"),
    'too few rows': (write('visual.npy', np.ones((3, 2))),
                     dict(modalities=['visual']), "'train'|'val'"),
    'NaN': (write('visual.npy', np.full((5, 2), np.nan)), {},
            'visual.*nan in row 0'),
    'pairs': (write('train.npy', np.ones((5, 2), int)), {},
              "'train'.*transpose"),
    'float ids': (write('val.npy', np.ones((2, 3))), {}, "'val'.*float64"),
    'negative ids': (write('test.npy', -np.ones((2, 3), int)), {},
                     "'test'.*id -1"),
    'empty train': (write('train.npy', np.ones((2, 0), int)), {},
                    "'train' is empty"),
    'mask length': (write('audio_mask.npy', np.ones(4, bool)), {},
                    r'audio_mask.npy.*\[5\]'),
    'mask dtype': (write('audio_mask.npy', np.ones(5)), {},
                   'audio_mask.npy.*boolean'),
    'objects': (write('train.npy', np.array([[None], [1]])), {},
                'train.npy'),
    'damaged features': (write('visual.npy', b'x' * 99), {}, 'visual.npy'),
    'cut features': (write('visual.npy', b'\x93NUMPY'), {}, 'visual.npy'),
    'unknown modality': (None, dict(modalities=['text']),
                         r"'modalities'.*text.npy.*\['audio'"),
    'modality of integers': (None, dict(modalities=['brands']),
                             'brands.npy.*int64'),
    'modality of strings': (None, dict(modalities=['item_ids']),
                            'item_ids.npy.*numbers'),
    'modality a string': (None, dict(modalities='visual'),
                          r"'modalities'.*\['visual'\]"),
    'modality a split': (None, dict(modalities=['train']),
                         r"'modalities'.*train"),
    'known': (None, dict(known='both'), "'known'.*'both'"),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_folder(root: Path, case: str) -> None:
    apply, kwargs, match = BAD[case]
    if apply is not None:
        apply(root)
    with pytest.raises((ValueError, TypeError), match=match):
        InteractionFolder(root, **kwargs)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'root'.*is no folder"):
        InteractionFolder(tmp_path / 'nowhere')
    with pytest.raises(ValueError, match=r"'root'.*lacks train.npy, val.npy"):
        InteractionFolder(tmp_path)
    with pytest.raises(TypeError, match="'root'.*NoneType"):
        InteractionFolder(None)


@pytest.mark.tiktok
@pytest.mark.parametrize('mmap', [False, True])
def test_tiktok(tiktok_root: Path, mmap: bool) -> None:
    dataset = InteractionFolder(tiktok_root, mmap=mmap)
    stats = dataset.statistics
    assert stats['density'] == pytest.approx(68722 / (9308 * 6710))
    del stats['density'], stats['sparsity']
    assert stats == {
        'users': 9308,
        'items': 6710,
        'interactions': 68722,
        'train': 59541,
        'val': 3051,
        'test': 6130,
        'features': {'acoustic': 128, 'visual': 128},
        'cold_users': 10,
        'cold_items': 465,
        'cold_test_items': 340,
        'cold_test_interactions': 449,
    }
    train, val, test = (read_graph(data) for data in dataset)
    assert held_out(val).size(1) == 3051  # None of them is known.
    assert held_out(test).size(1) == 6130
    for name, value in train.features.items():
        assert value.dtype == torch.float16
        assert test.features[name].data_ptr() == value.data_ptr()
