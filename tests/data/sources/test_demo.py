"""The demo world: an image depends on (seed, index) alone, classes take turns, and no two images
are equal.
"""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest

from ssltool.data.sources.demo import NATIVE_SIDE, DemoSource
from ssltool.data.sources.registry import DEMO_COUNT, open_source

PRINT_DIGEST = """
from hashlib import sha256
from ssltool.data.sources.demo import DemoSource
source = DemoSource(50, seed=3)
print(sha256(b"".join(source.read(i, 24).tobytes() for i in (41, 7))).hexdigest())
"""


@pytest.mark.parametrize("size", [1, 8, 28, 64, 100])
def test_any_size(size: int) -> None:
    image = DemoSource(3).read(2, size)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8


def test_another_process_draws_the_same() -> None:
    run = subprocess.run(
        [sys.executable, "-c", PRINT_DIGEST], capture_output=True, text=True, check=True
    )
    source = DemoSource(50, seed=3)
    assert (
        run.stdout.strip()
        == sha256(source.read(41, 24).tobytes() + source.read(7, 24).tobytes()).hexdigest()
    )


def test_a_image_depends_on_seed_and_index_alone() -> None:
    first, other = DemoSource(20, seed=5), DemoSource(1000, seed=5)
    expected = first.read(13, 32)
    other.read(700, 32)
    np.testing.assert_array_equal(other.read(13, 32), expected)
    np.testing.assert_array_equal(other.read(13, 32), expected)
    assert (DemoSource(20, seed=6).read(13, 32) != expected).any()


def test_sizes_show_the_same_scene() -> None:
    source = DemoSource(10)
    for index in range(10):
        small = source.read(index, 32).astype(float)
        large = source.read(index, 64).reshape(32, 2, 32, 2, 3).mean((1, 3))
        correlation = np.corrcoef(small.ravel(), large.ravel())[0, 1]
        assert correlation > 0.9


def test_classes_take_turns() -> None:
    source = DemoSource(100)
    assert len(source.classes) == len(set(source.classes)) == 10
    labels = [source.label(index) for index in range(len(source))]
    assert np.bincount(labels).tolist() == [10] * 10
    assert np.bincount(labels[37:57]).tolist() == [2] * 10


def test_no_two_images_are_equal_in_or_across_the_two_sets() -> None:
    drawn = {
        open_source([spec]).read(index, 16).tobytes()
        for spec in ("demo", "demo-test")
        for index in range(200)
    }
    assert len(drawn) == 400


def test_the_two_sets_share_their_classes() -> None:
    train, test = open_source(["demo"]), open_source(["demo-test:7"])
    assert (len(train), len(test)) == (DEMO_COUNT, 7)
    assert train.classes == test.classes


def test_classes_differ_in_shape() -> None:
    """The mean map of edges of a class is nearer to the same class's on other images than to other
    classes'.
    """
    source = DemoSource(1000)
    gray = np.stack([source.read(index, 24) for index in range(1000)]).mean(-1)
    edges = np.hypot(np.diff(gray, axis=1)[:, :, :-1], np.diff(gray, axis=2)[:, :-1]).reshape(
        100, 10, -1
    )
    first, second = (half - half.mean(0) for half in (edges[:50].mean(0), edges[50:].mean(0)))
    nearest = np.corrcoef(first, second)[:10, 10:].argmax(1)
    assert (nearest == np.arange(10)).mean() >= 0.6  # chance is 0.1


def test_images_have_color_and_contrast() -> None:
    source = DemoSource(50)
    images = np.stack([source.read(index, 32) for index in range(50)]).astype(float)
    assert images.std(axis=(1, 2, 3)).min() > 10
    assert np.abs(images[..., 0] - images[..., 2]).mean() > 10
    assert 60 < images.mean() < 190


def test_facts() -> None:
    source = DemoSource(12, seed=4)
    assert source.short_side(3) == NATIVE_SIDE
    assert source.name(3) == "demo image 3 of seed 4"
    prints = {DemoSource(count, seed).fingerprint() for count in (1, 2) for seed in (0, 1)}
    assert len(prints) == 4
    assert DemoSource(12, 4).fingerprint() == source.fingerprint()
