"""What a student learns after it was distilled: new interactions, new items,
new users.

    python benchmarks/growing.py --datasets FOLDER --modalities text
    python benchmarks/growing.py --datasets small --quick

Three distillers are trained: on everything, without ``--new`` of the
interactions, and without ``--new-users`` of the users. Items without a
training interaction are in no catalogue; at the end they are added by their
content. Epochs and the level of new items are chosen on validation; test is
read once.

- *New interactions*: the second distiller, updated with what it lacks, beside
  the first. Seconds are of this process' CPU, of teacher and student for the
  first.
- *New items*: the first distiller with the items without an interaction, by
  content. Chance is 20 over the number of items.
- *New users*: those that the third distiller lacks, from their items alone,
  beside the same users in the first.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import torch
from _markdown import markdown, write_output
from _seed_runs import Splits
from study import dataset_name, load_dataset
from torch import Tensor
from torch_geometric.data import HeteroData

from torch_promptmm import PromptMMDistiller
from torch_promptmm.data import from_interactions, held_out, read_graph
from torch_promptmm.evaluate import evaluate_embeddings

K = 20
HEADER = ['what', 'R@20', 'beside', 'R@20', 'ratio', 'seconds', 'ratio']


class Growing:
    """The distillers of one data set and setting."""
    def __init__(self, splits: Splits, args: argparse.Namespace) -> None:
        self.args, self.seconds = args, 0.0
        train, val, test = (read_graph(x, modalities=args.modalities or None,
                                       check_finite=False) for x in splits)
        self.view, self.num_users = train, train.num_users
        self.val, self.test = held_out(val), held_out(test)
        degree = torch.bincount(train.edge_index[1],
                                minlength=train.num_items)
        # Warm items first: new ones come behind.
        order = torch.argsort((degree == 0).long(), stable=True)
        self.order, self.num_warm = order, int((degree > 0).sum())
        self.number = torch.empty_like(order)
        self.number[order] = torch.arange(order.numel())
        self.edges, self.val, self.test = (
            torch.stack([x[0], self.number[x[1]]])
            for x in (train.edge_index, self.val, self.test))
        generator = torch.Generator().manual_seed(0)
        num = self.edges.size(1)
        self.old = torch.rand(num, generator=generator) >= args.new
        self.old_users = torch.rand(self.num_users,
                                    generator=generator) >= args.new_users

    def data(self, edges: Tensor, labels: Tensor | None = None) -> HeteroData:
        """A graph of the items that someone has."""
        rows = self.order[:self.num_warm]
        if labels is not None:
            labels = labels[:, labels[1] < self.num_warm]
        out = from_interactions(
            edges, {name: x[rows] for name, x in self.view.features.items()},
            self.num_users, self.num_warm, labels)
        for name, mask in self.view.masks.items():
            out['item'][f'{name}_mask'] = mask[rows]
        return out

    def trained(self, edges: Tensor) -> PromptMMDistiller:
        args = self.args
        start = time.process_time()
        train = self.data(edges)
        members = {} if args.setting != 'content' else {
            'num_members': args.members}
        out = PromptMMDistiller.from_data(
            train, 64, setting=args.setting, seed=args.seed, **members)
        # What validation has of users whose items are gone says nothing.
        val = self.val[:, torch.isin(self.val[0], edges[0])]
        out.fit(train, self.data(edges, val), epochs=args.epochs,
                patience=args.patience, eval_every=args.eval_every,
                seed=args.seed, progress=False, threads=None)
        self.seconds = time.process_time() - start
        return out

    def recall(self, pair: Sequence[Tensor], part: Tensor | None = None,
               per: str = 'all') -> float:
        """Recall of test, what users have in training left out."""
        positives = self.test
        if per == 'warm':
            positives = positives[:, positives[1] < self.num_warm]
        if per == 'cold':
            positives = positives[:, positives[1] >= self.num_warm]
        if part is not None:
            positives = positives[:, part[positives[0]]]
        out = evaluate_embeddings(*pair, positives, self.edges, (K, ),
                                  metrics=('recall', ))
        return float(out[f'recall@{K}'])

    def rows(self) -> list[list[str]]:
        full = self.trained(self.edges)
        cost, pair = self.seconds, full.embeddings()
        out = [self.interactions(pair, cost), self.users(pair)]
        return out + self.items(full, pair)

    def interactions(self, pair: Sequence[Tensor],
                     cost: float) -> list[str]:
        part = self.trained(self.edges[:, self.old])
        unchanged = self.recall(part.embeddings(), per='warm')
        start = time.process_time()
        update = part.update(
            self.edges, self.data(self.edges[:, self.old], self.val),
            epochs=self.args.update_epochs, anchor=self.args.anchor,
            seed=self.args.seed, progress=False, threads=None)
        seconds = time.process_time() - start
        print(f'{update}; test before it {unchanged:.4f}', flush=True)
        return self.row('new interactions',
                        self.recall(part.embeddings(), per='warm'),
                        'trained on everything', self.recall(pair, per='warm'),
                        seconds, cost)

    def users(self, pair: Sequence[Tensor]) -> list[str]:
        """A new user is the sum of its items as propagation weighs them."""
        kept = self.old_users[self.edges[0]]
        part = self.trained(self.edges[:, kept])
        user, item = part.embeddings()
        theirs = self.edges[:, ~kept]
        degree = torch.bincount(self.edges[1, kept],
                                minlength=self.num_warm).clamp(min=1)
        weight = degree.to(item).rsqrt().view(-1, 1)
        user = user.clone()
        user[~self.old_users] = 0.0
        user.index_add_(0, theirs[0], (weight * item)[theirs[1]])
        return self.row('new users, folded in',
                        self.recall((user, item), ~self.old_users, 'warm'),
                        'the same users, trained',
                        self.recall(pair, ~self.old_users, 'warm'))

    def items(self, full: PromptMMDistiller,
              pair: Sequence[Tensor]) -> list[list[str]]:
        rows = self.order[self.num_warm:]
        if rows.numel() == 0 or not bool((self.test[1] >= self.num_warm).any()):
            return []
        recommender = full.recommender()
        start = time.process_time()
        recommender.add_items(
            {name: x[rows] for name, x in self.view.features.items()},
            masks={name: x[rows] for name, x in self.view.masks.items()})
        seconds = time.process_time() - start
        grown = recommender.user_emb, recommender.item_emb
        chance = K / self.order.numel()
        print(full._training.growth.content_map, flush=True)
        return [
            self.row('new items alone', self.recall(grown, per='cold'),
                     'chance', chance),
            self.row('all items, with new ones', self.recall(grown),
                     'without them', self.recall((
                         grown[0], torch.cat([pair[1], pair[1].new_zeros(
                             rows.numel(), pair[1].size(1))]))), seconds),
        ]

    @staticmethod
    def row(what: str, value: float, beside: str, other: float,
            seconds: float | None = None,
            cost: float | None = None) -> list[str]:
        return [what, f'{value:.4f}', beside, f'{other:.4f}',
                f'{value / max(other, 1e-12):.3f}',
                '' if seconds is None else f'{seconds:.2f}',
                '' if seconds is None or cost is None else
                f'{seconds / cost:.4f}']


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)

    def add(name: str, default: Any, text: str, **kwargs: Any) -> None:
        parser.add_argument(name, default=default, **kwargs,
                            help=f'{text} (default: {default})')

    add('--datasets', ['small'], 'folders, or presets', nargs='+')
    add('--modalities', [], 'of the items; none is all', nargs='+')
    add('--setting', 'default', 'of the distillers',
        choices=['default', 'content'])
    add('--members', 1, 'LightGCNs of a content teacher', type=int)
    add('--new', 0.1, 'the share of interactions that arrive', type=float)
    add('--new-users', 0.1, 'the share of users that arrive', type=float)
    add('--epochs', 100, 'at most, of each stage', type=int)
    add('--patience', 10, 'epochs without a better validation', type=int)
    add('--eval-every', 2, 'epochs between validations', type=int)
    add('--update-epochs', 2, 'of an update', type=int)
    add('--anchor', 3.0, "the weight of the teacher's lists in an update",
        type=float)
    add('--seed', 0, 'of everything', type=int)
    add('--threads', 1, 'of torch', type=int)
    parser.add_argument('--quick', action='store_true',
                        help='two epochs, to see that it works')
    parser.add_argument('--output', help='also write the tables to this file')
    args = parser.parse_args(argv)
    if args.quick:
        args.epochs = 2
    torch.set_num_threads(args.threads)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    texts = []
    for dataset in args.datasets:
        growing = Growing(load_dataset(dataset), args)
        texts.append(f'### {dataset_name(dataset)}\n\n' +
                     markdown(HEADER, growing.rows()))
        print(texts[-1], flush=True)
    if args.output:
        command = ' '.join(['growing.py', '--datasets', *args.datasets,
                            '--setting', args.setting])
        write_output(args.output, command, '\n\n'.join(texts))


if __name__ == '__main__':
    main()
