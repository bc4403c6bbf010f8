from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from torch import Tensor

from torch_promptmm.loss import BPRLoss, SampledSoftmaxLoss


def random(*shape: int) -> Tensor:
    return (3 * torch.randn(shape, dtype=torch.double)).requires_grad_()


@pytest.mark.parametrize('shape', [(8, ), (8, 3)])
@pytest.mark.parametrize('masked', [False, True])
def test_bpr_equals_numpy(shape, masked: bool) -> None:
    margin = random(*shape)
    mask = torch.rand(shape) < 0.5 if masked else None
    kept = margin if mask is None else margin[mask]
    want = -np.log(reference.sigmoid(kept.detach().numpy())).mean()
    value = BPRLoss()(margin, mask)
    assert float(value.detach()) == pytest.approx(float(want))
    assert torch.autograd.gradcheck(lambda x: BPRLoss()(x, mask), margin)


def test_bpr_of_extreme_margins() -> None:
    margin = torch.tensor([1e30, -1e30, 0.0], requires_grad=True)
    value = BPRLoss()(margin)
    assert value.isfinite()
    value.backward()
    assert margin.grad.tolist() == pytest.approx([0, -1 / 3, -1 / 6])


@pytest.mark.parametrize('temperature', [0.2, 1.0, 3.0])
@pytest.mark.parametrize('masked', [False, True])
def test_softmax_equals_numpy(temperature: float, masked: bool) -> None:
    scores = random(6, 5)
    mask = None
    if masked:
        mask = torch.rand(6, 5) < 0.6
        mask[0, 1], mask[3, 1:] = True, False
    values = []
    for i, row in enumerate(scores.detach().numpy()):
        kept = np.ones(5, bool) if mask is None else mask[i].numpy().copy()
        kept[0] = True
        if kept.sum() > 1:
            values.append(-np.log(reference.softmax(row[kept] /
                                                    temperature)[0]))
    loss = SampledSoftmaxLoss(temperature)
    value = loss(scores, mask)
    assert float(value.detach()) == pytest.approx(float(np.mean(values)))
    assert torch.autograd.gradcheck(lambda x: loss(x, mask), scores)


def test_softmax_without_mask_is_the_cross_entropy() -> None:
    scores = random(6, 5)
    want = torch.nn.functional.cross_entropy(
        scores / 0.2, torch.zeros(6, dtype=torch.long))
    torch.testing.assert_close(SampledSoftmaxLoss()(scores), want)


@pytest.mark.parametrize('garbage', [1e30, float('inf'), float('nan')])
def test_masked_entries_have_no_weight(garbage: float) -> None:
    mask = torch.tensor([[1, 0, 1], [1, 0, 0], [0, 1, 1]]).bool()
    scores = random(3, 3)
    keep = mask.clone()
    keep[:, 0] = True
    spoilt = torch.where(keep, scores, garbage).detach().requires_grad_()
    loss = SampledSoftmaxLoss()
    values = [loss(x, mask) for x in (scores, spoilt)]
    torch.testing.assert_close(*values)
    grads = [torch.autograd.grad(value, x)[0]
             for value, x in zip(values, (scores, spoilt), strict=True)]
    torch.testing.assert_close(*grads)
    assert (grads[1][~keep] == 0).all()
    assert (grads[1][1] == 0).all()


@pytest.mark.parametrize('size', [1e3, 1e30])
def test_extreme_scores(size: float) -> None:
    scores = (size * torch.randn(4, 5).sign()).requires_grad_()
    for mask in (None, torch.rand(4, 5) < 0.5):
        value = SampledSoftmaxLoss()(scores, mask)
        assert value.isfinite()
        grad, = torch.autograd.grad(value, scores)
        assert grad.isfinite().all()


def test_nothing_counts() -> None:
    scores, margin = random(3, 4), random(3)
    nothing = torch.zeros(3, 4, dtype=torch.bool)
    for value, at in ((SampledSoftmaxLoss()(scores, nothing), scores),
                      (SampledSoftmaxLoss()(scores[:0]), scores),
                      (SampledSoftmaxLoss()(scores[:, :1]), scores),
                      (BPRLoss()(margin, nothing[:, 0]), margin),
                      (BPRLoss()(margin[:0]), margin)):
        assert float(value.detach()) == 0.0
        grad, = torch.autograd.grad(value, at)
        assert (grad == 0).all()


def test_module() -> None:
    assert str(BPRLoss()) == 'BPRLoss()'
    assert str(SampledSoftmaxLoss()) == 'SampledSoftmaxLoss(temperature=0.2)'
    for bad in (0.0, -1.0, float('nan')):
        with pytest.raises(ValueError, match="'temperature'"):
            SampledSoftmaxLoss(bad)
    with pytest.raises(ValueError, match="'scores' must be a 2-dimensional"):
        SampledSoftmaxLoss()(torch.randn(3))
    with pytest.raises(ValueError, match="'scores' must be a 2-dimensional"):
        SampledSoftmaxLoss()(torch.ones(3, 3).long())
    for mask in (torch.ones(3, 1).bool(), torch.ones(3, 2)):
        with pytest.raises(ValueError, match="'mask' must be a boolean"):
            SampledSoftmaxLoss()(torch.randn(3, 2), mask)
    with pytest.raises(ValueError, match="'mask' must be a boolean"):
        BPRLoss()(torch.randn(3, 2), torch.ones(3).bool())
    with pytest.raises(ValueError, match="'margin' must be a floating-point"):
        BPRLoss()(torch.ones(3).long())
    with pytest.raises(ValueError, match='the positive in column 0 .got sha'):
        SampledSoftmaxLoss()(torch.randn(3, 0))
    for loss, args, name in (
            (BPRLoss(), ([1.0, 2.0], ), 'margin'),
            (BPRLoss(), (torch.randn(1), [True]), 'mask'),
            (SampledSoftmaxLoss(), (np.ones((3, 2)), ), 'scores'),
            (SampledSoftmaxLoss(), (torch.randn(1, 2), [[True, True]]),
             'mask')):
        with pytest.raises(TypeError, match=f"'{name}' must be a torch.Ten"):
            loss(*args)
