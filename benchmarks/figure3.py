"""Figure 3 of the paper: t-SNE of raw features and of the teacher's reduced
features, with and without prompt.

    python benchmarks/figure3.py --datasets FOLDER
    python benchmarks/figure3.py --datasets small --quick

Repeats: t-SNE with a PCA start of the items' raw features, of the features
that a teacher without prompt has reduced, and of those of the one with a
prompt, all modalities in one picture. Raw features of different widths have
no space in common: here each modality is standardised and reduced to as many
components as the narrowest width, which are matched by their variance alone.
To what is seen there is a number, *mixing*: among the ten nearest neighbours
of an item's row, in the space that t-SNE starts from, the share that is of
another modality, over what it is where modalities do not matter (1: fully
mixed, 0: apart). Teachers are trained as in table4.py, and shared with it.

Needs the extra ``plot``: ``pip install torch_promptmm[plot]``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _markdown import markdown
from _plot import panels, save, style
from study import (
    StudyRow,
    StudyRuns,
    cached_dataset,
    dataset_name,
    failures,
    finish,
    options,
    report,
    run_all,
    runs_of,
    teacher_row,
)
from torch import Tensor

from torch_promptmm.data import InteractionData, read_graph
from torch_promptmm.files import atomic_path
from torch_promptmm.models import MultimodalTeacher

RAW, WITHOUT, WITH = 'raw features', 'reduced, no prompt', 'reduced, prompt'
HEADER = ['rows', 'modalities', 'items of each', 'mixing']
Rows = dict[str, np.ndarray]


def sample(view: InteractionData, number: int) -> dict[str, Tensor]:
    """Items of each modality, those that have it."""
    generator = torch.Generator().manual_seed(0)
    out = {}
    for name, x in view.features.items():
        mask = view.masks.get(name)
        ids = (torch.arange(x.size(0)) if mask is None else
               mask.nonzero().view(-1))
        order = torch.randperm(ids.numel(), generator=generator)
        out[name] = ids[order[:number]].sort().values
    return out


def raw_rows(view: InteractionData, items: dict[str, Tensor],
             channels: int) -> Rows:
    """Leading components of the standardised features."""
    from sklearn.decomposition import PCA
    out = {}
    width = min(channels, *(min(x.size(1), items[name].numel())
                            for name, x in view.features.items()))
    for name, x in view.features.items():
        rows = x[items[name]].double()
        rows = (rows - rows.mean(dim=0)) / rows.std(dim=0).clamp(min=1e-12)
        out[name] = PCA(width, random_state=0).fit_transform(rows.numpy())
    return out


@torch.no_grad()
def reduced_rows(teacher: MultimodalTeacher, view: InteractionData,
                 items: dict[str, Tensor]) -> Rows:
    """The features as Eq. 4 reduces them."""
    teacher.eval()
    teacher.give_features(view)
    prompt = None if teacher.prompt is None else teacher.prompt()
    return {
        name: teacher.reduction(name).finish(
            teacher.reduced(name), prompt,
            teacher.context(name, prompt))[items[name]].numpy()
        for name in teacher.modalities
    }


def mixing(rows: Rows, neighbors: int = 10) -> float:
    """The share of neighbours of another modality, over its expectation."""
    from sklearn.neighbors import NearestNeighbors
    x = np.concatenate(list(rows.values()))
    label = np.repeat(np.arange(len(rows)), [len(v) for v in rows.values()])
    neighbors = min(neighbors, len(x) - 1)
    index = NearestNeighbors(n_neighbors=neighbors).fit(x).kneighbors(
        return_distance=False)
    other = (label[index] != label[:, None]).mean(axis=1)
    sizes = np.bincount(label)
    expected = (len(x) - sizes[label]) / (len(x) - 1)
    return float(other.mean() / expected.mean()) if len(rows) > 1 else 0.0


def embedded(rows: Rows) -> Rows:
    """Two dimensions of t-SNE."""
    from sklearn.manifold import TSNE
    x = np.concatenate(list(rows.values())).astype(np.float32)
    out = TSNE(2, init='pca', random_state=0,
               perplexity=min(30.0, (len(x) - 1) / 3)).fit_transform(x)
    ends = np.cumsum([len(v) for v in rows.values()])[:-1]
    return dict(zip(rows, np.split(out, ends), strict=True))


def compute(runs: StudyRuns, rows: dict[str, StudyRow],
            number: int) -> dict[str, Any]:
    """What is drawn, for each picture."""
    first = next(iter(rows.values()))
    view = read_graph(runs.train, modalities=first.modalities)
    items = sample(view, number)
    pictures = {RAW: raw_rows(view, items, first.hidden_channels)}
    for name, row in rows.items():
        if runs.path(row).exists():
            teacher = runs.load(row)
            assert isinstance(teacher, MultimodalTeacher)
            pictures[name] = reduced_rows(teacher, view, items)
    return {
        name: {'mixing': mixing(found),
               'points': {k: v.tolist() for k, v in embedded(found).items()}}
        for name, found in pictures.items()
    }


def draw(found: dict[str, Any], path: Path) -> None:
    figure, axes = panels(len(found), 3, 3.0)
    for axis, (name, picture) in zip(axes, found.items(), strict=True):
        for number, (modality, points) in enumerate(
                picture['points'].items()):
            x, y = np.array(points).T
            look = style(number)
            axis.scatter(x, y, s=9, label=modality, marker=look['marker'],
                         facecolors=look['color'] if number % 2 else 'none',
                         edgecolors=look['color'], linewidths=0.6, alpha=0.7)
        axis.set_title(f'{name}\nmixing {picture["mixing"]:.2f}', fontsize=9)
        axis.set_xlabel('t-SNE 1', fontsize=8)
        axis.set_ylabel('t-SNE 2', fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__, seeds=1)
    add = parser.add_argument
    add('--setting', default='default', choices=['default', 'faithful'],
        help='of the teachers (default: default)')
    add('--items', type=int, default=500,
        help='items of each modality (default: 500)')
    add('--figures', default='runs/figures', help='where PNGs are written')
    args: argparse.Namespace = finish(parser.parse_args(argv))
    args.seeds, texts = 1, []
    for dataset in args.datasets:
        rows = {WITHOUT: teacher_row(args.setting, args, None,
                                     'teacher, no prompt', prompt=None),
                WITH: teacher_row(args.setting, args)}
        run_all(args, dataset, list(rows.values()))
        runs = runs_of(args, dataset)
        keys = '-'.join(row.key[-10:] for row in rows.values())
        kept = runs / f'figure3-{keys}-{args.items}.json'
        if not kept.exists():
            found = compute(StudyRuns(cached_dataset(dataset), {}, runs, 0),
                            rows, args.items)
            if len(found) == 1 + len(rows):
                with atomic_path(kept) as temporary:
                    temporary.write_text(json.dumps(found))
        else:
            found = json.loads(kept.read_text())
        name = dataset_name(dataset)
        draw(found, Path(args.figures) / f'figure3-{name}.png')
        lines = [[x, str(len(picture['points'])), ', '.join(
            f'{k} {len(v)}' for k, v in picture['points'].items()),
                  f'{picture["mixing"]:.3f}'] for x, picture in found.items()]
        failed = failures(rows.values(), runs, [0])
        texts.append('\n\n'.join([
            f'### {name}', markdown(HEADER, lines),
            *(f'{row} failed: {why}' for row, why in failed.items())]))
    report(args, __file__, '\n\n'.join(texts), setting=args.setting,
           items=args.items)


if __name__ == '__main__':
    main()
