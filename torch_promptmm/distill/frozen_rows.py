r"""The rows of the frozen teacher of stage 2, in their exact cheap form."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch_geometric.typing import Adj

from torch_promptmm.models import ModelOutput, MultimodalTeacher, as_output
from torch_promptmm.models.base import Pair, take
from torch_promptmm.nn.dense import matmul
from torch_promptmm.nn.graph import UserItemGraph, as_graph
from torch_promptmm.nn.propagation import propagate


class ConstantTables:
    r"""The outputs of a teacher that does not change: rows are looked up.

    Args:
        output (tuple): Users, items, and optionally the modalities, as a
            teacher yields them.
    """
    def __init__(self, output: Any) -> None:
        self.output = as_output(output)

    def __call__(self, user_id: Tensor | None = None,
                 item_id: Tensor | None = None) -> ModelOutput:
        user, item, modalities = self.output
        return ModelOutput(
            take(user, user_id), take(item, item_id), {
                name: (take(x_user, user_id), take(x_item, item_id))
                for name, (x_user, x_item) in modalities.items()
            })

    def apply(self, fn: Callable[[Tensor], Tensor]) -> ConstantTables:
        r"""Returns the tables with :obj:`fn` applied to each of them."""
        return ConstantTables(tree_map_only(Tensor, fn, tuple(self.output)))


class PromptTables:
    r"""The outputs of a frozen
    :class:`~torch_promptmm.models.MultimodalTeacher` as a function of its
    prompt.

    With an affine prompt :math:`\mathbf{P} = [\mathbf{Z}, \mathbf{1}]
    \mathbf{B}` and no normalisation of rows, :math:`\mathbf{F}_m =
    \mathbf{H}_m + [\mathbf{Z}, \mathbf{1}] \mathbf{M}_m` with a constant
    :math:`\mathbf{H}_m` and a small :math:`\mathbf{M}_m = \lambda_1
    \mathbf{B} (\mathbf{B}^{\top} \mathbf{G}_m \mathbf{W}_m)`. Propagation
    is linear, so

    .. math::
        \mathbf{T} \mathbf{F}_m = (\mathbf{T} \mathbf{H}_m) + (\mathbf{T}
        [\mathbf{Z}, \mathbf{1}]) \, \mathbf{M}_m,

    where both tables in brackets are computed once: a step needs the rows
    of the batch and no sparse product. With normalised rows, or a deeper
    prompt, the prompt's part is propagated at each step. The raw features
    are read here alone, and again at each step only with both.

    Args:
        teacher (MultimodalTeacher): The teacher, with its features.
        graph (torch.Tensor or SparseTensor or UserItemGraph): The
            user-item graph.
    """
    def __init__(self, teacher: MultimodalTeacher,
                 graph: Adj | UserItemGraph) -> None:
        prompt = teacher.prompt
        if prompt is None:
            raise ValueError('The teacher has no prompt (use ConstantTables)')
        weight = teacher.backbone.item_embedding.weight
        self.graph = as_graph(graph, teacher.num_users, teacher.num_items,
                              weight.device, weight.dtype)
        self.teacher, self.prompt = teacher, prompt
        with torch.no_grad():
            self.user, self.item = teacher.backbone(self.graph)
            self.fixed: dict[str, Pair] = {}
            # What each step needs: C_m W_m from G_m W_m (d + 1, d) of an
            # affine prompt, from Y_m (I, d) of a deeper one.
            self.projected: dict[str, Tensor] = {}
            self.reduced: dict[str, Tensor] = {}
            self.needs_propagation = not prompt.is_affine
            for name in teacher.modalities:
                reduction = teacher.reduction(name)
                y = teacher.reduced(name)
                normalize_rows = reduction.normalize == 'row'
                self.needs_propagation |= normalize_rows
                self.fixed[name] = self._propagate(y + reduction.bias)
                if prompt.is_affine:
                    self.projected[name] = reduction.gram @ reduction.weight
                elif not normalize_rows:
                    self.reduced[name] = y
            one = prompt.basis.new_ones(prompt.num_items, 1)
            self.affine_basis = torch.cat([prompt.basis, one], 1)  # [Z, 1]
            if not self.needs_propagation:
                self.basis = self._propagate(self.affine_basis)
                del self.affine_basis

    def apply(self, fn: Callable[[Tensor], Tensor]) -> PromptTables:
        r"""Returns the tables with :obj:`fn` applied to each of them, and to
        the parameters of the teacher."""
        out = copy.copy(self)
        self.teacher._apply(fn)
        tables = {k: v for k, v in vars(self).items()
                  if k not in ('teacher', 'prompt')}
        vars(out).update(tree_map_only(Tensor, fn, tables))
        return out

    def _propagate(self, x: Tensor, user_id: Tensor | None = None,
                   item_id: Tensor | None = None) -> Pair:
        out = propagate(self.graph, None, x, self.teacher.conv.weights,
                        user_id, item_id)
        return out[0], out[1]

    def __call__(self, user_id: Tensor | None = None,
                 item_id: Tensor | None = None) -> ModelOutput:
        fixed = {
            name: (take(x_user, user_id), take(x_item, item_id))
            for name, (x_user, x_item) in self.fixed.items()
        }
        if self.needs_propagation:
            modalities = self._add_propagated(fixed, user_id, item_id)
        else:
            modalities = self._add_cheap(fixed, user_id, item_id)
        return self.teacher.fuse(take(self.user, user_id),
                                 take(self.item, item_id), modalities)

    def _add_cheap(self, fixed: dict[str, Pair], user_id: Tensor | None,
                   item_id: Tensor | None) -> dict[str, Pair]:
        matrix = self.prompt.matrix  # B, (d + 1, d)
        basis_user = take(self.basis[0], user_id)
        basis_item = take(self.basis[1], item_id)
        out = {}
        for name, projected in self.projected.items():
            reduction = self.teacher.reduction(name)
            scale = reduction.prompt_scale(self.prompt.num_items)
            inner = scale * matrix @ (matrix.t() @ projected)  # M_m
            user, item = fixed[name]
            out[name] = (matmul(basis_user, inner).add_(user),
                         matmul(basis_item, inner).add_(item))
        return out

    def _add_propagated(self, fixed: dict[str, Pair], user_id: Tensor | None,
                        item_id: Tensor | None) -> dict[str, Pair]:
        affine, out = self.prompt.is_affine, {}
        prompt = self.affine_basis if affine else self.prompt()
        for name, (user, item) in fixed.items():
            context = self.teacher.context(name, prompt)
            if affine and context is not None:
                # P C = [Z, 1] (B C): a constant times small matrices.
                context = context._replace(
                    matrix=self.prompt.matrix @ context.matrix)
            part = self.teacher.reduction(name).prompt_term(
                prompt, context, self.reduced.get(name))
            part_user, part_item = self._propagate(part, user_id, item_id)
            out[name] = (user + part_user, item + part_item)
        return out
