"""PyG's own LightGCN: the model, a training step and an evaluation loop."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn import LightGCN
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import to_torch_csr_tensor

from torch_promptmm.data import InteractionData
from torch_promptmm.models import ModelOutput, RankingModel
from torch_promptmm.nn import UserItemGraph


def normalized_csr(edges: Tensor, num_nodes: int) -> Tensor:
    """The adjacency of `edges`, both ways, as PyG normalises it."""
    index, weight = gcn_norm(torch.cat([edges, edges.flip(0)], dim=1), None,
                             num_nodes, add_self_loops=False)
    with warnings.catch_warnings():  # torch: "CSR is in beta state"
        warnings.simplefilter('ignore', UserWarning)
        return to_torch_csr_tensor(index, weight, size=(num_nodes, num_nodes))


class PyGLightGCN(RankingModel):
    """`torch_geometric.nn.LightGCN` with users and items apart, as `fit` and
    `evaluate` take any model.

    PyG's layers normalise the graph at every call, and scatter messages along
    an `edge_index`. Both are avoidable at no change of the result: the
    normalised adjacency is a CSR matrix here, made once by PyG's own
    `gcn_norm`, and the layers only multiply by it (`normalize=False`). This
    is several times faster, so the times in the table are PyG at its best.
    """
    def __init__(self, edge_index: Tensor, num_users: int, num_items: int,
                 hidden_channels: int, num_layers: int = 2) -> None:
        super().__init__(num_users, num_items)
        num_nodes = num_users + num_items
        self.model = LightGCN(num_nodes, hidden_channels, num_layers,
                              normalize=False)
        offset = edge_index.new_tensor([[0], [num_users]])
        adj = normalized_csr(edge_index + offset, num_nodes)
        self.register_buffer('adj', adj, persistent=False)

    @classmethod
    def from_view(cls, view: InteractionData, hidden_channels: int,
                  **kwargs: Any) -> PyGLightGCN:
        return cls(view.edge_index, view.num_users, view.num_items,
                   hidden_channels, **kwargs)

    def forward(self, graph: UserItemGraph, user_id: Tensor | None = None,
                item_id: Tensor | None = None) -> ModelOutput:
        # `graph` is what our own models propagate over; here it is `adj`.
        table = self.model.get_embedding(self.adj)
        return ModelOutput(*self._pick(table, user_id, item_id))

    def rows(self, graph: UserItemGraph, user_id: Tensor, item_id: Tensor,
             num_ego: int = 0) -> ModelOutput:
        out = self(graph, user_id, item_id)
        # For the L2 term, which PyG's own BPR loss has too.
        return ModelOutput(out.user, out.item, ego=self._pick(
            self.model.embedding.weight, user_id, item_id[:num_ego]))

    def _pick(self, table: Tensor, user_id: Tensor | None,
              item_id: Tensor | None) -> tuple[Tensor, Tensor]:
        user, item = table.split([self.num_users, self.num_items])
        return (user if user_id is None else user[user_id],
                item if item_id is None else item[item_id])


class PyGStep:
    """A step as in PyG's `examples/lightgcn.py` (`best=False`): convolutions
    that normalise `edge_index` at each call, Adam; or with what its
    documentation offers for speed (`best=True`): a normalised `torch.sparse`
    CSR and fused Adam."""
    def __init__(self, edge_index: Tensor, num_users: int, num_items: int,
                 batch_size: int, best: bool = False, channels: int = 64,
                 num_layers: int = 2) -> None:
        offset = edge_index.new_tensor([[0], [num_users]])
        self.edges = edge_index + offset
        self.num_users, self.num_nodes = num_users, num_users + num_items
        self.batch_size, device = batch_size, edge_index.device
        self.model = LightGCN(self.num_nodes, channels, num_layers,
                              **({'normalize': False} if best else {}))
        self.model.to(device)
        self.adj = (normalized_csr(self.edges, self.num_nodes) if best else
                    torch.cat([self.edges, self.edges.flip(0)], dim=1))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3,
                                          fused=True if best else None)
        self._batches = iter(())

    def __call__(self) -> None:
        index = next(self._batches, None)
        if index is None:
            perm = torch.randperm(self.edges.size(1),
                                  device=self.edges.device)
            self._batches = iter(perm.split(self.batch_size))
            index = next(self._batches)
        positive = self.edges[:, index]
        negative = torch.stack([
            positive[0],
            torch.randint(self.num_users, self.num_nodes, (index.numel(), ),
                          device=index.device),
        ])
        label = torch.cat([positive, negative], dim=1)
        self.optimizer.zero_grad()
        pos_rank, neg_rank = self.model(self.adj, label).chunk(2)
        loss = self.model.recommendation_loss(pos_rank, neg_rank,
                                              node_id=label.unique())
        loss.backward()
        self.optimizer.step()


@torch.no_grad()
def pyg_evaluate(user: Tensor, item: Tensor, known: Tensor, held_out: Tensor,
                 k: int = 50, batch_size: int = 8192) -> tuple[float, float]:
    """The evaluation loop of PyG's `examples/lightgcn.py`."""
    num_users = user.size(0)
    precision = recall = total = 0.0
    for start in range(0, num_users, batch_size):
        end = min(start + batch_size, num_users)
        logits = user[start:end] @ item.t()
        mask = (known[0] >= start) & (known[0] < end)
        logits[known[0, mask] - start, known[1, mask]] = float('-inf')
        truth = torch.zeros_like(logits, dtype=torch.bool)
        mask = (held_out[0] >= start) & (held_out[0] < end)
        truth[held_out[0, mask] - start, held_out[1, mask]] = True
        count = torch.bincount(held_out[0, mask] - start,
                               minlength=end - start)
        top = logits.topk(k, dim=-1).indices
        hit = truth.gather(1, top)
        precision += float((hit.sum(dim=-1) / k).sum())
        recall += float((hit.sum(dim=-1) / count.clamp(min=1)).sum())
        total += int((count > 0).sum())
    return precision / total, recall / total
