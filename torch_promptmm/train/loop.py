r"""The one training loop."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from tqdm.auto import tqdm

from torch_promptmm.checks import check_float, check_int
from torch_promptmm.loader import InteractionLoader
from torch_promptmm.train.checkpoint import (
    load_checkpoint,
    rng_state,
    save_checkpoint,
    set_rng_state,
)
from torch_promptmm.train.history import History
from torch_promptmm.train.task import Task

Metrics = dict[str, float]
OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
SchedulerFactory = Callable[[Optimizer], Any]


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    r"""Runs a block from a seed and leaves the global generators as they
    were; :obj:`None` draws from them."""
    if seed is None:
        yield
        return
    devices = [device] if device.type == 'cuda' else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


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
            optimiser, stepped after each epoch. (default: :obj:`None`)
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

    Raises:
        FloatingPointError: If a loss is not finite.
        ValueError: If an argument, or the checkpoint, does not fit.
    """
    run = _Run(task, epochs=check_int('epochs', epochs, 0),
               patience=None if patience is None else check_int(
                   'patience', patience, 1),
               min_epochs=check_int('min_epochs', min_epochs),
               eval_every=check_int('eval_every', eval_every, 1),
               validate=validate, metric=metric, name=name,
               module=module or task, notes=notes or {})
    check_int('checkpoint_every', checkpoint_every, 1)
    check_int('batch_size', batch_size, 1)
    if callback is not None and not callable(callback):
        raise TypeError(f"'callback' must be callable (got {callback!r})")
    if resume and checkpoint is None:
        raise ValueError("'resume=True' needs 'checkpoint=path'")
    if optimizer is None:
        lr = check_float('lr', lr, exclusive=True)
        weight_decay = check_float('weight_decay', weight_decay)
        run.optimizer = torch.optim.AdamW(task.parameter_groups(), lr=lr,
                                          weight_decay=weight_decay,
                                          fused=_can_fuse(task))
    else:
        run.optimizer = optimizer(task.parameter_groups())
    run.scheduler = None if scheduler is None else scheduler(run.optimizer)
    loader = InteractionLoader(task.positives, task.known,
                               task.graph.num_users, task.graph.num_items,
                               batch_size, task.batch_spec, task.device)

    with seeded(seed, task.device):
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
            for key, value in (('loss', total), *terms.items()):
                value = value.detach() * batch.user.numel()
                sums[key] = sums[key] + value if key in sums else value
            bar.update()
        self._check_finite(sums['loss'], sums, number)
        if self.scheduler is not None:
            self.scheduler.step()
        record: dict[str, Any] = {'epoch': number}
        for key, value in sums.items():
            record[key] = float(value) / loader.positives.size(1)
        record['time'] = time.perf_counter() - start
        if self.validate is not None and (number % self.eval_every == 0
                                          or number == self.epochs):
            metrics = self.validate()
            if self.metric not in metrics:
                raise ValueError(f"'metric' must be one of "
                                 f"{sorted(metrics)} (got {self.metric!r})")
            record.update(metrics)
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
            f"The loss of epoch {number} of '{self.name}' is {float(total.detach())} "
            f"(terms that are not finite: {bad or 'none, only their sum'}). "
            f"Try a smaller learning rate")

    def _keep_best(self, record: dict[str, Any]) -> None:
        if self.metric not in record:
            return
        number, value = record['epoch'], record[self.metric]
        if number < self.min_epochs:
            return
        if value > self.best_value:
            self.best_value, self.history.best_epoch = value, number
            self.best = {
                key: parameter.detach().clone()
                for key, parameter in self.task.named_parameters()
                if parameter.requires_grad
            }
        elif (self.patience is not None
              and number - self.history.best_epoch >= self.patience):
            self.stopped = True

    @torch.no_grad()
    def restore_best(self) -> None:
        if self.best is None:
            return
        parameters = dict(self.task.named_parameters())
        for key, value in self.best.items():
            parameters[key].copy_(value)

    def state(self) -> dict[str, Any]:
        return {
            'name': self.name,
            'notes': self.notes,
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
        try:
            self.module.load_state_dict(state['module'])
            self.optimizer.load_state_dict(state['optimizer'])
            if self.scheduler is not None and state['scheduler'] is not None:
                self.scheduler.load_state_dict(state['scheduler'])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(f"'checkpoint' {path!r} is of another model or "
                             f"optimiser ({str(error):.300})") from error
        self.history = History.from_state(state['history'])
        self.stopped, self.best_value = state['stopped'], state['best_value']
        if state['best'] is not None:
            device = self.task.device
            self.best = {k: v.to(device) for k, v in state['best'].items()}
        set_rng_state(state['rng'], self.task.device)


def _can_fuse(task: Task) -> bool:
    return all(p.device.type in ('cpu', 'cuda') and p.is_floating_point()
               for p in task.parameters() if p.requires_grad)
