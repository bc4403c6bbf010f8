r"""The door for models of every class, and what is asked of any of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch_geometric.typing import Adj

from torch_promptmm.checks import check_bool, check_choice
from torch_promptmm.loss import as_scored
from torch_promptmm.loss.score import SCORES
from torch_promptmm.models.base import (
    ModelOutput,
    RankingModel,
    as_output,
    take,
)
from torch_promptmm.nn.graph import UserItemGraph

# Where a module of another class keeps the score that it was trained with,
# and that it was trained.
_SCORE, _TRAINED = '_torch_promptmm_score', '_torch_promptmm_trained'
# The same in a configuration; no constructor has an argument of this name.
_KEPT = 'as_trained'


class ForeignModel(RankingModel):
    r"""Any module that yields embeddings, as a :class:`RankingModel`. The L2
    term falls on its output rows.

    Args:
        module (torch.nn.Module): :obj:`module(graph)` yields user and item
            embeddings, and, optionally, those of modalities.
        name (str, optional): What to call it in an error.
            (default: :obj:`"model"`)
    """
    def __init__(self, module: torch.nn.Module, name: str = 'model') -> None:
        super().__init__(0, 0)  # Its sizes are known when it is called.
        self.module, self.name = module, name
        self.score = module.__dict__.get(_SCORE)
        self.trained = module.__dict__.get(_TRAINED, False)

    def keep_score(self, score: str) -> None:
        super().keep_score(score)
        # The wrapper is made anew at each door, the module stays.
        self.module.__dict__[_SCORE] = score

    def keep_trained(self, trained: bool = True) -> None:
        super().keep_trained(trained)
        self.module.__dict__[_TRAINED] = trained

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters, and warns of those that cannot
        be reset."""
        reset_parameters(self.module)

    def forward(
        self,
        graph: Adj | UserItemGraph,
        user_id: Tensor | None = None,
        item_id: Tensor | None = None,
    ) -> ModelOutput:
        out = as_output(self.module(graph), self.name)
        return ModelOutput(take(out.user, user_id), take(out.item, item_id), {
            name: (take(user, user_id), take(item, item_id))
            for name, (user, item) in out.modalities.items()
        })


def as_model(module: Any, name: str = 'model') -> RankingModel:
    r"""Returns a module as a :class:`RankingModel`. This is the one door for
    modules of other classes; nothing behind it asks for a class.

    Raises:
        TypeError: If it is no module.
        ValueError: If it is wrapped for data parallelism, which would be
            left out of the training step.
    """
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"'{name}' must be a torch.nn.Module (got "
                        f"'{type(module).__name__}')")
    if isinstance(module, RankingModel):
        return module
    inner = getattr(module, '_orig_mod', None)
    if isinstance(inner, RankingModel):
        warnings.warn(f"'{name}' is compiled; a training step calls it "
                      f"uncompiled. Compile the task instead: "
                      f"torch.compile(RankingTask(...))", stacklevel=3)
        return inner
    if isinstance(module, (torch.nn.DataParallel,
                           torch.nn.parallel.DistributedDataParallel)):
        raise ValueError(f"'{name}' must not be wrapped (got "
                         f"'{type(module).__name__}'): wrap the task or the "
                         f"distiller instead, which compute the loss")
    return ForeignModel(module, name)


def reset_parameters(*modules: torch.nn.Module | None) -> None:
    r"""Resets all learnable parameters of modules, and warns of those that
    cannot be reset."""
    for module in modules:
        if module is None:
            continue
        reset = getattr(module, 'reset_parameters', None)
        if reset is not None:
            reset()
            continue
        own = [name for name, _ in module.named_parameters(recurse=False)]
        if own:
            warnings.warn(
                f"'{type(module).__name__}' has no 'reset_parameters': its "
                f"parameters {own} stay as they are", stacklevel=3)
        reset_parameters(*module.children())


def check_output(output: ModelOutput, sizes: tuple[int, int],
                 name: str = 'model') -> ModelOutput:
    r"""Returns what a model yields, if it has a row for each user and item;
    :obj:`sizes` are their numbers."""
    pairs = {'': (output.user, output.item), **output.modalities}
    for modality, pair in pairs.items():
        of = f' for modality {modality!r}' if modality else ''
        for what, x, rows in zip(('user', 'item'), pair, sizes, strict=True):
            if x.dim() != 2 or x.size(0) != rows:
                raise ValueError(
                    f"'{name}' must yield {what} embeddings of shape "
                    f"[{rows}, channels]{of} (got {list(x.shape)})")
    return output


@torch.no_grad()
def embed(model: torch.nn.Module, graph: UserItemGraph, score: str,
          name: str = 'model') -> tuple[Tensor, Tensor]:
    r"""Returns the user and item embeddings of a model in evaluation mode,
    as the score function sees them: their dot product is the score. They
    share no memory with the model's parameters and buffers.

    Args:
        model (torch.nn.Module): The model.
        graph (UserItemGraph): What is propagated over.
        score (str): :obj:`"dot"` or :obj:`"cosine"`.
        name (str, optional): What to call it in an error.
            (default: :obj:`"model"`)
    """
    # Parts may have modes of their own, such as a frozen part of a model.
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        output = as_output(model(graph), name)
    finally:
        for module, mode in modes:
            module.training = mode
    check_output(output, (graph.num_users, graph.num_items), name)
    own = {x.untyped_storage().data_ptr()
           for x in (*model.parameters(), *model.buffers())
           if x.layout == torch.strided}  # A sparse one has no storage.
    user, item = (as_scored(x, score).detach()
                  for x in (output.user, output.item))
    return tuple(  # type: ignore[return-value]
        x.clone() if x.untyped_storage().data_ptr() in own else x
        for x in (user, item))


def saved_config(model: torch.nn.Module | None) -> dict[str, Any] | None:
    r"""Returns the name and the configuration of a model whose class is
    ours, and that of all models in it, with what training wrote down;
    :obj:`None` of another one."""
    ours = _classes()
    if not isinstance(model, RankingModel) or not all(
            type(x) in ours for x in model.modules()
            if isinstance(x, RankingModel)):
        return None
    kept = as_trained(model)
    return {'class': type(model).__name__, **model.config(),
            **({_KEPT: kept} if kept else {})}


def as_trained(model: RankingModel) -> dict[str, Any]:
    r"""Returns what training wrote down."""
    return {name: model.__dict__[name] for name in ('score', 'trained')
            if model.__dict__.get(name) is not None}


def keep_as_trained(model: RankingModel, kept: Mapping[str, Any]) -> None:
    r"""Writes down again what :func:`as_trained` returned."""
    if 'score' in kept:
        model.keep_score(check_choice('score', kept['score'], SCORES))
    if 'trained' in kept:
        model.keep_trained(check_bool('trained', kept['trained']))


def model_from_config(config: Mapping[str, Any]) -> RankingModel:
    r"""Builds a model from :func:`saved_config`, without its weights. No
    class but ours is looked up."""
    arguments = dict(config)
    name, kept = arguments.pop('class'), arguments.pop(_KEPT, {})
    for cls in _classes():
        if cls.__name__ == name:
            model = cls.from_config(arguments)
            keep_as_trained(model, kept)
            return model
    raise ValueError(f"'{name}' is no model of torch_promptmm")


def _classes(base: type[RankingModel] = RankingModel
             ) -> list[type[RankingModel]]:
    room = __name__.rpartition('.')[0] + '.'  # This one.
    out = []
    for cls in base.__subclasses__():
        out += [cls] if cls.__module__.startswith(room) else []
        out += _classes(cls)
    return [cls for cls in out if cls is not ForeignModel]
