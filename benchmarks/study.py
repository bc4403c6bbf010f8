"""What the scripts of tables and figures have in common: their options, the
runs of systems, teachers and students, and the loop over all runs.

A run (a row and a seed on a dataset) is kept under ``--runs`` as soon as it
is done, by a hash of all its arguments: a command resumes where it stopped,
scripts share their runs, and other arguments are other runs. Epochs are chosen
on validation, test is read once, at the end.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import math
import os
import traceback
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from _markdown import write_output
from _seed_runs import Keyed, SeedRuns, Splits, Trained, count
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from systems import SYSTEMS, System, by_lists
from tqdm.auto import tqdm

from torch_promptmm import PromptMMDistiller, datasets
from torch_promptmm.datasets import InteractionFolder, SyntheticMultimodal
from torch_promptmm.datasets.synthetic import PRESETS
from torch_promptmm.evaluate import evaluate
from torch_promptmm.files import atomic_path
from torch_promptmm.models import RankingModel
from torch_promptmm.serve import Recommender
from torch_promptmm.train import History, fit
from torch_promptmm.train.checkpoint import first_line

TEACHER, STUDENT = 'PromptMM teacher', 'PromptMM student'
# What a run keeps of each epoch, for curves.
CURVES = ('loss', 'recall@20', 'ndcg@20', 'time')


@dataclass(frozen=True)
class StudyRow:
    """A row of a table: what is trained, and how.

    Args:
        name: What it is called.
        kind: 'system', 'teacher' or 'student'.
        what: The name of a system, or the setting of a distiller.
        build: Arguments of `from_data`, the settings of a distiller
            included.
        fit: Arguments of the training.
        hidden_channels: The width of an embedding.
        modalities: Those that are read, all by default.
        teachers: What a student is distilled from.
    """
    name: str
    kind: str
    what: str
    build: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)
    hidden_channels: int = 64
    modalities: tuple[str, ...] | None = None
    teachers: tuple[StudyRow, ...] = ()

    @property
    def key(self) -> str:
        """What it is, for people, and a hash of all that makes the run. Rows
        of other names that are trained alike share their runs."""
        own = asdict(self)
        own['teachers'] = [x.key for x in self.teachers]
        del own['name']
        text = json.dumps(own, sort_keys=True)
        return (f'{self.kind}-{self.what}-'
                f'{hashlib.sha256(text.encode()).hexdigest()[:10]}')


def load_dataset(name: str) -> Splits:
    """The three graphs of a folder, of a preset of `SyntheticMultimodal`, or
    of a dataset with its folder, such as ``TikTok:data/tiktok``."""
    if name in PRESETS:
        train, val, test = SyntheticMultimodal.preset(name, seed=0)
        return train, val, test
    cls, _, root = name.partition(':')
    if root and cls in datasets.__all__:
        train, val, test = getattr(datasets, cls)(root)
        return train, val, test
    train, val, test = InteractionFolder(name)
    return train, val, test


cached_dataset = functools.lru_cache(maxsize=1)(load_dataset)


def dataset_name(name: str) -> str:
    """What a dataset is called in tables and folders."""
    return name if name in PRESETS else Path(name).resolve().name


class StudyRuns(SeedRuns):
    """The runs of one seed on a dataset."""
    def trained(self, row: StudyRow) -> Trained:
        return getattr(self, f'_{row.kind}')(row)

    def loop(self, row: StudyRow) -> dict[str, Any]:
        """The arguments of the training of a row."""
        return {**self.fit, **row.fit}

    # Each of these returns what was trained, and its history.

    def fit_system(self, row: StudyRow) -> tuple[RankingModel, History]:
        model = self.build_system(row)
        return model, fit(model, self.train, self.val, **self.loop(row))

    def fit_teacher(self,
                    row: StudyRow) -> tuple[PromptMMDistiller, History]:
        distiller = self.build_teacher(row)
        return distiller, distiller.fit_teacher(self.train, self.val,
                                                **self.loop(row))

    def fit_student(self,
                    row: StudyRow) -> tuple[PromptMMDistiller, History]:
        distiller, loop = self.build_student(row), self.loop(row)
        if len(row.teachers) > 1:  # They are trained; their weights are not.
            distiller.fit_teacher(self.train, self.val, **self.fit)
        settings = distiller.settings
        if settings.knowledge == 'lists':
            # Batches of users have an optimiser and epochs of their own.
            loop = {**self.fit, 'epochs': min(loop['epochs'],
                                              settings.list_epochs)}
        return distiller, distiller.fit_student(self.train, self.val, **loop)

    def build_system(self, row: StudyRow) -> RankingModel:
        cls = SYSTEMS[row.what].cls
        if cls is None:
            raise LookupError(f'torch_promptmm.models has no '
                              f'{SYSTEMS[row.what].model} yet')
        return cls.from_data(self.train, row.hidden_channels, seed=self.seed,
                             modalities=row.modalities, **row.build)

    def build_teacher(self, row: StudyRow) -> PromptMMDistiller:
        return PromptMMDistiller.from_data(
            self.train, row.hidden_channels, seed=self.seed,
            setting=row.what, modalities=row.modalities, **row.build)

    def build_student(self, row: StudyRow) -> PromptMMDistiller:
        teachers = [self.load(teacher) for teacher in row.teachers]
        return PromptMMDistiller.from_data(
            self.train, row.hidden_channels, seed=self.seed,
            teacher=teachers[0] if len(teachers) == 1 else teachers,
            setting=row.what, modalities=row.modalities, **row.build)

    def load(self, row: StudyRow) -> torch.nn.Module:
        """What a run has trained."""
        path = self.path(row, 'safetensors')
        if not path.exists():
            raise LookupError(f'{row.name} has no run of seed {self.seed}')
        if row.kind != 'system':
            distiller = PromptMMDistiller.load(path)
            return distiller.teacher if row.kind == 'teacher' else (
                distiller.student)
        model = self.build_system(row)
        with safe_open(path, 'pt') as file:
            kept = file.metadata()
        model.load_state_dict(load_file(path), strict=False)
        # Marks it as what the training has marked it.
        fit(model, self.train, **{**self.loop(row), 'epochs': 0})
        model.eval()
        found = evaluate(model, self.val, 20)['recall@20']
        if abs(found - float(kept['val'])) > 1e-4:
            raise RuntimeError(f'{row.name} read from its file has a '
                               f'validation R@20 of {found:.4f}, not '
                               f'{kept["val"]}: not all that it learns is in '
                               f'its state_dict')
        return model

    def _system(self, row: StudyRow) -> Trained:
        model, history = self.fit_system(row)
        record = study_summary(history)
        out = Recommender.from_model(model, self.train)
        with atomic_path(self.path(row, 'safetensors')) as temporary:
            save_file({k: v.clone().contiguous()
                       for k, v in model.state_dict().items()
                       if v.layout == torch.strided}, temporary,
                      {'val': str(record['val'])})
        return Trained(record, out.user_emb, out.item_emb, count(model))

    def _teacher(self, row: StudyRow) -> Trained:
        distiller, history = self.fit_teacher(row)
        self._save(distiller, row)
        return Trained(study_summary(history),
                       *distiller.embeddings('teacher'),
                       count(distiller.teacher, distiller.prompt))

    def _save(self, distiller: PromptMMDistiller, row: StudyRow) -> None:
        # The tables of an ensemble are as wide as its content.
        distiller.save(self.path(row, 'safetensors'), teacher_tables='none')

    def _student(self, row: StudyRow) -> Trained:
        distiller, history = self.fit_student(row)
        self._save(distiller, row)
        teachers = [json.loads(self.path(x).read_text())
                    for x in row.teachers]
        return Trained({
            **study_summary(history),
            'teacher_seconds': sum(x['best_seconds'] for x in teachers),
        }, *distiller.embeddings(), count(distiller.student))


def study_summary(history: History) -> dict[str, Any]:
    """What is kept of a history. Members of an ensemble are trained one after
    another; their fusion is chosen in the end."""
    chosen = history.chosen.get('recall@20')
    best = len(history) if history.best_epoch is None else history.best_epoch
    seconds = history.values('time')
    return {
        'val': history[best - 1]['recall@20'] if chosen is None else chosen,
        'best_epoch': best,
        'epochs': len(history),
        'epoch_seconds': sorted(seconds)[len(seconds) // 2],
        'best_seconds': sum(seconds[:best]),
        'curves': {name: history.values(name) for name in CURVES},
    }


# Rows.

def system_row(system: System, args: argparse.Namespace,
               tuned: dict[str, dict[str, Any]] | None = None,
               **change: Any) -> StudyRow:
    """The row of a system, with what was tuned for it."""
    best = (tuned or {}).get(system.name, {})
    return StudyRow(
        system.name, 'system', system.name,
        {**system.build, **best.get('model', {})},
        {**system.fit, **best.get('fit', {}), **loop_of(args)},
        **{**sizes_of(args), **change})


def teacher_row(setting: str, args: argparse.Namespace,
                tuned: dict[str, dict[str, Any]] | None = None,
                name: str | None = None, hidden_channels: int | None = None,
                **build: Any) -> StudyRow:
    """The row of a teacher of our own."""
    label = titled(TEACHER, setting)
    best = (tuned or {}).get(label, {}).get('model', {})
    sizes = sizes_of(args)
    if hidden_channels is not None:
        sizes['hidden_channels'] = hidden_channels
    return StudyRow(name or label, 'teacher', setting, {**best, **build},
                    loop_of(args), **sizes)


def student_row(setting: str, teachers: Sequence[StudyRow],
                args: argparse.Namespace,
                tuned: dict[str, dict[str, Any]] | None = None,
                name: str | None = None, hidden_channels: int | None = None,
                **build: Any) -> StudyRow:
    """The row of a student of one or several teachers."""
    foreign = [x.name for x in teachers if x.kind == 'system']
    label = titled(STUDENT, setting, *foreign)
    best = (tuned or {}).get(label, {}).get('model', {})
    sizes = sizes_of(args)
    if hidden_channels is not None:
        sizes['hidden_channels'] = hidden_channels
    return StudyRow(name or label, 'student', setting, {
        **shared_settings(setting, teachers), **best, **build
    }, loop_of(args), **sizes, teachers=tuple(teachers))


# What a student takes from a teacher whose scores it learns.
SHARED = ('ranking_loss', 'score', 'temperature', 'num_negatives')


def shared_settings(setting: str,
                    teachers: Sequence[StudyRow]) -> dict[str, Any]:
    """The ranking loss of a teacher, and its score function. Lists are of
    scores of any kind."""
    if len(teachers) != 1 or by_lists(setting):
        return {}
    teacher, = teachers
    given: dict[str, Any] = dict(teacher.build)
    if teacher.kind == 'system':
        cls = SYSTEMS[teacher.what].cls
        assert cls is not None
        given = {**cls.defaults_of(teacher.fit.get('ranking_loss')),
                 **teacher.fit}
        if given.get('ranking_loss') == 'own':
            given = {'score': getattr(cls, 'own_score', 'dot')}
        if getattr(cls, 'score', None) is not None:
            given['score'] = cls.score
    return {k: v for k, v in given.items() if k in SHARED}


def titled(name: str, setting: str, *teachers: str) -> str:
    """What a row is called: of other teachers, or another setting."""
    notes = ([f'of {" + ".join(teachers)}'] if teachers else []) + (
        [setting] if setting != 'default' else [])
    return f'{name} ({", ".join(notes)})' if notes else name


def sizes_of(args: argparse.Namespace) -> dict[str, Any]:
    return {
        'hidden_channels': args.hidden_channels,
        'modalities': None if args.modalities is None else tuple(
            args.modalities),
    }


def loop_of(args: argparse.Namespace) -> dict[str, Any]:
    return {'epochs': args.epochs, 'patience': args.patience,
            'eval_every': args.eval_every}


def distilled_rows(specs: Iterable[str], args: argparse.Namespace,
                   tuned: dict[str, dict[str, Any]] | None = None
                   ) -> list[StudyRow]:
    """Teachers and students of specifications ``SETTING`` or
    ``SETTING:SYSTEM+SYSTEM``."""
    out: list[StudyRow] = []
    for spec in specs:
        setting, _, names = spec.partition(':')
        if names:
            for name in names.split('+'):
                if name not in SYSTEMS:
                    raise SystemExit(f'No system is called {name!r}; there '
                                     f'are {", ".join(SYSTEMS)}')
            teachers = [system_row(SYSTEMS[name], args, tuned)
                        for name in names.split('+')]
        else:
            teachers = [teacher_row(setting, args, tuned)]
            out += teachers
        out.append(student_row(setting, teachers, args, tuned))
    return out


# Options.

def options(doc: str | None, seeds: int = 5,
            epochs: int = 200) -> argparse.ArgumentParser:
    """The options that all tables and figures have."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add('--datasets', '--root', nargs='+', required=True, metavar='DATA',
        help='folders for InteractionFolder, presets of SyntheticMultimodal\n'
        'such as small, or a dataset and its folder such as TikTok:data')
    add('--modalities', nargs='+', help='(default: all)')
    add('--seeds', type=int, help=f'(default: {seeds}; --quick: 2)')
    add('--epochs', type=int, help=f'at most (default: {epochs}; --quick: 3)')
    add('--patience', type=int, default=20)
    add('--eval-every', type=int, default=1)
    add('--hidden-channels', type=int,
        help='the width of an embedding (default: 64; --quick: 16)')
    add('--device', help='(default: cpu)')
    add('--jobs', type=int, default=1,
        help='processes at a time, of one thread each where there are several')
    add('--quick', action='store_true',
        help='few epochs, seeds and columns, to see that it works')
    add('--runs', default='runs/study',
        help='where runs are kept (default: runs/study)')
    add('--table-only', action='store_true',
        help='print what is done already')
    add('--output', help='a Markdown file for what is printed')
    parser.set_defaults(usual={'seeds': seeds, 'epochs': epochs})
    return parser


def finish(args: argparse.Namespace) -> argparse.Namespace:
    """Fills in what depends on ``--quick``."""
    usual = {**args.usual, 'hidden_channels': 64}
    small = {'seeds': 2, 'epochs': 3, 'hidden_channels': 16}
    for name in usual:
        if getattr(args, name) is None:
            setattr(args, name, (small if args.quick else usual)[name])
    return args


def runs_of(args: argparse.Namespace, dataset: str) -> Path:
    """Where the runs on a dataset are kept."""
    path = Path(args.runs) / dataset_name(dataset)
    path.mkdir(parents=True, exist_ok=True)
    return path


def shown_command(script: str, args: argparse.Namespace,
                  **more: Any) -> str:
    """The command, without paths of this machine."""
    data = [dataset_name(x) for x in args.datasets]
    given: dict[str, Any] = {
        'datasets': data, 'modalities': args.modalities, 'seeds': args.seeds,
        'epochs': args.epochs, 'hidden-channels': args.hidden_channels,
        'device': args.device, **more}
    words = ['python', f'benchmarks/{Path(script).name}']
    for name, value in given.items():
        if isinstance(value, (list, tuple)) and value:
            words += [f'--{name}', *map(str, value)]
        elif value is not None and not isinstance(value, (list, tuple)):
            words += [f'--{name}', str(value)]
    return ' '.join(words)


def report(args: argparse.Namespace, script: str, text: str,
           **more: Any) -> None:
    """Prints a text, and writes it where that is asked for."""
    print('\n' + text, flush=True)
    if args.output:
        write_output(args.output, shown_command(script, args, **more), text)


# The loop over all runs.

def run_all(args: argparse.Namespace, dataset: str,
            rows: Sequence[StudyRow]) -> None:
    """Runs what is not there yet, teachers first, seed by seed. A run that
    fails leaves a note, which tables show, and is tried again next time."""
    if args.table_only:
        return
    runs, every = runs_of(args, dataset), with_teachers(rows)
    jobs = [(row, seed) for depth in (False, True)
            for seed in range(args.seeds) for row in every
            if bool(row.teachers) == depth]
    left = [job for job in jobs
            if not (runs / f'{job[0].key}.{job[1]}.json').exists()]
    fit = {} if args.device is None else {'device': args.device}
    with tqdm(total=len(jobs), initial=len(jobs) - len(left), unit='run',
              desc=dataset_name(dataset), dynamic_ncols=True) as bar:
        if args.jobs == 1:
            for row, seed in left:
                bar.set_postfix_str(f'{row.name}, seed {seed}')
                _done(bar, work(dataset, fit, str(runs), row, seed, None))
            return
        threads = max(1, math.floor((os.cpu_count() or 1) / args.jobs))
        with ProcessPoolExecutor(args.jobs, get_context('spawn')) as pool:
            for depth in (False, True):  # Students need their teachers.
                futures = [
                    pool.submit(work, dataset, fit, str(runs), row, seed,
                                threads)
                    for row, seed in left if bool(row.teachers) == depth]
                for future in as_completed(futures):
                    _done(bar, future.result())


def _done(bar: tqdm, line: str) -> None:
    bar.update()
    tqdm.write(line)


def with_teachers(rows: Sequence[StudyRow]) -> list[StudyRow]:
    """The rows and the teachers of their students, each once."""
    every = [x for row in rows for x in (*row.teachers, row)]
    return list({row.key: row for row in every}.values())


def work(dataset: str, fit: dict[str, Any], runs: str, row: StudyRow,
         seed: int, threads: int | None) -> str:
    """Makes one run."""
    if threads is not None:
        torch.set_num_threads(threads)
    return attempt(StudyRuns(cached_dataset(dataset), fit, Path(runs), seed),
                   row)


def attempt(runs: SeedRuns, row: Any) -> str:
    """Makes one run, or leaves a note that says why not."""
    note, what = runs.path(row, 'failed'), f'seed {runs.seed}: {row.name}'
    try:
        runs.run(row)
    except Exception as error:  # A system that fails is a row that says so.
        message = f'{type(error).__name__}: {first_line(error)}'
        with atomic_path(note) as temporary:
            temporary.write_text(f'{message}\n\n{traceback.format_exc()}')
        return f'{what} failed: {message}'
    note.unlink(missing_ok=True)
    return what


def failures(rows: Iterable[Keyed], runs: Path,
             seeds: Iterable[int | str]) -> dict[str, str]:
    """The message of the first failure of each row that has one and no run
    in its place."""
    out: dict[str, str] = {}
    for row in rows:
        for seed in seeds:
            path = runs / f'{row.key}.{seed}.failed'
            if path.exists() and row.name not in out:
                out[row.name] = path.read_text().splitlines()[0]
    return out
