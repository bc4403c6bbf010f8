from __future__ import annotations

import numpy as np
import pytest
import torch

from torch_promptmm.data.npy import load_npy, save_npy


@pytest.mark.parametrize('mmap', [False, True])
@pytest.mark.parametrize('dtype', [
    torch.float16,
    torch.float32,
    torch.float64,
    torch.int32,
    torch.int64,
    torch.bool,
])
def test_round_trip(tmp_path, dtype: torch.dtype, mmap: bool) -> None:
    value = (torch.rand(4, 3) * 3).to(dtype)
    save_npy(tmp_path / 'x.npy', value)
    out = load_npy(tmp_path / 'x.npy', mmap=mmap)
    assert out.dtype == dtype and torch.equal(out, value)
    assert [x.name for x in tmp_path.iterdir()] == ['x.npy']


def test_others_may_read_it(tmp_path) -> None:
    save_npy(tmp_path / 'x.npy', torch.zeros(3))
    (tmp_path / 'y').touch()
    assert (tmp_path / 'x.npy').stat().st_mode == (
        tmp_path / 'y').stat().st_mode


def test_a_header_takes_no_memory(tmp_path) -> None:
    """A terabyte that is not there is refused before it is asked for."""
    with open(tmp_path / 'x.npy', 'wb') as f:
        np.lib.format.write_array_header_1_0(
            f, {'descr': '<f4', 'fortran_order': False, 'shape': (1 << 38, )})
        f.write(bytes(100))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, 'fromfile', None)
        with pytest.raises(ValueError, match='x.npy'):
            load_npy(tmp_path / 'x.npy')


def test_a_map_is_never_written_to(tmp_path) -> None:
    save_npy(tmp_path / 'x.npy', torch.zeros(3))
    load_npy(tmp_path / 'x.npy', mmap=True).fill_(1.0)
    assert load_npy(tmp_path / 'x.npy').tolist() == [0.0, 0.0, 0.0]


def test_foreign_byte_order(tmp_path) -> None:
    np.save(tmp_path / 'x.npy', np.arange(3, dtype='>f4'))
    assert load_npy(tmp_path / 'x.npy').tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(ValueError, match='without mmap=True'):
        load_npy(tmp_path / 'x.npy', mmap=True)


def test_unsigned(tmp_path) -> None:
    np.save(tmp_path / 'x.npy', np.arange(3, dtype=np.uint32))
    out = load_npy(tmp_path / 'x.npy')
    assert out.dtype == torch.int64 and out.tolist() == [0, 1, 2]


class Evil:
    def __reduce__(self) -> tuple:
        return (pytest.fail, ('code in the file was run', ))


@pytest.mark.parametrize('mmap', [False, True])
def test_nothing_is_executed(tmp_path, mmap: bool) -> None:
    array = np.array([Evil()], dtype=object)
    np.save(tmp_path / 'x.npy', array, allow_pickle=True)
    with pytest.raises(ValueError, match='x.npy'):
        load_npy(tmp_path / 'x.npy', mmap=mmap)
    (tmp_path / 'x.npy').write_bytes(array.dumps())
    with pytest.raises(ValueError, match='x.npy'):
        load_npy(tmp_path / 'x.npy', mmap=mmap)


@pytest.mark.parametrize('mmap', [False, True])
def test_damaged(tmp_path, mmap: bool) -> None:
    path = tmp_path / 'x.npy'
    save_npy(path, torch.rand(50, 50))
    whole = path.read_bytes()
    for content in [b'', whole[:5], whole[:100], whole[:-1], b'x' * 200]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match='x.npy'):
            load_npy(path, mmap=mmap)


def test_other_contents(tmp_path) -> None:
    np.savez(tmp_path / 'x.npz', a=np.ones(3))
    with pytest.raises(ValueError, match='archive'):
        load_npy(tmp_path / 'x.npz')
    np.save(tmp_path / 'x.npy', np.array(['a', 'b']))
    with pytest.raises(ValueError, match='must hold numbers'):
        load_npy(tmp_path / 'x.npy')
    with pytest.raises(FileNotFoundError):
        load_npy(tmp_path / 'y.npy')


def test_a_failed_write_leaves_the_old_file(tmp_path) -> None:
    save_npy(tmp_path / 'x.npy', torch.ones(2))
    with pytest.raises(ValueError, match='pickle'):
        save_npy(tmp_path / 'x.npy', np.array([Evil()], dtype=object))
    assert load_npy(tmp_path / 'x.npy').tolist() == [1.0, 1.0]
    assert [x.name for x in tmp_path.iterdir()] == ['x.npy']
