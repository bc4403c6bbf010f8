from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import check_bool, check_choice, check_int
from torch_promptmm.models.base import ModelOutput, take
from torch_promptmm.models.content_graph import ContentGraphModel
from torch_promptmm.nn.csr import CSRMatrix
from torch_promptmm.nn.dense import matmul
from torch_promptmm.nn.functional import modality_key, unit_rows
from torch_promptmm.nn.graph import UserItemGraph
from torch_promptmm.nn.weighted_csr import spmm

_SLOPE = 0.01
Pair = tuple[Tensor, Tensor]


class MMGCNLayer(torch.nn.Module):
    r"""A step of :class:`MMGCN`: what the neighbours say, beside what the
    node is.

    Args:
        in_channels (int): The width :math:`d_l` of the input.
        out_channels (int): The width :math:`d` of IDs and output.
        combine (str): :obj:`"concat"` or :obj:`"add"`.
    """
    def __init__(self, in_channels: int, out_channels: int,
                 combine: str) -> None:
        super().__init__()
        self.combine = combine
        self.neighbor = torch.nn.Linear(in_channels, in_channels, bias=False)
        self.own = torch.nn.Linear(in_channels, out_channels)
        joint = in_channels + (out_channels if combine == 'concat' else 0)
        self.joint = torch.nn.Linear(joint, out_channels)

    def forward(self, neighbors: Tensor, x: Tensor, ids: Tensor) -> Tensor:
        r"""Runs the forward pass.

        Args:
            neighbors (torch.Tensor): The mean of the neighbours
                :math:`(n, d_l)`.
            x (torch.Tensor): The nodes :math:`(n, d_l)`.
            ids (torch.Tensor): Their ID embeddings :math:`(n, d)`.
        """
        h = _linear(self.neighbor, neighbors)
        own = _linear(self.own, x) + ids
        if self.combine == 'concat':
            return _linear(self.joint, torch.cat([h, own], dim=1))
        joint = matmul(h, self.joint.weight.t()) + self.joint.bias
        return F.leaky_relu(joint + own, _SLOPE)


class MMGCN(ContentGraphModel):
    r"""The model of `"MMGCN: Multi-modal Graph Convolution Network for
    Personalized Recommendation of Micro-video"
    <https://doi.org/10.1145/3343031.3351034>`_, which has a graph
    convolution of its own for each modality.

    From the unit rows :math:`\mathbf{x}^{(0)}_m` = norm(:math:`[\mathbf{P}_m;
    \mathbf{Z}_m]`) of what users like and what items show, a layer computes

    .. math::
        \mathbf{h}_v &= \textrm{LeakyReLU} \left( \frac{1}{|\mathcal{N}(v)|}
        \sum_{w \in \mathcal{N}(v)} \mathbf{x}_w \mathbf{W}_1 \right), \qquad
        \hat{\mathbf{x}}_v = \textrm{LeakyReLU} ( \mathbf{x}_v \mathbf{W}_3 +
        \mathbf{b}_3 ) + \mathbf{e}_v,

        \mathbf{x}^{\prime}_v &= \textrm{LeakyReLU} ( [\mathbf{h}_v \, \Vert
        \, \hat{\mathbf{x}}_v] \mathbf{W}_2 + \mathbf{b}_2 ) \quad
        \textrm{or} \quad \textrm{LeakyReLU} ( \mathbf{h}_v \mathbf{W}_2 +
        \mathbf{b}_2 + \hat{\mathbf{x}}_v ),

    where the IDs :math:`\mathbf{e}` are shared by all modalities and layers.
    The output is the mean of :math:`\mathbf{x}^{(L)}_m` over modalities, or
    all of them side by side.

    An item without an interaction keeps its content; its ID row is zero. It
    has :math:`(|\mathcal{U}| + |\mathcal{I}|) d + \sum_m [ d_m d_l + d_l +
    |\mathcal{U}| d_l + d_l^2 + (d_l d + d) + ((d_l + d) d + d) + (L - 1)
    (4 d^2 + 2 d) ]` parameters with :obj:`combine="concat"`, of which
    :math:`M L d^2` are not there with :obj:`"add"`.

    It is trained by the softmax where no ranking loss is given, as all
    systems here are; the paper's is :obj:`ranking_loss="bpr"`.

    Differs from the published code in:

    - The tables of users, and the IDs, are trained. In the code they are
      tensors that no optimiser knows, so that users stay random;
      :obj:`freeze_users=True` freezes both again. Published figures are of
      that form.
    - :obj:`combine` and :obj:`num_layers` count; in the code the first is a
      string that is always true, and there are always three layers.
    - Every modality is reduced to :math:`d_l`, not the visual one alone
      (to 256, where users of the others are as wide as the features).
    - The L2 term falls on the batch's rows of all tables, not on the whole
      table of the visual modality.
    - Features are standardised, and held by reference.
    - An item that lacks a modality has a zero row there; ID rows that no
      interaction has trained are zero.
    - What is ranked is computed anew for each evaluation, not kept from the
      last training batch, and seen items are left out, not set to 1e-5.

    Args:
        num_users (int): The number of users :math:`|\mathcal{U}|`.
        num_items (int): The number of items :math:`|\mathcal{I}|`.
        in_channels (dict): The width :math:`d_m` of each modality.
        hidden_channels (int, optional): The width :math:`d` of an ID
            embedding. (default: :obj:`64`)
        content_channels (int, optional): The width :math:`d_l` to which
            features are reduced. (default: :obj:`hidden_channels`)
        num_layers (int, optional): :math:`L`. (default: :obj:`2`)
        combine (str, optional): How a layer joins neighbours and node,
            :obj:`"concat"` or :obj:`"add"`, the two forms above.
            (default: :obj:`"concat"`)
        fusion (str, optional): How modalities make the output,
            :obj:`"mean"` or :obj:`"concat"`. (default: :obj:`"mean"`)
        freeze_users (bool, optional): If :obj:`True`, IDs and users stay as
            they were drawn. (default: :obj:`False`)
        standardize (bool, optional): If :obj:`False`, features are taken as
            they are. (default: :obj:`True`)

    Shapes:
        - **input:** a user-item graph, any PyG adjacency or a
          :class:`UserItemGraph`; each edge counts once, whatever its weight
        - **output:** a :class:`ModelOutput`: users :math:`(|\mathcal{U}|,
          d)`, items :math:`(|\mathcal{I}|, d)`, or :math:`M d` wide, and
          those of each modality
    """
    defaults = {'ranking_loss': 'softmax'}
    loss_defaults = {'bpr': {'lr': 1e-3, 'l2': 1e-3, 'batch_size': 1024}}

    def __init__(
        self,
        num_users: int,
        num_items: int,
        in_channels: Mapping[str, int],
        hidden_channels: int = 64,
        content_channels: int | None = None,
        num_layers: int = 2,
        combine: str = 'concat',
        fusion: str = 'mean',
        freeze_users: bool = False,
        standardize: bool = True,
    ) -> None:
        if content_channels is None:
            content_channels = hidden_channels
        super().__init__(num_users, num_items, in_channels, hidden_channels,
                         content_channels, standardize)
        self.num_layers = check_int('num_layers', num_layers, 1)
        self.combine = check_choice('combine', combine, ('concat', 'add'))
        self.fusion = check_choice('fusion', fusion, ('mean', 'concat'))
        self.freeze_users = check_bool('freeze_users', freeze_users)
        widths = [content_channels] + [hidden_channels] * (num_layers - 1)
        self.layers = torch.nn.ModuleDict({
            modality_key(name): torch.nn.ModuleList(
                MMGCNLayer(width, hidden_channels, combine)
                for width in widths)
            for name in in_channels
        })
        for table in (*self.user_tables, self.item_embedding.weight):
            table.requires_grad_(not freeze_users)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for module in self.layers.modules():
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.xavier_normal_(module.weight)
                if module.bias is not None:
                    torch.nn.init.zeros_(module.bias)

    @property
    def width(self) -> int:
        parts = len(self.modalities) if self.fusion == 'concat' else 1
        return parts * self.hidden_channels

    def config(self) -> dict[str, Any]:
        return {
            **super().config(),
            'num_layers': self.num_layers,
            'combine': self.combine,
            'fusion': self.fusion,
            'freeze_users': self.freeze_users,
        }

    def forward(
        self,
        graph: Adj | UserItemGraph,
        user_id: Tensor | None = None,
        item_id: Tensor | None = None,
    ) -> ModelOutput:
        r"""Returns user and item embeddings and those of each modality.

        Args:
            graph (torch.Tensor or SparseTensor or UserItemGraph): The
                user-item graph.
            user_id (torch.Tensor, optional): Return these users only, for
                which alone the last layer is computed.
                (default: :obj:`None`)
            item_id (torch.Tensor, optional): The same for items.
                (default: :obj:`None`)
        """
        graph = self.as_graph(graph)
        ids, shares = self.ids(graph), _mean_values(graph)
        modalities = {
            name: self._modality(name, graph.user_item, shares, ids,
                                 (user_id, item_id))
            for name in self.modalities
        }
        out = []
        for parts in zip(*modalities.values(), strict=True):
            out.append(torch.cat(parts, dim=1) if self.fusion == 'concat' else
                       torch.stack(parts).mean(dim=0))
        return ModelOutput(out[0], out[1], modalities)

    def _modality(self, name: str, matrix: CSRMatrix, shares: Pair, ids: Pair,
                  rows: tuple[Tensor | None, Tensor | None]) -> Pair:
        x = unit_rows(self.preference(name)), unit_rows(self.content(name))
        layers = self.layers[modality_key(name)]
        for number, layer in enumerate(layers, 1):  # type: ignore
            wanted = rows if number == self.num_layers else (None, None)
            neighbors = (spmm(matrix, shares[0], x[1]),
                         spmm(matrix, shares[1], x[0], transpose=True))
            x = tuple(
                layer(*(take(table, index) for table in tables))
                for *tables, index in zip(neighbors, x, ids, wanted,
                                          strict=True))
        return x


def _mean_values(graph: UserItemGraph) -> Pair:
    r"""The values of each edge in the mean of its user, and of its item."""
    to_user, to_item = (
        matrix.crow.diff().clamp(min=1).to(graph.dtype).reciprocal()
        for matrix in (graph.user_item, graph.item_user))
    return (to_user.index_select(0, graph.user_item.row),
            to_item.index_select(0, graph.user_item.col))


def _linear(layer: torch.nn.Linear, x: Tensor) -> Tensor:
    r"""A leaky ReLU of a linear map."""
    out = matmul(x, layer.weight.t())
    return F.leaky_relu(out if layer.bias is None else out + layer.bias,
                        _SLOPE)
