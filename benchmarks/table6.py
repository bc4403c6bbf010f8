"""Table 6 of the paper: time, memory and parameters of the teacher, of
LATTICE and of the student.

    python benchmarks/table6.py --datasets FOLDER
    python benchmarks/table6.py --datasets FOLDER --systems LATTICE MMGCN
    python benchmarks/table6.py --datasets small --quick

Repeats: the time of an epoch, memory, the number of parameters and their
ratio to the teacher's. The paper's "time" is that of recommending; here
training (an epoch, the first left out) and serving (the embeddings and the
best 20 items of *all* users) stand apart. Each is measured in a process of
its own, ``--repeats`` times, one row after another, and the median is shown;
memory is how far the process rises above what it has with the data read. The
paper counts the raw features of items as parameters of teacher and LATTICE;
here they are constants, and counted beside. The time of an epoch of the
student is that of stage 2, with the frozen teacher beside it.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from _markdown import markdown
from _seed_runs import count
from _timing import number, seconds
from study import (
    StudyRow,
    StudyRuns,
    attempt,
    dataset_name,
    failures,
    finish,
    load_dataset,
    options,
    report,
    runs_of,
    student_row,
    system_row,
    teacher_row,
)
from systems import resolve
from tqdm.auto import tqdm

from torch_promptmm.data import read_graph
from torch_promptmm.files import atomic_path
from torch_promptmm.serve import Recommender

HEADER = ['model', 's per epoch', 'memory of training', 'embeddings, ms',
          'best 20 of all users, ms', 'memory of serving', 'parameters',
          'ratio', 'with raw features', 'ratio with them']
TRAINING, SERVING = 'training', 'serving'


class Peak:
    """How far memory rises, of the process or of the GPU."""
    def __init__(self, device: torch.device) -> None:
        self.device, self.bytes = device, None
        self.process = None
        if device.type != 'cuda' and platform.system() == 'Linux':
            from _probes import PeakMemory
            self.process = PeakMemory()

    def __enter__(self) -> Peak:
        if self.device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats(self.device)
        if self.process is not None:
            self.process.__enter__()
        return self

    def __exit__(self, *args: Any) -> None:
        if self.device.type == 'cuda':
            self.bytes = torch.cuda.max_memory_allocated(self.device)
        if self.process is not None:
            self.process.__exit__(*args)
            self.bytes = self.process.bytes


class Measurements(StudyRuns):
    """Measurements of one round: training or serving of a row, each in a
    process of its own. Weights are as they start: time does not depend on
    them."""
    def __init__(self, dataset: str, device: str | None, runs: Path,
                 seed: int, part: str) -> None:
        super().__init__(load_dataset(dataset), {} if device is None else
                         {'device': device}, runs, seed)
        self.part = part

    def path(self, row: StudyRow, suffix: str = 'json') -> Path:
        return self.runs / f'{row.key}.{self.part}.{self.seed}.{suffix}'

    def run(self, row: StudyRow) -> None:
        record = getattr(self, f'_{self.part}')(row)
        with atomic_path(self.path(row)) as temporary:
            temporary.write_text(json.dumps(record))

    def build_student(self, row: StudyRow) -> Any:
        teacher, = row.teachers
        self.teacher = self.build_teacher(teacher).teacher
        return super().build_student(row)

    def load(self, row: StudyRow) -> torch.nn.Module:
        return self.teacher

    def _training(self, row: StudyRow) -> dict[str, Any]:
        with self._peak() as peak:
            _, history = getattr(self, f'fit_{row.kind}')(row)
        times = history.values('time')
        return {'seconds': statistics.median(times[1:] or times),
                'bytes': peak.bytes}

    def _serving(self, row: StudyRow) -> dict[str, Any]:
        built, raw = getattr(self, f'build_{row.kind}')(row), 0
        model, parts = built, [built]
        if row.kind != 'system':
            model = getattr(built, row.kind)
            parts = [model] + [built.prompt] * (row.kind == 'teacher')
        if row.kind == 'student':
            del built, self.teacher
        elif model.modalities:
            raw = sum(x.numel() for x in read_graph(
                self.train, modalities=row.modalities).features.values())
        model.eval().to(self.fit.get('device', 'cpu'))
        users = torch.arange(model.num_users)

        def embed() -> Recommender:
            return Recommender.from_model(model, self.train)

        with self._peak() as peak:
            recommender = embed()
            recommender.recommend(users, 20)
        return {
            'embed': seconds(embed, 3),
            'rank': seconds(lambda: recommender.recommend(users, 20), 3),
            'bytes': peak.bytes,
            'parameters': count(*parts),
            'raw': raw,
        }

    def _peak(self) -> Peak:
        return Peak(torch.device(self.fit.get('device', 'cpu')))


def measure(dataset: str, device: str | None, runs: str, seed: int,
            part: str, row: StudyRow, threads: int) -> str:
    torch.set_num_threads(threads)
    return attempt(Measurements(dataset, device, Path(runs), seed, part), row)


def measure_all(args: argparse.Namespace, dataset: str,
                rows: Sequence[StudyRow]) -> None:
    runs = runs_of(args, dataset)
    jobs = [(seed, part, row) for seed in range(args.repeats)
            for part in (TRAINING, SERVING) for row in rows]
    left = [] if args.table_only else [
        (seed, part, row) for seed, part, row in jobs
        if not (runs / f'{row.key}.{part}.{seed}.json').exists()]
    with tqdm(total=len(jobs), initial=len(jobs) - len(left),
              desc=dataset_name(dataset), unit='measurement',
              dynamic_ncols=True) as bar:
        for seed, part, row in left:
            bar.set_postfix_str(f'{row.name}, {part}')
            with ProcessPoolExecutor(1, get_context('spawn')) as pool:
                tqdm.write(f'{part}, ' + pool.submit(
                    measure, dataset, args.device, str(runs), seed, part,
                    row, args.threads).result())
            bar.update()


def median(runs: Path, row: StudyRow, part: str) -> dict[str, Any]:
    """The medians of what was measured; None where nothing was."""
    got = [json.loads(path.read_text())
           for path in sorted(runs.glob(f'{row.key}.{part}.*.json'))]
    return {name: None if got[0][name] is None else statistics.median(
        x[name] for x in got) for name in got[0]} if got else {}


def table(rows: Sequence[StudyRow], runs: Path, repeats: int) -> str:
    found = {row.name: (median(runs, row, TRAINING),
                        median(runs, row, SERVING)) for row in rows}
    teacher = found[rows[0].name][1]
    lines = []
    for row in rows:
        training, serving = found[row.name]
        if not training or not serving:
            failed = failures([row], runs, [
                f'{part}.{seed}' for part in (TRAINING, SERVING)
                for seed in range(repeats)])
            if row.name in failed:
                lines.append([row.name, f'failed: {failed[row.name]}',
                              *[''] * (len(HEADER) - 2)])
            continue
        own, whole = serving['parameters'], (serving['parameters'] +
                                             serving['raw'])
        ratios = ['', '']
        if teacher and row is not rows[0]:
            ratios = [f"{own / teacher['parameters']:.1%}",
                      f"{whole / (teacher['parameters'] + teacher['raw']):.1%}"
                      ]
        lines.append([
            row.name, number(training['seconds']),
            mebibytes(training['bytes']), number(1e3 * serving['embed']),
            number(1e3 * serving['rank']), mebibytes(serving['bytes']),
            f'{own:,.0f}', ratios[0], f'{whole:,.0f}', ratios[1]])
    return markdown(HEADER, lines)


def mebibytes(value: float | None) -> str:
    return '' if value is None else f'{value / 2**20:,.1f} MiB'


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__, seeds=1, epochs=4)
    add = parser.add_argument
    add('--systems', nargs='*', default=['LATTICE'], metavar='NAME',
        help='(default: LATTICE)')
    add('--setting', default='default', choices=['default', 'faithful'],
        help='of teacher and student (default: default)')
    add('--repeats', type=int, help='(default: 3; --quick: 1)')
    add('--threads', type=int, default=1, help='of torch (default: 1)')
    args = finish(parser.parse_args(argv))
    if args.repeats is None:
        args.repeats = 1 if args.quick else 3
    texts = []
    for dataset in args.datasets:
        systems, missing = resolve(args.systems)
        print('\n'.join(missing), flush=True)
        teacher = teacher_row(args.setting, args)
        rows = [teacher, *(system_row(x, args) for x in systems),
                student_row(args.setting, [teacher], args)]
        measure_all(args, dataset, rows)
        texts.append(f'### {dataset_name(dataset)}\n\n' +
                     table(rows, runs_of(args, dataset), args.repeats))
    report(args, __file__, '\n\n'.join(texts), systems=args.systems,
           setting=args.setting, repeats=args.repeats, threads=args.threads)


if __name__ == '__main__':
    main()
