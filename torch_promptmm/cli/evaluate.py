r"""Rank the whole catalogue for the users of held-out interactions.

What a user has otherwise is left out of the ranking. Interactions that the
model was trained on make it look better than it is: hold them out before
training.
"""

from __future__ import annotations

from typing import Any

import torch

from torch_promptmm.cli.parser import (
    ArgumentParser,
    Namespace,
    add_model,
    add_table,
    lines,
    read_table,
)
from torch_promptmm.data import read_graph
from torch_promptmm.evaluate import HITS, evaluate_embeddings
from torch_promptmm.serve import Recommender
from torch_promptmm.serve.tables import table_rows

USAGE = 'MODEL TABLE [options]'
EXAMPLES = """\
  promptmm evaluate model held_out.csv
  promptmm evaluate model held_out.csv --k 10 20 --metrics recall mrr --json"""


def add_arguments(parser: ArgumentParser) -> None:
    r"""Adds what the command takes."""
    add_model(parser)
    add_table(parser)
    parser.add_argument('--k', type=int, nargs='+', default=[20, 50],
                        help='The cut-offs.')
    parser.add_argument('--metrics', type=str, nargs='+',
                        default=['recall', 'ndcg'],
                        help=f'Of {", ".join(HITS)}.')


def run(args: Namespace) -> dict[str, Any]:
    r"""Ranks and measures."""
    model = Recommender.load(args.model)
    data = read_table(
        args, users=model.ids.get('user', range(model.num_users)),
        items=model.ids.get('item', range(model.num_items)), unknown='drop')
    held_out = read_graph(data).edge_index
    known = model.known
    seen = 0
    if known is not None:
        key, held = [x[0] * model.num_items + x[1] for x in (known, held_out)]
        seen = int(torch.isin(held, key).sum())
        known = known[:, ~torch.isin(key, held)]
    scales = model.scales or {}
    user = table_rows(model.user_emb, scales.get('user'))
    item = table_rows(model.item_emb, scales.get('item'))
    return {
        'users': int(held_out[0].unique().numel()),
        'interactions': held_out.size(1),
        'known to the model': seen,
        'repairs': str(data.report),
        'metrics': evaluate_embeddings(user, item, held_out, known, args.k,
                                       metrics=args.metrics),
    }


show = lines
