from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from ssltool.methods.npid import augment
from ssltool.ops.per_image_rng import PerImageRNG


@pytest.fixture
def images() -> Tensor:
    """Noise, a gray image, and rows of black and white, where hue is not defined."""
    images = torch.rand(6, 3, 17, 17, generator=torch.Generator().manual_seed(0))
    images[0] = images[0, :1]
    images[1, :, 3], images[1, :, 4] = 0, 1
    return images


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colors_are_torchvisions_image_by_image(name: str, images: Tensor) -> None:
    factors = torch.tensor([0.0, 0.5, 1.0, 1.4, 0.7, 2.0])
    ours = getattr(augment, name)(images.clone(), factors)
    theirs = [
        getattr(reference, f"adjust_{name}")(x, float(f))
        for x, f in zip(images, factors, strict=True)
    ]
    assert torch.allclose(ours, torch.stack(theirs), atol=1e-6)


def test_hue_is_torchvisions_image_by_image(images: Tensor) -> None:
    turns = torch.tensor([-0.5, 0.5, 0.1, -0.3, 0.25, 0.0])
    theirs = [reference.adjust_hue(x, float(t)) for x, t in zip(images, turns, strict=True)]
    assert torch.allclose(augment.hue(images.clone(), turns), torch.stack(theirs), atol=1e-5)


def test_red_turned_by_a_third_is_green() -> None:
    red = torch.tensor([0.9, 0.1, 0.1]).view(1, 3, 1, 1)
    turned = augment.hue(red, torch.tensor([1 / 3]))
    assert turned.flatten().tolist() == pytest.approx([0.1, 0.9, 0.1], abs=1e-6)


def test_gray_is_torchvisions(images: Tensor) -> None:
    assert torch.allclose(augment.luma(images), reference.rgb_to_grayscale(images), atol=1e-6)


def test_rotation_is_torchvisions_of_images_whose_edges_go_on(images: Tensor) -> None:
    degrees = torch.tensor([0.0, 10.0, -10.0, 45.0, 90.0, 3.0])
    side = images.shape[-1]
    padded = reference.pad(images, [side], padding_mode="edge")
    theirs = [
        reference.center_crop(reference.rotate(x, float(d), InterpolationMode.BILINEAR), [side])
        for x, d in zip(padded, degrees, strict=True)
    ]
    assert torch.allclose(augment.rotate(images, degrees), torch.stack(theirs), atol=1e-5)


def test_jitter_belongs_to_the_image_and_stays_in_range(images: Tensor) -> None:
    index = torch.arange(6)

    def drawn(which: Tensor) -> Tensor:
        rng = PerImageRNG(which, torch.Generator().manual_seed(1))
        return augment.jitter(images[which], *augment.sample_jitter(rng, 0.4, 0.4))

    whole = drawn(index)
    assert torch.equal(drawn(index[2:5]), whole[2:5])
    assert 0 <= float(whole.min()) <= float(whole.max()) <= 1
    assert (whole - images).abs().amax(dim=(1, 2, 3)).min() > 0.01


def test_some_images_are_inverted_and_only_those(images: Tensor) -> None:
    inverted = torch.tensor([True, False, True, False, False, True])
    result = augment.invert(images.clone(), inverted)
    assert torch.allclose(result[inverted], 1 - images[inverted])
    assert torch.equal(result[~inverted], images[~inverted])


def test_no_strength_changes_nothing(images: Tensor) -> None:
    rng = PerImageRNG(torch.arange(6), torch.Generator().manual_seed(1))
    assert torch.allclose(
        augment.jitter(images.clone(), *augment.sample_jitter(rng, 0.0, 0.0)), images, atol=1e-6
    )
