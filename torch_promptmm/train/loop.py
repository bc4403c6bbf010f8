r"""The one training loop."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from inspect import signature
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm.auto import tqdm

from torch_promptmm.checks import (
    check_bool,
    check_float,
    check_int,
    check_path,
)
from torch_promptmm.seeding import seeded
from torch_promptmm.threads import step_work, use_threads
from torch_promptmm.train.checkpoint import load_checkpoint, save_checkpoint
from torch_promptmm.train.history import History
from torch_promptmm.train.memory import kept_memory
from torch_promptmm.train.run import Metrics, Run
from torch_promptmm.train.task import Task

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
SchedulerFactory = Callable[[Optimizer], Any]
# What is a user's to say only where a task is made by hand.
_NOT_PASSED_ON = ('task', 'validate', 'name', 'module')


def train(
    task: Task,
    epochs: int = 100,
    batch_size: int = 2048,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    optimizer: OptimizerFactory | None = None,
    scheduler: SchedulerFactory | None = None,
    validate: Callable[[], Metrics] | None = None,
    metric: str = 'recall@20',
    patience: int | None = 20,
    min_epochs: int = 0,
    eval_every: int = 1,
    seed: int | None = None,
    progress: bool = True,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    logger: Any = None,
    checkpoint: str | os.PathLike | None = None,
    resume: bool = False,
    checkpoint_every: int = 1,
    name: str = 'train',
    module: torch.nn.Module | None = None,
    notes: dict[str, str] | None = None,
    threads: int | str | None = 'auto',
    keep_memory: bool = True,
) -> History:
    r"""Trains a task.

    Args:
        task (Task): What to train.
        epochs (int, optional): The number of epochs at most.
            (default: :obj:`100`)
        batch_size (int, optional): Interactions in a batch.
            (default: :obj:`2048`)
        lr (float, optional): The learning rate of AdamW.
            (default: :obj:`1e-3`)
        weight_decay (float, optional): The weight decay of AdamW.
            (default: :obj:`0.0`)
        optimizer (callable, optional): Makes another optimiser from
            parameter groups; :obj:`lr` and :obj:`weight_decay` are then
            unused. (default: :obj:`None`)
        scheduler (callable, optional): Makes a scheduler from the
            optimiser, stepped after each epoch. A
            :class:`~torch.optim.lr_scheduler.ReduceLROnPlateau` is given the
            metric if its mode is :obj:`"max"`, else the loss.
            (default: :obj:`None`)
        validate (callable, optional): Returns validation metrics. With it,
            the weights of the best epoch are restored at the end.
            (default: :obj:`None`)
        metric (str, optional): The metric that decides.
            (default: :obj:`"recall@20"`)
        patience (int, optional): Stops after as many epochs without a
            better metric; :obj:`None` never does. (default: :obj:`20`)
        min_epochs (int, optional): Runs, and keeps the weights of, no less
            than this many epochs. (default: :obj:`0`)
        eval_every (int, optional): Validates every :obj:`eval_every`
            epochs. (default: :obj:`1`)
        seed (int, optional): The seed of the run; :obj:`None` draws from
            torch's global generator. (default: :obj:`None`)
        progress (bool, optional): Shows a progress bar.
            (default: :obj:`True`)
        callback (callable, optional): Is called with the record of each
            epoch; training stops if it returns :obj:`False`.
            (default: :obj:`None`)
        logger (object, optional): Its :obj:`log_metrics(metrics, step)` is
            called with the losses and metrics of each epoch, as Lightning's
            loggers want it. (default: :obj:`None`)
        checkpoint (str, optional): Where the whole state is saved,
            atomically. (default: :obj:`None`)
        resume (bool, optional): Goes on from :obj:`checkpoint`, and starts
            anew where there is nothing yet. (default: :obj:`False`)
        checkpoint_every (int, optional): Saves every
            :obj:`checkpoint_every` epochs. (default: :obj:`1`)
        name (str, optional): The name of the run in the progress bar and
            the checkpoint. (default: :obj:`"train"`)
        module (torch.nn.Module, optional): Whose state the checkpoint
            holds. (default: :obj:`task`)
        notes (dict, optional): Texts that are kept in the checkpoint.
            (default: :obj:`None`)
        threads (int or str, optional): The threads of torch during the run,
            see :func:`~torch_promptmm.train.use_threads`; :obj:`None` keeps
            those that it has. (default: :obj:`"auto"`)
        keep_memory (bool, optional): Runs inside of
            :func:`~torch_promptmm.train.kept_memory`, which changes how the
            process frees memory until the run ends. (default: :obj:`True`)

    Raises:
        FloatingPointError: If a loss is not finite.
        ValueError: If an argument, or the checkpoint, does not fit.
    """
    _check_arguments(task, optimizer, scheduler, validate, callback, logger,
                     metric)
    check_bool('progress', progress)
    check_bool('keep_memory', keep_memory)
    if check_bool('resume', resume) and checkpoint is None:
        raise ValueError("'resume=True' needs 'checkpoint=path'")
    if checkpoint is not None:
        check_path('checkpoint', checkpoint)
    epochs = check_int('epochs', epochs, 0)
    if patience is not None:
        check_int('patience', patience, 1)
    check_int('min_epochs', min_epochs)
    check_int('eval_every', eval_every, 1)
    check_int('checkpoint_every', checkpoint_every, 1)
    check_int('batch_size', batch_size, 1)
    made = _make_optimizer(task, optimizer, lr, weight_decay)
    run = Run(task, made, _make_scheduler(scheduler, made, validate),
              epochs=epochs, patience=patience, min_epochs=min_epochs,
              eval_every=eval_every, validate=validate, metric=metric,
              name=name, module=module or task, notes=notes or {})
    loader = task.loader(batch_size)

    with (seeded(seed, task.device),
          use_threads(threads, step_work(task, batch_size)),
          kept_memory(keep_memory)):
        if resume and checkpoint is not None:
            state = load_checkpoint(checkpoint)
            if state is not None:
                run.load(state, str(checkpoint))
        with tqdm(total=len(loader), desc=name, disable=not progress,
                  dynamic_ncols=True, unit='batch') as bar:
            while not run.finished:
                record = run.epoch(loader, bar)
                if logger is not None:
                    logger.log_metrics(
                        {k: v for k, v in record.items() if k != 'epoch'},
                        step=record['epoch'])
                if callback is not None and callback(record) is False:
                    run.stopped = True
                if checkpoint is not None and (
                        run.finished
                        or len(run.history) % checkpoint_every == 0):
                    save_checkpoint(checkpoint, run.state())
    run.restore_best()
    return run.history


def check_names(names: Iterable[str]) -> None:
    r"""Checks the names of arguments of :func:`train` that are passed on
    from a user."""
    for name in names:
        if name in _NOT_PASSED_ON or name not in signature(train).parameters:
            raise TypeError(f"{name!r} is no argument of 'fit'")


def _check_arguments(task: Any, optimizer: Any, scheduler: Any, validate: Any,
                     callback: Any, logger: Any, metric: Any) -> None:
    if not isinstance(task, Task):
        raise TypeError(f"'task' must be a Task (got "
                        f"'{type(task).__name__}')")
    for key, value in (('optimizer', optimizer), ('scheduler', scheduler),
                       ('validate', validate), ('callback', callback)):
        if value is not None and not callable(value):
            raise TypeError(f"'{key}' must be callable (got {value!r})")
    if logger is not None and not callable(
            getattr(logger, 'log_metrics', None)):
        raise TypeError(f"'logger' must have a method 'log_metrics(metrics, "
                        f"step)' (got '{type(logger).__name__}')")
    if not isinstance(metric, str):
        raise TypeError(f"'metric' must be a name (got {metric!r})")


def _make_optimizer(task: Task, factory: OptimizerFactory | None, lr: float,
                    weight_decay: float) -> Optimizer:
    if factory is None:
        lr = check_float('lr', lr, exclusive=True)
        weight_decay = check_float('weight_decay', weight_decay)
        return torch.optim.AdamW(task.parameter_groups(), lr=lr,
                                 weight_decay=weight_decay,
                                 fused=_can_fuse(task))
    optimizer = factory(task.parameter_groups())
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"'optimizer' must make an Optimizer from "
                        f"parameter groups (got {optimizer!r})")
    return optimizer


def _make_scheduler(factory: SchedulerFactory | None, optimizer: Optimizer,
                    validate: Any) -> Any:
    if factory is None:
        return None
    scheduler = factory(optimizer)
    if not hasattr(scheduler, 'step'):
        raise TypeError(f"'scheduler' must make a scheduler from an "
                        f"optimiser (got {scheduler!r})")
    if (isinstance(scheduler, ReduceLROnPlateau) and scheduler.mode == 'max'
            and validate is None):
        raise ValueError("'scheduler' waits for a metric to rise, but "
                         "there is no validation (got no 'val_data')")
    return scheduler


def _can_fuse(task: Task) -> bool:
    return all(p.device.type in ('cpu', 'cuda') and p.is_floating_point()
               for p in task.parameters() if p.requires_grad)
