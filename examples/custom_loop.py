"""Training loops of your own, without the distiller's `fit`.

First with the layers and losses alone: a teacher that is an ordinary PyG
network, and a student that learns from it. Then with the distiller's losses in
a loop that you control.

    python examples/custom_loop.py
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
import torch_geometric.transforms as T
from torch import Tensor
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
from torch_promptmm.nn import (
    LightGCNConv,
    LightGCNStudent,
    MultimodalConv,
    UserItemGraph,
    unit_rows,
)

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('--epochs', type=int, default=20)
parser.add_argument('--batch-size', type=int, default=1024)
parser.add_argument('--hidden-channels', type=int, default=32)
parser.add_argument('--scale', type=float, default=1.0, help='of the dataset')
parser.add_argument('--seed', type=int, default=0)
parser.add_argument(
    '--device', default='cuda' if torch.cuda.is_available() else 'cpu')
args = parser.parse_args()
torch.manual_seed(args.seed)

# For brevity no epoch is chosen on validation, as `fit` does: every loop runs
# to its end.

dataset = SyntheticMultimodal.preset('small', scale=args.scale, seed=args.seed)
num_users, num_items = dataset.num_users, dataset.num_items
train, _, test = (data.to(args.device) for data in dataset)
edge_type = ('user', 'interacts', 'item')
known = train[edge_type].edge_index
positives = test[edge_type].edge_label_index

# Normalise the graph once, outside the loop. Every layer takes an `edge_index`
# as well, but then it has to normalise it at every call.
graph = UserItemGraph(known, num_users, num_items)


class Teacher(torch.nn.Module):
    """Free embeddings, to which a heterogeneous layer adds what users' items
    look and read like."""
    def __init__(self, in_channels: int, channels: int) -> None:
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

    def forward(self, x_item: Tensor,
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


def report(name: str, user: Tensor, item: Tensor) -> None:
    out = evaluate_embeddings(unit_rows(user), unit_rows(item), positives,
                              known, k=20)
    print(f'{name:<28} Recall@20 {out["recall@20"]:.4f}   '
          f'NDCG@20 {out["ndcg@20"]:.4f}')


# Layers and losses ###########################################################

# Batches are drawn on the device of the interactions, with negatives that no
# user of a row is known to have.
loader = InteractionLoader(known, known, num_users, num_items, args.batch_size,
                           BatchSpec(shared_negatives=128))
x = torch.cat([train['item'].visual, train['item'].textual], dim=1)
x = (x - x.mean(dim=0)) / x.std(dim=0)
edge_index_dict = T.ToUndirected()(train).edge_index_dict

teacher = Teacher(x.size(1), args.hidden_channels).to(args.device)
rank_loss = SampledSoftmaxLoss(temperature=0.2)
optimizer = torch.optim.AdamW(teacher.parameters(), lr=5e-3)
for _ in range(args.epochs):
    for batch in loader:
        user, item = teacher(x, edge_index_dict)
        loss = rank_loss(list_scores(user, item, batch), list_mask(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
with torch.no_grad():  # The teacher is frozen from here on: run it once.
    teacher_user, teacher_item = teacher(x, edge_index_dict)
report('your teacher', teacher_user, teacher_item)

student = LightGCNStudent(num_users, num_items, args.hidden_channels)
student = student.to(args.device)
list_kd = DisentangledListKD(temperature=0.2)
emb_kd = ScaledCosineError()
optimizer = torch.optim.AdamW(student.parameters(), lr=5e-3)
for _ in range(args.epochs):
    for batch in loader:
        user, item = student(graph)
        scores, mask = list_scores(user, item, batch), list_mask(batch)
        target = list_scores(teacher_user, teacher_item, batch)
        # List KD is scaled by its squared temperature, 1/25: hence the weight.
        loss = (rank_loss(scores, mask) + 75.0 * list_kd(scores, target, mask)
                + 0.5 * emb_kd(item, teacher_item))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
with torch.no_grad():
    report('your student, distilled', *student(graph))

# The distiller's losses ######################################################

# `prepare` is what `fit` calls before its loop: it builds the graph and the
# constant tables of a stage, and freezes what the stage freezes. It returns
# the stage's task, which knows what a batch has to hold.
distiller = PromptMMDistiller.from_data(
    train, hidden_channels=args.hidden_channels, seed=args.seed)
for stage in ('teacher', 'student'):
    task = distiller.prepare(train, stage=stage, device=args.device)
    loss_of = getattr(distiller, f'{stage}_loss')
    loader = InteractionLoader(task.positives, task.known, num_users,
                               num_items, args.batch_size, task.batch_spec)
    optimizer = torch.optim.AdamW(task.parameter_groups(), lr=5e-3)
    for _ in range(args.epochs):
        for batch in loader:
            loss, terms = loss_of(batch)  # each term is differentiable too
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    print(f'{stage} loss {loss.item():.4f}: '
          + ', '.join(f'{k} {v.item():.4f}' for k, v in terms.items()))
    report(f"the distiller's {stage}", *distiller.embeddings(stage))
