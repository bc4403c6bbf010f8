from __future__ import annotations

import copy

import numpy as np
import torch
from torch_geometric import EdgeIndex
from torch_geometric.data import HeteroData

from torch_promptmm.data import (
    Report,
    from_interactions,
    item_ids,
    set_ids,
    subgraph,
    user_ids,
)

EDGE = ('user', 'interacts', 'item')


def graph() -> HeteroData:
    edges = torch.tensor([[0, 0, 1, 2, 2], [0, 2, 1, 0, 3]])
    data = from_interactions(edges, {'visual': torch.rand(4, 3)}, 3, 4)
    set_ids(data, ['a', 'b', 'c'], [10, 11, 12, 13])
    data['item'].title = ['t0', 't1', 't2', 't3']
    data['item'].price = np.arange(4.0)
    data['item'].note = 'of all'
    data['user'].age = torch.tensor([30, 40, 50])
    data[EDGE].rating = torch.arange(5.0)
    data['item', 'like', 'item'].edge_index = torch.tensor([[0, 3], [1, 2]])
    data.report = Report([(1, 'x')])
    return data


def test_nodes() -> None:
    data = graph()
    before = copy.deepcopy(data)
    out = subgraph(data, EDGE, items=torch.tensor([0, 3]))
    assert out[EDGE].edge_index.tolist() == [[0, 2, 2], [0, 0, 1]]
    assert out[EDGE].rating.tolist() == [0, 3, 4]
    assert item_ids(out).to_list() == [10, 13]
    assert user_ids(out).to_list() == ['a', 'b', 'c']
    assert out['item'].num_nodes == 2 and out['user'].num_nodes == 3
    assert out['item'].title == ['t0', 't3']
    assert out['item'].price.tolist() == [0, 3]
    assert out['item'].note == 'of all'
    assert torch.equal(out['item'].visual, data['item'].visual[[0, 3]])
    assert out['user'].age is data['user'].age
    # Relations of another kind lose what they led to as well.
    assert out['item', 'like', 'item'].num_edges == 0
    out.report.note(1, 'y')
    out['item'].title.append('t')
    assert data.report == before.report
    assert str(data) == str(before)
    assert data['item'].title == before['item'].title


def test_edges_and_nodes() -> None:
    data = graph()
    keep = torch.tensor([True, False, True, True, True])
    out = subgraph(data, EDGE, edges=keep)
    assert out[EDGE].edge_index.tolist() == [[0, 1, 2, 2], [0, 1, 0, 3]]
    assert out[EDGE].rating.tolist() == [0, 2, 3, 4]
    assert out['item'].visual is data['item'].visual
    assert item_ids(out) is item_ids(data)
    out = subgraph(data, EDGE, keep, torch.tensor([0, 2]),
                   torch.tensor([0, 1, 2, 3]))
    assert out[EDGE].edge_index.tolist() == [[0, 1, 1], [0, 0, 3]]
    assert out[EDGE].rating.tolist() == [0, 3, 4]
    assert user_ids(out).to_list() == ['a', 'c']
    assert out['user'].age.tolist() == [30, 50]
    assert out['item'].visual is data['item'].visual  # All items stay.


def test_edge_index_of_other_types() -> None:
    for convert in (torch.Tensor.int, lambda x: EdgeIndex(
            x, sparse_size=(3, 4), sort_order='row')):
        data = graph()
        data[EDGE].edge_index = convert(data[EDGE].edge_index)
        out = subgraph(data, EDGE, torch.ones(5, dtype=torch.bool),
                       users=torch.tensor([1, 2]))
        assert out[EDGE].edge_index.tolist() == [[0, 1, 1], [1, 0, 3]]
        assert out[EDGE].edge_index.dtype == torch.long
