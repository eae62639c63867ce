from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssltool.visualizing.filters import draw_filters, kernels_figure


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 20, 64])
def test_kernels_are_gray_at_zero_and_full_at_their_largest_weight(
    channels: int, count: int
) -> None:
    kernels = np.random.default_rng(0).normal(size=(count, channels, 5, 5))
    figure = kernels_figure(kernels, "a run")
    images = [np.asarray(axis.images[0].get_array()) for axis in figure.axes if axis.images]
    assert len(images) == count
    for kernel, image in zip(kernels, images, strict=True):
        assert image.shape == ((5, 5, 3) if channels == 3 else (5, 5))
        expected = 0.5 + kernel / (2 * np.abs(kernel).max())
        assert np.allclose(image, expected.transpose(1, 2, 0).squeeze())


def test_kernels_of_other_channels_are_drawn_as_their_mean() -> None:
    kernels = np.random.default_rng(0).normal(size=(2, 4, 3, 3))
    image = np.asarray(kernels_figure(kernels, "").axes[0].images[0].get_array())
    mean = kernels[0].mean(axis=0)
    assert np.allclose(image, 0.5 + mean / (2 * np.abs(mean).max()))


def test_a_zero_kernel_is_gray() -> None:
    image = kernels_figure(np.zeros((2, 1, 3, 3)), "").axes[0].images[0].get_array()
    assert (np.asarray(image) == 0.5).all()


@pytest.mark.slow
def test_the_filters_of_a_run(run: Path, tmp_path: Path, figure_bytes: Any) -> None:
    first, second = (draw_filters(run, tmp_path / name) for name in ("a.png", "b.png"))
    assert first.kernels == 32
    assert figure_bytes(first.path) == figure_bytes(second.path)
