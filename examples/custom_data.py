"""From a table with ids of your own, and a folder of features, to a list of
recommendations with those ids.

    python examples/custom_data.py                 # makes up a small shop
    python examples/custom_data.py --table orders.csv --features features \
        --user customer --item sku --time ordered_at

The folder has a float matrix for each modality, `<name>.npy`, and beside it
the ids of its rows, `<name>_ids.txt`, one a line.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from torch_promptmm import PromptMMDistiller
from torch_promptmm.data import (
    KCore,
    LeaveOneOutSplit,
    RandomUserSplit,
    add_feature_folder,
    item_ids,
    read_interactions,
    user_ids,
)

KINDS = ['tea', 'cup', 'lamp', 'book']


def make_shop(folder: Path) -> None:
    """A made-up shop: each customer likes two of four kinds of goods."""
    rng = np.random.RandomState(0)
    goods = [f'{kind}-{n:02d}' for kind in KINDS for n in range(15)]
    kind_of = np.repeat(np.arange(len(KINDS)), 15)
    with open(folder / 'orders.csv', 'w') as f:
        f.write('customer,sku,ordered_at\n')
        for n in range(150):
            liked = rng.choice(len(KINDS), 2, replace=False)
            mine = np.flatnonzero(np.isin(kind_of, liked))
            for day, i in enumerate(rng.permutation(mine)[:8]):
                f.write(f'C-{n:03d},{goods[i]},2024-01-{day + 1:02d}\n')
    (folder / 'features').mkdir()
    for name, width in [('visual', 24), ('textual', 16)]:
        # The rows lie in another order than the goods in the table: what
        # brings them together is their ids, never their place.
        rows = rng.permutation(len(goods))[:-1]  # And one is missing.
        center = rng.standard_normal((len(KINDS), width))
        x = center[kind_of[rows]] + rng.standard_normal((len(rows), width))
        np.save(folder / 'features' / f'{name}.npy', x.astype(np.float32))
        (folder / 'features' / f'{name}_ids.txt').write_text(
            '\n'.join(goods[i] for i in rows) + '\n')


def main(args: argparse.Namespace) -> None:
    # 1. The table. Ids may be anything; they are kept with the graph.
    data = read_interactions(args.table, user=args.user, item=args.item,
                             time=args.time)
    # 2. Features find their items by id. Items without one are masked.
    data = add_feature_folder(data, args.features)
    # 3. Users and items that are too rare to learn anything from.
    if args.core > 1:
        data = KCore(args.core)(data)
    print(data)
    print('left out or repaired:', data.report)

    # 4. Each user's last purchase is the test, the one before validates.
    split = LeaveOneOutSplit() if args.time else RandomUserSplit()
    train, val, test = split(data)

    # 5. Teacher and prompt, then the student.
    distiller = PromptMMDistiller.from_data(train, hidden_channels=64, seed=0)
    distiller.fit(train, val, epochs=args.epochs, seed=0)
    k = [k for k in (20, 50) if k <= data['item'].num_nodes]
    for name, value in distiller.evaluate(test, k=k).items():
        print(f'{name}: {value:.4f}')

    # 6. Raw ids in, raw ids out.
    users, items = user_ids(data), item_ids(data)
    asked = args.ask or users.to_list()[:3]
    best, _ = distiller.recommend(users.encode(asked), k=args.k)
    for user, goods in zip(asked, items.decode(best), strict=True):
        print(f'{user}: {", ".join(str(x) for x in goods if x is not None)}')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--table', help='CSV, TSV, Parquet or .inter')
    parser.add_argument('--features', help='a folder')
    parser.add_argument('--user', default='customer')
    parser.add_argument('--item', default='sku')
    parser.add_argument('--time', help='without it, the split is at random')
    parser.add_argument('--core', type=int, default=3)
    parser.add_argument('--epochs', type=int, default=30)
    parser.add_argument('--k', type=int, default=5)
    parser.add_argument('--ask', nargs='*', help='raw ids of users')
    args = parser.parse_args()
    if (args.table is None) != (args.features is None):
        parser.error('--table and --features go together')
    return args


if __name__ == '__main__':
    args = parse_args()
    if args.table is not None:
        main(args)
    else:
        with tempfile.TemporaryDirectory() as folder:
            make_shop(Path(folder))
            args.table = Path(folder) / 'orders.csv'
            args.features = Path(folder) / 'features'
            args.time = 'ordered_at'
            main(args)
