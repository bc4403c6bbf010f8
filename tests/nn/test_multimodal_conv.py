from __future__ import annotations

import copy

import numpy as np
import pytest
import reference
import torch
from graphs import (
    HAS_TORCH_SPARSE,
    NUM_ITEMS,
    NUM_USERS,
    WEIGHTED,
    random_edges,
    to_coo,
    to_csr,
    to_graph,
    to_sparse_tensor,
)
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import HeteroData
from torch_geometric.nn import HeteroConv, LGConv

from torch_promptmm.nn import MultimodalConv

WIDTH, CHANNELS = 6, 4
REVERSED = ('item', 'rev_interacts', 'user')


def conv(**kwargs) -> MultimodalConv:
    out = MultimodalConv(WIDTH, CHANNELS, **kwargs)
    torch.nn.init.normal_(out.reduction.bias)
    return out


def features() -> tuple[Tensor, Tensor]:
    return torch.randn(NUM_ITEMS, WIDTH) + 3, torch.randn(NUM_USERS, 2)


def want(module: MultimodalConv, x_item: Tensor,
         prompt: Tensor | None = None) -> np.ndarray:
    reduction = module.reduction
    reduced = reference.reduction(
        x_item.double().numpy(),
        reduction.weight.detach().double().numpy(),
        reduction.bias.detach().double().numpy(),
        None if prompt is None else prompt.double().numpy(),
        reduction.prompt_weight, reduction.normalize)
    matrix = reference.adjacency(random_edges().numpy(), NUM_USERS, NUM_ITEMS)
    return matrix[:NUM_USERS, NUM_USERS:] @ reduced


def close(x: Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(x.detach(), expected, rtol=1e-4, atol=1e-4)


FORMS = {
    'edge_index': lambda: random_edges().flip(0),  # PyG's direction.
    'EdgeIndex': lambda: EdgeIndex(random_edges().flip(0),
                                   sparse_size=(NUM_ITEMS, NUM_USERS)),
    'CSR': lambda: to_csr(random_edges()),
    'COO': lambda: to_coo(random_edges()),
    'SparseTensor': lambda: to_sparse_tensor(random_edges()),
    'UserItemGraph': lambda: to_graph(random_edges()),
}


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('normalize', [False, 'size', 'row'])
def test_equals_numpy(form: str, normalize) -> None:
    module, (x_item, x_user) = conv(normalize=normalize), features()
    prompt = torch.randn(NUM_ITEMS, CHANNELS)
    adj = FORMS[form]()
    out = module((x_item, x_user), adj)
    assert out.shape == (NUM_USERS, CHANNELS)
    close(out, want(module, x_item))
    expected = want(module, x_item, prompt)
    close(module((x_item, x_user), adj, prompt), expected)
    close(module((x_item, None), adj, (prompt, None),
                 size=(NUM_ITEMS, NUM_USERS)), expected)
    assert (out[3] == 0).all()  # The user without an item.


@pytest.mark.parametrize('form', ['CSR', 'COO', 'SparseTensor',
                                  'UserItemGraph', 'EdgeIndex'])
def test_the_number_of_users_comes_from_the_sparse_size(form: str) -> None:
    module, (x_item, _) = conv(), features()
    for x in ((x_item, None), x_item):
        close(module(x, FORMS[form]()), want(module, x_item))


def test_equals_lg_conv_in_value_and_gradient() -> None:
    module, (x_item, x_user) = conv(), features()
    reduced = x_item @ module.reduction.weight + module.reduction.bias
    zero = torch.zeros(NUM_USERS, CHANNELS)
    both = random_edges().flip(0) + torch.tensor([[NUM_USERS], [0]])
    both = torch.cat([both, both.flip(0)], dim=1)
    expected = LGConv()(torch.cat([zero, reduced]), both)[:NUM_USERS]
    out = module((x_item, x_user), FORMS['edge_index']())
    seed = torch.randn_like(out)
    parameters = list(module.parameters())
    torch.testing.assert_close(out, expected)
    for a, b in zip(torch.autograd.grad(out, parameters, seed),
                    torch.autograd.grad(expected, parameters, seed),
                    strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings('ignore:There exist node types:UserWarning')
@pytest.mark.parametrize('form', ['edge_index', 'adj_t CSR',
                                  'adj_t SparseTensor'])
def test_inside_a_hetero_conv(form: str) -> None:
    if form == 'adj_t SparseTensor' and not HAS_TORCH_SPARSE:
        pytest.skip('torch_sparse is not installed')
    visual, textual = conv(normalize='row'), conv()
    x_item, x_user = features()
    prompt = torch.randn(NUM_ITEMS, CHANNELS, requires_grad=True)
    data = HeteroData()
    data['user'].x, data['item'].x = x_user, x_item
    data[REVERSED].edge_index = random_edges().flip(0)
    adj = {
        'edge_index': random_edges().flip(0),
        'adj_t CSR': to_csr(random_edges()),
        'adj_t SparseTensor': (to_sparse_tensor(random_edges())
                               if HAS_TORCH_SPARSE else None),
    }[form]
    hetero = HeteroConv({REVERSED: visual}, aggr='sum')
    out = hetero(data.x_dict, {REVERSED: adj})
    close(out['user'], want(visual, x_item))
    out = hetero(data.x_dict, {REVERSED: adj}, prompt_dict={'item': prompt})
    close(out['user'], want(visual, x_item, prompt.detach()))
    out['user'].square().sum().backward()
    assert prompt.grad.abs().sum() > 0

    # Two modalities over one relation, summed.
    other = ('item', 'rev_seen', 'user')
    hetero = HeteroConv({REVERSED: visual, other: textual}, aggr='sum')
    out = hetero(data.x_dict, {REVERSED: adj, other: adj},
                 prompt_dict={'item': prompt})
    expected = sum(want(m, x_item, prompt.detach())
                   for m in (visual, textual))
    close(out['user'], expected)


def test_some_items_with_the_context_of_all() -> None:
    module, (x_item, _) = conv(normalize='row'), features()
    prompt = torch.randn(NUM_ITEMS, CHANNELS)
    context = module.reduction.context(x_item, prompt)
    rows = torch.tensor([4, 1, 8])
    reduced = module.reduction(x_item, prompt)[rows]
    edge_index = torch.tensor([[0, 1, 2, 2], [1, 0, 1, 2]])  # Item, user.
    out = module((x_item[rows], None), edge_index, prompt[rows], (3, 4),
                 context)
    matrix = reference.adjacency(edge_index.flip(0).numpy(), 4, 3)
    close(out, matrix[:4, 4:] @ reduced.detach().double().numpy())


def test_edge_weights() -> None:
    module, (x_item, _) = conv(), features()
    weight = torch.rand(random_edges().size(1))
    outs = [module((x_item, None), make(random_edges(), weight))
            for name, make in WEIGHTED.items()
            if HAS_TORCH_SPARSE or name != 'SparseTensor']
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0])


def test_double_precision() -> None:
    module, (x_item, x_user) = conv().double(), features()
    out = module((x_item.double(), x_user), random_edges().flip(0))
    np.testing.assert_allclose(out.detach(), want(module, x_item), rtol=1e-12,
                               atol=1e-12)


def test_bad_input() -> None:
    module, (x_item, x_user) = conv(), features()
    with pytest.raises(ValueError, match='number of users is unknown'):
        module((x_item, None), random_edges().flip(0))
    with pytest.raises(ValueError, match='looks transposed'):
        module((x_item, x_user), to_coo(random_edges()).t().coalesce())
    with pytest.raises(ValueError, match="'size' must be .num_items, num_u"):
        module((x_item, None), random_edges().flip(0),
               size=(NUM_USERS, NUM_ITEMS))
    with pytest.raises(ValueError, match='has user id'):  # Row 0 is items.
        module((x_item, x_user), random_edges())
    with pytest.raises(ValueError, match="'prompt' must have a row"):
        module((x_item, x_user), random_edges().flip(0),
               torch.randn(NUM_USERS, CHANNELS))


def test_module() -> None:
    module = conv()
    assert str(module) == 'MultimodalConv(6, 4)'
    assert str(MultimodalConv(6, 4, normalize='row').reduction).endswith(
        "normalize='row')")
    old = copy.deepcopy(module)
    module.reset_parameters()
    assert not torch.equal(module.reduction.weight, old.reduction.weight)


def test_on_device(device: torch.device) -> None:
    module, (x_item, x_user) = conv().to(device), features()
    prompt = torch.randn(NUM_ITEMS, CHANNELS)
    out = module((x_item, x_user), random_edges().flip(0).to(device),
                 prompt.to(device))
    assert out.device.type == device.type
    module.cpu()
    close(out.cpu(), want(module, x_item, prompt))
