from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import check_choice, check_int
from torch_promptmm.models.base import ModelOutput, take
from torch_promptmm.models.content_graph import ContentGraphModel
from torch_promptmm.nn.csr import CSRMatrix
from torch_promptmm.nn.functional import unit_rows
from torch_promptmm.nn.graph import UserItemGraph
from torch_promptmm.nn.weighted_csr import edge_softmax, sddmm, spmm

_SLOPE = 0.01


class Routed(NamedTuple):
    r"""A modality after routing.

    Attributes:
        user (torch.Tensor): What users like :math:`(|\mathcal{U}|, d_c)`.
        item (torch.Tensor): What items show :math:`(|\mathcal{I}|, d_c)`.
        to_user (torch.Tensor): The share of each interaction in its user
            :math:`(|\mathcal{E}|)`.
        to_item (torch.Tensor): Its share in its item
            :math:`(|\mathcal{E}|)`.
    """
    user: Tensor
    item: Tensor
    to_user: Tensor
    to_item: Tensor


class GRCN(ContentGraphModel):
    r"""The model of `"Graph-Refined Convolutional Network for Multimedia
    Recommendation with Implicit Feedback"
    <https://arxiv.org/abs/2008.10294>`_, which weighs the interactions by
    how well their content fits.

    In each modality, users are routed towards the content that they chose,
    :math:`T` times from :math:`\mathbf{p}_u` = norm(:math:`\mathbf{P}_m`)
    with items :math:`\mathbf{z}_i` = norm(LeakyReLU(:math:`\mathbf{Z}_m`)),

    .. math::
        \mathbf{p}_u \leftarrow \textrm{norm} \left( \mathbf{p}_u + \sum_{i
        \in \mathcal{N}(u)} \alpha_{ui} \mathbf{z}_i \right), \qquad
        \alpha_{ui} = \underset{i \in \mathcal{N}(u)}{\textrm{softmax}} \,
        \mathbf{p}_u^{\top} \mathbf{z}_i.

    Then one step of attention in both directions gives
    :math:`\mathbf{c}^m_v = \mathbf{x}_v + \sum_{w} \alpha^m_{v \leftarrow w}
    \mathbf{x}_w` with :math:`\mathbf{x} = [\mathbf{p}; \mathbf{z}]`. The
    same shares, times how much a modality of the *source* node is trusted
    (:math:`\gamma_{wm}`, free), are the weights of the edges, one for each
    direction,

    .. math::
        a_{v \leftarrow w} = \max_m \gamma_{wm} \alpha^m_{v \leftarrow w},
        \qquad \mathbf{e}_v = \sum_{l=0}^{L} \mathbf{x}^{(l)}_v, \quad
        \mathbf{x}^{(l+1)}_v = \sum_{w} a_{v \leftarrow w} \mathbf{x}^{(l)}_w,

    where :math:`\mathbf{x}^{(0)}` are the unit rows of the ID table. The
    output is :math:`[\mathbf{e} \, \Vert \, \mathbf{c}^1 \, \Vert \ldots
    \Vert \, \mathbf{c}^{M}]`.

    An item without an interaction keeps :math:`\mathbf{z}_i`; its ID row is
    zero. A step takes :math:`O((T + 2) M |\mathcal{E}| d_c)`, and no memory
    of :math:`|\mathcal{E}| \cdot d_c`. It has
    :math:`(|\mathcal{U}| + |\mathcal{I}|)(d + M) + \sum_m (|\mathcal{U}|
    d_c + d_m d_c + d_c)` parameters, of which :math:`(|\mathcal{U}| +
    |\mathcal{I}|) M` are there with :obj:`refine="confidence"` alone.

    It is trained by the softmax where no ranking loss is given, as all
    systems here are; the paper's is :obj:`ranking_loss="bpr"`.

    Differs from the published code in:

    - Users are routed. The code sends the messages of the routing to the
      items and reads those of the users, which are zero; its result is that
      of :obj:`num_routing=0`.
    - :math:`\gamma` starts at one, where the code draws it around zero:
      edges have weight from the start.
    - Features are standardised, and held by reference.
    - An item that lacks a modality has a zero row there; ID rows that no
      interaction has trained are zero.
    - There is no dropout of edges, which the code leaves on in evaluation,
      and no loss on the weights, whose flags do nothing in the code.
    - What is ranked is computed anew for each evaluation, not kept from the
      last training batch, and seen items are left out, not set to 1e-5.

    Args:
        num_users (int): The number of users :math:`|\mathcal{U}|`.
        num_items (int): The number of items :math:`|\mathcal{I}|`.
        in_channels (dict): The width :math:`d_m` of each modality.
        hidden_channels (int, optional): The width :math:`d` of an ID
            embedding. (default: :obj:`64`)
        content_channels (int, optional): The width :math:`d_c` of a
            modality. (default: :obj:`hidden_channels`)
        num_routing (int, optional): :math:`T`. (default: :obj:`3`)
        num_layers (int, optional): :math:`L`. (default: :obj:`2`)
        refine (str, optional): How modalities make the weight of an edge:
            :obj:`"confidence"` as above, :obj:`"max"` with :math:`\gamma =
            1`, or :obj:`"mean"` of the shares.
            (default: :obj:`"confidence"`)
        pruning (str, optional): :obj:`"soft"` leaves the weights as they
            are, :obj:`"hard"` cuts edges whose weight is negative.
            (default: :obj:`"soft"`)
        standardize (bool, optional): If :obj:`False`, features are taken as
            they are. (default: :obj:`True`)

    Shapes:
        - **input:** a user-item graph, any PyG adjacency or a
          :class:`UserItemGraph`; each edge counts once, whatever its weight
        - **output:** a :class:`ModelOutput`: users :math:`(|\mathcal{U}|,
          d + M d_c)`, items :math:`(|\mathcal{I}|, d + M d_c)`, and
          :math:`\mathbf{c}^m` of each modality
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
        num_routing: int = 3,
        num_layers: int = 2,
        refine: str = 'confidence',
        pruning: str = 'soft',
        standardize: bool = True,
    ) -> None:
        if content_channels is None:
            content_channels = hidden_channels
        super().__init__(num_users, num_items, in_channels, hidden_channels,
                         content_channels, standardize)
        self.num_routing = check_int('num_routing', num_routing)
        self.num_layers = check_int('num_layers', num_layers)
        self.refine = check_choice('refine', refine,
                                   ('confidence', 'max', 'mean'))
        self.pruning = check_choice('pruning', pruning, ('soft', 'hard'))
        self.user_confidence = self.item_confidence = None
        if refine == 'confidence':
            self.user_confidence, self.item_confidence = (
                torch.nn.Parameter(torch.empty(size, len(in_channels)))
                for size in (num_users, num_items))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for confidence in (self.user_confidence, self.item_confidence):
            if confidence is not None:
                torch.nn.init.ones_(confidence)

    @property
    def width(self) -> int:
        return (self.hidden_channels +
                len(self.modalities) * self.content_channels)

    def config(self) -> dict[str, Any]:
        return {
            **super().config(),
            'num_routing': self.num_routing,
            'num_layers': self.num_layers,
            'refine': self.refine,
            'pruning': self.pruning,
        }

    def route(self, name: str, matrix: CSRMatrix) -> Routed:
        r"""Routes the users of a modality, and returns the shares of the
        interactions that come of it.

        Args:
            name (str): The modality.
            matrix (CSRMatrix): The interactions :math:`(|\mathcal{U}|,
                |\mathcal{I}|)`.
        """
        user = unit_rows(self.preference(name))
        item = unit_rows(self.content(name, _SLOPE))
        for _ in range(self.num_routing):
            share = edge_softmax(matrix, sddmm(matrix, user, item))
            user = unit_rows(user + spmm(matrix, share, item))
        score = sddmm(matrix, user, item)
        return Routed(user, item, edge_softmax(matrix, score),
                      edge_softmax(matrix, score, dim=0))

    def edge_weights(self, matrix: CSRMatrix,
                     routed: Mapping[str, Routed]) -> tuple[Tensor, Tensor]:
        r"""Returns the weights of the edges into users and of those into
        items :math:`(|\mathcal{E}|)`."""
        out = []
        for share, confidence, source in (
            ('to_user', self.item_confidence, matrix.col),
            ('to_item', self.user_confidence, matrix.row),
        ):
            weight = torch.stack([getattr(x, share) for x in routed.values()])
            if confidence is not None:
                weight = weight * confidence.t().index_select(1, source)
            weight = (weight.mean(dim=0) if self.refine == 'mean' else
                      weight.amax(dim=0))
            out.append(weight.relu() if self.pruning == 'hard' else weight)
        return out[0], out[1]

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
            user_id (torch.Tensor, optional): Return these users only.
                (default: :obj:`None`)
            item_id (torch.Tensor, optional): Return these items only.
                (default: :obj:`None`)
        """
        graph = self.as_graph(graph)
        matrix = graph.user_item
        routed = {name: self.route(name, matrix) for name in self.modalities}
        modalities = {
            name: (take(x.user + spmm(matrix, x.to_user, x.item), user_id),
                   take(x.item + spmm(matrix, x.to_item, x.user, True),
                        item_id))
            for name, x in routed.items()
        }
        to_user, to_item = self.edge_weights(matrix, routed)
        user, item = map(unit_rows, self.ids(graph))
        sum_user, sum_item = user, item
        for _ in range(self.num_layers):
            user, item = (spmm(matrix, to_user, item),
                          spmm(matrix, to_item, user, transpose=True))
            sum_user, sum_item = sum_user + user, sum_item + item
        users, items = zip(*modalities.values(), strict=True)
        return ModelOutput(
            torch.cat([take(sum_user, user_id), *users], dim=1),
            torch.cat([take(sum_item, item_id), *items], dim=1), modalities)
