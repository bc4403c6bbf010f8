"""How large the tensors are that an operation makes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Largest(TorchDispatchMode):
    """Records the elements of the largest tensor that comes to be inside,
    forward and backward; views of what is there already do not count.

    (tracemalloc sees nothing of what torch allocates.)
    """
    def __init__(self, *there: Tensor) -> None:
        super().__init__()
        self.there = {x.untyped_storage().data_ptr() for x in there}
        self.numel, self.shape = 0, torch.Size()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if not isinstance(x, Tensor) or x.layout != torch.strided:
                continue
            if x.untyped_storage().data_ptr() in self.there:
                continue
            size = x.untyped_storage().nbytes() // x.element_size()
            if size > self.numel:
                self.numel, self.shape = size, x.shape
        return out


