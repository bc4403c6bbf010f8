from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from torch_promptmm.checks import (
    check_choice,
    check_device,
    check_float,
    check_ids,
    check_int,
    check_mask,
    check_matrix,
    check_range,
)


@pytest.mark.parametrize('value', [3, np.int64(3), np.uint8(3)])
def test_int(value) -> None:
    out = check_int('n', value, 1)
    assert out == 3
    assert type(out) is int


@pytest.mark.parametrize('value', [3.0, '3', True, None, np.float64(3), [3],
                                   torch.tensor(3)])
def test_no_int(value) -> None:
    with pytest.raises(TypeError, match="'n' must be an integer .got "):
        check_int('n', value)


def test_small_int() -> None:
    with pytest.raises(ValueError, match="'n' must be at least 2 .got 1"):
        check_int('n', 1, 2)


@pytest.mark.parametrize('value', [1, 1.0, np.float32(1), np.int64(1)])
def test_float(value) -> None:
    out = check_float('x', value, maximum=1.0)
    assert out == 1.0
    assert type(out) is float


@pytest.mark.parametrize('value', ['1', True, None, 1j, torch.tensor(1.0)])
def test_no_float(value) -> None:
    with pytest.raises(TypeError, match="'x' must be a number .got "):
        check_float('x', value)


@pytest.mark.parametrize('value, kwargs', [
    (math.nan, {}),
    (math.inf, {}),
    (math.nan, {'exclusive': True}),
    (math.inf, {'exclusive': True}),
    (-math.inf, {'exclusive': True, 'minimum': -math.inf}),
    (-0.1, {}),
    (0.0, {'exclusive': True}),
    (1.0, {'exclusive': True, 'maximum': 1.0}),
    (1.1, {'maximum': 1.0}),
])
def test_float_out_of_range(value: float, kwargs) -> None:
    with pytest.raises(ValueError, match="'x' must be a finite number in "):
        check_float('x', value, **kwargs)


def test_choice() -> None:
    choices = (False, True, 'size', None)
    for value in choices:
        assert check_choice('c', value, choices) is value
    for value in (0, 1, 'Size', 2.0, [False], np.zeros(2)):
        with pytest.raises(ValueError, match="'c' must be one of False, Tr"):
            check_choice('c', value, choices)


def test_matrix() -> None:
    x = torch.randn(3, 2)
    assert check_matrix('x', x, 2) is x
    for error, match, value in [
        (TypeError, "'x' must be a torch.Tensor .got 'ndarray'", x.numpy()),
        (ValueError, r'got shape \[6\], torch.float32', x.view(-1)),
        (ValueError, r'got shape \[3, 2\], torch.int64', x.long()),
        (ValueError, 'must have 2 columns .got shape .3, 1', x[:, :1]),
    ]:
        with pytest.raises(error, match=match):
            check_matrix('x', value, 2)


def test_mask() -> None:
    mask = torch.tensor([True, False])
    assert check_mask('m', mask, 2) is mask
    for value in (mask.float(), mask[:1], mask.view(1, 2)):
        with pytest.raises(ValueError, match=r"'m' must be a boolean tensor"):
            check_mask('m', value, 2)
    with pytest.raises(TypeError, match="'m' must be a torch.Tensor"):
        check_mask('m', [True, False], 2)


def test_mask_of_something() -> None:
    mask = torch.tensor([False, True])
    assert check_mask('m', mask, 2, some=True) is mask
    check_mask('m', torch.zeros(2, dtype=torch.bool), 2)
    with pytest.raises(ValueError, match="'m' is False for all 2 entries"):
        check_mask('m', torch.zeros(2, dtype=torch.bool), 2, some=True)


@pytest.mark.parametrize('dtype', [torch.int64, torch.int32, torch.uint8])
def test_range(dtype: torch.dtype) -> None:
    ids = torch.tensor([3, 0, 4], dtype=dtype)
    out = check_range('ids', ids, 5, 'user')
    assert out == 4 and type(out) is int
    assert check_range('ids', ids, None, 'user') == 4
    assert check_range('ids', ids[:0], 5, 'user') == -1
    assert check_range('ids', ids[:0], 5, 'row', minimum=-1) == -2
    with pytest.raises(ValueError, match="^'ids' has user id 4, but there are "
                       '4 users .0 to 3.; or so$'):
        check_range('ids', ids, 4, 'user', hint='; or so')


def test_range_from_below() -> None:
    ids = torch.tensor([2, -1])
    assert check_range('ids', ids, 3, 'row', minimum=-1) == 2
    with pytest.raises(IndexError, match='there are 2 rows .-1 to 1.$'):
        check_range('ids', ids, 2, 'row', minimum=-1, error=IndexError)
    for size, match in [(3, 'has item id -1, but there are 3 items'),
                        (None, 'has item id -1, but item ids start at 0')]:
        with pytest.raises(ValueError, match=match):
            check_range('ids', ids, size, 'item')


@pytest.mark.parametrize('value', [
    [4, 0],
    (4, 0),
    range(4, -1, -4),
    np.array([4, 0]),
    np.array([4, 0], dtype=np.uint16),
    np.array([0, 4], dtype=np.int32)[::-1],
    torch.tensor([4, 0], dtype=torch.int32),
    torch.tensor([4, 0], dtype=torch.uint8),
])
def test_ids(value) -> None:
    out = check_ids('ids', value, 5, 'user')
    assert out.dtype == torch.long
    assert out.tolist() == [4, 0]


def test_read_only_ids_and_those_of_pandas() -> None:
    array = np.array([4, 0])
    array.flags.writeable = False
    assert check_ids('ids', array, 5, 'user').tolist() == [4, 0]
    pandas = pytest.importorskip('pandas')
    series = pandas.Series([4, 0], index=[7, 9])
    assert check_ids('ids', series, 5, 'user').tolist() == [4, 0]


def test_one_id_or_none() -> None:
    for value in (3, np.int64(3), torch.tensor(3), [3]):
        assert check_ids('ids', value, 5, 'user').tolist() == [3]
    for value in ([], (), np.array([]), torch.empty(0, dtype=torch.long)):
        assert check_ids('ids', value, 5, 'user').shape == (0, )


@pytest.mark.parametrize('error, match, value', [
    (ValueError, 'has user id 5, but there are 5 users .0 to 4', [5]),
    (ValueError, 'has user id -1', [0, -1, 9]),
    (ValueError, r'one-dimensional .got shape \[1, 2\]', [[0, 1]]),
    (TypeError, 'integer user ids .got torch.float32', [0.0]),
    (TypeError, 'integer user ids .got torch.bool', [True]),
    (TypeError, 'integer user ids', 'anna'),
    (TypeError, 'integer user ids', ['anna']),
    (TypeError, 'integer user ids', np.array(['anna'])),
    (TypeError, 'integer user ids', None),
    (TypeError, 'integer user ids', [None]),
    (TypeError, 'integer user ids', {0: 1}),
    (TypeError, 'integer user ids', [2**70]),
    (TypeError, 'integer user ids', [[0], [1, 2]]),
])
def test_bad_ids(error: type[Exception], match: str, value) -> None:
    with pytest.raises(error, match=match):
        check_ids('ids', value, 5, 'user')


def test_device(device: torch.device) -> None:
    assert check_device(device) == device
    assert check_device(str(device)) == device
    assert check_device('meta').type == 'meta'
    for bad in ('gpu', 'cuda:99', '', None, 1.5, object()):
        with pytest.raises(ValueError, match="'device' .* unknown or not av"):
            check_device(bad)
