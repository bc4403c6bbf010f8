from __future__ import annotations

import copy
import weakref

import numpy as np
import pytest
import reference
import torch
from allocations import Largest
from graphs import LAYOUTS, NUM_ITEMS, NUM_USERS, random_edges, to_coo
from teachers import (
    CHANNELS,
    WIDTHS,
    check_same,
    dense,
    dense_rows,
    double_graph,
    flat,
    item_features,
    item_masks,
    make_teacher,
    scrambled,
)
from torch import Tensor

from torch_promptmm.models import MultimodalTeacher, TeacherOutput
from torch_promptmm.nn import (
    SoftPrompt,
    UserItemGraph,
    feature_matmul,
    feature_projections,
)

USERS, ITEMS = torch.tensor([3, 6, 0, 6]), torch.tensor([10, 1, 1, 7])


@pytest.mark.parametrize('normalize', [False, 'size', 'row'])
@pytest.mark.parametrize('standardize', [False, True])
@pytest.mark.parametrize('prompt_layers', [None, 1, 2])
@pytest.mark.parametrize('rows', [False, True])
def test_equals_the_dense_form(normalize, standardize: bool, prompt_layers,
                               rows: bool) -> None:
    teacher, _, _ = make_teacher(prompt_layers, standardize,
                                 normalize=normalize)
    ids = (USERS, ITEMS) if rows else (None, None)
    out = teacher(double_graph(), *ids)
    assert isinstance(out, TeacherOutput)
    assert list(out.modalities) == list(WIDTHS)
    at = list(teacher.parameters())
    if teacher.prompt is not None:
        at += list(teacher.prompt.parameters())
    check_same(flat(out), dense_rows(*dense(teacher, standardize), *ids), at)


@pytest.mark.parametrize('num_layers', [0, 1, 3])
@pytest.mark.parametrize('self_weight', [0.0, 0.5, 1.0])
def test_equals_numpy(num_layers: int, self_weight: float) -> None:
    teacher, x, masks = make_teacher(num_layers=num_layers,
                                     self_weight=self_weight,
                                     normalize='row')
    reduced = {}
    for name in WIDTHS:
        reduction = teacher.reduction(name)
        mask = masks[name].numpy() if name in masks else None
        reduced[name] = reference.reduction(
            reference.standardise(x[name].numpy(), mask),
            reduction.weight.detach().numpy(),
            reduction.bias.detach().numpy(),
            teacher.prompt().detach().numpy(), 0.6, 'row')
    ego = torch.cat([teacher.backbone.user_embedding.weight,
                     teacher.backbone.item_embedding.weight])
    matrix = reference.adjacency(random_edges().numpy(), NUM_USERS, NUM_ITEMS)
    fused, parts = reference.teacher(matrix, NUM_USERS, ego.detach().numpy(),
                                     reduced, num_layers, self_weight, 0.3)
    user, item, modalities = teacher(double_graph())
    np.testing.assert_allclose(torch.cat([user, item]).detach(), fused,
                               rtol=1e-9)
    for name, pair in modalities.items():
        np.testing.assert_allclose(torch.cat(pair).detach(), parts[name],
                                   rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout(layout: str) -> None:
    teacher, _, _ = make_teacher()
    out = teacher(LAYOUTS[layout](random_edges()), USERS)
    want = teacher(double_graph(), USERS)
    for a, b in zip(flat(out), flat(want), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_rows_with_those_of_the_l2_term() -> None:
    teacher, _, _ = make_teacher()
    out = teacher.rows(double_graph(), USERS, ITEMS, len(ITEMS))
    assert isinstance(out, TeacherOutput)
    user, item = out.ego
    ego = teacher.backbone
    want = dense_rows(*dense(teacher), USERS, ITEMS)
    want += [ego.user_embedding.weight[USERS],
             ego.item_embedding.weight[ITEMS]]
    check_same([*flat(out), user, item], want,
               list(teacher.parameters()))


def test_cold_items_keep_their_own_features() -> None:
    for self_weight, expected in ((0.0, False), (1.0, True)):
        teacher, _, _ = make_teacher(self_weight=self_weight)
        _, _, modalities = teacher(double_graph())
        for _, item in modalities.values():
            assert bool((item[[0, 10]] != 0).any()) == expected
    # A user without items has none; its fused row has no NaN.
    user, _, modalities = teacher(double_graph())
    assert all((x[3] == 0).all() for x, _ in modalities.values())
    user.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all()
               for p in teacher.parameters())


def test_dropout_is_off_in_eval() -> None:
    teacher, _, _ = make_teacher(dropout=0.5)
    torch.testing.assert_close(flat(teacher(double_graph())),
                               dense_rows(*dense(teacher)))
    teacher.train()
    one, two = teacher(double_graph()), teacher(double_graph())
    assert not torch.equal(one.user, two.user)


@pytest.mark.parametrize('layers', [1, 2])
def test_the_prompt_is_not_a_part_of_the_teacher(layers: int) -> None:
    teacher, _, _ = make_teacher(layers)
    prompt = teacher.prompt
    assert isinstance(prompt, SoftPrompt)
    assert not [m for m in teacher.modules() if isinstance(m, SoftPrompt)]
    assert not [key for key in teacher.state_dict() if 'prompt' in key]
    teacher.requires_grad_(False)
    assert all(p.requires_grad for p in prompt.parameters())
    out = teacher(double_graph())
    sum(x.sum() for x in flat(out)).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert any(p.grad.abs().sum() > 0 for p in prompt.parameters())


def test_another_prompt() -> None:
    teacher, x, masks = make_teacher(None)
    prompt = scrambled(SoftPrompt(torch.randn(NUM_ITEMS, CHANNELS).double()))
    for new in (prompt, None, make_teacher(2)[0].prompt):
        teacher.prompt = new
        assert teacher.prompt is new
        torch.testing.assert_close(flat(teacher(double_graph())),
                                   dense_rows(*dense(teacher)))


def test_features_are_held_by_reference() -> None:
    teacher, x, masks = make_teacher()
    for twin in (teacher, copy.deepcopy(teacher)):
        for name in WIDTHS:
            assert twin.features[name].data_ptr() == x[name].data_ptr()
        assert twin.masks['audio.mfcc'] is masks['audio.mfcc']
    tensors = [*teacher.parameters(), *teacher.buffers(),
               *teacher.state_dict().values()]
    assert not {t.data_ptr() for t in tensors} & {
        t.data_ptr() for t in x.values()}
    assert not any(t.shape in [y.shape for y in x.values()] for t in tensors)
    # `.to` moves the weights alone.
    teacher.float()
    assert teacher.features['visual'].dtype == torch.double


def test_a_deep_copy_has_its_own_weights() -> None:
    teacher, _, _ = make_teacher()
    twin = copy.deepcopy(teacher)
    torch.testing.assert_close(flat(twin(double_graph())),
                               flat(teacher(double_graph())))
    assert not ({p.data_ptr() for p in twin.parameters()}
                & {p.data_ptr() for p in teacher.parameters()})


def test_features_are_let_go_of() -> None:
    teacher, x, masks = make_teacher()
    gone = weakref.ref(x['visual'])
    del x
    teacher.release_features()
    assert gone() is None
    with pytest.raises(ValueError, match='has no item features'):
        teacher(double_graph())


@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16])
def test_features_in_half_precision_and_from_a_file(dtype: torch.dtype,
                                                    tmp_path) -> None:
    x = {name: (y - y.mean(0)).to(dtype)
         for name, y in item_features().items()}
    if dtype == torch.half:
        for name, y in x.items():
            np.save(tmp_path / f'{name}.npy', y.numpy())
            x[name] = torch.from_numpy(
                np.load(tmp_path / f'{name}.npy', mmap_mode='r+'))
    outs = []
    for each in (x, {name: y.float() for name, y in x.items()}):
        torch.manual_seed(0)
        prompt = SoftPrompt.from_features(each, CHANNELS)
        teacher = MultimodalTeacher(NUM_USERS, NUM_ITEMS, WIDTHS, CHANNELS,
                                    prompt=prompt)
        teacher.set_features(each)
        outs.append(teacher(random_edges()))
    assert outs[0].user.dtype == torch.float
    torch.testing.assert_close(flat(outs[0]), flat(outs[1]))


def test_state_carries_the_statistics() -> None:
    teacher, x, masks = make_teacher(normalize='row')
    twin = MultimodalTeacher(NUM_USERS, NUM_ITEMS, WIDTHS, CHANNELS,
                             prompt=teacher.prompt, prompt_weight=0.6,
                             fusion_weight=0.3, normalize='row').double()
    twin.load_state_dict(teacher.state_dict())
    twin.set_features(x, masks, fit=False)
    want = flat(teacher(double_graph()))
    torch.testing.assert_close(flat(twin(double_graph())), want)


@pytest.mark.parametrize('layers', [1, 2])
def test_never_holds_a_second_feature_matrix(layers: int,
                                             monkeypatch) -> None:
    num, width, channels = 2000, 64, 4
    for module in (feature_projections, feature_matmul):
        monkeypatch.setattr(module, '_BLOCK_SIZE', 2000)
    x = {'visual': torch.randn(num, width).half()}
    edge_index = torch.stack([torch.arange(num) % 50, torch.arange(num)])
    with Largest(*x.values()) as largest:
        prompt = SoftPrompt.from_features(x, channels, num_layers=layers)
        teacher = MultimodalTeacher(50, num, {'visual': width}, channels,
                                    prompt=prompt, normalize='row')
        teacher.set_features(x)
        out = teacher(edge_index)
        sum(y.square().sum() for y in flat(out)).backward()
    assert largest.numel <= (channels + 1) * num
    assert prompt.bias.grad is not None


def test_prompt_ratio() -> None:
    teacher, _, _ = make_teacher()
    prompt = teacher.prompt().detach()
    for name, ratio in teacher.prompt_ratio().items():
        reduction = teacher.reduction(name)
        mask = item_masks().get(name)
        own = torch.from_numpy(reference.standardise(
            teacher.features[name].numpy(),
            None if mask is None else mask.numpy()))
        term = 0.6 / NUM_ITEMS * prompt @ prompt.t() @ own
        weight = reduction.weight.detach()
        want = (term @ weight).norm() / (own @ weight).norm()
        assert ratio == pytest.approx(float(want))
    teacher.prompt = None
    assert teacher.prompt_ratio() == {'visual': 0.0, 'audio.mfcc': 0.0}


def test_reset_parameters() -> None:
    teacher, _, _ = make_teacher()
    old = copy.deepcopy(teacher.state_dict())
    teacher.reset_parameters()
    for key, value in teacher.state_dict().items():
        learnt = key in dict(teacher.named_parameters())
        assert torch.equal(value, old[key]) != learnt


def test_representation() -> None:
    teacher, _, _ = make_teacher()
    assert str(teacher) == (
        "MultimodalTeacher(7, 11, in_channels={'visual': 6, 'audio.mfcc': 3},"
        " hidden_channels=4, num_layers=2)")
    assert teacher.modalities == ['visual', 'audio.mfcc']


def small(**kwargs) -> MultimodalTeacher:
    return MultimodalTeacher(3, 5, {'visual': 2}, 4, **kwargs)


def given(x: object, **kwargs) -> None:
    small().set_features({'visual': x}, **kwargs)


@pytest.mark.parametrize('error, match, make', [
    (ValueError, 'at least one modality name',
     lambda: MultimodalTeacher(3, 5, {}, 4)),
    (ValueError, "'hidden_channels' must be at least 1",
     lambda: MultimodalTeacher(3, 5, {'visual': 2}, 0)),
    (ValueError, "'num_layers' must be at least 0",
     lambda: small(num_layers=-1)),
    (ValueError, "'fusion_weight'", lambda: small(fusion_weight=-0.1)),
    (ValueError, "'self_weight'", lambda: small(self_weight=float('nan'))),
    (ValueError, "'in_channels' must be at least 1",
     lambda: MultimodalTeacher(3, 5, {'visual': 0}, 4)),
    (ValueError, "must have the modalities .'visual'.",
     lambda: small().set_features({'textual': torch.randn(5, 2)})),
    (ValueError, 'a row for each of the 5 items',
     lambda: given(torch.randn(4, 2))),
    (ValueError, 'must have 2 columns', lambda: given(torch.randn(5, 3))),
    (TypeError, 'must be a torch.Tensor', lambda: given(np.ones((5, 2)))),
    (ValueError, "masks.'visual'.' must be a boolean tensor of shape .5.",
     lambda: given(torch.randn(5, 2), masks={'visual': torch.ones(5)})),
    (ValueError, "'masks' has 'textual'",
     lambda: given(torch.randn(5, 2),
                   masks={'textual': torch.ones(5).bool()})),
    (ValueError, 'has no item features',
     lambda: small()(torch.tensor([[0], [0]]))),
    (ValueError, 'looks transposed',
     lambda: make_teacher()[0](to_coo(random_edges()).t().coalesce())),
    (ValueError, 'must have 7 users and 11 items',
     lambda: make_teacher()[0](UserItemGraph(random_edges(), 8, 11))),
])
def test_bad_input(error: type[Exception], match: str, make) -> None:
    with pytest.raises(error, match=match):
        make()


def test_on_device(device: torch.device) -> None:
    teacher, _, _ = make_teacher(normalize='row')
    want = flat(teacher(double_graph(), USERS))
    teacher.to(device)
    assert isinstance(teacher.prompt, torch.nn.Module)
    teacher.prompt.to(device)
    out: list[Tensor] = flat(teacher(double_graph(), USERS.to(device)))
    assert out[0].device.type == device.type
    torch.testing.assert_close([x.cpu() for x in out], want)
