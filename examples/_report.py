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

from torch_promptmm import PromptMMDistiller
from torch_promptmm.datasets import SplitDataset
from torch_promptmm.evaluate import evaluate
from torch_promptmm.models import ModelOutput, RankingModel
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.train import History, fit

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


class PyGLightGCN(RankingModel):
    """`torch_geometric.nn.LightGCN`, as `fit` and `evaluate` take any model.

    PyG's layers normalise an `edge_index` at every call and scatter messages
    along it. Here they multiply by the normalised adjacency, as a CSR matrix
    (`normalize=False`). The result is the same and comes several times
    faster, so the times in the table are those of PyG at its best.
    """
    def __init__(self, num_users: int, num_items: int, hidden_channels: int,
                 num_layers: int = 2) -> None:
        super().__init__(num_users, num_items)
        self.model = LightGCN(num_users + num_items, hidden_channels,
                              num_layers, normalize=False)

    def forward(self, graph: UserItemGraph, user_id: Tensor | None = None,
                item_id: Tensor | None = None) -> ModelOutput:
        table = self.model.get_embedding(adjacency(graph))
        return ModelOutput(*self.pick(table, user_id, item_id))

    def rows(self, graph: UserItemGraph, user_id: Tensor, item_id: Tensor,
             num_ego: int = 0) -> ModelOutput:
        out = self(graph, user_id, item_id)
        # The L2 term falls on rows of the table, as in PyG's own BPR loss.
        return ModelOutput(out.user, out.item, ego=self.pick(
            self.model.embedding.weight, user_id, item_id[:num_ego]))

    def pick(self, table: Tensor, user_id: Tensor | None,
             item_id: Tensor | None) -> tuple[Tensor, Tensor]:
        user, item = table.split([self.num_users, self.num_items])
        return (user if user_id is None else user[user_id],
                item if item_id is None else item[item_id])


def adjacency(graph: UserItemGraph) -> Tensor:
    """Users and items as the nodes of one square CSR matrix."""
    upper, lower = graph.user_item, graph.item_user
    num_nodes = graph.num_users + graph.num_items
    with warnings.catch_warnings():  # torch: "CSR is in beta state"
        warnings.simplefilter('ignore', UserWarning)
        return torch.sparse_csr_tensor(
            torch.cat([upper.crow, upper.crow[-1] + lower.crow[1:]]),
            torch.cat([upper.col + graph.num_users, lower.col]),
            torch.cat([upper.value, lower.value]), (num_nodes, num_nodes))


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

    # By BPR, as PyG's example and the LightGCN paper. Learning rate and L2 are
    # those that our own models have under BPR, tuned on validation: with those
    # of PyG's example it would be an easier baseline to beat.
    baseline = PyGLightGCN.from_data(train_data, args.hidden_channels,
                                     seed=args.seed)
    history = fit(baseline, train_data, val_data, ranking_loss='bpr',
                  **options)
    rows.append(row('PyG LightGCN', evaluate(baseline, test_data, CUTS),
                    count(baseline), history))

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
