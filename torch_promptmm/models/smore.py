from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_promptmm.checks import check_float
from torch_promptmm.models.side_view_model import SideViewModel
from torch_promptmm.nn.functional import modality_key
from torch_promptmm.nn.neighbors import combine_graphs

_FUSION = 'fusion'  # Keys of modalities begin with another word.


class SMORE(SideViewModel):
    r"""The model of `"Spectrum-based Modality Representation Fusion Graph
    Convolutional Network for Multimodal Recommendation"
    <https://arxiv.org/abs/2412.14978>`_. The features of each modality are
    filtered in the frequencies of their columns, and modalities are fused
    there, by a product (with the orthonormal transform :math:`\mathcal{F}`),

    .. math::
        \mathbf{G}_m = \mathcal{F}^{-1}(\mathcal{F}(\mathbf{H}_m) \odot
        \mathbf{k}_m), \qquad \mathbf{G}_f = \mathcal{F}^{-1} \left(
        \prod_m \mathcal{F}(\mathbf{H}_m) \odot \mathbf{k}_f \right), \qquad
        \mathbf{H}_m = \hat{\mathbf{X}}_m \mathbf{W}_m + \mathbf{b}_m .

    Each of these is a view, as in :class:`~torch_promptmm.models.MGCN`, of
    which items get :math:`\mathbf{E}_v^i = \mathbf{S}_v^{L_i} (\mathbf{Q}
    \odot \sigma(\mathbf{G}_v \mathbf{W}_v^g + \mathbf{b}_v^g))` and users
    :math:`\mathbf{R} \mathbf{E}_v^i`; the graph of the fused one has the
    edges of all modalities, each with its largest value. By the behaviour
    :math:`\mathbf{c} = \textrm{LightGCN}_L(\mathbf{P}, \mathbf{Q})` of a
    node,

    .. math::
        \mathbf{s} = \frac{1}{M + 1} \Big( \mathbf{p}_f \odot \mathbf{e}_f +
        \sum_m \mathbf{p}_m \odot \textrm{softmax}(f_m(\mathbf{e}_f)) \odot
        \mathbf{e}_m \Big), \qquad \mathbf{p}_v = \textrm{dropout}(\sigma(
        \mathbf{W}_v^p \mathbf{c} + \mathbf{b}_v^p)),

    with a softmax over dimensions and :math:`f_m(\mathbf{x}) =
    \mathbf{W}_m^2 \tanh(\mathbf{W}_m^1 \mathbf{x} + \mathbf{b}_m^1)`. The
    output is :math:`\mathbf{c} + \mathbf{s}`, and both are drawn together as
    in MGCN. The L2 term falls on the output. It has :math:`(|\mathcal{U}| +
    |\mathcal{I}|) d + \sum_m (d_m + 1) d + 2 (M + 1) (d^2 + d) + M (2 d^2 +
    d) + 2 (M + 1) (\lfloor d / 2 \rfloor + 1)` parameters.

    It is trained by the softmax where no ranking loss is given, as all
    systems here are; the paper's is :obj:`ranking_loss="bpr"`.

    Differs from the `published code <https://github.com/kennethorq/SMORE>`_
    in:

    - any number of modalities (there, two);
    - a user or item that is twice in a batch is no negative of itself;
    - features are standardised (:obj:`standardize=False`) and constants;
      there, the raw tables are trained along;
    - cosines in the graph of items below zero count as zero;
    - an item without a modality has no neighbours in its graph.

    Args:
        num_users (int): The number of users :math:`|\mathcal{U}|`.
        num_items (int): The number of items :math:`|\mathcal{I}|`.
        in_channels (dict): The width :math:`d_m` of each modality.
        hidden_channels (int, optional): The width :math:`d` of an embedding.
            (default: :obj:`64`)
        num_layers (int, optional): The number :math:`L` of propagation
            steps. (default: :obj:`3`)
        item_layers (int, optional): The number :math:`L_i` of steps among
            items. (default: :obj:`1`)
        k (int, optional): The number of neighbours. (default: :obj:`10`)
        dropout (float, optional): The dropout of :math:`\mathbf{p}_v`.
            (default: :obj:`0.1`)
        contrast_weight (float, optional): The weight of the contrast.
            (default: :obj:`0.01`)
        temperature (float, optional): Its temperature.
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
        num_layers: int = 3,
        item_layers: int = 1,
        k: int = 10,
        dropout: float = 0.1,
        contrast_weight: float = 0.01,
        temperature: float = 0.2,
        loop: bool = True,
        standardize: bool = True,
    ) -> None:
        keys = list(map(modality_key, in_channels))
        super().__init__({**dict.fromkeys(keys, k), _FUSION: len(keys) * k},
                         item_layers, contrast_weight, temperature,
                         num_users, num_items, in_channels, hidden_channels,
                         num_layers, k, loop, standardize)
        self.dropout = check_float('dropout', dropout, 0.0, 1.0)
        d = hidden_channels
        # Real and imaginary parts: optimisers know no complex numbers.
        self.filters = torch.nn.ParameterDict({
            key: torch.empty(d // 2 + 1, 2) for key in (*keys, _FUSION)})
        self.queries = torch.nn.ModuleDict({
            key: torch.nn.Sequential(torch.nn.Linear(d, d), torch.nn.Tanh(),
                                     torch.nn.Linear(d, d, bias=False))
            for key in keys})
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for each in self.filters.values():
            torch.nn.init.normal_(each)
        for query in self.queries.values():
            query[0].reset_parameters()  # type: ignore
            query[2].reset_parameters()  # type: ignore

    def config(self) -> dict[str, Any]:
        return {**super().config(), 'dropout': self.dropout}

    def build_graphs(self) -> None:
        graphs = [self.knn_graph(name) for name in self.modalities]
        for name, graph in zip(self.modalities, graphs, strict=True):
            self.item_graph(modality_key(name)).set(graph)
        self.item_graph(_FUSION).set(combine_graphs(graphs, reduce='max'))

    def signals(self) -> dict[str, Tensor]:
        out, product = {}, None
        for name in self.modalities:
            spectrum = torch.fft.rfft(self.maps(name), norm='ortho')
            product = spectrum if product is None else product * spectrum
            out[modality_key(name)] = self._filtered(modality_key(name),
                                                     spectrum)
        assert product is not None
        return {**out, _FUSION: self._filtered(_FUSION, product)}

    def _filtered(self, key: str, spectrum: Tensor) -> Tensor:
        weight = torch.view_as_complex(self.filters[key])
        # An odd width is not told by the number of frequencies.
        return torch.fft.irfft(spectrum * weight, n=self.hidden_channels,
                               norm='ortho')

    def side(self, content: Tensor, views: dict[str, Tensor]) -> Tensor:
        fused, parts = views[_FUSION], []
        for key, view in views.items():
            preference = self.preferences[key](content).sigmoid()
            preference = F.dropout(preference, self.dropout, self.training)
            if key != _FUSION:
                view = self.queries[key](fused).softmax(dim=1) * view
            parts.append(preference * view)
        return torch.stack(parts).mean(dim=0)
