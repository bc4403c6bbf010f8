"""Scores and the best items as a program of torch.export, and as ONNX."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from torch_promptmm.serve import Recommender
from torch_promptmm.serve.export import TopItems

U, I, D, K = 7, 40, 5, 6


def make(known: bool = True, dtype: torch.dtype = torch.float) -> Recommender:
    gen = torch.Generator().manual_seed(0)
    edges = torch.stack([torch.randint(U - 1, (60, ), generator=gen),
                         torch.randint(I, (60, ), generator=gen)])
    # User 6 has all but two items.
    edges = torch.cat([edges, torch.stack([torch.full((I - 2, ), 6),
                                           torch.arange(I - 2)])], dim=1)
    return Recommender(torch.randn(U, D, generator=gen).to(dtype),
                       torch.randn(I, D, generator=gen).to(dtype),
                       edges if known else None)


def wanted(rec: Recommender, users: list[int],
           exclude: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """In float64, one user and one item after the other."""
    have: dict[int, set] = {u: set() for u in range(U)}
    for u, i in (rec.known.t().tolist() if rec.known is not None else []):
        have[u].add(i)
    items, scores = [], []
    for u, out in zip(users, exclude.tolist(), strict=True):
        row = rec.user_emb[u].double() @ rec.item_emb.double().t()
        left = sorted(((float(row[i]), i) for i in range(I)
                       if i not in have[u] and i not in out), reverse=True)
        left += [(float('-inf'), -1)] * K
        items.append([i for _, i in left[:K]])
        scores.append([s for s, _ in left[:K]])
    return torch.tensor(items), torch.tensor(scores)


CALLS = [
    ([0], [[-1]]),
    ([3, 6, 0], [[0, 1, -1], [38, -1, -1], [5, 5, 39]]),
    (list(range(U)) * 3, [[i % I, (3 * i) % I] for i in range(3 * U)]),
]


def check(run: Any, rec: Recommender, tolerance: float = 1e-5) -> None:
    for users, exclude in CALLS:
        left_out = torch.tensor(exclude)
        items, scores = run(torch.tensor(users), left_out)
        want = wanted(rec, users, left_out)
        assert torch.equal(items, want[0])
        assert_close(scores, want[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('known', [True, False])
def test_module_against_a_loop(known: bool) -> None:
    rec = make(known)
    check(TopItems(rec.user_emb, rec.item_emb, K, rec.known), rec)


def test_as_recommend_does() -> None:
    rec = make()
    users = torch.arange(U)
    items, scores = TopItems(rec.user_emb, rec.item_emb, K, rec.known)(
        users, torch.full((U, 1), -1))
    want = rec.recommend(users, K)
    assert torch.equal(items, want[0])
    assert_close(scores, want[1], rtol=1e-5, atol=1e-5)


def test_program(tmp_path: Path) -> None:
    rec = make()
    program = rec.to_program(K)
    check(program.module(), rec)
    torch.export.save(program, tmp_path / 'x.pt2')
    check(torch.export.load(tmp_path / 'x.pt2').module(), rec)


def onnx_run(path: Path) -> Any:
    runtime = pytest.importorskip('onnxruntime',
                                  reason='needs the extra "onnx"')
    session = runtime.InferenceSession(str(path),
                                       providers=['CPUExecutionProvider'])
    assert [x.name for x in session.get_inputs()] == ['user_id', 'exclude']
    assert [x.name for x in session.get_outputs()] == ['items', 'scores']

    def run(user_id: torch.Tensor, exclude: torch.Tensor) -> list:
        return [torch.from_numpy(x) for x in session.run(None, dict(
            user_id=user_id.numpy(), exclude=exclude.numpy()))]

    return run


@pytest.mark.filterwarnings('ignore::DeprecationWarning',
                            'ignore::FutureWarning',
                            'ignore:.*axis name:UserWarning')
@pytest.mark.parametrize(('known', 'dtype'), [
    (True, torch.float), (False, torch.float), (True, torch.half)])
def test_onnx(known: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    for name in ('onnx', 'onnxscript', 'onnxruntime'):
        pytest.importorskip(name, reason='needs the extra "onnx"')
    rec = make(dtype=dtype)
    path = tmp_path / 'x.onnx'
    rec.to_onnx(path, K, exclude_known=known)
    assert os.listdir(tmp_path) == ['x.onnx']  # Whole, in one file.
    check(onnx_run(path), rec if known else make(False, dtype))


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'k' must not be larger than the "
                                         'catalogue of 40 items'):
        make().to_program(41)
    with pytest.raises(ValueError, match="'k' must be at least 1"):
        make().to_onnx(tmp_path / 'x', 0)
    with pytest.raises(ValueError, match="'path' must name a file"):
        make().to_onnx(tmp_path, 3)


def test_too_large_for_onnx(tmp_path: Path) -> None:
    pytest.importorskip('onnx', reason='needs the extra "onnx"')
    with torch.device('meta'):
        user, item = torch.empty(2**20, 512), torch.empty(10, 512)
    module = TopItems(torch.zeros(1, 1), torch.zeros(3, 1), 2)
    module.user_emb, module.item_emb = user, item
    from torch_promptmm.serve.export import write_onnx
    with pytest.raises(ValueError, match='holds 2 GiB.*Parquet'):
        write_onnx(tmp_path / 'x', module)
    assert os.listdir(tmp_path) == []


def test_without_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import util
    monkeypatch.setattr(util, 'find_spec', lambda name: None)
    with pytest.raises(ImportError, match=r'torch_promptmm\[onnx\]'):
        make().to_onnx(tmp_path / 'x', 3)
