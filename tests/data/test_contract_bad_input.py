"""Each bad input is a ValueError or TypeError which names the argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.data import Data, HeteroData

from torch_promptmm.data import from_interactions, from_splits, read_graph

UI = ('user', 'interacts', 'item')


def good() -> HeteroData:
    data = HeteroData()
    data['user'].num_nodes = 4
    data['item'].num_nodes = 5
    data['item'].visual = torch.randn(5, 3)
    data['item'].textual = torch.randn(5, 2)
    data[UI].edge_index = torch.tensor([[0, 1, 3], [0, 4, 2]])
    data[UI].edge_label_index = torch.tensor([[0, 2], [1, 1]])
    return data


def edit(path: str, value: Any) -> Callable[[HeteroData], None]:
    """Sets ``item.visual`` or ``edge.edge_index``, or deletes it (None)."""
    kind, name = path.split('.')

    def apply(data: HeteroData) -> None:
        store = data[UI] if kind == 'edge' else data[kind]
        if value is None:
            del store[name]
        else:
            store[name] = value

    return apply


def nan_at(row: int, value: float) -> torch.Tensor:
    x = torch.zeros(5, 3)
    x[row, 1] = value
    return x


GRAPHS = {
    # case: (edit, arguments, error, what the message must hold)
    'edge_index missing': (edit('edge.edge_index', None), {}, ValueError,
                           'edge_index.*missing'),
    'edge_index no tensor': (edit('edge.edge_index', [[0], [0]]), {},
                             TypeError, 'edge_index.*got list'),
    'edge_index float': (edit('edge.edge_index', torch.rand(2, 3)), {},
                         TypeError, 'edge_index.*float32.*int64'),
    'edge_index bool': (edit('edge.edge_index', torch.ones(2, 3).bool()), {},
                        TypeError, 'edge_index.*bool'),
    'edge_index sparse': (edit('edge.edge_index', torch.eye(4).to_sparse()),
                          {}, TypeError, 'edge_index.*layout'),
    'edge_index of pairs': (edit('edge.edge_index', torch.ones(3, 2).long()),
                            {}, ValueError, 'edge_index.*transpose'),
    'edge_index 1-D': (edit('edge.edge_index', torch.arange(3)), {},
                       ValueError, r'edge_index.*got \[3\]'),
    'edge_index 3 rows': (edit('edge.edge_index', torch.zeros(3, 4).long()),
                          {}, ValueError, r'edge_index.*got \[3, 4\]'),
    'edge_index empty': (edit('edge.edge_index', torch.zeros(2, 0).long()),
                         {}, ValueError, 'edge_index.*empty'),
    'unknown user': (edit('edge.edge_index', torch.tensor([[4], [0]])), {},
                     ValueError, 'edge_index.*user id 4, .*are 4 users'),
    'unknown item': (edit('edge.edge_index', torch.tensor([[0], [5]])), {},
                     ValueError, 'edge_index.*item id 5, .*are 5 items'),
    'negative id': (edit('edge.edge_index', torch.tensor([[0], [-1]])), {},
                    ValueError, 'edge_index.*item id -1'),
    'rows swapped': (edit('edge.edge_index', torch.tensor([[4], [3]])), {},
                     ValueError, 'edge_index.*swapped'),
    'labels float': (edit('edge.edge_label_index', torch.rand(2, 3)), {},
                     TypeError, 'edge_label_index.*float32'),
    'labels out of range': (
        edit('edge.edge_label_index', torch.tensor([[0], [9]])), {},
        ValueError, 'edge_label_index.*item id 9'),
    'labels of pairs': (
        edit('edge.edge_label_index', torch.zeros(5, 2).long()), {},
        ValueError, 'edge_label_index.*transpose'),
    'edge_label length': (edit('edge.edge_label', torch.ones(3)), {},
                          ValueError, r'edge_label.*\[2\].*got \[3\]'),
    'edge_label 2-D': (edit('edge.edge_label', torch.ones(2, 2)), {},
                       ValueError, r'edge_label.*got \[2, 2\]'),
    'edge_label list': (edit('edge.edge_label', [1, 1]), {}, TypeError,
                        'edge_label.*got list'),
    'num_nodes missing': (edit('user.num_nodes', None), {}, ValueError,
                          r"data\['user'\].num_nodes.*missing"),
    'num_nodes zero': (edit('user.num_nodes', 0), {}, ValueError,
                       r"data\['user'\].num_nodes.*at least 1.*got 0"),
    'num_nodes negative': (edit('item.num_nodes', -3), {}, ValueError,
                           r"data\['item'\].num_nodes.*got -3"),
    'num_nodes float': (edit('user.num_nodes', 4.5), {}, TypeError,
                        r"data\['user'\].num_nodes.*got 4.5"),
    'too few rows': (edit('item.visual', torch.randn(4, 3)), {}, ValueError,
                     'visual.*4 rows for 5 items'),
    'too many rows': (edit('item.textual', torch.randn(6, 3)), {}, ValueError,
                      'textual.*6 rows for 5 items'),
    'NaN': (edit('item.visual', nan_at(3, float('nan'))), {}, ValueError,
            'visual.*nan in row 3, column 1'),
    'infinite': (edit('item.visual', nan_at(0, float('inf'))), {}, ValueError,
                 'visual.*inf in row 0'),
    'no columns': (edit('item.visual', torch.randn(5, 0)), {}, ValueError,
                   'visual.*no columns'),
    'numpy features': (edit('item.visual', np.random.rand(5, 3)), {},
                       TypeError, 'visual.*ndarray.*from_numpy'),
    'sparse features': (edit('item.visual', torch.eye(5).to_sparse()), {},
                        TypeError, 'visual.*to_dense'),
    'mask of integers': (edit('item.visual_mask', torch.ones(5).long()), {},
                         ValueError, 'visual_mask.*boolean.*int64'),
    'mask too short': (edit('item.visual_mask', torch.ones(4).bool()), {},
                       ValueError, r'visual_mask.*\[5\].*got shape \[4\]'),
    'mask 2-D': (edit('item.visual_mask', torch.ones(5, 3).bool()), {},
                 ValueError, r'visual_mask.*got shape \[5, 3\]'),
    'mask a list': (edit('item.visual_mask', [True] * 5), {}, TypeError,
                    "visual_mask.*got 'list'"),
    'mask without items': (edit('item.visual_mask', torch.zeros(5).bool()),
                           {}, ValueError, 'visual_mask.*False for all 5'),
    'unknown modality': (None, dict(modalities=['audio']), ValueError,
                         r"modalities.*'audio'.*\['visual', 'textual'\]"),
    'modality twice': (None, dict(modalities=['visual', 'visual']),
                       ValueError, 'modalities.*twice'),
    'modalities a string': (None, dict(modalities='visual'), TypeError,
                            r"modalities.*pass \['visual'\]"),
    'modalities of numbers': (None, dict(modalities=[0]), TypeError,
                              'modalities.*int'),
    'modality of integers': (edit('item.brand', torch.ones(5, 2).long()),
                             dict(modalities=['brand']), TypeError,
                             'brand.*int64'),
    'modality 1-D': (edit('item.price', torch.rand(5)),
                     dict(modalities=['price']), ValueError,
                     r'price.*got \[5\]'),
    'modality 3-D': (edit('item.frames', torch.rand(5, 2, 2)),
                     dict(modalities=['frames']), ValueError,
                     r'frames.*got \[5, 2, 2\]'),
    'no modality': (None, dict(modalities=[], need_features=True),
                    ValueError, 'no modality'),
    'edge type missing': (None, dict(edge_type=('user', 'buys', 'item')),
                          ValueError, "edge_type.*'buys'.*'interacts'"),
    'edge type a string': (None, dict(edge_type='interacts'), TypeError,
                           'edge_type.*three names'),
    'edge type of two': (None, dict(edge_type=('user', 'item')), TypeError,
                         'edge_type.*three names'),
    'edge type to itself': (None, dict(edge_type=('user', 'knows', 'user')),
                            ValueError, 'edge_type.*two different'),
}


def test_the_good_graph_is_good() -> None:
    read_graph(good(), need_features=True)


@pytest.mark.parametrize('case', GRAPHS)
def test_read_graph(case: str) -> None:
    apply, kwargs, error, match = GRAPHS[case]
    data = good()
    if apply is not None:
        apply(data)
    with pytest.raises(error, match=match):
        read_graph(data, **kwargs)


@pytest.mark.parametrize('data', [None, Data(), {}, torch.ones(2, 3)])
def test_read_graph_of_something_else(data: Any) -> None:
    with pytest.raises(TypeError, match=r"'data'.*from_interactions"):
        read_graph(data)


def test_read_graph_without_edges_does_not_change_it() -> None:
    data = HeteroData()
    with pytest.raises(ValueError, match=r'edge_type='):
        read_graph(data)
    data[UI].edge_index = torch.zeros(2, 1).long()
    with pytest.raises(ValueError, match=r'num_nodes'):
        read_graph(data)
    assert data.node_types == []


EDGES = np.array([[0, 1, 3], [0, 4, 2]])
VISUAL = np.random.default_rng(0).random((5, 3), dtype=np.float32)

ARRAYS = {
    # case: (arguments other than the good ones, error, message)
    'edge_index float': (dict(edge_index=EDGES.astype(float)), TypeError,
                         "'edge_index'.*float64.*int64"),
    'edge_index of pairs': (dict(edge_index=EDGES.T), ValueError,
                            "'edge_index'.*transpose"),
    'edge_index a string': (dict(edge_index='train.npy'), TypeError,
                            "'edge_index'.*got str"),
    'edge_index None': (dict(edge_index=None), TypeError,
                        "'edge_index'.*NoneType"),
    'edge_index of strings': (dict(edge_index=[['a'], ['b']]), TypeError,
                              "'edge_index'.*dtype"),
    'edge_index of objects': (dict(edge_index=np.array([[None], [1]])),
                              TypeError, "'edge_index'.*dtype object"),
    'edge_index ragged': (dict(edge_index=[[0, 1], [2]]), ValueError,
                          "'edge_index'"),
    'edge_index empty': (dict(edge_index=np.zeros((2, 0), int)), ValueError,
                         "'edge_index' is empty"),
    'edge_index negative': (dict(edge_index=[[0, -1], [0, 1]]), ValueError,
                            "'edge_index'.*user id -1"),
    'edge_index huge': (
        dict(edge_index=np.array([[0], [2**64 - 1]], np.uint64)), ValueError,
        "'edge_index'.*64 bits"),
    'item beyond the features': (dict(edge_index=[[0], [5]]), ValueError,
                                 "'edge_index'.*item id 5"),
    'label beyond the features': (dict(edge_label_index=[[0], [7]]),
                                  ValueError, "'edge_label_index'.*id 7"),
    'label float': (dict(edge_label_index=[[0.5], [1.0]]), TypeError,
                    "'edge_label_index'.*float64"),
    'num_users too small': (dict(num_users=3), ValueError,
                            "'edge_index'.*user id 3"),
    'num_users zero': (dict(num_users=0), ValueError, "'num_users'.*got 0"),
    'num_users float': (dict(num_users=4.0), TypeError,
                        "'num_users'.*got 4.0"),
    'num_items negative': (dict(num_items=-1), ValueError,
                           "'num_items'.*got -1"),
    'num_items of no features': (dict(num_items=6), ValueError,
                                 r"features\['visual'\].*5 rows for 6"),
    'features None': (dict(features=None), TypeError,
                      "'features'.*got None.*pass an empty one"),
    'features an array': (dict(features=VISUAL), TypeError,
                          "'features'.*{'visual': features}"),
    'features of lists': (dict(features={'visual': [[1.0]] * 5}), TypeError,
                          r"features\['visual'\].*got list"),
    'features of integers': (dict(features={'visual': np.ones((5, 2), int)}),
                             TypeError, r"features\['visual'\].*int64"),
    'features of complex': (dict(features={'visual': VISUAL + 0j}),
                            TypeError, r"features\['visual'\].*complex"),
    'features of long doubles': (
        dict(features={'visual': VISUAL.astype(np.longdouble)}), TypeError,
        r"features\['visual'\].*float128"),
    'features 1-D': (dict(features={'visual': VISUAL[:, 0]}), ValueError,
                     r"features\['visual'\].*got \[5\]"),
    'rows differ': (dict(features={'a': VISUAL, 'b': VISUAL[:4]}),
                    ValueError, "'features'.*'a': 5, 'b': 4"),
    'NaN': (dict(features={'visual': VISUAL * np.nan}), ValueError,
            r"features\['visual'\].*nan in row 0"),
    'overflow to infinity': (
        dict(features={'visual': np.full((5, 2), np.float16(np.inf))}),
        ValueError, r"features\['visual'\].*inf in row 0"),
    'name of a mask': (dict(features={'visual_mask': VISUAL}), ValueError,
                       "'features'.*visual_mask"),
    'name taken': (dict(features={'num_nodes': VISUAL}), ValueError,
                   "'features'.*num_nodes"),
    'name no string': (dict(features={0: VISUAL}), TypeError,
                       "'features'.*got 0"),
    'mask of nothing': (dict(masks={'audio': np.ones(5, bool)}), ValueError,
                        r"'masks'.*'audio'.*\['visual'\]"),
    'mask of floats': (dict(masks={'visual': np.ones(5)}), ValueError,
                       r"masks\['visual'\].*boolean.*float64"),
    'mask too long': (dict(masks={'visual': np.ones(6, bool)}), ValueError,
                      r"masks\['visual'\].*got shape \[6\]"),
    'edge type': (dict(edge_type='interacts'), TypeError,
                  "'edge_type'.*three names"),
    'edge type to itself': (dict(edge_type=('a', 'to', 'a')), ValueError,
                            "'edge_type'.*two different"),
}


@pytest.mark.parametrize('case', ARRAYS)
def test_from_interactions(case: str) -> None:
    changes, error, match = ARRAYS[case]
    kwargs = {'edge_index': EDGES, 'features': {'visual': VISUAL}, **changes}
    with pytest.raises(error, match=match):
        from_interactions(**kwargs)


SPLITS = {
    'known': (dict(known='all'), ValueError, "'known'.*'train'.*'all'"),
    'train empty': (dict(train=np.zeros((2, 0), int)), ValueError,
                    "'train' is empty"),
    'val of pairs': (dict(val=np.zeros((3, 2), int)), ValueError,
                     "'val'.*transpose"),
    'test out of range': (dict(test=[[0], [5]]), ValueError,
                          "'test'.*item id 5"),
    'test float': (dict(test=[[0.0], [1.0]]), TypeError, "'test'.*float64"),
    'users out of range': (dict(num_users=2), ValueError,
                           "'train'.*user id 3"),
    'features None': (dict(features=None), TypeError,
                      "'features'.*got None"),
}


@pytest.mark.parametrize('case', SPLITS)
def test_from_splits(case: str) -> None:
    changes, error, match = SPLITS[case]
    kwargs = {
        'train': EDGES,
        'val': [[0], [1]],
        'test': [[1], [1]],
        'features': {'visual': VISUAL},
        **changes,
    }
    with pytest.raises(error, match=match):
        from_splits(**kwargs)
