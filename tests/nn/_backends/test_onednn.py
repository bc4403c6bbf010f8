"""The operators that torch does not document, and where they are used."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from torch_promptmm.nn._backends import onednn

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(),
                                  reason='this build of torch has no oneDNN')
VERSION = torch.__version__


@needs_onednn
def test_torch_still_has_the_operators() -> None:
    # Without them all is as right as before, and slower on some processors.
    assert not onednn.missing_operators(), (
        f'torch {VERSION} has no torch.ops.mkldnn.'
        f'{onednn.missing_operators()} any more: find what replaces them')


@needs_onednn
def test_the_operators_do_what_they_did() -> None:
    # They are called here without what catches their errors.
    x, weight = torch.randn(40, 30), torch.randn(20, 30)
    ops = torch.ops.mkldnn
    try:
        out = ops._linear_pointwise(x, weight, None, 'none', [], '')
        fixed = ops._reorder_linear_weight(weight, 40)
        again = ops._linear_pointwise(x, fixed, None, 'none', [], '')
        back = fixed.to_dense()
    except (AttributeError, RuntimeError) as error:
        pytest.fail(f'torch {VERSION} has other operators: {error}')
    want = x.double() @ weight.double().t()
    for value in (out, again):
        torch.testing.assert_close(value.double(), want, rtol=1e-5, atol=2e-5)
    assert fixed.is_mkldnn and torch.equal(back, weight)


def test_a_torch_without_them(monkeypatch) -> None:
    class Other:
        _linear_pointwise = None

    monkeypatch.setattr(torch.ops, 'mkldnn', Other)
    assert onednn.missing_operators() == ['_reorder_linear_weight']
    assert not onednn.is_faster.__wrapped__()
    assert onednn.packed(torch.randn(5, 3), 4) is None


def test_onednn_may_fail(monkeypatch) -> None:
    class Fails:
        @staticmethod
        def _linear_pointwise(*args: object) -> Tensor:
            raise RuntimeError('could not create a primitive')

    monkeypatch.setattr(torch.ops, 'mkldnn', Fails)
    x, weight = torch.randn(4, 3), torch.randn(5, 3)
    torch.testing.assert_close(onednn.linear(x, weight), x @ weight.t())


@pytest.mark.parametrize('vendor, capability, want', [
    ('AuthenticAMD', 'AVX512', True),
    ('AuthenticAMD', 'AVX2', False),
    ('GenuineIntel', 'AVX512', False),
])
def test_where_it_is_faster(monkeypatch, tmp_path, vendor: str,
                            capability: str, want: bool) -> None:
    (tmp_path / 'cpuinfo').write_text(f'vendor_id : {vendor}\n')
    monkeypatch.setattr(onednn, '_CPUINFO', tmp_path / 'cpuinfo')
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability',
                        lambda: capability)
    for library in (torch.backends.mkl, torch.backends.mkldnn):
        monkeypatch.setattr(library, 'is_available', lambda: True)
    assert onednn.is_faster.__wrapped__() == want
    monkeypatch.setattr(torch.backends.mkl, 'is_available', lambda: False)
    assert not onednn.is_faster.__wrapped__()


def test_without_a_list_of_processors(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(onednn, '_CPUINFO', tmp_path / 'absent')
    assert onednn.is_faster.__wrapped__() in (True, False)
