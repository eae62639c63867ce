"""Recolored images against an independent computation in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssltool.methods.colorization import recolor
from ssltool.methods.colorization.options import ColorizationOptions
from ssltool.methods.colorization.recolor import with_colors
from ssltool.methods.colorization.task import Colorization
from ssltool.methods.options import DataInfo
from ssltool.methods.registry import find_method

# sRGB to XYZ (IEC 61966-2-1), its white D65, and back.
TO_XYZ = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)
WHITE = np.array([0.95047, 1.0, 1.08883])


def to_lab(rgb: Any) -> Any:
    """CIE Lab of levels 0..255, ``[..., 3]``."""
    v = rgb / 255.0
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    t = linear @ TO_XYZ.T / WHITE
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack(
        [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1
    )


def to_levels(lab: Any) -> Any:
    """sRGB of Lab ``[..., 3]`` on a scale of 0..255, not clipped."""
    fy = (lab[..., 0] + 16) / 116
    f = np.stack([fy + lab[..., 1] / 500, fy, fy - lab[..., 2] / 200], -1)
    t = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    linear = (t * WHITE) @ np.linalg.inv(TO_XYZ).T
    curved = 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055
    return 255 * np.where(linear > 0.0031308, curved, 12.92 * linear)


def enlarged(maps: Any, height: int, width: int) -> Any:
    """Bilinear interpolation of ``[t, t, c]`` between the centers of cells."""

    def along(values: Any, size: int) -> Any:
        at = np.clip((np.arange(size) + 0.5) * len(values) / size - 0.5, 0, len(values) - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, len(values) - 1)
        part = (at - low).reshape(-1, *[1] * (values.ndim - 1))
        return values[low] * (1 - part) + values[high] * part

    return along(along(maps, height).swapaxes(0, 1), width).swapaxes(0, 1)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**16), st.integers(8, 40), st.integers(8, 40), st.integers(1, 6))
def test_levels_are_those_of_an_independent_computation(
    seed: int, height: int, width: int, side: int
) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    ab = rng.uniform(-30, 30, (side, side, 2))
    result = with_colors(
        torch.from_numpy(image).permute(2, 0, 1)[None],
        torch.from_numpy(ab).permute(2, 0, 1)[None].float(),
    )[0]
    found = result.permute(1, 2, 0).numpy()
    lab = np.concatenate([to_lab(image)[..., :1], enlarged(ab, height, width)], -1)
    levels = to_levels(lab)
    assert np.abs(found - np.clip(levels, 0, 255)).max() < 0.51  # rounding
    inside = ((levels > -0.5) & (levels < 255.5)).all(-1)
    # A level of green is at most 0.6 of lightness where the curve is steepest, near black.
    difference = np.abs(to_lab(found.astype(float))[..., 0] - to_lab(image)[..., 0])
    assert difference[inside].max(initial=0) < 0.6


def test_bands_do_not_show(monkeypatch: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 37, 21), dtype=torch.uint8, generator=generator)
    ab = torch.randn(2, 2, 5, 5, generator=generator) * 20
    whole = with_colors(images, ab)
    monkeypatch.setattr(recolor, "_AT_ONCE", 100)
    assert torch.equal(with_colors(images, ab), whole)


def made(**options: Any) -> Colorization:
    data = DataInfo(count=8, image_size=32, batch_size=4)
    task = ColorizationOptions(**options).with_defaults(data)
    inputs = find_method("colorization").inputs(task, data)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = inputs.build_encoder("resnet10_w32", stem="small", in_channels=1)
        method = Colorization(task, encoder, data).eval()
        torch.nn.init.normal_(method.head[-1].weight, std=0.05)
    return method


@torch.no_grad()
def test_colors_are_the_annealed_mean_of_the_bins() -> None:
    """softmax(z / T) over 313 bins at T = 0.38, section 2.3, worked out from the logits."""
    method = made()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    lab = to_lab(images.permute(0, 2, 3, 1).double().numpy())
    light = torch.from_numpy((lab[..., 0] - 50) / 50).float()[:, None]
    logits = method.predict(light, 16).double().numpy()  # [2, 313, 16, 16]
    assert logits.shape == (2, 313, 16, 16)
    power = np.exp((logits - logits.max(1, keepdims=True)) / 0.38)
    expected = np.einsum("bqhw,qc->bchw", power / power.sum(1, keepdims=True), method.centers)
    assert np.abs(method.colorize(images).numpy() - expected).max() < 0.02
    mode = method.centers[logits.argmax(1)].permute(0, 3, 1, 2)
    assert torch.equal(method.colorize(images, temperature=0.0), mode)


@torch.no_grad()
def test_colors_of_the_image_are_not_looked_at() -> None:
    method = made()
    gray = torch.randint(0, 256, (1, 1, 32, 32), dtype=torch.uint8).expand(-1, 3, -1, -1)
    colored = with_colors(gray, torch.full((1, 2, 1, 1), 2.0))
    assert not torch.equal(gray, colored)
    difference = (method.colorize(gray) - method.colorize(colored)).abs().mean()
    assert difference < 0.5  # that of rounded lightness
