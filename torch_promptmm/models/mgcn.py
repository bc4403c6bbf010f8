from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from torch_promptmm.models.side_view_model import SideViewModel
from torch_promptmm.nn.functional import modality_key


class MGCN(SideViewModel):
    r"""The model of `"Multi-View Graph Convolutional Network for Multimedia
    Recommendation" <https://arxiv.org/abs/2308.03588>`_. What a modality
    says of an item is a gate on the item's own embedding, which is smoothed
    over items of like features
    (:func:`~torch_promptmm.nn.item_knn_graph`) and handed to users,

    .. math::
        \mathbf{E}_m^i = \mathbf{S}_m^{L_i} \left( \mathbf{Q} \odot \sigma
        (\mathbf{H}_m \mathbf{W}_m^g + \mathbf{b}_m^g) \right), \quad
        \mathbf{E}_m^u = \mathbf{R} \mathbf{E}_m^i, \quad
        \mathbf{H}_m = \hat{\mathbf{X}}_m \mathbf{W}_m + \mathbf{b}_m .

    What the modalities have in common is weighed by attention, what is a
    modality's own by the behaviour :math:`\mathbf{c} = \textrm{LightGCN}_L
    (\mathbf{P}, \mathbf{Q})` of the node,

    .. math::
        \mathbf{z} = \sum_m \textrm{softmax}_m(\mathbf{a}^{\top} \tanh
        (\mathbf{W}_a \mathbf{e}_m + \mathbf{b}_a)) \, \mathbf{e}_m, \qquad
        \mathbf{s} = \frac{1}{M + 1} \left( \mathbf{z} + \sum_m \sigma
        (\mathbf{W}_m^p \mathbf{c} + \mathbf{b}_m^p) \odot (\mathbf{e}_m -
        \mathbf{z}) \right),

    and the output is :math:`\mathbf{c} + \mathbf{s}`. The two views are drawn
    together by :class:`~torch_promptmm.loss.InfoNCE`, of a batch's users and
    of its positive items, :math:`\lambda_c (\textrm{InfoNCE}(\mathbf{s}_u,
    \mathbf{c}_u) + \textrm{InfoNCE}(\mathbf{s}_i, \mathbf{c}_i))`. The L2
    term falls on the output. It has :math:`(|\mathcal{U}| + |\mathcal{I}|) d
    + \sum_m (d_m + 1) d + 2 M (d^2 + d) + d^2 + 2 d` parameters.

    The gate multiplies an embedding that an item without an interaction has
    never learnt: on cold items the model is weak by design.

    It is trained by the softmax where no ranking loss is given, as all
    systems here are; the paper's is :obj:`ranking_loss="bpr"`.

    Differs from the `published code <https://github.com/demonph10/MGCN>`_ in:

    - any number of modalities (there, two, and a sum over three);
    - a user or item that is twice in a batch is no negative of itself;
    - features are standardised (:obj:`standardize=False`) and constants;
      there, the raw tables are trained along;
    - cosines in the graph of items below zero count as zero; there, a sum of
      negative ones gives NaN;
    - an item without a modality has no neighbours in its graph.

    Args:
        num_users (int): The number of users :math:`|\mathcal{U}|`.
        num_items (int): The number of items :math:`|\mathcal{I}|`.
        in_channels (dict): The width :math:`d_m` of each modality.
        hidden_channels (int, optional): The width :math:`d` of an embedding.
            (default: :obj:`64`)
        num_layers (int, optional): The number :math:`L` of propagation
            steps. (default: :obj:`2`)
        item_layers (int, optional): The number :math:`L_i` of steps among
            items. (default: :obj:`1`)
        k (int, optional): The number of neighbours. (default: :obj:`10`)
        contrast_weight (float, optional): :math:`\lambda_c`.
            (default: :obj:`0.01`)
        temperature (float, optional): That of the contrast.
            (default: :obj:`0.2`)
        loop (bool, optional): Whether an item is its own neighbour.
            (default: :obj:`True`)
        standardize (bool, optional): If :obj:`False`, features are taken as
            they are. (default: :obj:`True`)

    Shapes:
        - **input:** a user-item graph, any PyG adjacency or a
          :class:`~torch_promptmm.nn.UserItemGraph`
        - **output:** user embeddings :math:`(|\mathcal{U}|, d)`, item
          embeddings :math:`(|\mathcal{I}|, d)` and, for each modality,
          :math:`\mathbf{E}_m^u` and :math:`\mathbf{E}_m^i`
    """
    defaults = {'ranking_loss': 'softmax'}
    loss_defaults = {'bpr': {'l2': 1e-4, 'lr': 1e-3}}

    def __init__(
        self,
        num_users: int,
        num_items: int,
        in_channels: Mapping[str, int],
        hidden_channels: int = 64,
        num_layers: int = 2,
        item_layers: int = 1,
        k: int = 10,
        contrast_weight: float = 0.01,
        temperature: float = 0.2,
        loop: bool = True,
        standardize: bool = True,
    ) -> None:
        keys = list(map(modality_key, in_channels))
        super().__init__(dict.fromkeys(keys, k), item_layers, contrast_weight,
                         temperature, num_users, num_items, in_channels,
                         hidden_channels, num_layers, k, loop, standardize)
        d = hidden_channels
        self.attention = torch.nn.Sequential(
            torch.nn.Linear(d, d), torch.nn.Tanh(),
            torch.nn.Linear(d, 1, bias=False))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for module in (self.attention[0], self.attention[2]):
            module.reset_parameters()  # type: ignore

    def build_graphs(self) -> None:
        for name in self.modalities:
            self.item_graph(modality_key(name)).set(self.knn_graph(name))

    def signals(self) -> dict[str, Tensor]:
        return {modality_key(name): self.maps(name)
                for name in self.modalities}

    def side(self, content: Tensor, views: dict[str, Tensor]) -> Tensor:
        x = torch.stack(list(views.values()))
        weight = self.attention(x).softmax(dim=0)
        common = (weight * x).sum(dim=0)
        out = common
        for key, view in views.items():
            preference = self.preferences[key](content).sigmoid()
            out = out + preference * (view - common)
        return out / (len(views) + 1)
