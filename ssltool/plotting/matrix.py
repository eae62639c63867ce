"""Figure of a matrix: a heat map, with its values where they fit."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ssltool.plotting.records import Matrix
from ssltool.plotting.style import (
    COLUMN,
    PAGE,
    POINT,
    SMALL,
    TEXT,
    new_figure,
    styled,
)
from ssltool.plotting.text import legible, shortened, text_width, wrap
from ssltool.plotting.ticks import LONGEST_NAME, STEPS, plain_numbers

_PITCH = SMALL * 1.1  # points from one name of a row to the next
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


@styled
def matrix_figure(plot: Matrix, title: str) -> Figure:
    """A heat map with its values written in where they fit, and a color bar as tall as it.

    Where rows or columns are too many to be named one by one, every so many are, which the labels
    of the axes say.
    """
    values = plot.values.cpu().double().numpy()
    height, width = values.shape
    rows = [shortened(legible(name), SMALL, LONGEST_NAME) for name in plot.rows]
    columns = [shortened(legible(name), SMALL, LONGEST_NAME) for name in plot.columns]
    longest = max(text_width(name, SMALL) for name in rows)
    beside = longest + 62  # points: names, label and color bar
    side = COLUMN / POINT - beside
    wide = side / max(width, height) < _PITCH
    if wide:
        side = PAGE / POINT - beside
    cell = min(side / max(width, height), 34.0)  # points
    upright = max(text_width(name, SMALL) for name in columns) + 0.6 > cell
    below = max(text_width(name, SMALL) for name in columns) if upright else SMALL
    tall = (cell * height + below + 2.5 * TEXT + 8) * POINT
    drawn = new_figure(title, tall, PAGE if wide else COLUMN)
    axis = drawn.subplots()
    norm = _scale(plot, values)
    image = axis.imshow(values, cmap="Blues", norm=norm, interpolation="nearest")
    # Inside of the axes, whose height it keeps whatever becomes of their aspect.
    bar = drawn.colorbar(image, cax=axis.inset_axes((1.02, 0, 8 / (cell * width), 1)))
    bar.outline.set_visible(False)
    if isinstance(norm, PowerNorm):
        bar.set_ticks([norm.vmin + s * (norm.vmax - norm.vmin) for s in (0, 0.05, 0.2, 0.5, 1)])  # type: ignore[operator]
    else:
        bar.ax.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    plain_numbers(bar.ax.yaxis)
    if plot.value_label:
        bar.set_label("\n".join(wrap(legible(plot.value_label), TEXT, max(60.0, cell * height))))
    _write_values(axis, plot, values, norm, cell)
    every = max(1, -(-_PITCH // cell)) if cell < _PITCH else 1
    step = int(every)
    axis.set_xticks(range(0, width, step), columns[::step], rotation=90 if upright else 0)
    axis.set_yticks(range(0, height, step), rows[::step])
    if height > 40:
        axis.tick_params(length=1)
    axis.spines[:].set_visible(True)
    part = f" (1 in {step} is named)" if step > 1 else ""
    axis.set_xlabel("\n".join(wrap(legible(plot.column_label) + part, TEXT, max(120, side))))
    axis.set_ylabel("\n".join(wrap(legible(plot.row_label) + part, TEXT, max(60, cell * height))))
    return drawn


def _scale(plot: Matrix, values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Normalize:
    low, high = plot.limits or (float(values.min()), float(values.max()))
    high = high if high > low else low + 1.0
    return PowerNorm(0.5, low, high) if plot.small_values else Normalize(low, high)


def _write_values(
    axis: Axes,
    plot: Matrix,
    values: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    norm: Normalize,
    cell: float,
) -> None:
    """Write the values into the cells, if ``cell`` points are enough for the longest."""
    if cell < text_width("0", SMALL) * 2:
        return
    texts = {at: f"{value:.{plot.digits}f}" for at, value in np.ndenumerate(values)}
    if max(text_width(text, SMALL) for text in texts.values()) + 2 > cell:
        return
    shades = colormaps["Blues"](norm(values))[..., :3] @ _LUMINANCE
    for (y, x), text in texts.items():
        ink = "black" if shades[y, x] > 0.45 else "white"
        axis.text(x, y, text, ha="center", va="center", fontsize=SMALL, color=ink)
