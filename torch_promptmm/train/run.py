r"""The state of a training run, and one epoch of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm.auto import tqdm

from torch_promptmm.train.checkpoint import (
    first_line,
    load_weights,
    rng_state,
    set_rng_state,
)
from torch_promptmm.train.history import History
from torch_promptmm.train.memory import release_memory
from torch_promptmm.train.task import Task

Metrics = dict[str, float]


class Run:
    r"""A run of :func:`~torch_promptmm.train.train`, with its arguments: the
    optimiser, the history and the best weights so far."""

    def __init__(
        self,
        task: Task,
        optimizer: Optimizer,
        scheduler: Any,
        *,
        epochs: int,
        patience: int | None,
        min_epochs: int,
        eval_every: int,
        validate: Callable[[], Metrics] | None,
        metric: str,
        name: str,
        module: torch.nn.Module,
        notes: dict[str, str],
    ) -> None:
        self.optimizer, self.scheduler = optimizer, scheduler
        self.module, self.notes = module, notes
        self.task, self.epochs, self.patience = task, epochs, patience
        self.min_epochs, self.eval_every = min_epochs, eval_every
        self.validate, self.metric, self.name = validate, metric, name
        self.history = History()
        self.stopped = False
        self.best_value = -math.inf
        self.best: dict[str, Tensor] | None = None

    def _step_scheduler(self, record: dict[str, Any]) -> None:
        if isinstance(self.scheduler, ReduceLROnPlateau):
            key = self.metric if self.scheduler.mode == 'max' else 'loss'
            if key in record:
                self.scheduler.step(record[key])
        elif self.scheduler is not None:
            self.scheduler.step()

    @property
    def finished(self) -> bool:
        return self.stopped or len(self.history) >= self.epochs

    def epoch(self, loader: Any, bar: tqdm) -> dict[str, Any]:
        number = len(self.history) + 1
        self.task.train()
        self.task.on_epoch_start(number)
        bar.reset(total=len(loader))
        bar.set_description(f'{self.name} {number}/{self.epochs}')
        start = time.perf_counter()
        sums: dict[str, Tensor] = {}
        count = 0  # Interactions, or users where lists are learned.
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
            count += batch.user.numel()
            bar.update()
        self._check_finite(sums['loss'], sums, number)
        record: dict[str, Any] = {'epoch': number}
        for key, value in sums.items():
            record[key] = float(value) / count
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
        self._step_scheduler(record)
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
