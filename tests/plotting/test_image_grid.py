from __future__ import annotations

import numpy as np
import pytest
from made_layout import on_page, overlaps, smallest_text
from matplotlib import colormaps

from ssltool.plotting.image_grid import image_grid


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 4, 7])
@pytest.mark.parametrize("bar", [False, True])
def test_images_have_headings_and_a_scale_that_fit_the_page(columns: int, bar: bool) -> None:
    stacks = {
        f"layer{i}\n{8 * i} \u00d7 {8 * i}": np.full((3, 8 * i, 8 * i, 3), 20 * i, dtype=np.uint8)
        for i in range(1, columns + 1)
    }
    figure = image_grid(
        stacks,
        "a method, a network: what is drawn, in a title of two lines or more",
        notes=["a note below all of the images that is wrapped, as it is longer than one line"],
        colors=colormaps["inferno"] if bar else None,
        limits=(0, 3),
        color_label="distance, no unit",
    )
    assert not overlaps(figure)
    assert on_page(figure)
    assert smallest_text(figure) >= 6
    images = [axis.images[0] for axis in figure.axes if axis.images]
    assert len(images) == 3 * columns
    assert {axis.get_xlabel() for axis in figure.axes} == (
        {"", "distance, no unit"} if bar else {""}
    )
