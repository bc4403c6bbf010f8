"""Training loops of your own, without `fit`.

First with the layers and losses alone: a teacher that is an ordinary PyG
network, and a student that learns from it. Then with the distiller's losses in
a loop that you control. For brevity no epoch is chosen on validation, as `fit`
does: every loop runs to its end.

    python examples/custom_loop.py
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
import torch_geometric.transforms as T
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.nn import HeteroConv, SAGEConv

from torch_promptmm import PromptMMDistiller
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.evaluate import evaluate_embeddings
from torch_promptmm.loader import Batch, BatchSpec, InteractionLoader
from torch_promptmm.loss import (
    DisentangledListKD,
    SampledSoftmaxLoss,
    ScaledCosineError,
)
from torch_promptmm.models import LightGCN
from torch_promptmm.nn import (
    LightGCNConv,
    MultimodalConv,
    UserItemGraph,
    unit_rows,
)

EDGE_TYPE = ('user', 'interacts', 'item')


class Teacher(torch.nn.Module):
    """Free embeddings, to which a heterogeneous layer adds what users' items
    look and read like."""
    def __init__(self, num_users: int, num_items: int, in_channels: int,
                 channels: int) -> None:
        super().__init__()
        self.user = torch.nn.Embedding(num_users, channels)
        self.item = torch.nn.Embedding(num_items, channels)
        for table in (self.user, self.item):
            torch.nn.init.normal_(table.weight, std=0.1)
        # `MultimodalConv` has the signature of PyG's bipartite convolutions,
        # so it stands beside them.
        self.content = HeteroConv({
            ('item', 'rev_interacts', 'user'):
            MultimodalConv(in_channels, channels),
            ('user', 'interacts', 'item'):
            SAGEConv((channels, in_channels), channels),
        })
        self.conv = LightGCNConv([1 / 3, 1 / 3, 1 / 3])  # mean of 3 layers

    def forward(self, graph: UserItemGraph, x_item: Tensor,
                edge_index_dict: dict) -> tuple[Tensor, Tensor]:
        content = self.content({
            'user': self.user.weight,
            'item': x_item
        }, edge_index_dict)
        # A small weight: free embeddings rank better than content does.
        x_user = self.user.weight + 0.1 * unit_rows(content['user'])
        x_item = self.item.weight + 0.1 * unit_rows(content['item'])
        return self.conv((x_user, x_item), graph)


def list_scores(user: Tensor, item: Tensor, batch: Batch) -> Tensor:
    """Cosines with the positive, first, and with the negatives that all rows
    share, [B, 1 + N]."""
    user, item = unit_rows(user[batch.user]), unit_rows(item)
    positive = (user * item[batch.positive]).sum(dim=-1, keepdim=True)
    return torch.cat([positive, user @ item[batch.shared].t()], dim=1)


def list_mask(batch: Batch) -> Tensor:
    """False where a shared negative is something that the row's user has."""
    return F.pad(batch.shared_mask, (1, 0), value=True)


def report(name: str, user: Tensor, item: Tensor, test: HeteroData) -> None:
    out = evaluate_embeddings(unit_rows(user), unit_rows(item),
                              test[EDGE_TYPE].edge_label_index,
                              test[EDGE_TYPE].edge_index, k=20)
    print(f'{name:<28} Recall@20 {out["recall@20"]:.4f}   '
          f'NDCG@20 {out["ndcg@20"]:.4f}')


def layers_and_losses(train: HeteroData, test: HeteroData,
                      args: argparse.Namespace) -> None:
    """A teacher and a student of which every line is yours."""
    num_users, num_items = train['user'].num_nodes, train['item'].num_nodes
    known = train[EDGE_TYPE].edge_index
    # Normalise the graph once, outside the loop. Every layer takes an
    # `edge_index` as well, but then it has to normalise it at every call.
    graph = UserItemGraph(known, num_users, num_items)
    # Batches are drawn on the device of the interactions, with negatives that
    # no user of a row is known to have.
    loader = InteractionLoader(known, known, num_users, num_items,
                               args.batch_size,
                               BatchSpec(shared_negatives=128))
    x = torch.cat([train['item'].visual, train['item'].textual], dim=1)
    x = (x - x.mean(dim=0)) / x.std(dim=0)
    edge_index_dict = T.ToUndirected()(train).edge_index_dict

    teacher = Teacher(num_users, num_items, x.size(1), args.hidden_channels)
    teacher = teacher.to(args.device)
    rank_loss = SampledSoftmaxLoss(temperature=0.2)
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=5e-3)
    for _ in range(args.epochs):
        for batch in loader:
            user, item = teacher(graph, x, edge_index_dict)
            loss = rank_loss(list_scores(user, item, batch), list_mask(batch))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():  # The teacher is frozen from here on: run it once.
        teacher_user, teacher_item = teacher(graph, x, edge_index_dict)
    report('your teacher', teacher_user, teacher_item, test)

    student = LightGCN(num_users, num_items, args.hidden_channels)
    student = student.to(args.device)
    list_kd = DisentangledListKD(temperature=0.2)
    emb_kd = ScaledCosineError()
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-3)
    for _ in range(args.epochs):
        for batch in loader:
            user, item = student(graph)
            scores, mask = list_scores(user, item, batch), list_mask(batch)
            target = list_scores(teacher_user, teacher_item, batch)
            # List KD is scaled by its squared temperature, 1/25: hence 75.
            loss = (rank_loss(scores, mask)
                    + 75.0 * list_kd(scores, target, mask)
                    + 0.5 * emb_kd(item, teacher_item))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        report('your student, distilled', *student(graph), test)


def losses_of_the_distiller(train: HeteroData, test: HeteroData,
                            args: argparse.Namespace) -> None:
    """The distiller's losses in a loop that you control."""
    distiller = PromptMMDistiller.from_data(
        train, hidden_channels=args.hidden_channels, seed=args.seed)
    for stage in ('teacher', 'student'):
        # `prepare` is what `fit` calls before its loop: it builds the graph
        # and the constant tables of a stage, and freezes what the stage
        # freezes. It returns the stage's task, which draws its batches.
        task = distiller.prepare(train, stage=stage, device=args.device)
        optimizer = torch.optim.AdamW(task.parameter_groups(), lr=5e-3)
        loader = task.loader(args.batch_size)
        for _ in range(args.epochs):
            for batch in loader:
                # Each term is differentiable too.
                loss, terms = distiller(batch, stage=stage)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        print(f'{stage} loss {loss.item():.4f}: '
              + ', '.join(f'{k} {v.item():.4f}' for k, v in terms.items()))
        report(f"the distiller's {stage}", *distiller.embeddings(stage), test)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--epochs', type=int, default=20)
    add('--batch-size', type=int, default=1024)
    add('--hidden-channels', type=int, default=32)
    add('--scale', type=float, default=1.0, help='of the dataset')
    add('--seed', type=int, default=0)
    add('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    train, _, test = (data.to(args.device)
                      for data in SyntheticMultimodal.preset(
                          'small', scale=args.scale, seed=args.seed))
    layers_and_losses(train, test, args)
    losses_of_the_distiller(train, test, args)


if __name__ == '__main__':
    main()
