"""How figures look: readable in greyscale, legends outside of the axes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch_promptmm.files import atomic_path

# Colours of different lightness, each with a marker and a dash of its own.
STYLES: tuple[dict[str, Any], ...] = (
    {'color': '#000000', 'marker': 'o', 'linestyle': '-'},
    {'color': '#d55e00', 'marker': 's', 'linestyle': '--'},
    {'color': '#56b4e9', 'marker': '^', 'linestyle': '-.'},
    {'color': '#005a8c', 'marker': 'D', 'linestyle': ':'},
    {'color': '#b0b0b0', 'marker': 'v', 'linestyle': '-'},
    {'color': '#7a3b00', 'marker': 'P', 'linestyle': '--'},
)


def style(number: int) -> dict[str, Any]:
    return STYLES[number % len(STYLES)]


def panels(number: int, columns: int = 4, size: float = 2.6,
           **kwargs: Any) -> tuple[Any, list[Any]]:
    """A figure of several axes."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    columns = min(columns, number)
    rows = -(-number // columns)
    figure, axes = pyplot.subplots(
        rows, columns, squeeze=False, layout='constrained',
        figsize=(1.15 * size * columns, size * rows + 0.5), **kwargs)
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)
    every = list(axes.flat)
    for axis in every[number:]:
        axis.set_axis_off()
    return figure, every[:number]


def save(figure: Any, path: str | Path,
         handles: Sequence[Any] | None = None) -> None:
    """Writes a PNG, with one legend below all axes."""
    from matplotlib import pyplot
    if handles is None:
        found = {label: handle for axis in figure.axes
                 for handle, label in zip(*axis.get_legend_handles_labels(),
                                          strict=True)}
        handles, labels = list(found.values()), list(found)
    else:
        labels = [handle.get_label() for handle in handles]
    figure.legend(handles, labels, loc='outside lower center',
                  ncols=min(len(labels), 4), frameon=False)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=200, format='png')
    pyplot.close(figure)
    print(f'{path}')
