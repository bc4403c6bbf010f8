"""PyG's own LightGCN: a training step and an evaluation loop."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch_geometric.nn import LightGCN
from torch_geometric.nn.conv.gcn_conv import gcn_norm


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
        both = torch.cat([self.edges, self.edges.flip(0)], dim=1)
        self.model = LightGCN(self.num_nodes, channels, num_layers,
                              **({'normalize': False} if best else {}))
        self.model.to(device)
        self.adj = both
        if best:
            index, weight = gcn_norm(both, None, self.num_nodes,
                                     add_self_loops=False)
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                self.adj = torch.sparse_coo_tensor(
                    index, weight, (self.num_nodes, self.num_nodes),
                    check_invariants=False).coalesce().to_sparse_csr()
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
