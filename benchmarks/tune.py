"""A search of hyperparameters for every system, under one budget.

    python benchmarks/tune.py --datasets FOLDER --trials 30 --epochs 60
    python benchmarks/table4.py --datasets FOLDER --tuned runs/tune.jsonl

Optuna's TPE, seeded, maximises Recall@20 on validation; test is not read.
Every system gets the same number of trials and epochs, and the spaces of
`systems.py`: the ranking loss is one of the choices, for all alike. The first
trial is of the system's own defaults. Teacher and student of PromptMM are one
system together: half of the trials is the teacher's, half the student's, with
the best teacher so far.

Each trial is a line of JSON in ``--trace``, written as soon as it is done; a
command goes on where its trace ends, and ends as if it had not been stopped.
A trial that fails counts. Repeats: the paper's "parameter tuning under a
unified process" (4.1.3), which it does not describe.

Needs the extra ``tune``: ``pip install torch_promptmm[tune]``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from study import (
    STUDENT,
    TEACHER,
    StudyRow,
    StudyRuns,
    cached_dataset,
    dataset_name,
    finish,
    loop_of,
    options,
    runs_of,
    student_row,
    study_summary,
    system_row,
    teacher_row,
    titled,
)
from systems import (
    STUDENT_SPACES,
    SYSTEMS,
    TEACHER_SPACES,
    Choice,
    Space,
    resolve,
    split,
)
from tqdm.auto import tqdm

from torch_promptmm.files import alone
from torch_promptmm.train.checkpoint import first_line

Trial = dict[str, Any]


def read_trace(path: str | Path) -> Iterator[Trial]:
    """The trials of a trace. A line that a killed process left unfinished is
    none."""
    if Path(path).exists():
        for line in Path(path).read_text().splitlines(keepends=True):
            if line.endswith('\n'):
                yield json.loads(line)


def append_trial(path: Path, trial: Trial) -> None:
    """Adds a line, after the last one that is complete."""
    with alone(path.parent), open(path, 'a+b') as file:
        file.seek(0)
        complete = file.read().rfind(b'\n') + 1
        file.truncate(complete)
        file.write((json.dumps(trial) + '\n').encode())


def best_of(traces: Iterable[str | Path],
            dataset: str) -> dict[str, dict[str, Any]]:
    """For each system that was tuned on a dataset, the arguments of its best
    trial, as `systems.split` sorts them."""
    best: dict[str, Trial] = {}
    for path in traces:
        for trial in read_trace(path):
            name, value = trial['system'], trial['value']
            if trial['dataset'] == dataset and value is not None and (
                    name not in best or value > best[name]['value']):
                best[name] = trial
    return {name: split(trial['params']) for name, trial in best.items()}


def suggest(trial: Any, space: Space) -> dict[str, Any]:
    """Values for all names of a space whose condition holds."""
    out: dict[str, Any] = {}
    for name, each in space.items():
        if each.when is not None and out.get(each.when[0]) != each.when[1]:
            continue
        out[name] = (trial.suggest_categorical(name, each.values)
                     if isinstance(each, Choice) else
                     trial.suggest_float(name, each.low, each.high, log=True))
    return out


def distributions(params: Mapping[str, Any], space: Space) -> dict[str, Any]:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
    )
    out: dict[str, Any] = {}
    for name in params:
        each = space[name]
        out[name] = (CategoricalDistribution(each.values)
                     if isinstance(each, Choice) else
                     FloatDistribution(each.low, each.high, log=True))
    return out


def next_params(space: Space, seed: int, name: str,
                past: Sequence[Trial]) -> dict[str, Any]:
    """What the next trial tries: a function of seed, name and past trials
    alone, so that a search that goes on is the one that was never stopped.
    The first is of the defaults, which are no point of the space."""
    import optuna
    if not past:
        return {}
    digest = hashlib.sha256(f'{seed} {name} {len(past)}'.encode()).digest()
    sampler = optuna.samplers.TPESampler(
        seed=int.from_bytes(digest[:4], 'little'))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction='maximize', sampler=sampler)
    states = optuna.trial.TrialState
    for trial in past[1:]:
        failed = trial['value'] is None
        study.add_trial(optuna.trial.create_trial(
            params=trial['params'], value=trial['value'],
            distributions=distributions(trial['params'], space),
            state=states.FAIL if failed else states.COMPLETE))
    return suggest(study.ask(), space)


class Search:
    """The search of one system on one dataset.

    Args:
        name: What the system is called in tables.
        dataset: The dataset.
        space: What is searched.
        trials: The budget.
        row: Makes the row of a trial from its arguments.
        args: The options.
    """
    def __init__(self, name: str, dataset: str, space: Space, trials: int,
                 row: Callable[[dict[str, dict[str, Any]]], StudyRow],
                 args: argparse.Namespace) -> None:
        self.name, self.dataset, self.space = name, dataset, space
        self.trials, self.row, self.args = trials, row, args
        self.budget = {
            **loop_of(args), 'hidden_channels': args.hidden_channels,
            'modalities': args.modalities, 'seed': args.seed}

    def past(self) -> list[Trial]:
        own = [trial for trial in read_trace(self.args.trace)
               if trial['system'] == self.name
               and trial['dataset'] == dataset_name(self.dataset)]
        for trial in own:
            if trial['budget'] != self.budget:
                raise SystemExit(
                    f'{self.args.trace} has trials of {self.name} under '
                    f'another budget, {trial["budget"]} (this is '
                    f'{self.budget}): name another --trace')
        return own

    def run(self, bar: tqdm) -> None:
        past = self.past()
        bar.update(min(len(past), self.trials))
        for number in range(len(past), self.trials):
            params = next_params(self.space, self.args.seed, self.name,
                                 past)
            bar.set_postfix_str(f'{self.name} {number + 1}/{self.trials}')
            trial = self._try(number, params)
            append_trial(Path(self.args.trace), trial)
            past.append(trial)
            value = trial['value']
            tqdm.write(f'{self.name} {number + 1}/{self.trials}: ' + (
                f'failed: {trial["error"]}' if value is None else
                f'{value:.4f}') + f' {params or "its defaults"}')
            bar.update()

    def _try(self, number: int, params: dict[str, Any]) -> Trial:
        start = time.perf_counter()
        trial: Trial = {
            'system': self.name, 'dataset': dataset_name(self.dataset),
            'number': number, 'params': params, 'value': None,
            'budget': self.budget}
        fit = {} if self.args.device is None else {
            'device': self.args.device}
        runs = StudyRuns(cached_dataset(self.dataset), fit,
                         runs_of(self.args, self.dataset), self.args.seed)
        try:
            row = self.row(split(params))
            for teacher in row.teachers:
                if not runs.path(teacher, 'safetensors').exists():
                    runs.trained(teacher)  # Not evaluated on test.
            _, history = getattr(runs, f'fit_{row.kind}')(row)
            record = study_summary(history)
            trial |= {'value': record['val'], **{
                k: record[k] for k in ('best_epoch', 'epochs')}}
        except Exception as error:  # Such a point is a bad one.
            trial['error'] = f'{type(error).__name__}: {first_line(error)}'
        return {**trial, 'seconds': time.perf_counter() - start}


def searches(args: argparse.Namespace, dataset: str) -> list[list[Search]]:
    """The searches of a command, each with its share of the budget; those of
    a teacher and its student belong together."""
    systems, missing = resolve(args.systems)
    print('\n'.join(missing), flush=True)
    return [[system_search(x.name, args, dataset)] for x in systems] + [
        distiller_searches(spec, args, dataset) for spec in args.students]


def system_search(name: str, args: argparse.Namespace,
                  dataset: str) -> Search:
    system = SYSTEMS[name]
    return Search(name, dataset, system.space, args.trials,
                  lambda found: system_row(system, args, {name: found}), args)


def distiller_searches(spec: str, args: argparse.Namespace,
                       dataset: str) -> list[Search]:
    """The search of a student, after that of its teacher where this is of
    our own."""
    setting, _, names = spec.partition(':')
    foreign, half = names.split('+') if names else [], args.trials // 2
    own, label = titled(TEACHER, setting), titled(STUDENT, setting, *foreign)

    def row(found: dict[str, dict[str, Any]]) -> StudyRow:
        tuned = best_of([args.trace], dataset_name(dataset))
        teachers = [system_row(SYSTEMS[x], args, tuned) for x in foreign] or [
            teacher_row(setting, args, tuned)]
        return student_row(setting, teachers, args, {label: found})

    student = Search(label, dataset, STUDENT_SPACES[setting],
                     args.trials - half, row, args)
    if foreign:
        return [student]
    return [Search(own, dataset, TEACHER_SPACES[setting], half,
                   lambda found: teacher_row(setting, args, {own: found}),
                   args), student]


def work(args: argparse.Namespace, dataset: str, number: int) -> None:
    """One group of searches, in a process of its own."""
    torch.set_num_threads(1)
    for search in searches(args, dataset)[number]:
        with tqdm(total=search.trials, unit='trial', position=number,
                  desc=search.name, dynamic_ncols=True) as bar:
            search.run(bar)


def search_all(args: argparse.Namespace, dataset: str) -> None:
    groups = searches(args, dataset)
    if args.jobs > 1:
        with ProcessPoolExecutor(args.jobs, get_context('spawn')) as pool:
            for future in [pool.submit(work, args, dataset, number)
                           for number in range(len(groups))]:
                future.result()
        return
    found = [search for group in groups for search in group]
    with tqdm(total=sum(x.trials for x in found), unit='trial',
              desc=dataset_name(dataset), dynamic_ncols=True) as bar:
        for search in found:
            search.run(bar)


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    add = parser.add_argument
    add('--systems', nargs='*', metavar='NAME',
        help=f'(default: all: {", ".join(SYSTEMS)})')
    add('--students', nargs='*', default=['default'],
        metavar='SETTING[:SYSTEM+SYSTEM]',
        help='settings of students, as for table4.py (default: default)')
    add('--trials', type=int, help='of each system (default: 30; --quick: 4)')
    add('--seed', type=int, default=0, help='of search and runs (default: 0)')
    add('--trace', default='runs/tune.jsonl',
        help='where trials are kept (default: runs/tune.jsonl)')
    args = finish(parser.parse_args(argv))
    if args.trials is None:
        args.trials = 4 if args.quick else 30
    for dataset in args.datasets:
        search_all(args, dataset)
        best = best_of([args.trace], dataset_name(dataset))
        for name, values in best.items():
            print(f'{dataset_name(dataset)}, {name}: {values}')


if __name__ == '__main__':
    main()
