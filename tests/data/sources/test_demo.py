"""The demo world: an image depends on (seed, index) alone, and shape alone tells the class."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from random import Random

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssltool.data.sources.demo import NATIVE_SIDE, DemoSource, ink_map, render
from ssltool.data.sources.demo_pen import OBJECT, Ink
from ssltool.data.sources.demo_scene import Frame, Scene
from ssltool.data.sources.locations import DEMO_COUNT
from ssltool.data.sources.registry import open_source
from ssltool.encoders.registry import build_encoder
from ssltool.probing.knn import knn_accuracy
from ssltool.probing.linear import fit_and_score

CLASSES = DemoSource(1).classes
PRINT_DIGEST = """
from hashlib import sha256
from ssltool.data.sources.demo import DemoSource
source = DemoSource(50, seed=3)
print(sha256(b"".join(source.read(i, 24).tobytes() for i in (41, 7))).hexdigest())
"""


@pytest.mark.parametrize("size", [1, 8, 28, 64, 100])
def test_any_size(size: int) -> None:
    source = DemoSource(3)
    image, mask = source.read(2, size), source.mask(2, size)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8
    assert mask.shape == (size, size)
    assert mask.dtype == np.bool_


@pytest.mark.slow
@pytest.mark.ci
def test_another_process_draws_the_same() -> None:
    run = subprocess.run(
        [sys.executable, "-c", PRINT_DIGEST], capture_output=True, text=True, check=True
    )
    source = DemoSource(50, seed=3)
    assert (
        run.stdout.strip()
        == sha256(source.read(41, 24).tobytes() + source.read(7, 24).tobytes()).hexdigest()
    )


def test_an_image_depends_on_seed_and_index_alone() -> None:
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
        masks = source.mask(index, 32), source.mask(index, 64).reshape(32, 2, 32, 2).any((1, 3))
        assert (masks[0] & masks[1]).sum() > 0.85 * (masks[0] | masks[1]).sum()


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
        for index in range(100)
    }
    assert len(drawn) == 200


def test_the_two_sets_share_their_classes() -> None:
    train, test = open_source(["demo"]), open_source(["demo-test:7"])
    assert (len(train), len(test)) == (DEMO_COUNT, 7)
    assert train.classes == test.classes


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


@pytest.mark.parametrize("index", [0, 17, 101])
def test_another_object_in_a_scene_changes_nothing_around_it(index: int) -> None:
    """Background, light and place are the same whatever the class."""
    scene = DemoSource(200).scene(index)
    maps = [ink_map(scene, thing, Random(index), 32) for thing in CLASSES]
    images = [render(scene, inks, 32) for inks in maps]
    around = ~np.any([_any_of(inks >= OBJECT) for inks in maps], axis=0)
    assert around.sum() > 50
    for image in images[1:]:
        np.testing.assert_array_equal(image[around], images[0][around])
    assert len({image.tobytes() for image in images}) == 10


def test_scenes_are_independent_of_the_label() -> None:
    """Chi-square tests of ten properties of 2,000 scenes against the label."""
    source = DemoSource(2000)
    scenes = [source.scene(index) for index in range(2000)]
    labels = np.array([source.label(index) for index in range(2000)])
    colors = np.array([scene.palette.colors for scene in scenes], float).mean(-1)
    frames = np.array([scene.frame for scene in scenes])
    properties = [
        np.unique([scene.background for scene in scenes], return_inverse=True)[1],
        (frames[:, 2] > 0).astype(int),
        *(_quarter(np.abs(frames[:, k])) for k in range(5)),
        *(_quarter(colors[:, ink]) for ink in (Ink.PAPER, Ink.BODY, Ink.OUTLINE)),
    ]
    for values in properties:
        counts = np.zeros((10, values.max() + 1))
        np.add.at(counts, (labels, values), 1)
        expected = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
        freedom = 9 * (counts.shape[1] - 1)
        assert ((counts - expected) ** 2 / expected).sum() < freedom + 4 * (2 * freedom) ** 0.5


def test_the_mask_is_where_the_object_is() -> None:
    """Other colors of the object change pixels of the mask, and no others."""
    source = DemoSource(30)
    for index in range(30):
        mask, scene = source.mask(index, 48), source.scene(index)
        colors = scene.palette.colors
        inverted = tuple((255 - r, 255 - g, (b + 128) % 256) for r, g, b in colors[OBJECT:])
        palette = scene.palette._replace(colors=colors[:OBJECT] + inverted)
        style = Random(f"0/{index}/object")
        inks = ink_map(scene, CLASSES[source.label(index)], style, 48)
        np.testing.assert_array_equal(render(scene, inks, 48), source.read(index, 48))
        changed = (render(scene._replace(palette=palette), inks, 48) != source.read(index, 48)).any(
            -1
        )
        assert not changed[~mask].any()
        assert changed[mask].mean() > 0.9


def test_objects_fill_the_image() -> None:
    masks = np.stack([DemoSource(200).mask(index, 48) for index in range(200)])
    cells = masks.reshape(200, 3, 16, 3, 16).mean((2, 4)) > 0.05
    assert cells.sum((1, 2)).mean() > 6
    assert masks.mean((1, 2)).min() > 0.1
    assert masks.mean((1, 2)).max() < 0.8


def test_shape_tells_the_class() -> None:
    """In one scene, the nearest mean map of inks is the right class's: a reference of its own."""
    scene = Scene.sample(Random(0))._replace(frame=Frame(0.5, 0.5, 0.45, 0.45, 0.0))
    maps = np.stack(
        [
            [np.eye(9)[ink_map(scene, thing, Random(k), 16)[::3, ::3]].ravel() for k in range(20)]
            for thing in CLASSES
        ]
    )
    means, unseen = maps[:, :10].mean(1), maps[:, 10:]
    distances = ((unseen[:, :, None] - means) ** 2).sum(-1)
    assert (distances.argmin(-1) == np.arange(10)[:, None]).mean() > 0.95


@pytest.mark.slow
def test_pixels_and_a_random_init_are_near_chance() -> None:
    """2,000 labeled training images, 1,000 test images of another seed; chance is 10 %."""
    train, test = _labeled(0, 2000), _labeled(1, 1000)
    torch.manual_seed(0)
    encoder = build_encoder("resnet10_w32", stem="small").eval()
    pixels = _scores(train, test, lambda x: torch.nn.functional.avg_pool2d(x, 2).flatten(1))
    with torch.no_grad():
        pooled = _scores(train, test, lambda x: torch.cat([encoder(c) for c in x.split(100)]))
    assert pixels[0] < 20
    assert pixels[1] < 25
    assert max(pooled) < 20


def _any_of(fine: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which pixels of 32 along a side have any part set."""
    factor = len(fine) // 32
    result: NDArray[np.bool_] = fine.reshape(32, factor, 32, factor).any((1, 3))
    return result


def _quarter(values: NDArray[np.floating]) -> NDArray[np.intp]:
    """Quarter of its range of ranks, 0 to 3, that each value is in."""
    quarters: NDArray[np.intp] = values.argsort(kind="stable").argsort() * 4 // len(values)
    return quarters


def _labeled(seed: int, count: int) -> tuple[Tensor, Tensor]:
    source = DemoSource(count, seed)
    images = np.stack([source.read(index, 32) for index in range(count)])
    labels = torch.tensor([source.label(index) for index in range(count)])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1, labels


def _scores(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    features: Callable[[Tensor], Tensor],
) -> tuple[float, float]:
    """Linear and kNN accuracy in percent."""
    (x, y), (test_x, test_y) = train, test
    x, test_x = features(x), features(test_x)
    linear = fit_and_score(x, y, test_x, test_y, 10, 0).accuracy
    return linear, knn_accuracy(x, y, test_x, test_y, 10, ks=(20,))[20]
