"""Stage 2's frozen teacher: ``distill/frozen_rows.py``."""

from __future__ import annotations

import pytest
import torch
from graphs import LAYOUTS, NUM_ITEMS, NUM_USERS, random_edges
from teachers import (
    check_same,
    dense,
    dense_rows,
    double_graph,
    flat,
    make_teacher,
)

from torch_promptmm.distill import (
    ConstantTables,
    PromptTables,
    frozen_rows,
)
from torch_promptmm.models import (
    MultimodalTeacher,
    TeacherOutput,
    as_output,
)
from torch_promptmm.nn import propagation

USERS, ITEMS = torch.tensor([3, 6, 0, 6]), torch.tensor([10, 1, 1, 7, 2, 5])
NONE = torch.empty(0, dtype=torch.long)
ROWS = [(None, None), (USERS, ITEMS), (USERS, None), (None, ITEMS),
        (NONE, ITEMS)]


def frozen(*args, **kwargs) -> MultimodalTeacher:
    teacher, _, _ = make_teacher(*args, **kwargs)
    return teacher.requires_grad_(False)


@pytest.mark.parametrize('normalize', [False, 'size', 'row'])
@pytest.mark.parametrize('layers', [1, 3])
@pytest.mark.parametrize('standardize', [False, True])
@pytest.mark.parametrize('user_id, item_id', ROWS)
def test_equals_the_plain_forward(normalize, layers: int, standardize: bool,
                                  user_id, item_id) -> None:
    teacher = frozen(layers, standardize, normalize=normalize)
    rows = PromptTables(teacher, double_graph())
    at = list(teacher.prompt.parameters())
    for _ in range(2):  # The tables hold for other prompts, too.
        check_same(flat(rows(user_id, item_id)),
                   flat(teacher(double_graph(), user_id, item_id)), at)
        check_same(flat(rows(user_id, item_id)),
                   dense_rows(*dense(teacher, standardize), user_id, item_id),
                   at)
        for parameter in at:
            torch.nn.init.normal_(parameter, std=0.5)


@pytest.mark.parametrize('num_layers', [0, 1, 3])
@pytest.mark.parametrize('self_weight', [0.0, 0.7])
@pytest.mark.parametrize('prompt_channels', [2, 6])
def test_other_depths_and_widths(num_layers: int, self_weight: float,
                                 prompt_channels: int) -> None:
    teacher = frozen(num_layers=num_layers, self_weight=self_weight,
                     prompt_channels=prompt_channels)
    rows = PromptTables(teacher, double_graph())
    check_same(flat(rows(USERS, ITEMS)),
               flat(teacher(double_graph(), USERS, ITEMS)),
               list(teacher.prompt.parameters()))


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout(layout: str) -> None:
    teacher = frozen()
    rows = PromptTables(teacher, LAYOUTS[layout](random_edges()))
    torch.testing.assert_close(flat(rows(USERS, ITEMS)),
                               flat(teacher(double_graph(), USERS, ITEMS)),
                               rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('layers, normalize, products', [
    (1, False, False), (1, 'size', False), (1, 'row', True),
    (2, 'size', True), (2, 'row', True)])
def test_the_cheap_form_has_no_sparse_product(layers: int, normalize,
                                              products: bool,
                                              monkeypatch) -> None:
    teacher = frozen(layers, normalize=normalize)
    rows = PromptTables(teacher, double_graph())
    calls = []
    old = propagation.propagate
    monkeypatch.setattr(frozen_rows, 'propagate',
                        lambda *args: calls.append(1) or old(*args))
    rows(USERS, ITEMS)
    assert bool(calls) == products
    assert rows.needs_propagation == products


@pytest.mark.parametrize('layers, normalize, needed', [
    (1, False, False), (1, 'size', False), (1, 'row', False),
    (2, False, False), (2, 'size', False), (2, 'row', True)])
def test_the_raw_features_can_leave(layers: int, normalize,
                                    needed: bool) -> None:
    teacher = frozen(layers, normalize=normalize)
    want = flat(teacher(double_graph(), USERS, ITEMS))
    rows = PromptTables(teacher, double_graph())
    teacher.release_features()
    if needed:
        with pytest.raises(ValueError, match='has no item features'):
            rows(USERS, ITEMS)
    else:
        torch.testing.assert_close(flat(rows(USERS, ITEMS)), want)


@pytest.mark.parametrize('normalize', ['size', 'row'])
def test_dropout_has_no_part_in_it(normalize) -> None:
    teacher = frozen(dropout=0.5, normalize=normalize)
    want = flat(teacher(double_graph()))
    teacher.train()  # Whatever somebody does to it.
    torch.testing.assert_close(
        flat(PromptTables(teacher, double_graph())()), want)


def test_gradient_reaches_the_prompt_alone() -> None:
    teacher = frozen()
    out = PromptTables(teacher, double_graph())(USERS, ITEMS)
    sum(x.square().sum() for x in flat(out)).backward()
    assert teacher.prompt.weight.grad.abs().sum() > 0
    assert teacher.prompt.bias.grad.abs().sum() > 0
    assert all(p.grad is None for p in teacher.parameters())


def test_a_teacher_without_prompt() -> None:
    with pytest.raises(ValueError, match='use ConstantTables'):
        PromptTables(frozen(None), double_graph())


def test_a_prompt_of_no_weight() -> None:
    teacher = frozen(prompt_weight=0.0)
    torch.testing.assert_close(
        flat(PromptTables(teacher, double_graph())()),
        flat(teacher(double_graph())))


def test_constant_tables() -> None:
    teacher = frozen(None)
    with torch.no_grad():
        output = teacher(double_graph())
    rows = ConstantTables(output)
    for user_id, item_id in ROWS:
        out = rows(user_id, item_id)
        assert isinstance(out, TeacherOutput)
        for a, b in zip(flat(out),
                        flat(teacher(double_graph(), user_id, item_id)),
                        strict=True):
            torch.testing.assert_close(a, b)


def test_what_a_foreign_teacher_may_return() -> None:
    user, item = torch.randn(NUM_USERS, 2), torch.randn(NUM_ITEMS, 2)
    for output in ((user, item), [user, item], (user, item, {})):
        out = as_output(output)
        assert out.user is user
        assert out.item is item
        assert out.modalities == {}
    out = ConstantTables((user, item, {'a': (user, item)}))(USERS, ITEMS)
    assert torch.equal(out.modalities['a'][0], user[USERS])
    for bad in (user, (user, ), (user, None), (user, item, [user]),
                (user, item, {}, {})):
        with pytest.raises(TypeError, match="'model' must return"):
            as_output(bad)
