r"""The one training loop."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm.auto import tqdm

from torch_promptmm.checks import (
    check_bool,
    check_float,
    check_int,
    check_path,
)
from torch_promptmm.loader import InteractionLoader
from torch_promptmm.seeding import seeded
from torch_promptmm.threads import step_work, use_threads
from torch_promptmm.train.checkpoint import (
    first_line,
    load_checkpoint,
    load_weights,
    rng_state,
    save_checkpoint,
    set_rng_state,
)
from torch_promptmm.train.history import History
from torch_promptmm.train.memory import kept_memory, release_memory
from torch_promptmm.train.task import Task

Metrics = dict[str, float]
OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
SchedulerFactory = Callable[[Optimizer], Any]


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
        eval_every (int, optional): Validates each so many epochs.
            (default: :obj:`1`)
        seed (int, optional): The seed of the run; :obj:`None` draws from
            torch's global generator. (default: :obj:`None`)
        progress (bool, optional): Shows a progress bar.
            (default: :obj:`True`)
        callback (callable, optional): Is called with the record of each
            epoch; training stops if it returns :obj:`False`.
            (default: :obj:`None`)
        checkpoint (str, optional): Where the whole state is saved,
            atomically. (default: :obj:`None`)
        resume (bool, optional): Goes on from :obj:`checkpoint`, and starts
            anew where there is nothing yet. (default: :obj:`False`)
        checkpoint_every (int, optional): Saves each so many epochs.
            (default: :obj:`1`)
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
    if not isinstance(task, Task):
        raise TypeError(f"'task' must be a Task (got "
                        f"'{type(task).__name__}')")
    for key, value in (('optimizer', optimizer), ('scheduler', scheduler),
                       ('validate', validate), ('callback', callback)):
        if value is not None and not callable(value):
            raise TypeError(f"'{key}' must be callable (got {value!r})")
    if not isinstance(metric, str):
        raise TypeError(f"'metric' must be a name (got {metric!r})")
    check_bool('progress', progress)
    check_bool('keep_memory', keep_memory)
    if check_bool('resume', resume) and checkpoint is None:
        raise ValueError("'resume=True' needs 'checkpoint=path'")
    if checkpoint is not None:
        check_path('checkpoint', checkpoint)
    run = _Run(task, epochs=check_int('epochs', epochs, 0),
               patience=None if patience is None else check_int(
                   'patience', patience, 1),
               min_epochs=check_int('min_epochs', min_epochs),
               eval_every=check_int('eval_every', eval_every, 1),
               validate=validate, metric=metric, name=name,
               module=module or task, notes=notes or {})
    check_int('checkpoint_every', checkpoint_every, 1)
    check_int('batch_size', batch_size, 1)
    if optimizer is None:
        lr = check_float('lr', lr, exclusive=True)
        weight_decay = check_float('weight_decay', weight_decay)
        run.optimizer = torch.optim.AdamW(task.parameter_groups(), lr=lr,
                                          weight_decay=weight_decay,
                                          fused=_can_fuse(task))
    else:
        run.optimizer = optimizer(task.parameter_groups())
        if not isinstance(run.optimizer, Optimizer):
            raise TypeError(f"'optimizer' must make an Optimizer from "
                            f"parameter groups (got {run.optimizer!r})")
    run.set_scheduler(scheduler)
    loader = InteractionLoader(task.positives, task.known,
                               task.graph.num_users, task.graph.num_items,
                               batch_size, task.batch_spec, task.device)

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
                if callback is not None and callback(record) is False:
                    run.stopped = True
                if checkpoint is not None and (
                        run.finished
                        or len(run.history) % checkpoint_every == 0):
                    save_checkpoint(checkpoint, run.state())
    run.restore_best()
    return run.history


class _Run:
    r"""The state of a run, and one epoch of it."""
    optimizer: Optimizer
    scheduler: Any

    def __init__(self, task: Task, *, epochs: int, patience: int | None,
                 min_epochs: int, eval_every: int,
                 validate: Callable[[], Metrics] | None, metric: str,
                 name: str, module: torch.nn.Module,
                 notes: dict[str, str]) -> None:
        self.module, self.notes = module, notes
        self.task, self.epochs, self.patience = task, epochs, patience
        self.min_epochs, self.eval_every = min_epochs, eval_every
        self.validate, self.metric, self.name = validate, metric, name
        self.history = History()
        self.stopped = False
        self.best_value = -math.inf
        self.best: dict[str, Tensor] | None = None

    def set_scheduler(self, factory: SchedulerFactory | None) -> None:
        self.scheduler = None if factory is None else factory(self.optimizer)
        if factory is None:
            return
        if not hasattr(self.scheduler, 'step'):
            raise TypeError(f"'scheduler' must make a scheduler from an "
                            f"optimiser (got {self.scheduler!r})")
        if (isinstance(self.scheduler, ReduceLROnPlateau)
                and self.scheduler.mode == 'max' and self.validate is None):
            raise ValueError("'scheduler' waits for a metric to rise, but "
                             "there is no validation (got no 'val_data')")

    def step_scheduler(self, record: dict[str, Any]) -> None:
        if isinstance(self.scheduler, ReduceLROnPlateau):
            key = self.metric if self.scheduler.mode == 'max' else 'loss'
            if key in record:
                self.scheduler.step(record[key])
        elif self.scheduler is not None:
            self.scheduler.step()

    @property
    def finished(self) -> bool:
        return self.stopped or len(self.history) >= self.epochs

    def epoch(self, loader: InteractionLoader, bar: tqdm) -> dict[str, Any]:
        number = len(self.history) + 1
        self.task.train()
        self.task.on_epoch_start(number)
        bar.reset(total=len(loader))
        bar.set_description(f'{self.name} {number}/{self.epochs}')
        start = time.perf_counter()
        sums: dict[str, Tensor] = {}
        for batch in loader:
            self.optimizer.zero_grad(set_to_none=True)
            total, terms = self.task(batch)
            if total.device.type == 'cpu':
                self._check_finite(total, terms, number)
            total.backward()
            self.optimizer.step()
            if len(self.history) == 0 and not sums:
                release_memory()
            for key, value in (('loss', total), *terms.items()):
                value = value.detach() * batch.user.numel()
                sums[key] = sums[key] + value if key in sums else value
            bar.update()
        self._check_finite(sums['loss'], sums, number)
        record: dict[str, Any] = {'epoch': number}
        for key, value in sums.items():
            record[key] = float(value) / loader.positives.size(1)
        record['time'] = time.perf_counter() - start
        if self.validate is not None and (number % self.eval_every == 0
                                          or number == self.epochs):
            release_memory()  # The ranking needs other sizes than a step.
            metrics = self.validate()
            release_memory()
            if self.metric not in metrics:
                raise ValueError(f"'metric' must be one of "
                                 f"{sorted(metrics)} (got {self.metric!r})")
            record.update(metrics)
        self.step_scheduler(record)
        self.history.append(record)
        self._keep_best(record)
        shown = {'loss': f"{record['loss']:.4f}"}
        if math.isfinite(self.best_value):
            last = self.history.values(self.metric)[-1]
            shown[self.metric] = f'{last:.4f}'
            shown['best'] = f'{self.best_value:.4f}'
        bar.set_postfix(shown)
        return record

    def _check_finite(self, total: Tensor, terms: dict[str, Tensor],
                      number: int) -> None:
        if math.isfinite(float(total.detach())):
            return
        bad = [key for key, value in terms.items()
               if not math.isfinite(float(value.detach()))]
        raise FloatingPointError(
            f"The loss of epoch {number} of '{self.name}' is "
            f"{float(total.detach())} (terms that are not finite: "
            f"{bad or 'none, only their sum'}). Try a smaller learning rate")

    def _keep_best(self, record: dict[str, Any]) -> None:
        if self.metric not in record:
            return
        number, value = record['epoch'], record[self.metric]
        if number < self.min_epochs:
            return
        if value > self.best_value:
            self.best_value, self.history.best_epoch = value, number
            self.best = {
                key: tensor.detach().clone()
                for key, tensor in self._changing().items()
            }
        elif (self.patience is not None and self.history.best_epoch is not None
              and number - self.history.best_epoch >= self.patience):
            self.stopped = True

    def _changing(self) -> dict[str, Tensor]:
        # Buffers too: a teacher may have running statistics.
        out = {
            key: parameter
            for key, parameter in self.task.named_parameters()
            if parameter.requires_grad
        }
        return out | dict(self.task.named_buffers())

    @torch.no_grad()
    def restore_best(self) -> None:
        if self.best is None:
            return
        tensors = self._changing()
        for key, value in self.best.items():
            tensors[key].copy_(value)

    def state(self) -> dict[str, Any]:
        return {
            'name': self.name,
            'notes': self.notes,
            'kinds': self._kinds(),
            'module': self.module.state_dict(),
            'optimizer': self.optimizer.state_dict(),
            'scheduler': (None if self.scheduler is None else
                          self.scheduler.state_dict()),
            'history': self.history.state(),
            'stopped': self.stopped,
            'best_value': self.best_value,
            'best': self.best,
            'rng': rng_state(self.task.device),
        }

    def load(self, state: dict[str, Any], path: str) -> None:
        if state['name'] != self.name:
            raise ValueError(f"'checkpoint' {path!r} is of a run named "
                             f"{state['name']!r} (this one is {self.name!r})")
        if state['kinds'] != self._kinds():
            raise ValueError(f"'checkpoint' {path!r} is of optimiser and "
                             f"scheduler {state['kinds']} (this run has "
                             f"{self._kinds()})")
        load_weights(self.module, state['module'], f"'checkpoint' {path!r}")
        try:
            self.optimizer.load_state_dict(state['optimizer'])
            if self.scheduler is not None:
                self.scheduler.load_state_dict(state['scheduler'])
            self.history = History.from_state(state['history'])
            if state['best'] is not None:
                tensors = self._changing()
                self.best = {
                    key: value.to(tensors[key])
                    for key, value in state['best'].items()
                }
            set_rng_state(state['rng'], self.task.device)
        except Exception as error:  # A foreign state fails in many ways.
            raise ValueError(f"'checkpoint' {path!r} does not fit this run "
                             f"({first_line(error)})") from error
        self.stopped, self.best_value = state['stopped'], state['best_value']

    def _kinds(self) -> list[str | None]:
        return [
            None if x is None else type(x).__name__
            for x in (self.optimizer, self.scheduler)
        ]


def _can_fuse(task: Task) -> bool:
    return all(p.device.type in ('cpu', 'cuda') and p.is_floating_point()
               for p in task.parameters() if p.requires_grad)
