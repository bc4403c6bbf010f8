"""Tables 8 and 9 of the paper: parameters of teacher and students, by name
and shape.

    python benchmarks/table8.py --datasets FOLDER
    python benchmarks/table8.py --sizes 41691 21479 image=4096 text=768
    python benchmarks/table8.py --sizes 43739 17239 image=4096 text=768 \\
        --hidden-channels 32

Repeats: every parameter of the teacher and of the students LightGCN, GCN and
MLP, and their sums; ``--systems`` adds others. The second command has the
sizes of Table 9, the third those of Table 8. In Table 9 the teacher has
108,828,288 parameters, of which 104,473,856 are the raw features, which its
code makes trainable and does not use; here features are no parameters. The
teacher of Table 8 has two more tables of items, which no equation of the paper
knows of. The GCN of Table 9 is of two matrices alone, without the embeddings
that it reads. Nothing is trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from _markdown import markdown, write_output
from study import TEACHER, dataset_name, load_dataset
from systems import resolve

from torch_promptmm import models
from torch_promptmm.data import read_graph
from torch_promptmm.models import MultimodalTeacher
from torch_promptmm.nn import SoftPrompt
from torch_promptmm.train.checkpoint import first_line

HEADER = ['name', 'shape', 'number']
STUDENTS = ('LightGCN', 'GCN', 'MLP')
Sizes = tuple[int, int, dict[str, int]]
Parts = dict[str, torch.nn.Module]


def built(sizes: Sizes, channels: int, systems: Sequence[str]
          ) -> Iterator[tuple[str, Callable[[], Parts]]]:
    """What is counted, each as a function that makes it."""
    num_users, num_items, widths = sizes

    def teacher() -> Parts:
        prompt = SoftPrompt(torch.zeros(num_items, channels))
        return {'': MultimodalTeacher(num_users, num_items, widths, channels,
                                      prompt=prompt), 'prompt.': prompt}

    def other(cls: Any) -> Callable[[], Parts]:
        rest = (widths, ) if cls.needs_features else ()
        return lambda: {'': cls(num_users, num_items, *rest, channels)}

    yield TEACHER, teacher
    for name in STUDENTS:
        cls = getattr(models, name, None)
        if cls is None:
            print(f'{name}: torch_promptmm.models has no {name} yet, left out')
        else:
            yield f'student: {name}', other(cls)
    found, missing = resolve(systems)
    print('\n'.join(missing), flush=True)
    for system in found:
        yield system.name, other(system.cls)


def section(name: str, make: Callable[[], Parts], total: int | None
            ) -> tuple[str, int | None]:
    """The parameters of a model, and their number."""
    try:
        parts = make()
    except Exception as error:  # A model that fails says so.
        return f'#### {name}\n\nfailed: {first_line(error)}', None
    every = [(prefix + key, list(value.shape), value.numel())
             for prefix, module in parts.items()
             for key, value in module.named_parameters()]
    count = sum(number for _, _, number in every)
    lines = [[key, str(shape), f'{number:,}'] for key, shape, number in every]
    lines.append(['**all**', '', f'**{count:,}**' + (
        '' if total is None else f' ({count / total:.2%} of the teacher)')])
    return f'#### {name}\n\n' + markdown(HEADER, lines), count


def tables(sizes: Sizes, channels: int, systems: Sequence[str]) -> str:
    texts, total = [], None
    for name, make in built(sizes, channels, systems):
        text, count = section(name, make, total)
        if name == TEACHER:
            total = count
        texts.append(text)
    raw = sizes[1] * sum(sizes[2].values())
    texts.append(f'{sizes[0]:,} users, {sizes[1]:,} items, {channels} '
                 f'channels. The raw features are {raw:,} constants.')
    return '\n\n'.join(texts)


def sizes_of(name: str, modalities: Sequence[str] | None) -> Sizes:
    view = read_graph(load_dataset(name)[0], modalities=modalities)
    return view.num_users, view.num_items, {
        key: x.size(1) for key, x in view.features.items()}


def parsed_sizes(words: Sequence[str]) -> Sizes:
    pairs = [word.partition('=') for word in words[2:]]
    return int(words[0]), int(words[1]), {k: int(v) for k, _, v in pairs}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add('--datasets', '--root', nargs='+', default=[], metavar='DATA',
        help='as for table4.py')
    add('--sizes', nargs='+', metavar='N',
        help='users, items and the width of each modality, NAME=WIDTH')
    add('--modalities', nargs='+', help='(default: all)')
    add('--hidden-channels', type=int, default=64, help='(default: 64)')
    add('--systems', nargs='*', default=[], metavar='NAME',
        help='(default: none)')
    add('--output', help='a Markdown file for what is printed')
    args = parser.parse_args(argv)
    if not args.datasets and (args.sizes is None or len(args.sizes) < 3):
        parser.error('--datasets, or --sizes USERS ITEMS NAME=WIDTH ...')
    found = {dataset_name(x): sizes_of(x, args.modalities)
             for x in args.datasets}
    if args.sizes is not None:
        found['sizes'] = parsed_sizes(args.sizes)
    text = '\n\n'.join(
        f'### {name}\n\n{tables(sizes, args.hidden_channels, args.systems)}'
        for name, sizes in found.items())
    print('\n' + text)
    if args.output:
        words = [' '.join(['--datasets', *map(dataset_name, args.datasets)])
                 if args.datasets else '', ' '.join(
                     ['--sizes', *args.sizes]) if args.sizes else '',
                 f'--hidden-channels {args.hidden_channels}',
                 ' '.join(['--systems', *args.systems])
                 if args.systems else '']
        write_output(args.output, 'python benchmarks/table8.py ' +
                     ' '.join(filter(None, words)), text)


if __name__ == '__main__':
    main()
