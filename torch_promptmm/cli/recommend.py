r"""Print or write the best items of users, without what they have.

The columns are user, rank, item and score; with --json, a line for each user.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, TextIO

import torch

from torch_promptmm.cli.parser import (
    ArgumentParser,
    Namespace,
    add_model,
    add_out,
    check_out,
    ids_of,
    output,
    read_lines,
)
from torch_promptmm.serve import Recommender
from torch_promptmm.serve.live import Ask, Version

USAGE = """MODEL (--users ID ... | --users_file FILE | --all |
       --history ITEM ...) [options]"""
EXAMPLES = """\
  promptmm recommend model --users anna ben --k 5
  promptmm recommend model --users_file users.txt --out lists.csv
  promptmm recommend model --all --json --out lists.jsonl
  promptmm recommend model --history B000F83SZQ 0007-X   # a new user"""

_BLOCK = 4096  # Users ranked at a time.


def add_arguments(parser: ArgumentParser) -> None:
    r"""Adds what the command takes."""
    add_model(parser)
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument('--users', type=str, nargs='+', help='Raw ids of users.')
    who.add_argument('--users_file', type=str,
                     help='A file of them, one a line; - reads them from the '
                     'standard input.')
    who.add_argument('--all', action='store_true', help='All users.')
    who.add_argument('--history', type=str, nargs='+',
                     help='All items of a user whom the model does not know.')
    add = parser.add_argument
    add('--k', type=int, default=20, help='Items for each user.')
    add('--include_known', action='store_true',
        help='Recommend what users have, too.')
    add('--candidates', type=str, nargs='+', help='Only these items.')
    add('--exclude', type=str, nargs='+', help='None of these items.')
    add_out(parser, 'A file to write. (default: the standard output)',
            required=False)


def run(args: Namespace) -> None:
    r"""Writes lists as they are computed."""
    out = None if args.out is None else check_out(args)
    version = Version(Recommender.load(args.model), args.model)
    model = version.recommender
    options: dict[str, Any] = {} if args.history else {
        'exclude_known': not args.include_known}
    for name in ('candidates', 'exclude'):
        if args[name] is not None:
            options[name] = tuple(version.rows('item', ids_of(
                model.ids.get('item'), args[name], model.num_items,
                'item')).tolist())
    ask = Ask(version, 'recommend_from_history' if args.history else
              'recommend', args.k, tuple(options.items()))
    lists = _lists(version, ask, args)
    first = list(islice(lists, 1))  # Nothing is written if it is an error.
    with output(out) as file:
        _write(file, args.json, chain(first, lists))


def _lists(version: Version, ask: Ask,
           args: Namespace) -> Iterator[tuple[Any, list[Any], list[float]]]:
    model = version.recommender
    if args.history:
        items = ids_of(model.ids.get('item'), args.history, model.num_items,
                       'item')
        yield None, *version.compute(ask, [[version.rows(
            'item', items).tolist()]])[0][0]
        return
    ids = model.ids.get('user')
    if args.all:
        users: Any = range(model.num_users) if ids is None else ids.to_list()
    else:
        users = ids_of(ids, args.users or read_lines(args.users_file),
                       model.num_users, 'user')
    for start in range(0, len(users), _BLOCK):
        block = users[start:start + _BLOCK]
        rows = (torch.arange(start, start + len(block)) if args.all else
                version.rows('user', block))
        for user, row in zip(block, version.compute(ask, [rows])[0],
                             strict=True):
            yield user, *row


def _write(file: TextIO, as_json: bool, lists: Iterator[Any]) -> None:
    if as_json:
        for user, items, scores in lists:
            file.write(json.dumps({'user': user, 'items': items,
                                   'scores': scores}, ensure_ascii=False))
            file.write('\n')
        return
    table = csv.writer(file, lineterminator='\n')
    table.writerow(['user', 'rank', 'item', 'score'])
    for user, items, scores in lists:
        table.writerows([user, rank, item, f'{score:.6g}'] for rank, (
            item, score) in enumerate(zip(items, scores, strict=True), 1))
