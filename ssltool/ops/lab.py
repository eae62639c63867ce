"""sRGB to CIE Lab and back (D65, 2 degree observer), on batches and on any device.

Values agree with scikit-image within 1e-6 in float64, both ways. L is 0..100; over sRGB a is
-86.2..98.2 and b -107.9..94.5. Gray images have |a|, |b| up to 0.005, not exactly 0, because the
rounded matrix does not map white exactly to white.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_WHITE = (0.95047, 1.0, 1.08883)
_DARK = 0.008856  # below it the cube root is replaced by a line
_DARK_ROOT = 0.2068966
_ROUNDING = 1e-4  # by which interpolation may leave 0..1


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """Convert images to Lab.

    Args:
        rgb: uint8, or float in 0..1, ``[..., 3, H, W]``.

    Returns:
        L, a, b: ``[..., 3, H, W]``, float32 for uint8, else of the dtype of ``rgb``.

    Raises:
        TypeError: Other integers, whose range nobody knows.
        ValueError: Floats beyond 0..1, such as 0..255; not looked for on a GPU, which it would
            stop.
    """
    linear = _linear(rgb)
    matrix = (
        torch.tensor(_TO_XYZ, dtype=torch.float64)
        / torch.tensor(_WHITE, dtype=torch.float64)[:, None]
    )
    x, y, z = (_root(_row(linear, row)) for row in matrix.tolist())
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-3)


def lightness(rgb: Tensor) -> Tensor:
    """L of images, 0..100: ``[..., 3, H, W]`` as for `rgb_to_lab` -> ``[..., 1, H, W]``, at a third
    of the cost.
    """
    return (116 * _root(_row(_linear(rgb), _TO_XYZ[1])) - 16).unsqueeze(-3)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """Convert Lab to sRGB; colors that no screen has are moved to the nearest value of each
    channel.

    Args:
        lab: float ``[..., 3, H, W]``: L in 0..100, a, b.

    Returns:
        float ``[..., 3, H, W]`` in 0..1. The gradient is finite everywhere.
    """
    light, a, b = lab.unbind(dim=-3)
    y = (light + 16) / 116
    roots = (y + a / 500, y, (y - b / 200).clamp_min(0))
    xyz = torch.stack(
        [_cube(root) * white for root, white in zip(roots, _WHITE, strict=True)], dim=-3
    )
    inverse = torch.linalg.inv(torch.tensor(_TO_XYZ, dtype=torch.float64))
    linear = torch.stack([_row(xyz, row) for row in inverse.tolist()], dim=-3)
    # Clamped before the power, whose gradient at a negative is NaN even where the other branch is
    # taken.
    curved = 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, curved, 12.92 * linear).clamp(0, 1)


def _linear(rgb: Tensor) -> Tensor:
    """Undo the gamma of sRGB: light on a 0..1 scale."""
    if rgb.dtype == torch.uint8:  # 256 powers instead of one for every pixel
        table = _linear(torch.arange(256, device=rgb.device) / 255)
        return table.index_select(0, rgb.flatten().int()).view(rgb.shape)
    if not rgb.is_floating_point():
        raise TypeError(f"images are uint8 or float in 0..1, not {rgb.dtype}")
    if (
        rgb.device.type == "cpu"
        and not torch.compiler.is_exporting()
        and rgb.numel()
        and not -_ROUNDING <= rgb.min() <= rgb.max() <= 1 + _ROUNDING
    ):
        raise ValueError(
            f"float images are in 0..1, not {float(rgb.min()):.4g}..{float(rgb.max()):.4g}"
        )
    rgb = rgb.clamp(0, 1)
    return torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)


def _row(channels: Tensor, weights: tuple[float, ...] | list[float]) -> Tensor:
    """Weighted sum of three channels ``[..., 3, H, W]``: ``[..., H, W]``."""
    first, second, third = channels.unbind(dim=-3)
    return first * weights[0] + second * weights[1] + third * weights[2]


def _root(t: Tensor) -> Tensor:
    # The clamp keeps the gradient of the branch not taken finite at 0.
    return torch.where(t > _DARK, t.clamp_min(_DARK) ** (1 / 3), 7.787 * t + 16 / 116)


def _cube(root: Tensor) -> Tensor:
    return torch.where(root > _DARK_ROOT, root**3, (root - 16 / 116) / 7.787)
