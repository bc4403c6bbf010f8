from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from allocations import Largest
from graphs import (
    LAYOUTS,
    NUM_ITEMS,
    NUM_USERS,
    WEIGHTED,
    random_edges,
    to_graph,
)
from numpy.typing import NDArray
from torch.testing import assert_close

from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.models import ContentExpert, content_expert
from torch_promptmm.nn import UserItemGraph, feature_matmul
from torch_promptmm.nn.standard_rows import SCALINGS

WIDTHS = {'a': 7, 'b': 3}
MASK = torch.arange(NUM_ITEMS) % 4 > 0
EDGES = random_edges(duplicates=True)


def features() -> dict[str, torch.Tensor]:
    return {'a': 5 + 3 * torch.randn(NUM_ITEMS, 7, dtype=torch.double),
            'b': torch.randn(NUM_ITEMS, 3, dtype=torch.double) - 4}


def make(x: dict[str, torch.Tensor] | None = None,
         masks: dict[str, torch.Tensor] | None = None,
         **kwargs: Any) -> ContentExpert:
    kwargs = {'dtype': torch.double, **kwargs}
    model = ContentExpert(NUM_USERS, NUM_ITEMS, WIDTHS, **kwargs)
    model.set_features(features() if x is None else x, masks)
    return model


def dense(x: torch.Tensor, mask: torch.Tensor | None, hop: float,
          scaling: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The formula with dense matrices."""
    array = reference.unit_rows(reference.scaled(
        x.numpy(), scaling, None if mask is None else mask.numpy()))
    adj = reference.adjacency(EDGES.numpy(), NUM_USERS, NUM_ITEMS)
    r = adj[:NUM_USERS, NUM_USERS:]
    item = reference.unit_rows(array + hop * r.T @ r @ array)
    user = np.zeros((NUM_USERS, array.shape[1]))
    for u, i in EDGES.T.tolist():
        user[u] += item[i]
    return reference.unit_rows(user), item


@pytest.mark.parametrize('hop', [0.0, 2.0])
@pytest.mark.parametrize('scaling', SCALINGS)
@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('blocks', [False, True])
def test_equals_numpy(hop: float, scaling: str, masked: bool,
                      blocks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if blocks:  # Two columns, three rows.
        monkeypatch.setattr(content_expert, '_BLOCK_SIZE', 36)
        monkeypatch.setattr(feature_matmul, '_BLOCK_SIZE', 21)
    x, masks = features(), {'b': MASK} if masked else {}
    model = make(x, masks, hop=hop, scaling=scaling)
    out = model(to_graph(EDGES))
    assert list(out.modalities) == ['a', 'b']
    for name, pair in out.modalities.items():
        wanted = dense(x[name], masks.get(name), hop, scaling)
        products = [(x @ y.T) for x, y in (pair, wanted)]
        np.testing.assert_allclose(products[0], products[1], atol=1e-6)
        if scaling != 'whiten':  # Which turns the columns.
            for table, want in zip(pair, wanted, strict=True):
                np.testing.assert_allclose(table.numpy(), want, atol=1e-6)
    for i, table in enumerate(out[:2]):
        assert torch.equal(
            table, torch.cat([out.modalities[k][i] for k in WIDTHS], 1))
        assert table.size(1) == model.width == 10
        assert not table.requires_grad


def test_what_has_no_interaction() -> None:
    x = features()
    out = make(x)(to_graph(EDGES))
    assert out.user[3].abs().sum() == 0  # Knows nothing.
    want = reference.unit_rows(reference.standardise(x['a'].numpy()))
    for item in (0, 10):  # Keep their own content.
        np.testing.assert_allclose(out.modalities['a'][1][item].numpy(),
                                   want[item], atol=1e-6)


def test_an_item_without_a_modality_has_that_of_its_readers() -> None:
    out = make(masks={'b': torch.arange(NUM_ITEMS) != 4})(to_graph(EDGES))
    assert out.modalities['b'][1][4].norm() == pytest.approx(1, abs=1e-6)
    out = make(masks={'b': torch.arange(NUM_ITEMS) != 0})(to_graph(EDGES))
    assert out.modalities['b'][1][0].norm() == 0


def test_rows_are_those_of_the_whole() -> None:
    model, graph = make(), to_graph(EDGES)
    user_id, item_id = torch.tensor([5, 3, 5]), torch.tensor([10, 1])
    whole, rows = model(graph), model(graph, user_id, item_id)
    assert_close(rows.user, whole.user[user_id])
    assert_close(rows.item, whole.item[item_id])
    for name, (user, item) in rows.modalities.items():
        assert_close(user, whole.modalities[name][0][user_id])
        assert_close(item, whole.modalities[name][1][item_id])


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_adjacency(layout: str) -> None:
    edges, model = random_edges(), make(dtype=torch.float)
    want, out = model(to_graph(edges)), model(LAYOUTS[layout](edges))
    assert_close(out.user, want.user)
    assert_close(out.item, want.item)


@pytest.mark.parametrize('layout', WEIGHTED)
def test_a_mean_leaves_out_edges_of_weight_zero(layout: str) -> None:
    edges = random_edges()
    weight = torch.ones(edges.size(1))
    weight[:3] = 0.0
    model = make(hop=0.0)
    out = model(WEIGHTED[layout](edges, weight))
    assert_close(out.user, model(to_graph(edges[:, 3:])).user)


@pytest.mark.parametrize('dtype, error', [
    (torch.float, 1e-5), (torch.half, 2e-3), (torch.bfloat16, 2e-2)])
def test_tables_in_other_types(dtype: torch.dtype, error: float) -> None:
    x = features()
    graph = to_graph(EDGES)
    want, out = make(x)(graph), make(x, dtype=dtype)(graph)
    for a, b in zip(want[:2], out[:2], strict=True):
        assert b.dtype == dtype
        assert (a - b.double()).abs().max() < error


def test_features_may_be_mapped_and_narrow(tmp_path: Path) -> None:
    x = {name: value.half() for name, value in features().items()}
    mapped = {}
    for name, value in x.items():
        np.save(tmp_path / f'{name}.npy', value.numpy())
        mapped[name] = torch.from_numpy(
            np.load(tmp_path / f'{name}.npy', mmap_mode='c'))
    graph = to_graph(EDGES)
    want = make({k: v.double() for k, v in x.items()})(graph)
    assert_close(make(mapped)(graph).item, want.item)


@pytest.mark.parametrize('scaling', SCALINGS)
def test_autocast_changes_nothing(scaling: str) -> None:
    model = make(dtype=torch.float, scaling=scaling)
    graph = to_graph(EDGES)
    want = model(graph)
    with torch.autocast('cpu', torch.bfloat16):
        out = model(graph)
    assert torch.equal(out.user, want.user)


@pytest.mark.parametrize('scaling', SCALINGS)
def test_beside_the_tables_there_are_blocks(
        scaling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # One is no smaller than the matrix that whitens.
    monkeypatch.setattr(content_expert, '_BLOCK_SIZE', 64 * 64)
    monkeypatch.setattr(feature_matmul, '_BLOCK_SIZE', 2000)
    x, item, user = (torch.randn(n, 64) for n in (200, 200, 300))
    graph = UserItemGraph(torch.stack([torch.randint(300, (600, )),
                                       torch.randint(200, (600, ))]),
                          300, 200)
    model = ContentExpert(300, 200, {'a': 64})
    model.set_features({'a': x})
    with Largest(x, item, user) as largest:
        model._fill(item, user, 'a', graph, graph.user_item, scaling)
    assert 0 < largest.numel <= 64 * 64 < item.numel()


def test_one_modality() -> None:
    model = make(scaling={'a': 'whiten', 'b': 'raw'}, masks={'b': MASK})
    graph, user_id = to_graph(EDGES), torch.tensor([5, 3, 5])
    whole = model(graph).modalities
    for name in WIDTHS:
        for a, b in zip(model.modality(name, graph), whole[name],
                        strict=True):
            assert_close(a, b, rtol=0, atol=1e-12)
    user, item = model.modality('a', graph, user_id, 'raw')
    other = make(dict(model.item_features.tensors), scaling='raw')
    want = other(graph, user_id).modalities['a']
    assert_close((user, item), want, rtol=0, atol=1e-12)
    assert model.scaling['a'] == 'whiten'


def test_the_scaling_is_in_the_state() -> None:
    model, other = make(scaling={'b': 'raw', 'a': 'whiten'}), make()
    assert model.scaling == {'a': 'whiten', 'b': 'raw'}
    assert other.scaling == dict.fromkeys(WIDTHS, 'standardize')
    other.load_state_dict(model.state_dict())
    assert other.scaling == model.scaling
    again = ContentExpert(**model.config()).half()
    assert again.scaling == model.scaling


def test_from_data_and_config() -> None:
    train, _, _ = SyntheticMultimodal.blocks(users_per_block=12)
    model = ContentExpert.from_data(train, dtype='float16')
    store = train['user', 'interacts', 'item']
    out = model(store.edge_index)
    assert out.user.shape == (48, model.width)
    assert list(model.parameters()) == []
    model.reset_parameters()
    again = ContentExpert(**model.config())
    assert again.config() == model.config() and again.dtype == torch.half
    with pytest.raises(ValueError, match='no item features'):
        again(store.edge_index)
    assert torch.equal(copy.deepcopy(model)(store.edge_index).item, out.item)
    assert str(make()) == ('ContentExpert(7, 11, a=7, b=3, hop=2.0, '
                           "scaling={'a': 'standardize', 'b': 'standardize'}, "
                           'dtype=torch.float64)')


@pytest.mark.parametrize('kwargs, message', [
    ({'hop': -1.0}, "'hop' must be"),
    ({'dtype': 'int32'}, "'dtype' must be a floating-point type"),
    ({'dtype': 'nonsense'}, "'dtype' must be a floating-point type"),
    ({'in_channels': {}}, "'in_channels' must map"),
    ({'scaling': 'centre'}, "'scaling' must be one of"),
    ({'scaling': {'a': 'raw', 'b': 'centre'}}, "'scaling' must be one of"),
    ({'scaling': {'a': 'raw'}}, "'scaling' must be a name, or have one for"),
    ({'scaling': True}, "'scaling' must be a name, or have one for"),
])
def test_bad_input(kwargs: dict[str, Any], message: str) -> None:
    kwargs = {'in_channels': WIDTHS, **kwargs}
    with pytest.raises(ValueError, match=message):
        ContentExpert(NUM_USERS, NUM_ITEMS, **kwargs)


def test_on_a_device(device: torch.device) -> None:
    model = make(dtype=torch.float, masks={'a': MASK})
    want = model(to_graph(EDGES))
    out = model(to_graph(EDGES).to(device))
    assert out.user.device.type == device.type
    assert_close(out.user.cpu(), want.user)
    assert_close(out.item.cpu(), want.item)
