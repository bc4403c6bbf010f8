from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import reference
import torch
from allocations import Largest
from torch import Tensor

from torch_promptmm.nn import PromptedReduction, feature_matmul

NUM, WIDTH, CHANNELS = 30, 9, 4
NORMALIZE = [False, 'size', 'row', True]
SUBSET = torch.tensor([4, 17, 4, 29, 0])


class Case:
    """A reduction in double precision with nothing at a special value:
    means far from zero, a bias, a prompt with an offset.
    """
    def __init__(self, normalize: bool | str = 'size',
                 standardize: bool = True, masked: bool = False,
                 prompt_weight: float = 0.7, prompt_channels: int = CHANNELS,
                 **kwargs: Any) -> None:
        self.x = (torch.randn(NUM, WIDTH) * torch.rand(WIDTH) * 3 + 40 *
                  torch.randn(WIDTH)).double()
        self.mask = torch.rand(NUM) < 0.7 if masked else None
        self.normalize, self.prompt_weight = normalize, prompt_weight
        self.module = PromptedReduction(
            WIDTH, CHANNELS, prompt_weight, normalize=normalize,
            prompt_channels=prompt_channels, **kwargs).double()
        torch.nn.init.normal_(self.module.bias)
        z = torch.randn(NUM, prompt_channels, dtype=torch.double)
        self.basis = (z - z.mean(0)) / z.std(0, unbiased=False)
        self.matrix = torch.randn(prompt_channels + 1, prompt_channels,
                                  dtype=torch.double, requires_grad=True)
        self.module.fit_statistics(self.x, self.mask, self.basis, standardize)
        x = self.x.numpy()
        mask = None if self.mask is None else self.mask.numpy()
        if standardize:
            self.x_hat = reference.standardise(x, mask)
        else:
            self.x_hat = x if mask is None else x * mask[:, None]

    def prompt(self) -> Tensor:
        one = self.basis.new_ones(NUM, 1)
        return torch.cat([self.basis, one], 1) @ self.matrix

    def want(self, prompt: bool = True) -> np.ndarray:
        return reference.reduction(
            self.x_hat,
            self.module.weight.detach().numpy(),
            self.module.bias.detach().numpy(),
            self.prompt().detach().numpy() if prompt else None,
            self.prompt_weight, self.normalize)


def close(x: Tensor, want: np.ndarray) -> None:
    np.testing.assert_allclose(x.detach().numpy(), want, rtol=1e-8,
                               atol=1e-8 * np.abs(want).max())


@pytest.mark.parametrize('normalize', NORMALIZE)
@pytest.mark.parametrize('standardize', [False, True])
@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('prompt_channels', [CHANNELS, 2])
def test_equals_numpy(normalize, standardize: bool, masked: bool,
                      prompt_channels: int) -> None:
    case = Case(normalize, standardize, masked,
                prompt_channels=prompt_channels)
    module, prompt = case.module, case.prompt()
    want = case.want()
    close(module(case.x, prompt, mask=case.mask), want)
    close(module(case.x, mask=case.mask), case.want(prompt=False))

    some = None if case.mask is None else case.mask[SUBSET]
    for context in (module.context(case.x, prompt, case.mask),
                    module.affine_context(case.matrix)):
        assert context.num_items == NUM
        close(module(case.x, prompt, context, case.mask), want)
        close(module(case.x[SUBSET], prompt[SUBSET], context, some),
              want[SUBSET])


def naive(case: Case, weight: Tensor, bias: Tensor, matrix: Tensor) -> Tensor:
    """Eq. 4 in the printed order, for autograd."""
    x = torch.from_numpy(case.x_hat)
    one = x.new_ones(NUM, 1)
    prompt = torch.cat([case.basis, one], 1) @ matrix
    term = prompt @ prompt.t() @ x
    if case.normalize == 'size':
        term = term / NUM
    elif case.normalize:
        term = term / term.norm(dim=1, keepdim=True)
    return (x + case.prompt_weight * term) @ weight + bias


@pytest.mark.parametrize('normalize', NORMALIZE)
@pytest.mark.parametrize('standardize', [False, True])
@pytest.mark.parametrize('how', ['all', 'subset', 'affine subset'])
def test_gradients(normalize, standardize: bool, how: str) -> None:
    case = Case(normalize, standardize, masked=True)
    module = case.module
    at = (module.weight, module.bias, case.matrix)
    want = naive(case, *at)
    if how == 'all':
        out = module(case.x, case.prompt(), mask=case.mask)
    else:
        want = want[SUBSET]
        prompt = case.prompt()
        if how == 'subset':
            context = module.context(case.x, prompt, case.mask)
        else:
            context = module.affine_context(case.matrix)
        out = module(case.x[SUBSET], prompt[SUBSET], context,
                     case.mask[SUBSET])
    seed = torch.randn_like(want)
    for a, b in zip(torch.autograd.grad(out, at, seed),
                    torch.autograd.grad(want, at, seed), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7 * b.abs().max())


@pytest.mark.parametrize('normalize', NORMALIZE)
def test_gradcheck(normalize) -> None:
    case = Case(normalize, masked=True)
    module = case.module

    def run(weight: Tensor, bias: Tensor, prompt: Tensor) -> Tensor:
        return torch.func.functional_call(
            module, {'weight': weight, 'bias': bias},
            (case.x, prompt, None, case.mask))

    prompt = case.prompt().detach().requires_grad_()
    assert torch.autograd.gradcheck(run, (module.weight, module.bias, prompt))


def test_single_precision_where_means_are_far_away() -> None:
    case = Case('size')
    module = copy.deepcopy(case.module).float()
    module.fit_statistics(case.x.float(), None, case.basis)
    out = module(case.x.float(), case.prompt().float())
    np.testing.assert_allclose(out.detach(), case.want(), atol=2e-2)


def test_a_batch_of_one() -> None:
    case = Case('row')
    want, context = case.want(), case.module.affine_context(case.matrix)
    for i in (0, 7):
        row = torch.tensor([i])
        close(case.module(case.x[row], case.prompt()[row], context),
              want[[i]])


@pytest.mark.parametrize('normalize', NORMALIZE)
@pytest.mark.parametrize('dtype', [torch.float, torch.half])
@pytest.mark.parametrize('num, width', [(2000, 80), (80, 2000)])
def test_never_holds_a_second_feature_matrix(normalize, dtype, num: int,
                                             width: int, monkeypatch) -> None:
    monkeypatch.setattr(feature_matmul, '_BLOCK_SIZE', 5000)
    channels = 4
    x = (torch.randn(num, width) + 3).to(dtype)
    module = PromptedReduction(width, channels, normalize=normalize)
    prompt = torch.randn(num, channels, requires_grad=True)
    mask = torch.rand(num) < 0.8
    with Largest(x) as largest:
        module.fit_statistics(x, mask, prompt.detach())
        out = module(x, prompt, mask=mask)
        out.square().sum().backward()
    # Neither [I, d_m] nor [I, I]; the largest is G and [P, 1], and a block.
    assert largest.numel <= max((channels + 1) * max(num, width), 5000)
    assert prompt.grad is not None


def test_features_that_are_trained() -> None:
    case = Case('row', standardize=True)
    x = case.x[:6].clone().requires_grad_()
    prompt = case.prompt().detach()[:6]

    def run(x: Tensor) -> Tensor:
        return case.module(x, prompt)

    assert torch.autograd.gradcheck(run, x)


def test_dropout() -> None:
    case = Case('size', dropout=0.5)
    module = case.module
    module.train()
    out = module(case.x, case.prompt())
    dropped = (out == 0).double().mean()
    assert 0.2 < dropped < 0.8
    kept = out != 0
    want = torch.from_numpy(case.want())
    torch.testing.assert_close(out[kept], 2 * want[kept])
    module.eval()
    close(module(case.x, case.prompt()), case.want())


def test_without_weight_the_prompt_is_off() -> None:
    case = Case('row', prompt_weight=0.0)
    close(case.module(case.x, case.prompt()), case.want(prompt=False))


def test_rows_without_a_prompt_are_finite() -> None:
    case = Case('row')
    prompt = torch.zeros(NUM, CHANNELS, dtype=torch.double,
                         requires_grad=True)
    out = case.module(case.x, prompt)
    close(out, case.want(prompt=False))
    out.sum().backward()
    assert prompt.grad.isfinite().all()
    # Rounding makes the squares of small norms negative.
    case.module.float()
    tiny = 1e-18 * torch.randn(NUM, CHANNELS)
    assert case.module(case.x.float(), tiny).isfinite().all()


@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16, torch.double])
def test_features_of_another_type(dtype: torch.dtype) -> None:
    x = torch.randn(NUM, WIDTH).to(dtype)
    prompt = torch.randn(NUM, CHANNELS)
    outs = []
    for y in (x, x.float()):
        torch.manual_seed(0)
        module = PromptedReduction(WIDTH, CHANNELS, normalize='row')
        module.fit_statistics(y, basis=prompt)
        outs.append(module(y, prompt))
    assert outs[0].dtype == torch.float
    torch.testing.assert_close(*outs)


def test_statistics_are_state_and_features_are_not() -> None:
    case = Case()
    state = case.module.state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == {
        'weight': [WIDTH, CHANNELS],
        'bias': [CHANNELS],
        'mean': [WIDTH],
        'scale': [WIDTH],
        'gram': [CHANNELS + 1, WIDTH],
        'num_items': [],
    }
    other = PromptedReduction(WIDTH, CHANNELS, 0.7).double()
    other.load_state_dict(state)
    context = other.affine_context(case.matrix)
    close(other(case.x[SUBSET], case.prompt()[SUBSET], context),
          case.want()[SUBSET])
    x_hat = case.x_hat
    one = np.ones((NUM, 1))
    close(case.module.gram,
          np.concatenate([case.basis.numpy(), one], 1).T @ x_hat)


def test_statistics_of_another_prompt() -> None:
    case = Case('row')
    case.basis = torch.randn(NUM, CHANNELS, dtype=torch.double)
    case.module.fit_gram(case.x, case.basis)
    context = case.module.affine_context(case.matrix)
    close(case.module(case.x, case.prompt(), context), case.want())
    case.module.fit_statistics(case.x)
    assert (case.module.gram == 0).all()


def test_reset_parameters() -> None:
    module = Case().module
    weight, gram = module.weight.clone(), module.gram.clone()
    module.reset_parameters()
    assert not torch.equal(module.weight, weight)
    assert (module.bias == 0).all()
    assert torch.equal(module.gram, gram)


def test_representation() -> None:
    assert str(PromptedReduction(8, 4, 0.5, 0.1, True)) == (
        "PromptedReduction(8, 4, prompt_weight=0.5, dropout=0.1, "
        "normalize='row')")


@pytest.mark.parametrize('error, match, make', [
    (ValueError, "'in_channels' must be at least 1",
     lambda: PromptedReduction(0, 4)),
    (ValueError, "'out_channels' must be at least 1",
     lambda: PromptedReduction(4, 0)),
    (ValueError, "'prompt_channels' must be at least 1",
     lambda: PromptedReduction(4, 4, prompt_channels=0)),
    (ValueError, "'prompt_weight'", lambda: PromptedReduction(4, 4, -1.0)),
    (ValueError, "'dropout'", lambda: PromptedReduction(4, 4, dropout=1.5)),
    (ValueError, "'normalize' must be one of",
     lambda: PromptedReduction(4, 4, normalize='rows')),
    (ValueError, "'normalize' must be one of",
     lambda: PromptedReduction(4, 4, normalize=1)),
    (ValueError, "'x' must have 9 columns",
     lambda: Case().module(torch.randn(3, 8).double())),
    (ValueError, "'prompt' must have a row for each of the 30 items",
     lambda: Case().module(Case().x, torch.randn(5, 4).double())),
    (ValueError, 'boolean tensor of shape .30.',
     lambda: Case().module(Case().x, mask=torch.ones(3).bool())),
    (ValueError, 'no statistics yet',
     lambda: PromptedReduction(4, 4).affine_context(torch.randn(5, 4))),
    (ValueError, "'matrix' must have 5 rows",
     lambda: Case().module.affine_context(torch.randn(4, 4))),
    (ValueError, "'basis' must have a row for each",
     lambda: Case().module.fit_statistics(Case().x, None, torch.randn(3, 4))),
    (ValueError, "'basis' must have 4 columns",
     lambda: Case().module.fit_gram(Case().x, torch.randn(30, 3))),
    (ValueError, "needs a 'context'",
     lambda: Case('row').module.finish(torch.randn(3, 4).double(),
                                       torch.randn(3, 4).double())),
])
def test_bad_input(error: type[Exception], match: str, make) -> None:
    with pytest.raises(error, match=match):
        make()


def test_compiles() -> None:
    torch._dynamo.reset()
    case = Case('row')
    compiled = torch.compile(case.module, backend='aot_eager')
    close(compiled(case.x, case.prompt()), case.want())


def test_on_device(device: torch.device) -> None:
    case = Case('row')
    module = case.module.to(device)
    out = module(case.x, case.prompt().to(device))  # `x` stays where it is.
    assert out.device.type == device.type
    module.cpu()
    close(out.cpu(), case.want())
