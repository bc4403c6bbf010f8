"""What the examples share: their options, PyG's LightGCN as the baseline, and
the table that compares it with teacher and student.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn import LightGCN
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import to_torch_csr_tensor

from torch_promptmm import PromptMMDistiller
from torch_promptmm.data import held_out, read_graph
from torch_promptmm.datasets import SplitDataset
from torch_promptmm.evaluate import evaluate_embeddings
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.train import (
    History,
    RankingObjective,
    RankingTask,
    Settings,
    seeded,
    train,
)

CUTS = (20, 50)


def add_options(parser: argparse.ArgumentParser, setting: str) -> None:
    """The options of every example that trains all three models."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    add = parser.add_argument
    add('--setting', choices=['default', 'faithful'], default=setting,
        help='the losses of teacher and student: what validates best on '
        'TikTok, or those of the paper (default: %(default)s)')
    add('--epochs', type=int, default=100, help='at most, for each model '
        '(default: %(default)s)')
    add('--patience', type=int, default=20, help='epochs without a better '
        'validation Recall@20 (default: %(default)s)')
    add('--batch-size', type=int, default=2048, help='interactions in a batch '
        '(default: %(default)s)')
    add('--hidden-channels', type=int, default=64, help='width of all '
        'embeddings (default: %(default)s)')
    add('--seed', type=int, default=0, help='(default: %(default)s)')
    add('--device', default=device, help='(default: %(default)s)')


def describe(name: str, dataset: SplitDataset) -> str:
    """The statistics of a dataset in a few lines."""
    stats = dataset.statistics
    features = ', '.join(f'{k} {v:,}' for k, v in stats['features'].items())
    return (f'{name}: {stats["users"]:,} users, {stats["items"]:,} items, '
            f'{stats["interactions"]:,} interactions '
            f'({100 * stats["sparsity"]:.3f} % of all pairs are empty)\n'
            f'  training {stats["train"]:,}, validation {stats["val"]:,}, '
            f'test {stats["test"]:,}\n'
            f'  features: {features}\n'
            f'  {stats["cold_items"]:,} items have no training interaction; '
            f'{stats["cold_test_interactions"]:,} test interactions are of '
            f'such items')


class PyGLightGCN(torch.nn.Module):
    """`torch_geometric.nn.LightGCN` with users and items apart, as our
    training loop wants them.

    PyG's layers normalise the graph at every call, and scatter messages along
    an `edge_index`. Both are avoidable at no change of the result: the
    normalised adjacency is a CSR matrix here, made once by PyG's own
    `gcn_norm`, and the layers only multiply by it (`normalize=False`). This
    is several times faster, so the times in the table are PyG at its best.
    """
    def __init__(self, edge_index: Tensor, num_users: int, num_items: int,
                 hidden_channels: int, num_layers: int = 2) -> None:
        super().__init__()
        num_nodes = num_users + num_items
        self.num_users = num_users
        self.model = LightGCN(num_nodes, hidden_channels, num_layers,
                              normalize=False)
        user, item = edge_index
        item = item + num_users
        both = torch.stack([torch.cat([user, item]), torch.cat([item, user])])
        both, weight = gcn_norm(both, num_nodes=num_nodes,
                                add_self_loops=False)
        with warnings.catch_warnings():  # torch: "CSR is in beta state"
            warnings.simplefilter('ignore', UserWarning)
            adj = to_torch_csr_tensor(both, weight,
                                      size=(num_nodes, num_nodes))
        self.register_buffer('adj', adj, persistent=False)

    def forward(
        self,
        graph: UserItemGraph,
        user_id: Tensor | None = None,
        item_id: Tensor | None = None,
        return_ego: bool = False,
    ) -> tuple[Tensor, ...]:
        # `graph` is what our own models propagate over; here it is `adj`.
        tables = [self.model.get_embedding(self.adj)]
        if return_ego:  # for the L2 term, which PyG's own BPR loss has too
            tables.append(self.model.embedding.weight)
        out: list[Tensor] = []
        for table in tables:
            user, item = table[:self.num_users], table[self.num_users:]
            out.append(user if user_id is None else user[user_id])
            out.append(item if item_id is None else item[item_id])
        return tuple(out)


def fit_lightgcn(train_data: Any, val_data: Any, hidden_channels: int,
                 seed: int, device: str,
                 **options: Any) -> tuple[RankingTask, History]:
    """Trains PyG's LightGCN by BPR, as PyG and the LightGCN paper do, in the
    same loop, with the same patience as ours. Learning rate and L2 are those
    of our own models under BPR, tuned on validation: with those of PyG's
    example it would be an easier baseline to beat.
    """
    view = read_graph(train_data, check_finite=False)
    val_view = read_graph(val_data, check_finite=False)
    settings = Settings.preset('faithful')
    with seeded(seed, torch.device('cpu')):
        model = PyGLightGCN(view.edge_index, view.num_users, view.num_items,
                            hidden_channels)
    graph = UserItemGraph(view.edge_index, view.num_users, view.num_items)
    task = RankingTask(model.to(device), graph.to(device),
                       view.edge_index.to(device),
                       objective=RankingObjective('bpr'),
                       l2=settings.ego_l2)

    def validate() -> dict[str, float]:
        return evaluate_embeddings(*task.embeddings(), held_out(val_view),
                                   val_view.edge_index, k=20)

    history = train(task, lr=settings.learning_rate, validate=validate,
                    seed=seed, name='PyG LightGCN', **options)
    return task, history


def count(*modules: torch.nn.Module | None) -> int:
    """Parameters of modules, frozen or not."""
    return sum(p.numel() for module in modules if module is not None
               for p in module.parameters())


def row(name: str, metrics: dict[str, float], parameters: int,
        history: History) -> str:
    seconds = sum(history.values('time'))
    values = '  '.join(f'{metrics[f"{metric}@{k}"]:9.4f}' for k in CUTS
                       for metric in ('recall', 'ndcg'))
    return (f'{name:<14}{values}  {parameters:>12,}  {len(history):>6}  '
            f'{seconds:>7.1f}')


def compare(dataset: SplitDataset, args: argparse.Namespace) -> None:
    """Trains PyG's LightGCN, the teacher and the student, each with its epoch
    chosen on validation, and prints one table of the test.
    """
    train_data, val_data, test_data = dataset
    options: dict[str, Any] = {
        'epochs': args.epochs,
        'batch_size': args.batch_size,
        'patience': args.patience,
        'seed': args.seed,
        'device': args.device,
    }
    rows = []

    task, history = fit_lightgcn(train_data, val_data, args.hidden_channels,
                                 **options)
    test = read_graph(test_data, check_finite=False)
    metrics = evaluate_embeddings(*task.embeddings(), held_out(test),
                                  test.edge_index, CUTS)
    rows.append(row('PyG LightGCN', metrics, count(task.model), history))

    distiller = PromptMMDistiller.from_data(
        train_data, hidden_channels=args.hidden_channels, seed=args.seed,
        setting=args.setting)
    history = distiller.fit_teacher(train_data, val_data, **options)
    # Read now: stage 2 tunes the prompt, which is a part of the teacher.
    metrics = distiller.evaluate(test_data, CUTS, model='teacher')
    parameters = count(distiller.teacher, distiller.prompt)
    rows.append(row('teacher', metrics, parameters, history))

    history = distiller.fit_student(train_data, val_data, **options)
    metrics = distiller.evaluate(test_data, CUTS)
    rows.append(row('student', metrics, count(distiller.student), history))

    names = '  '.join(f'{f"{metric}@{k}":>9}' for k in CUTS
                      for metric in ('Recall', 'NDCG'))
    print(f'\n{"test":<14}{names}  {"parameters":>12}  {"epochs":>6}  '
          f'{"seconds":>7}')
    print('\n'.join(rows))
    print("\nseconds of training, without validation; the student's are those "
          'of stage 2,\nwhich needs the teacher of stage 1')
