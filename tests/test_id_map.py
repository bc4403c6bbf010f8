from __future__ import annotations

import copy
import pickle
import uuid

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torch_promptmm.ids import IdMap

texts = st.lists(st.text(), unique=True)
numbers = st.lists(st.integers(-2**63, 2**63 - 1), unique=True)


@given(ids=texts | numbers)
def test_id_map_round_trip(ids: list) -> None:
    value = IdMap(ids)
    again = IdMap.from_bytes(value.to_bytes())
    assert again == value
    assert again.decode(again.encode(ids)) == ids


@pytest.mark.parametrize('body', [
    b'', b'[]', b'{}', b'{"format": "x", "kind": "str", "ids": []}',
    b'{"format": "torch_promptmm.IdMap/1", "kind": "str", "ids": [1]}',
    b'{"format": "torch_promptmm.IdMap/1", "kind": "str", "ids": ["a", "a"]}',
    b'{"format": "torch_promptmm.IdMap/1", "kind": "any", "ids": [["os", 1]]}',
])
def test_id_map_from_wrong_bytes(body: bytes) -> None:
    with pytest.raises(ValueError, match='no id map'):
        IdMap.from_bytes(body)


def test_id_map_errors() -> None:
    ids = IdMap(['a', 'b'])
    assert str(ids) == 'IdMap(2)'
    assert 'a' in ids and ['a'] not in ids and 1 not in ids
    assert ids.encode(['b', 'z'], unknown='mark').tolist() == [1, -1]
    with pytest.raises(ValueError, match='2 unknown ids, such as 1; the ids '
                       'here are strings'):
        ids.encode([1, 2])
    with pytest.raises(IndexError, match='has the row 2'):
        ids.decode([2])
    with pytest.raises(TypeError, match='must hold integers'):
        ids.decode([0.5])
    with pytest.raises(ValueError, match="'a' more than once"):
        IdMap(['a', 'a'])
    with pytest.raises(TypeError, match='unhashable'):
        ids.encode([['a']])
    assert ids.subset(torch.tensor([1])).to_list() == ['b']
    assert ids.decode(torch.tensor([[0, -1]])) == [['a', None]]


@pytest.mark.parametrize('values', [
    [['a']], [b'a'], [uuid.UUID(int=1)], [(1, 2)], [1.5], [True], [None],
    ['a', 1], [1, 'a'], ['a', None], [1, True], np.array([True, False]),
    np.array([1.0, 2.0]), np.array(['2020'], 'datetime64[s]'),
], ids=repr)
def test_ids_are_strings_or_integers(values: list) -> None:
    with pytest.raises(TypeError, match='all strings or all integers'):
        IdMap(values)


def test_large_integers() -> None:
    with pytest.raises(ValueError, match='fit into 64 bits'):
        IdMap([1, 2**63])


@pytest.mark.parametrize(('values', 'kind'), [
    (np.array([3, 1], np.uint8), 'int'), (torch.tensor([3, 1]), 'int'),
    ([np.int32(3), 1], 'int'), (range(3, 1, -1), 'int'),
    (np.array(['b', 'a']), 'str'), ([np.str_('b'), 'a'], 'str'),
    ({'b': 0, 'a': 1}, 'str'),
], ids=repr)
def test_what_ids_come_in(values: object, kind: str) -> None:
    ids = IdMap(values)
    assert ids.kind == kind
    assert ids.to_list() in (['b', 'a'], [3, 1], [3, 2])
    assert {type(x).__name__ for x in ids} == {kind}
    assert ids.encode(ids[1]).tolist() == [1]
    for other in (copy.deepcopy(ids), pickle.loads(pickle.dumps(ids))):
        assert other == ids


# Written by the version before.
OLD = b'{"format": "torch_promptmm.IdMap/1", "kind": "%s", "ids": %s}'


def test_files_of_the_version_before() -> None:
    ids = IdMap.from_bytes(OLD % (b'str', b'["\\u00fc", "007"]'))
    assert ids.to_list() == ['ü', '007']
    assert IdMap.from_bytes(OLD % (b'int', b'[7, -1]')).to_list() == [7, -1]
    assert IdMap.from_bytes(OLD % (b'int', b'[]')).to_list() == []
    with pytest.raises(ValueError, match='no id map .*strings or all int'):
        IdMap.from_bytes(OLD % (b'any', b'[["uuid", "00"], "a"]'))
