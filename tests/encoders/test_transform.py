from __future__ import annotations

import pytest
import torch

from ssltool.encoders.registry import build_encoder
from ssltool.encoders.transform import InputTransform
from ssltool.errors import UsageError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def images(*shape: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, generator=generator).to(dtype)


def test_channels_are_scaled_and_normalized() -> None:
    batch = images(2, 3, 8, 8)
    expected = (batch.double() / 255 - torch.tensor(MEAN).double().view(3, 1, 1)) / torch.tensor(
        STD
    ).double().view(3, 1, 1)
    assert torch.allclose(InputTransform(8, MEAN, STD)(batch).double(), expected, atol=1e-6)


@pytest.mark.parametrize("size", [8, 12])
@pytest.mark.parametrize("standardize", ["channels", "image"])
def test_images_are_standardized_by_themselves(standardize: str, size: int) -> None:
    batch = images(3, 3, 8, 8)
    plain = InputTransform(size, (0.0,) * 3, (1.0,) * 3)(batch).double()
    centered = plain - plain.mean(dim=(2, 3), keepdim=True)
    over = (2, 3) if standardize == "channels" else (1, 2, 3)
    expected = centered / centered.square().mean(dim=over, keepdim=True).sqrt()
    transform = InputTransform(size, MEAN, STD, "rgb", standardize)  # type: ignore[arg-type]
    assert torch.allclose(transform(batch).double(), expected, atol=1e-4)


@pytest.mark.parametrize("standardize", ["channels", "image"])
def test_light_and_contrast_change_nothing_of_a_standardized_image(standardize: str) -> None:
    batch = images(2, 3, 8, 8) // 4
    transform = InputTransform(8, MEAN, STD, "rgb", standardize)  # type: ignore[arg-type]
    assert torch.allclose(transform(batch), transform(3 * batch + 40), atol=1e-4)
    flat = torch.full((1, 3, 8, 8), 77, dtype=torch.uint8)
    assert torch.equal(transform(flat), torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int64])
@pytest.mark.parametrize("space", ["rgb", "lightness", "lab"])
def test_other_types_are_refused(dtype: torch.dtype, space: str) -> None:
    """Floats in 0..1 would be divided by 255 twice."""
    transform = InputTransform(8, MEAN, STD, space)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"images are \w+ \[2, 3, 8, 8\]; expected uint8 \[B, 3"):
        transform(images(2, 3, 8, 8, dtype=dtype))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((2, 1, 8, 8), r"\[2, 1, 8, 8\]; expected uint8 \[B, 3, S, S\]"),
        ((2, 4, 8, 8), r"\[2, 4, 8, 8\]"),
        ((2, 8, 8, 3), r"\[2, 8, 8, 3\]"),
        ((3, 8, 8), r"\[3, 8, 8\]"),
        ((8, 8), r"\[8, 8\]"),
        ((2, 3, 64, 32), "64 x 32 px"),
        ((2, 3, 32, 64), "32 x 64 px"),
    ],
)
@pytest.mark.parametrize("size", [8, 32])
def test_other_shapes_are_refused(shape: tuple[int, ...], words: str, size: int) -> None:
    with pytest.raises(UsageError, match=words):
        InputTransform(size, MEAN, STD)(images(*shape))


@pytest.mark.parametrize("channels", [1, 3])
def test_an_encoder_refuses_what_it_was_not_built_for(channels: int) -> None:
    encoder = build_encoder("resnet20", in_channels=channels).eval()
    good = torch.zeros(1, channels, 16, 16)
    wrong = [torch.zeros(1, 4 - channels, 16, 16), good.byte(), good[0], good.permute(0, 2, 3, 1)]
    for call in (encoder, encoder.map, encoder.maps):
        call(good)
        for x in wrong:
            with pytest.raises(UsageError, match=rf"takes float \[B, {channels}, H, W\] but"):
                call(x)
