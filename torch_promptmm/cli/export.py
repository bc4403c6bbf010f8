r"""Write what other engines read, or a smaller model.

parquet: users.parquet and items.parquet in a folder, a row for each with id,
vector and popularity, which LanceDB, DuckDB, pgvector, Milvus and Qdrant read.
onnx: a file of scoring and the choice of the best items, for onnxruntime.
program: the same as a file of torch.export. model: a saved model again, whose
vectors are of another --dtype.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

from torch_promptmm.cli.parser import (
    ArgumentParser,
    Namespace,
    add_model,
    add_out,
    check_out,
    lines,
)
from torch_promptmm.files import atomic_path
from torch_promptmm.serve import Recommender
from torch_promptmm.serve.tables import DTYPES

USAGE = 'MODEL --to FORMAT --out PATH [options]'
EXAMPLES = """\
  promptmm export model --to parquet --out vectors
  promptmm export model --to onnx --k 50 --out model.onnx
  promptmm export model --to model --dtype float16 --out small"""


def add_arguments(parser: ArgumentParser) -> None:
    r"""Adds what the command takes."""
    add_model(parser)
    add = parser.add_argument
    add('--to', type=Literal['parquet', 'onnx', 'program', 'model'],
        required=True, help='What to write.')
    add('--k', type=int, default=20, help='Items for each user, of onnx and '
        'program.')
    add('--include_known', action='store_true', help='Recommend what users '
        'have, too, of onnx and program.')
    add('--dtype', type=Literal[tuple(DTYPES)], default='float32',
        help='The type of the vectors, of model.')
    add_out(parser, 'Where to write.', required=True)


def run(args: Namespace) -> dict[str, Any]:
    r"""Writes."""
    out = check_out(args)
    model = Recommender.load(args.model)
    if args.to == 'parquet':
        model.to_parquet(out)
    elif args.to == 'onnx':
        model.to_onnx(out, args.k, not args.include_known)
    elif args.to == 'program':
        _save_program(model.to_program(args.k, not args.include_known), out)
    else:
        model.to_dtype(args.dtype).save(out)
    files = [out] if out.is_file() else sorted(out.iterdir())
    return {'out': str(out), 'bytes': sum(x.stat().st_size for x in files)}


def _save_program(program: Any, path: Path) -> None:
    import torch
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


show = lines
