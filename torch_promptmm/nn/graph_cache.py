r"""Graphs of features that are made once."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from torch_promptmm.files import atomic_path
from torch_promptmm.nn.csr import CSRMatrix
from torch_promptmm.nn.feature_matmul import row_slices

_VERSION = 1  # Of how a graph is made: another one is another graph.
_NUM_KEPT = 16
_memory: OrderedDict[str, CSRMatrix] = OrderedDict()


def cached_graph(
    cache: str | os.PathLike | None,
    make: Callable[[], CSRMatrix],
    x: Tensor,
    mask: Tensor | None,
    arguments: Mapping[str, Any],
) -> CSRMatrix:
    r"""Returns the square graph that :obj:`make` makes of features, or the
    same one from a cache.

    Args:
        cache (str, optional): A folder; :obj:`"memory"`, which keeps the
            last few graphs; or :obj:`None`, which always makes it.
        make (callable): Makes the graph.
        x (torch.Tensor): The features that it is made of.
        mask (torch.Tensor, optional): Their mask.
        arguments (dict): All else that it depends on.
    """
    if cache is None:
        return make()
    key = hash_of(x, mask, arguments)
    if cache == 'memory':
        if key not in _memory:
            _memory[key] = make()
            while len(_memory) > _NUM_KEPT:
                _memory.popitem(last=False)
        _memory.move_to_end(key)
        return _memory[key]
    path = Path(cache) / f'item-graph-{key}.safetensors'
    if not path.is_file():
        graph = make()
        with atomic_path(path) as temporary:
            save_file({name: getattr(graph, name).cpu()
                       for name in ('crow', 'col', 'value')}, temporary)
        return graph
    tensors = load_file(path, device=str(x.device))
    return CSRMatrix(tensors['crow'], tensors['col'], tensors['value'],
                     x.size(0))


def hash_of(x: Tensor, mask: Tensor | None,
            arguments: Mapping[str, Any]) -> str:
    r"""Returns a name for features, mask and arguments, which another value
    of any of them changes."""
    out = hashlib.blake2b(digest_size=16)
    said = [_VERSION, x.dtype, list(x.shape), x.device.type,
            mask is not None, *sorted(arguments.items())]
    out.update(repr(said).encode())
    for rows in row_slices(x):
        out.update(_bytes(x[rows]))
    if mask is not None:
        out.update(_bytes(mask))
    return out.hexdigest()


def _bytes(x: Tensor) -> Any:
    x = x.detach().cpu().contiguous()
    return x.view(torch.uint8).numpy()
