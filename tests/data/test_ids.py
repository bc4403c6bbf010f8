from __future__ import annotations

import pytest
import torch
from torch_geometric.data import HeteroData

from torch_promptmm.data import set_ids, user_ids

EDGE = ('user', 'interacts', 'item')


def test_no_ids() -> None:
    data = HeteroData()
    data['user'].num_nodes = data['item'].num_nodes = 2
    data[EDGE].edge_index = torch.tensor([[0], [1]])
    assert user_ids(data) is None
    set_ids(data, users=['a', 'b'])
    assert user_ids(data).decode([1, -1]) == ['b', None]
    with pytest.raises(ValueError, match='3 ids for the 2 nodes'):
        set_ids(data, items=[1, 2, 3])
    data['user'].num_nodes = 3
    with pytest.raises(ValueError, match='2 ids for the 3 nodes'):
        user_ids(data)
    data['user'].raw_id = ['a', 'b', 'c']
    with pytest.raises(TypeError, match='must be an IdMap'):
        user_ids(data)
