from __future__ import annotations

import pytest
import torch

from ssltool.ops.color import (
    NORMALIZED_MEAN,
    NORMALIZED_STD,
    normalize_contrast,
    project_color,
    standardize_colors,
    to_gray,
)

YES_NO = torch.tensor([True, False])


def test_gray_is_the_plain_mean_of_the_chosen_images_only() -> None:
    images = torch.tensor([[10, 20, 36], [10, 20, 36]], dtype=torch.uint8).view(2, 3, 1, 1)
    out = to_gray(images, YES_NO)
    assert out.flatten().tolist() == [22, 22, 22, 10, 20, 36]
    assert out.dtype == torch.uint8


def test_projection_matrix() -> None:
    """B = I - a'a / aa' = [[5/6, 1/3, -1/6], [1/3, 1/3, 1/3], [-1/6, 1/3, 5/6]]."""
    basis = torch.eye(3, dtype=torch.float64).view(3, 3, 1, 1)
    rows = project_color(basis, torch.ones(3, dtype=torch.bool)).view(3, 3)
    expected = torch.tensor(
        [[5 / 6, 1 / 3, -1 / 6], [1 / 3, 1 / 3, 1 / 3], [-1 / 6, 1 / 3, 5 / 6]], dtype=torch.float64
    )
    assert torch.allclose(rows, expected, atol=1e-7)


def test_projection_is_idempotent_keeps_the_sum_and_gray() -> None:
    images = torch.rand(2, 3, 4, 4)
    both = torch.ones(2, dtype=torch.bool)
    once = project_color(images, both)
    assert torch.allclose(project_color(once, both), once, atol=1e-6)
    assert torch.allclose(once.sum(dim=1), images.sum(dim=1), atol=1e-5)
    gray = torch.rand(2, 1, 4, 4).expand(2, 3, 4, 4)
    assert torch.allclose(project_color(gray, both), gray, atol=1e-6)
    assert torch.equal(project_color(images, YES_NO)[1], images[1])


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 3])
def test_colors_are_standardized_in_either_layout(form: torch.memory_format, channels: int) -> None:
    images = torch.rand(4, channels, 9, 7).contiguous(memory_format=form)
    mean, std = torch.rand(channels), torch.rand(channels) + 0.1
    found = standardize_colors(images, mean, std)
    assert torch.allclose(
        found, (images - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1), atol=1e-6
    )
    assert found.is_contiguous(memory_format=form)


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_bytes_are_standardized_into_a_place_of_their_own(form: torch.memory_format) -> None:
    images = torch.randint(0, 256, (6, 3, 5, 8), dtype=torch.uint8).contiguous(memory_format=form)
    mean, std = torch.tensor([120.0, 110.0, 100.0]), torch.tensor([60.0, 50.0, 40.0])
    out = torch.full(images.shape, torch.nan).contiguous(memory_format=form)
    for some in (slice(0, 4), slice(4, 6)):
        standardize_colors(images[some], mean, std, out=out[some])
    assert torch.allclose(out, (images - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("color", "expected"),
    [
        ((10, 20, 30), (10, 20, 30)),
        ((100, 150, 200), (100, 150, 200)),
        ((100, 100, 160), (90, 120, 150)),
        ((0, 255, 0), (85, 85, 85)),
        ((255, 0, 255), (170, 170, 170)),
        ((255, 0, 0), (212.5, 85, -42.5)),
        ((77, 77, 77), (77, 77, 77)),
    ],
)
def test_projection_subtracts_the_green_magenta_axis(
    color: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    """It removes that axis; one public docstring projects onto it. Nothing is clipped."""
    image = torch.tensor(color, dtype=torch.float32).view(1, 3, 1, 1)
    assert torch.allclose(
        project_color(image, torch.tensor([True])).flatten(),
        torch.tensor(expected, dtype=torch.float32),
        atol=1e-4,
    )


def test_contrast_is_normalized_as_by_a_loop_over_images() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 6, 6, generator=generator) * 0.4 + 0.2
    visible = torch.rand(4, 1, 6, 6, generator=generator) > 0.3
    for mask in (None, visible):
        normalized = normalize_contrast(images.clone(), mask)
        for n, image in enumerate(images.double()):
            seen = image[:, visible[n, 0]] if mask is not None else image.flatten(1)  # [3, pixels]
            middle = seen.mean(1, keepdim=True)
            deviation = (seen - middle).square().mean().sqrt()
            expected = (image - middle[..., None]) / deviation * NORMALIZED_STD + NORMALIZED_MEAN
            assert torch.allclose(normalized[n].double(), expected.clamp(0, 1), atol=1e-5)


def test_light_contrast_and_hidden_pixels_do_not_change_a_normalized_image() -> None:
    images = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    visible = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    visible[..., 2] = False
    normalized = normalize_contrast(images.clone(), visible)
    assert torch.allclose(normalize_contrast(0.3 * images + 0.5, visible), normalized, atol=1e-4)
    changed = torch.where(visible, images, 1 - images)
    again = normalize_contrast(changed, visible)
    assert torch.allclose(again[visible], normalized[visible])
    flat = torch.full((1, 3, 4, 4), 0.3)
    assert torch.allclose(normalize_contrast(flat), torch.full_like(flat, NORMALIZED_MEAN))
