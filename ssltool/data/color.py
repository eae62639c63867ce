"""Convert decoded images of any mode to RGB: sample ranges, opacity, color profiles.

The rules are stated at the top of `ssltool.data.decode`.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from ssltool.data.samples import Alpha, Samples
from ssltool.errors import UnreadableImage

_WIDE = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
_OPAQUE_OR_NOT = 0.75
"""Share of pixels that are fully opaque or fully transparent in a plane that is opacity."""
_SAME = 2
"""Levels of 255 by which a profile may differ from sRGB and count as sRGB."""


def to_rgb(image: Image.Image, samples: Samples | None = None) -> Image.Image:
    """Convert a loaded image of any mode to sRGB, by the rules of `ssltool.data.decode`.

    Args:
        image: A loaded image.
        samples: What its file says of its samples; None: what the mode says.

    Returns:
        An image of mode ``"RGB"``: the same one if nothing is to be converted.

    Raises:
        UnreadableImage: The range of its samples is unknown, or it is transparent everywhere.
    """
    samples = samples or Samples.of_mode(image.mode)
    profile = image.info.get("icc_profile")
    is_wide = samples.bits != 8 or samples.declared
    if image.mode == "RGB" and not is_wide and "transparency" not in image.info:
        return _managed(image, profile) if profile else image
    if is_wide and "transparency" in image.info:
        raise UnreadableImage("a transparent color in more than 8 bits; save with an alpha channel")
    if image.mode in _WIDE:
        values = np.asarray(image)
        gray = _from_floats(values, samples) if image.mode == "F" else _from_ints(values, samples)
        return _managed(Image.fromarray(gray), profile)
    colors, alpha = _split(image, samples.alpha)
    if is_wide:
        _check_high_bytes(colors, samples)
    rgb = _managed(colors, profile)
    if alpha is None:
        return rgb
    white = Image.new("RGB", rgb.size, "white")
    white.paste(rgb, mask=alpha)
    return white


def managed_array(pixels: NDArray[np.uint8], profile: bytes, gray: bool) -> NDArray[np.uint8]:
    """Convert pixels ``[H, W, 3]`` from the color space of a profile to sRGB.

    Args:
        pixels: uint8 ``[H, W, 3]``.
        profile: ICC profile.
        gray: The channels are those of a gray image.
    """
    mode = "L" if gray else "RGB"
    if _transform(profile, mode) is None:
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0]) if gray else pixels)
    return np.asarray(_managed(image, profile))


def _split(image: Image.Image, rule: Alpha) -> tuple[Image.Image, Image.Image | None]:
    """Colors and opacity; None if all is opaque, or if the fourth sample is something else."""
    if not image.has_transparency_data and image.mode not in _ALPHA:
        return (image.convert("RGB") if image.mode == "P" else image), None
    is_gray = image.mode in ("1", "L", "LA", "La")
    both = _in_mode(image, "LA" if is_gray else "RGBA")
    colors, alpha = both.convert("L" if is_gray else "RGB"), both.getchannel("A")
    del both
    if rule == "other":
        return colors, None
    counts = alpha.histogram()
    total = sum(counts)
    if counts[0] == total:
        raise UnreadableImage("transparent everywhere; remove its alpha channel")
    if rule == "doubtful" and counts[0] + counts[255] < _OPAQUE_OR_NOT * total:
        raise UnreadableImage(
            "its last sample may be opacity or something else, such as near infrared; "
            "save it without"
        )
    return colors, None if counts[255] == total else alpha


def _from_ints(values: NDArray[Any], samples: Samples) -> NDArray[np.uint8]:
    """The 8 highest significant bits of integers ``[H, W]``."""
    if samples.unsigned:
        values = values.view(np.uint32)
    low, high, full = int(values.min()), int(values.max()), 2**samples.bits - 1
    if low < 0 or high > full:
        raise UnreadableImage(f"values from {low} to {high}; expected 0 to {full}")
    if not samples.declared:
        _check_range(high, full)
    gray = (values >> (samples.bits - 8)).astype(np.uint8)
    return 255 - gray if samples.inverted else gray


def _check_high_bytes(colors: Image.Image, samples: Samples) -> None:
    """As `_from_ints`, where Pillow has kept the high byte of 16 bits."""
    if samples.declared:
        raise UnreadableImage(
            f"color of {samples.bits} bits in 16; save it in 8 bits, or scale its values"
        )
    extrema = colors.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    high = max(int(band[1]) for band in bands if isinstance(band, tuple))
    _check_range(high * 256 + 255, 65535)  # the low byte is unknown, even that of black


def _check_range(high: int, full: int) -> None:
    """Refuse integers that leave their two highest bits unused."""
    if 0 < high <= full // 4:
        raise UnreadableImage(
            f"no value above {high} where white is {full}: it may use fewer bits than it declares; "
            "save it in 8 bits, or scale its values"
        )


def _from_floats(values: NDArray[Any], samples: Samples) -> NDArray[np.uint8]:
    """Floats ``[H, W]`` in 0..white to 0..255; NaN and infinity become 0."""
    finite = np.isfinite(values)
    if not finite.any():
        raise UnreadableImage("a float image without a finite value")
    low, high = float(values[finite].min()), float(values[finite].max())
    if low < 0 or high > samples.white:
        raise UnreadableImage(
            f"a float image with values from {low:.6g} to {high:.6g}; "
            f"expected 0 to {samples.white:g}; 'ssltool pretrain --channels 1 --value-range auto' "
            "reads others"
        )
    shares = np.where(finite, values, 0).astype(np.float64) / samples.white
    if samples.inverted:
        shares = 1 - shares
    return np.where(finite, shares * 255, 0).round().astype(np.uint8)


def _managed(image: Image.Image, profile: bytes | None) -> Image.Image:
    """To RGB through a color profile, if it has one that is not sRGB."""
    if profile and image.mode not in ("L", "RGB", "CMYK", "LAB"):
        image = image.convert("RGB" if image.mode != "1" else "L")
    transform = _transform(profile, image.mode) if profile else None
    if transform is None:
        return _in_mode(image, "RGB")
    converted = Image.new("RGB", image.size)
    transform.transform.apply(image.getim(), converted.getim())
    return converted


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """The image in a mode; Pillow's `convert` copies one that is in it already."""
    return image if image.mode == mode else image.convert(mode)


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB; None if it is sRGB, broken, or of another color space than the mode.

    Raises:
        UnreadableImage: Pillow was built without LittleCMS.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except ImportError as error:
        raise UnreadableImage("has a color profile; this Pillow has no LittleCMS") from error
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    if mode == "CMYK":
        return transform
    grid = np.arange(256, dtype=np.uint8)[None]
    if mode == "RGB":
        steps = np.linspace(0, 255, 9).astype(np.uint8)
        grid = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(27, 27, 3)
    image = Image.fromarray(grid)
    difference = np.asarray(transform.apply(image)).astype(int) - np.asarray(image.convert("RGB"))
    return None if np.abs(difference).max() <= _SAME else transform
