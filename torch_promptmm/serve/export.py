r"""Scores and the best items as one graph of operators, which runs without
this package."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from torch_promptmm.checks import check_int, check_path
from torch_promptmm.files import atomic_path
from torch_promptmm.serve.fields import pack_known

_MAX_ONNX = 2**31  # Of one file.


class TopItems(torch.nn.Module):
    r"""The best items of users by the product of two tables, without those
    that they have and those that a call leaves out. It is made of operators
    that :func:`torch.export.export` and ONNX have.

    Args:
        user_emb (torch.Tensor): User embeddings :math:`(U, d)`.
        item_emb (torch.Tensor): Item embeddings :math:`(I, d)`.
        k (int): How many items, at most :math:`I`.
        known (torch.Tensor, optional): Interactions :math:`(2, E)` that are
            left out. (default: :obj:`None`)
    """
    user_emb: Tensor
    item_emb: Tensor
    degree: Tensor
    start: Tensor
    known: Tensor

    def __init__(self, user_emb: Tensor, item_emb: Tensor, k: int,
                 known: Tensor | None = None) -> None:
        super().__init__()
        num_users, num_items = user_emb.size(0), item_emb.size(0)
        if check_int('k', k, 1) > num_items:
            raise ValueError(f"'k' must not be larger than the catalogue of "
                             f"{num_items} items (got {k})")
        self.k, self.num_items = k, num_items
        self.register_buffer('user_emb', user_emb.detach().float())
        self.register_buffer('item_emb', item_emb.detach().float())
        if known is None:
            known = torch.empty(2, 0, dtype=torch.long)
        packed = pack_known(known, num_users)
        degree = packed['known.degree'].long()
        # As wide as the longest list; behind the last item there is one more.
        self.width = int(degree.max()) if num_users > 0 else 0
        self.register_buffer('degree', degree)
        self.register_buffer('start', degree.cumsum(0) - degree)
        self.register_buffer('known', torch.cat([
            packed['known.item'].long(), torch.tensor([num_items])]))

    def forward(self, user_id: Tensor,
                exclude: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns items :math:`(B, k)` and scores :math:`(B, k)`, best
        first; item -1 with score :math:`-\infty` where none is left.

        Args:
            user_id (torch.Tensor): Users :math:`(B)`.
            exclude (torch.Tensor): Items that are left out :math:`(B, X)`,
                -1 for none.
        """
        scores = self.user_emb[user_id] @ self.item_emb.t()
        # One column more takes what stands for no item.
        scores = torch.nn.functional.pad(scores, (0, 1))
        left_out = exclude.where(exclude >= 0,
                                 torch.full_like(exclude, self.num_items))
        if self.width > 0:
            place = torch.arange(self.width, device=user_id.device)
            there = place < self.degree[user_id].unsqueeze(1)
            index = (self.start[user_id].unsqueeze(1) + place).where(
                there, self.known.size(0) - 1)
            left_out = torch.cat([left_out, self.known[index]], dim=1)
        scores = scores.scatter(1, left_out, float('-inf'))
        value, item = scores[:, :self.num_items].topk(self.k, dim=1)
        return item.where(value > float('-inf'),
                          torch.full_like(item, -1)), value


def export_program(module: TopItems) -> torch.export.ExportedProgram:
    r"""Exports by :func:`torch.export.export`, for any number of users and
    of items left out."""
    return torch.export.export(module.eval(), _example(module),
                               dynamic_shapes=_shapes())


def write_onnx(path: str | os.PathLike, module: TopItems) -> None:
    r"""Writes an ONNX file with the inputs :obj:`user_id` and
    :obj:`exclude`, and the outputs :obj:`items` and :obj:`scores`."""
    path = check_path('path', path)
    for name in ('onnx', 'onnxscript'):
        if importlib.util.find_spec(name) is None:
            raise ImportError(f"ONNX needs {name}: pip install "
                              f"'torch_promptmm[onnx]'")
    size = sum(x.numel() * x.element_size() for x in module.buffers())
    if size >= _MAX_ONNX:
        raise ValueError(f'An ONNX file holds 2 GiB, but the tables here have '
                         f'{size / 2**30:.1f}; use to_program, or Parquet')
    program: Any = torch.onnx.export(
        module.eval(), _example(module), dynamo=True, verbose=False,
        dynamic_shapes=_shapes(), input_names=['user_id', 'exclude'],
        output_names=['items', 'scores'])
    with atomic_path(path) as temporary:
        program.save(str(temporary), external_data=False)


def _example(module: TopItems) -> tuple[Tensor, Tensor]:
    # Two of each: the sizes 0 and 1 are taken for constants.
    device = module.degree.device
    return (torch.zeros(2, dtype=torch.long, device=device),
            torch.full((2, 2), -1, device=device))


def _shapes() -> tuple[dict[int, Any], dict[int, Any]]:
    batch = torch.export.Dim('batch', min=1, max=2**20)
    return {0: batch}, {0: batch, 1: torch.export.Dim('left_out', min=1,
                                                      max=2**20)}
