r"""Train on a table of interactions and a folder of item features, and save
what serves.

The folder has a float matrix for each modality, `<name>.npy`, and beside it
the ids of its rows, `<name>_ids.txt`, one a line; or `<name>.parquet`, whose
first column is the id. Part of the interactions is held out to choose the
best epoch and to measure the result; what is saved recommends nothing that
the table has already.
"""

from __future__ import annotations

import time
from dataclasses import fields
from typing import Any, Literal

from torch_promptmm import PromptMMDistiller
from torch_promptmm.cli.parser import (
    ArgumentParser,
    Namespace,
    add_from,
    add_out,
    add_table,
    check_out,
    lines,
    read_table,
)
from torch_promptmm.data import (
    KCore,
    LeaveOneOutSplit,
    RandomUserSplit,
    TemporalSplit,
    add_feature_folder,
    read_graph,
)
from torch_promptmm.distill import Settings
from torch_promptmm.distill.settings import PRESETS
from torch_promptmm.serve import Recommender
from torch_promptmm.train import train

USAGE = 'TABLE --features DIR --out DIR [options]'
EXAMPLES = """\
  promptmm train orders.csv --features features --out model
  promptmm train orders.csv --features features --user customer --item sku \\
      --time ordered_at --core 3 --epochs 30 --out model --json
  promptmm train orders.csv --features features --out model \\
      --setting content --settings.lr 0.003 --print_config > run.yaml
  promptmm train --config run.yaml"""

#: Of `train`, what a command line can say.
TRAINING = ('epochs', 'metric', 'patience', 'min_epochs', 'eval_every', 'seed',
            'progress', 'checkpoint', 'resume', 'checkpoint_every', 'threads')
SPLITS = ('random', 'last', 'time')


def add_arguments(parser: ArgumentParser) -> None:
    r"""Adds what the command takes."""
    add_table(parser)
    add = parser.add_argument
    add('--features', type=str, required=True,
        help='The folder of the item features.')
    add_out(parser, 'The directory of the saved model.', required=True)
    add('--core', type=int, default=1, help='Leave out users and items with '
        'fewer interactions, until none is left.')
    add('--split', type=Literal[SPLITS], help='What is held out: a random '
        'share of each user, the last two of each user, or the latest share '
        'of all. (default: last if there is a --time, else random)')
    add('--val', type=float, default=0.1, help='The share to choose the '
        'epoch on.')
    add('--test', type=float, default=0.1, help='The share to measure on.')
    add('--k', type=int, nargs='+', default=[20, 50],
        help='The cut-offs that are measured.')
    add('--hidden_channels', type=int, default=64,
        help='The width of the embeddings.')
    add('--num_layers', type=int, default=2, help='Propagation steps.')
    add('--student', type=Literal['light_gcn', 'gcn', 'mlp'],
        default='light_gcn', help='What is distilled into.')
    add('--device', type=str, default='cpu', help='Where to train.')
    add('--setting', type=Literal[tuple(PRESETS)], default='default',
        help='The preset of the settings below.')
    add('--print_config', action='store_true',
        help='Print these options as YAML, for --config, and end.')
    add_from(parser, train, TRAINING)
    parser.add_class_arguments(Settings, 'settings')


def set_defaults(parser: ArgumentParser, given: Namespace) -> None:
    r"""The preset decides what a setting is that is not given."""
    preset = Settings.preset(given.get('setting', 'default'))
    parser.set_defaults({f'settings.{field.name}': getattr(preset, field.name)
                         for field in fields(preset)})
    if given.get('print_config'):  # Which may lack what is required.
        given.pop('print_config')
        print(parser.dump(given, skip_validation=True), end='')
        raise SystemExit(0)


def run(args: Namespace) -> dict[str, Any]:
    r"""Trains and saves."""
    out, start = check_out(args), time.perf_counter()
    settings = {k: v for k, v in args.settings.as_dict().items()
                if k in {field.name for field in fields(Settings)}}
    Settings.preset(**settings)  # Says what is wrong before data is read.
    data = read_table(args)
    data = add_feature_folder(data, args.features)
    if args.core > 1:
        data = KCore(args.core)(data)
    train_data, val, test = _split(args)(data)
    distiller = PromptMMDistiller.from_data(
        train_data, args.hidden_channels, args.num_layers, seed=args.seed,
        setting=args.setting, student=args.student, **settings)
    graph, options = read_graph(data), {x: args[x] for x in TRAINING}
    distiller.fit(train_data, val if args.val else None, device=args.device,
                  **options)
    ks = [k for k in args.k if k <= graph.num_items]
    metrics = distiller.evaluate(test, k=ks) if args.test and ks else {}
    served = distiller.recommender()
    # Nobody is recommended what was held out: it is known as well.
    Recommender(**{**served.parts(), 'known': graph.edge_index, 'meta': {
        'metrics': metrics, 'settings': distiller.settings.to_dict(),
    }}).save(out)
    return {
        'model': str(out),
        'users': graph.num_users,
        'items': graph.num_items,
        'interactions': graph.edge_index.size(1),
        'repairs': str(data.report),
        'metrics': metrics,
        'seconds': round(time.perf_counter() - start, 1),
    }


def _split(args: Namespace) -> Any:
    name = args.split or ('random' if args.time is None else 'last')
    if name == 'last':
        return LeaveOneOutSplit()
    if name == 'time':
        return TemporalSplit(args.val, args.test)
    return RandomUserSplit(args.val, args.test, seed=args.seed or 0)


show = lines
