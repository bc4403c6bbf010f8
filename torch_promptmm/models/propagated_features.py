r"""Features propagated once, so that a step of stage 1 reads few of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torch_promptmm.nn.dense import matmul
from torch_promptmm.nn.feature_matmul import features_matmul
from torch_promptmm.nn.functional import masked_rows
from torch_promptmm.nn.graph import UserItemGraph
from torch_promptmm.nn.propagation import propagate

_BLOCK_SIZE = 2**24  # Elements that are propagated at a time.


def can_propagate(teacher: Any) -> bool:
    r"""Whether :class:`PropagatedFeatures` of a teacher are exact."""
    return _why_not(teacher) is None


def _why_not(teacher: Any) -> str | None:
    prompt = teacher.prompt
    for name in teacher.modalities:
        reduction = teacher.reduction(name)
        if reduction.dropout > 0.0:
            return f"'dropout' 0 (got {reduction.dropout})"
        if prompt is not None and reduction.normalize == 'row':
            return "'normalize' 'size' or False (got 'row')"
    if prompt is not None and not prompt.is_affine:
        return f'a prompt of one layer (got {prompt.num_layers})'
    return None


class PropagatedFeatures:
    r"""The standardised features of a :class:`MultimodalTeacher` after
    propagation.

    Reduction and propagation are both linear and act on different sides,

    .. math::
        \mathbf{T} \left( \hat{\mathbf{X}}_m \mathbf{W}_m + \mathbf{P}
        \mathbf{C}_m + \mathbf{1} \mathbf{b}_m^{\top} \right) = (\mathbf{T}
        \hat{\mathbf{X}}_m) \mathbf{W}_m + (\mathbf{T} [\mathbf{Z},
        \mathbf{1}]) \left( \mathbf{B} \mathbf{C}_m + [\mathbf{0};
        \mathbf{b}_m^{\top}] \right),

    so that with :math:`\mathbf{T} \hat{\mathbf{X}}_m` at hand, a table of
    :math:`(|\mathcal{U}| + |\mathcal{I}|) \cdot d_m` numbers, a step reads
    and reduces the rows of its batch alone. The values differ from the plain
    order by the rounding of :obj:`dtype` only. Assign it to
    :attr:`MultimodalTeacher.propagated`.

    Args:
        teacher (MultimodalTeacher): The teacher, with its features.
        graph (UserItemGraph): The graph that is trained on.
        dtype (torch.dtype, optional): The type of the tables.
            (default: :obj:`torch.half`)

    Raises:
        ValueError: If the teacher has dropout, rows of its prompt's part are
            normalised, or its prompt is not affine: then the two orders are
            not equal.
    """
    @torch.no_grad()
    def __init__(self, teacher: Any, graph: UserItemGraph,
                 dtype: torch.dtype = torch.half) -> None:
        if (why_not := _why_not(teacher)) is not None:
            raise ValueError(f'Propagated features need {why_not}')
        prompt = teacher.prompt
        self.graph, weights = graph, teacher.conv.weights
        like = teacher.backbone.item_embedding.weight
        one = like.new_ones(teacher.num_items, 1)
        basis = one if prompt is None else torch.cat([prompt.basis, one], 1)
        self.basis = propagate(graph, None, basis, weights)
        self.tables: dict[str, tuple[Tensor, Tensor]] = {}
        sizes = teacher.num_users, teacher.num_items
        for name, x in teacher.features.items():
            reduction, mask = teacher.reduction(name), teacher.masks.get(name)
            tables = tuple(
                torch.empty(size, x.size(1), dtype=dtype, device=x.device)
                for size in sizes)
            step = max(1, _BLOCK_SIZE // sum(sizes))
            for start in range(0, x.size(1), step):
                cols = slice(start, min(start + step, x.size(1)))
                block = x[:, cols].to(like.device, like.dtype)
                block = block.sub(reduction.mean[cols])
                block = masked_rows(block.mul_(reduction.scale[cols]), mask)
                for table, part in zip(
                        tables, propagate(graph, None, block, weights),
                        strict=True):
                    table[:, cols] = part
            self.tables[name] = (tables[0], tables[1])

    def __deepcopy__(self, memo: dict[int, Any]) -> PropagatedFeatures:
        return self  # As raw features, which copies share.

    def __call__(
        self,
        teacher: Any,
        user_id: Tensor,
        item_id: Tensor,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        r"""Returns the rows :math:`\mathbf{F}_m` of users and items, for
        each modality."""
        index = (user_id, item_id)
        basis = [x.index_select(0, i)
                 for x, i in zip(self.basis, index, strict=True)]
        prompt, out = teacher.prompt, {}
        for name, tables in self.tables.items():
            reduction = teacher.reduction(name)
            inner = reduction.bias.view(1, -1)
            if prompt is not None:
                context = reduction.affine_context(prompt.matrix)
                inner = prompt.matrix @ reduction.prompt_matrix(context)
                inner = torch.cat(
                    [inner[:-1], inner[-1:] + reduction.bias])
            user, item = (
                features_matmul(table.index_select(0, i.to(table.device)),
                                reduction.weight) + matmul(z, inner)
                for table, i, z in zip(tables, index, basis, strict=True))
            out[name] = (user, item)
        return out
