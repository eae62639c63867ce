from __future__ import annotations

import torch

from ssltool.ops import low_level


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_moments_are_those_of_the_channels() -> None:
    patches = noise(2, 5, 3, 8, 8)
    found = low_level.color_moments(patches)
    assert found.shape == (2, 5, 6)
    assert torch.allclose(found[1, 2, 1], patches[1, 2, 1].mean())
    assert torch.allclose(found[1, 2, 4], patches[1, 2, 1].std(correction=0))


def test_offsets_tell_a_displaced_channel_and_no_texture() -> None:
    """Of gray stripes the correlations are symmetric; a displacement changes the sign of one."""
    wide = noise(200, 1, 14, 14)
    gray = wide[..., 2:12, 2:12].expand(-1, 3, -1, -1)
    assert low_level.channel_offsets(gray).mean(dim=0).abs().max() < 0.05
    for dy, sign in ((1, -1), (-1, 1)):
        displaced = gray.clone()
        displaced[:, 0] = wide[:, 0, 2 - dy : 12 - dy, 2:12]
        found = low_level.channel_offsets(displaced).mean(dim=0)
        # Shift (-1, 0) is the eighth of the twelve of the first channel.
        assert float(found[7]) * sign > 0.8
        assert found[12:].abs().max() < 0.05


def test_one_channel_has_no_offset() -> None:
    found = low_level.channel_offsets(noise(2, 4, 1, 9, 9))
    assert found.shape == low_level.channel_offsets(noise(2, 4, 3, 9, 9)).shape
    assert not found.any()


def test_facing_pixels_are_alike_where_an_image_continues() -> None:
    image = noise(1, 3, 16, 16)
    image = torch.nn.functional.interpolate(image, (48, 48), mode="bicubic")
    middle = image[..., 16:32, 16:32]
    positions = [(0, 0), (0, 16), (0, 32), (16, 0), (16, 32), (32, 0), (32, 16), (32, 32)]
    sides = [1, 3, 4, 6]  # up, left, right, down
    for number in sides:
        y, x = positions[number]
        found = low_level.border_differences(middle, image[..., y : y + 16, x : x + 16])
        assert found.shape == (1, 8)
        assert int(found[0, sides].argmin()) == sides.index(number)


def test_histograms_count_colors() -> None:
    images = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    images[0, :, 0, 0] = torch.tensor([255, 0, 64], dtype=torch.uint8)
    found = low_level.color_histograms(images)
    assert found.sum() == 1
    assert found[0, 0] == 0.75
    assert found[0, 3 * 16 + 1] == 0.25
