"""Scores of lists under masks; the closed form of their divergence against
automatic differentiation.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from torch_promptmm.loss.list_divergence import list_divergence
from torch_promptmm.loss.score_lists import ListMask, ScoreLists


def plain(s_pos: Tensor, s_neg: Tensor, t_pos: Tensor, t_neg: Tensor,
          alpha: float, beta: float | None) -> Tensor:
    """Eq. 6 to 10 by torch's own operations."""
    log_q_s, log_q_t = s_neg.log_softmax(1), t_neg.log_softmax(1)
    s_gap = s_pos - s_neg.logsumexp(1)
    t_gap = t_pos - t_neg.logsumexp(1)
    first = (t_gap.sigmoid() * (F.logsigmoid(t_gap) - F.logsigmoid(s_gap)) +
             (-t_gap).sigmoid() *
             (F.logsigmoid(-t_gap) - F.logsigmoid(-s_gap)))
    second = (log_q_t.exp() * (log_q_t - log_q_s)).sum(1)
    weight = (-t_gap).sigmoid() if beta is None else beta
    return alpha * first + weight * second


def inputs(dtype: torch.dtype = torch.double) -> list[Tensor]:
    return [(3 * torch.randn(*shape, dtype=dtype)).requires_grad_()
            for shape in ((6, ), (6, 9), (6, ), (6, 9))]


@pytest.mark.parametrize('alpha', [0.0, 1.0, 0.5])
@pytest.mark.parametrize('beta', [None, 0.0, 2.0])
def test_value_and_gradient(alpha: float, beta: float | None) -> None:
    at = inputs()
    have = list_divergence(ScoreLists(*at[:2]), ScoreLists(*at[2:]), alpha,
                           beta)
    want = plain(*at, alpha, beta)
    torch.testing.assert_close(have, want)
    seed = torch.randn_like(want)
    for a, b in zip(torch.autograd.grad(have, at, seed),
                    torch.autograd.grad(want, at, seed, allow_unused=True),
                    strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b)


def test_gradcheck() -> None:
    def run(*at: Tensor) -> Tensor:
        return list_divergence(ScoreLists(*at[:2]), ScoreLists(*at[2:]), 0.7,
                               None)

    assert torch.autograd.gradcheck(run, inputs())


def test_a_frozen_side_needs_no_gradient() -> None:
    at = inputs()
    for x in at[2:]:
        x.requires_grad_(False)
    have = list_divergence(ScoreLists(*at[:2]), ScoreLists(*at[2:]), 1.0,
                           None)
    want = plain(*at, 1.0, None)
    for a, b in zip(torch.autograd.grad(have.sum(), at[:2]),
                    torch.autograd.grad(want.sum(), at[:2]), strict=True):
        torch.testing.assert_close(a, b)


def test_logsumexp() -> None:
    _, negative, _, _ = inputs()
    lists = ScoreLists(negative[:, 0], negative)
    torch.testing.assert_close(lists.logsumexp(), negative.logsumexp(1))
    assert torch.autograd.gradcheck(
        lambda x: ScoreLists(x[:, 0], x).logsumexp(), negative)


def test_masked_entries_are_as_if_not_there() -> None:
    at = [x.detach() for x in inputs(torch.float)]
    mask = torch.ones(6, 9, dtype=torch.bool)
    mask[:, 7:] = False
    valid = ListMask(mask)
    assert valid.rows.all()
    leaves = [x.clone().requires_grad_() for x in at]
    s_pos, s_neg, t_pos, t_neg = (x + 0.0 for x in leaves)
    have = list_divergence(ScoreLists(s_pos, s_neg, valid),
                           ScoreLists(t_pos, t_neg, valid), 1.0, None)
    want = list_divergence(
        ScoreLists(at[0], at[1][:, :7].contiguous()),
        ScoreLists(at[2], at[3][:, :7].contiguous()), 1.0, None)
    torch.testing.assert_close(have, want)
    have.sum().backward()
    for leaf in leaves[1::2]:
        assert (leaf.grad[:, 7:] == 0).all()


@pytest.mark.parametrize('temperature', [1.0, 0.5])
def test_scores_of_a_caller_are_not_overwritten(temperature: float) -> None:
    scores = torch.randn(6, 5)
    copy, mask = scores.clone(), torch.zeros(6, 4, dtype=torch.bool)
    ScoreLists.from_scores(scores, temperature, ListMask(mask))
    assert torch.equal(scores, copy)


def test_rows_without_a_valid_negative() -> None:
    mask = torch.ones(6, 9, dtype=torch.bool)
    mask[2] = False
    valid = ListMask(mask)
    assert valid.rows.tolist() == [True, True, False, True, True, True]
    at = inputs(torch.float)
    s_pos, s_neg, t_pos, t_neg = (x + 0.0 for x in at)
    lists = ScoreLists(s_pos, s_neg, valid)
    value = list_divergence(lists, ScoreLists(t_pos, t_neg, valid), 1.0,
                            None)
    lists.mean(value).backward()
    for x in at:
        assert x.grad.isfinite().all()
        assert (x.grad[2] == 0).all()


def test_masks_where_there_are_no_values() -> None:
    """Elsewhere than on a CPU, nothing is read back to be decided upon."""
    mask = torch.ones(6, 9, dtype=torch.bool, device='meta')
    scores = torch.empty(6, 9, device='meta')
    valid = ListMask(mask)
    assert valid.rows.shape == (6, )
    lists = ScoreLists(scores[:, 0], scores, valid)
    value = lists.mean(list_divergence(lists, lists, 1.0, None))
    assert value.device.type == 'meta' and value.dim() == 0
