r"""Say what a saved model is: sizes, ids, metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch_promptmm.cli.parser import (
    ArgumentParser,
    Namespace,
    add_model,
    lines,
)
from torch_promptmm.serve import Recommender

USAGE = 'MODEL [--json]'
EXAMPLES = """\
  promptmm info model
  promptmm info model --json"""


def add_arguments(parser: ArgumentParser) -> None:
    r"""Adds what the command takes."""
    add_model(parser)


def run(args: Namespace) -> dict[str, Any]:
    r"""Loads the model, which checks it, and describes it."""
    model = Recommender.load(args.model)
    files = [x for x in Path(args.model).rglob('*') if x.is_file()]
    return {
        'users': model.num_users,
        'items': model.num_items,
        'channels': model.user_emb.size(1),
        'dtype': str(model.user_emb.dtype).removeprefix('torch.'),
        'known interactions': 0 if model.known is None else
        model.known.size(1),
        'ids': {kind: ids.kind for kind, ids in model.ids.items()},
        'bytes': sum(x.stat().st_size for x in files),
        **model.meta,
    }


show = lines
