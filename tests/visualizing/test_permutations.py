from __future__ import annotations

import math
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_layout import on_page, overlaps, smallest_text
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from ssltool.methods.jigsaw.permutations import PermutationSet
from ssltool.visualizing.permutations import (
    SetSummary,
    compare_permutations,
    draw_permutations,
    modes_figure,
    set_figure,
)


def chosen(count: int, grid: int) -> PermutationSet:
    """All permutations, or so many random ones."""
    tiles, generator = grid * grid, np.random.default_rng(0)
    rows = list(permutations(range(tiles))) if math.factorial(tiles) == count else None
    table = np.array(rows or [generator.permutation(tiles) for _ in range(count)], dtype=np.uint8)
    return PermutationSet(table, "file", grid)


def drawn(of: PermutationSet, **options: Any) -> Figure:
    histogram = of.histogram.tolist()
    return set_figure(of.permutations, of.distances, histogram, "the title", **options)


def axes_of(figure: Figure) -> dict[str, Any]:
    return {a.get_title(): a for a in figure.findobj(lambda a: hasattr(a, "get_title"))}


@pytest.mark.slow
@pytest.mark.parametrize(("count", "grid"), [(2, 3), (24, 2), (100, 3), (3, 5)])
def test_a_permutation_set_fits_the_page(count: int, grid: int) -> None:
    figure = drawn(chosen(count, grid))
    assert on_page(figure)
    assert not overlaps(figure)
    assert smallest_text(figure) >= 6
    (bar,) = figure.axes[1].child_axes
    matrix, tall = figure.axes[1].get_window_extent(), bar.get_window_extent()
    assert (tall.y0, tall.y1) == pytest.approx((matrix.y0, matrix.y1), abs=1)


def test_bar_labels_do_not_touch() -> None:
    of = chosen(1000, 3)
    figure = drawn(of)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [text for text in figure.findobj(Text) if text.get_text().endswith("k")]
    boxes = sorted(
        (text.get_window_extent(canvas.get_renderer()) for text in texts), key=lambda box: box.x0
    )
    assert len(boxes) >= 2
    for a, b in pairwise(boxes):
        assert a.x1 < b.x0 or a.y1 < b.y0 or b.y1 < a.y0


def test_the_grids_show_the_first_permutations_in_reading_order() -> None:
    of = chosen(100, 3)
    axes = axes_of(drawn(of, shown=6))
    (axis,) = [axes[title] for title in axes if title.startswith("the first 6 of 100")]
    slots = {
        (round(t.get_position()[1], 2), round(t.get_position()[0], 2)): t.get_text()
        for t in axis.texts
    }

    def block(top: int, left: int) -> list[int]:
        return [int(slots[top + i // 3, left + i % 3]) - 1 for i in range(9)]

    # Blocks are 3 slots and a gap wide; row 0 of a block has its number. Six stand in a row.
    assert block(1, 0) == of.permutations[0].tolist()
    assert block(1, 20) == of.permutations[5].tolist()
    mosaic, colors = np.asarray(axis.images[0].get_array()), dict[str, set[Any]]()
    for (y, x), cell in slots.items():
        if float(y).is_integer():  # numbers of permutations stand between the slots
            colors.setdefault(cell, set()).add(tuple(mosaic[int(y), int(x)]))
    assert len(colors) == 9
    assert all(len(shades) == 1 for shades in colors.values())  # a cell has one color
    assert len(set.union(*colors.values())) == 9  # and no two cells share it


@pytest.mark.parametrize(("count", "every"), [(100, 1), (1000, 2)])
def test_the_matrix_and_the_histogram_are_those_of_the_set(count: int, every: int) -> None:
    of = chosen(count, 3)
    axes = axes_of(drawn(of))
    (title,) = [name for name in axes if name.startswith("Hamming distance of each pair")]
    assert ("1 in 2" in title) == (every == 2)
    shown = np.asarray(axes[title].images[0].get_array())
    assert np.array_equal(shown, of.distances[::every, ::every])
    assert axes[title].get_xlim() == (-0.5, count - 0.5)
    bars = axes["pairs at each distance"]
    assert [bar.get_height() for bar in bars.patches] == of.histogram.tolist()
    for text, pairs in zip(bars.texts, of.histogram.tolist(), strict=True):
        shown = text.get_text()
        exact = float(shown.rstrip("k").replace(",", "") or 0) * (1000 if "k" in shown else 1)
        assert exact == pytest.approx(pairs, rel=5e-3)


def test_modes_stand_above_one_another_with_their_statistics() -> None:
    counts = {"max_min": [0, 0, 3, 7], "random": [0, 2, 4, 4]}

    def summary(mode: str, mean: float, least: int, pairs: int) -> SetSummary:
        return SetSummary(
            mode=mode, count=5, grid=2, seed=0, mean=mean, min=least, pairs_at_min=pairs, sha256=""
        )

    summaries = [summary("max_min", 2.7, 2, 3), summary("random", 2.2, 1, 1)]
    figure = modes_figure(counts, summaries, "10 pairs")
    assert [axis.get_title() for axis in figure.axes] == [
        "max_min: mean distance 2.7000, minimum 2 (3 pairs)",
        "random: mean distance 2.2000, minimum 1 (1 pair)",
    ]
    assert not overlaps(figure)
    assert on_page(figure)
    heights = [[bar.get_height() for bar in axis.patches] for axis in figure.axes]
    assert heights == list(counts.values())


def test_a_set_is_drawn_with_its_summary(tmp_path: Path, figure_bytes: Any) -> None:
    result = draw_permutations(tmp_path / "set.png", mode="code", count=72)
    (summary,) = result.sets
    assert (summary.mode, summary.count, summary.grid, summary.min) == ("code", 72, 3, 8)
    assert str(summary).startswith("mean distance 8.")
    figure_bytes(result.path)


def test_modes_are_compared_and_refusals_kept(tmp_path: Path, figure_bytes: Any) -> None:
    result = compare_permutations(tmp_path / "modes.png", count=24, grid=2)
    assert list(result.refused) == ["code"]  # it has at most 12
    assert len(result.sets) == 5
    assert {summary.min for summary in result.sets} == {2}  # all 24 there are
    figure_bytes(result.path)
