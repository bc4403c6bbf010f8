"""A small teacher in double precision, and the same in dense matrices."""

from __future__ import annotations

from typing import Any

import reference
import torch
from graphs import NUM_ITEMS, NUM_USERS, random_edges
from torch import Tensor

from torch_promptmm.nn import MultimodalTeacher, SoftPrompt, UserItemGraph

CHANNELS = 4
WIDTHS = {'visual': 6, 'audio.mfcc': 3}


def double_graph() -> UserItemGraph:
    return UserItemGraph(random_edges(), NUM_USERS, NUM_ITEMS,
                         dtype=torch.double)


def item_features() -> dict[str, Tensor]:
    return {
        name: (torch.randn(NUM_ITEMS, width) * 2 + 20 * torch.randn(width)
               ).double()
        for name, width in WIDTHS.items()
    }


def item_masks() -> dict[str, Tensor]:
    mask = torch.ones(NUM_ITEMS, dtype=torch.bool)
    mask[[2, 5]] = False
    return {'audio.mfcc': mask}


def scrambled(prompt: SoftPrompt) -> SoftPrompt:
    """Nothing at a special value."""
    for parameter in prompt.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return prompt


def make_teacher(
    prompt_layers: int | None = 1,
    standardize: bool = True,
    prompt_channels: int = CHANNELS,
    **kwargs: Any,
) -> tuple[MultimodalTeacher, dict[str, Tensor], dict[str, Tensor]]:
    """Returns teacher, features and masks; no prompt if its layers are
    None.
    """
    x, masks = item_features(), item_masks()
    prompt = None
    if prompt_layers is not None:
        prompt = scrambled(
            SoftPrompt.from_features(x, prompt_channels, masks=masks,
                                     num_layers=prompt_layers).double())
    kwargs = {'prompt_weight': 0.6, 'fusion_weight': 0.3, **kwargs}
    teacher = MultimodalTeacher(NUM_USERS, NUM_ITEMS, WIDTHS, CHANNELS,
                                prompt=prompt, **kwargs).double()
    for name in teacher.modalities:
        torch.nn.init.normal_(teacher.reduction(name).bias)
    for embedding in (teacher.backbone.user_embedding,
                      teacher.backbone.item_embedding):
        torch.nn.init.normal_(embedding.weight)
    teacher.set_features(x, masks, standardize=standardize)
    return teacher.eval(), x, masks


def dense(teacher: MultimodalTeacher, standardize: bool = True,
          edge_index: Tensor | None = None
          ) -> tuple[Tensor, dict[str, Tensor]]:
    """Eq. 1, 3 and 4 as they are written, with a dense T, for autograd;
    users and items together.
    """
    if edge_index is None:
        edge_index = random_edges()
    matrix = torch.from_numpy(reference.adjacency(
        edge_index.numpy(), teacher.num_users, teacher.num_items))
    n, num_layers = len(matrix), teacher.num_layers
    share = 1 / (num_layers + 1)
    powers = [torch.linalg.matrix_power(matrix, i)
              for i in range(num_layers + 1)]
    mean = share * sum(powers)
    operator = mean + share * (teacher.self_weight - 1) * torch.eye(n)
    fused = mean @ torch.cat([teacher.backbone.user_embedding.weight,
                              teacher.backbone.item_embedding.weight])
    prompt = None if teacher.prompt is None else teacher.prompt()
    parts = {}
    for name, x in teacher.features.items():
        reduction = teacher.reduction(name)
        mask = teacher.masks.get(name)
        if standardize:
            x = torch.from_numpy(reference.standardise(
                x.numpy(), None if mask is None else mask.numpy()))
        elif mask is not None:
            x = x * mask.view(-1, 1)
        if prompt is not None:
            term = prompt @ prompt.t() @ x
            if reduction.normalize == 'size':
                term = term / len(x)
            elif reduction.normalize == 'row':
                term = term / term.norm(dim=1, keepdim=True)
            x = x + reduction.prompt_weight * term
        x = x @ reduction.weight + reduction.bias
        parts[name] = operator @ torch.cat(
            [x.new_zeros(teacher.num_users, x.size(1)), x])
        norm = parts[name].norm(dim=1, keepdim=True)
        unit = parts[name] / torch.where(norm > 0, norm, 1.0)
        fused = fused + teacher.fusion_weight * unit
    return fused, parts


def flat(output: Any) -> list[Tensor]:
    """Every table of a teacher's output."""
    out = [output.user, output.item]
    for user, item in output.modalities.values():
        out += [user, item]
    return out


def dense_rows(fused: Tensor, parts: dict[str, Tensor],
               user_id: Tensor | None = None,
               item_id: Tensor | None = None) -> list[Tensor]:
    out = []
    for table in (fused, *parts.values()):
        user, item = table[:NUM_USERS], table[NUM_USERS:]
        out += [user if user_id is None else user[user_id],
                item if item_id is None else item[item_id]]
    return out


def check_same(out: list[Tensor], want: list[Tensor],
               at: list[Tensor]) -> None:
    """Values, and gradients of all of them together."""
    assert len(out) == len(want)
    seeds = [torch.randn_like(x) for x in want]
    for a, b in zip(out, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)
    for a, b in zip(torch.autograd.grad(out, at, seeds),
                    torch.autograd.grad(want, at, seeds), strict=True):
        scale = float(b.abs().max())
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6 * scale)
