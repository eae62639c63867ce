"""Inpainting masks: one per image, sampled for a whole batch (Pathak et al. 2016, section 3.3).

A mask is bool ``[B, 1, S, S]``, true where the image is removed. The paper cut random regions out
with the silhouettes of a labeled set; noise, blobs and the user's own files replace them here. All
shapes scale with the image's side S.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ssltool.arrays import DAMAGED
from ssltool.errors import DataError, UsageError
from ssltool.ops.per_image_rng import PerImageRNG
from ssltool.ops.resize import line_matrix

# The pattern of the released code has one cell of noise every 16.7 px of a 128 px image.
_CELLS = 128 * 0.06
_MOST_FILES = 1000
_MOST_PIXELS = 20 * 10**6
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif"}


def central_hole(side: int, overlap: int) -> Tensor:
    """The central half of an image less a band of ``overlap`` pixels, bool ``[1, 1, S, S]``."""
    mask = torch.zeros(1, 1, side, side, dtype=torch.bool)
    start, end = side // 4 + overlap, side // 4 + side // 2 - overlap
    mask[..., start:end, start:end] = True
    return mask


def noise(rng: PerImageRNG, side: int, coverage: tuple[float, float] = (0.2, 0.3)) -> Tensor:
    """Thresholded smooth noise, covering a share sampled uniformly from ``coverage`` exactly.

    The look of the released code's pattern, without drawing until a crop happens to have the right
    coverage.
    """
    cells = math.ceil(_CELLS) + 3
    values = rng.uniform(cells, cells)
    full = math.ceil(cells * side / _CELLS)
    enlarge = line_matrix(cells, full, values.device, values.dtype, "bicubic")
    start = rng.integers(full - side + 1, 2)
    pixels = torch.arange(side, device=values.device)
    rows, columns = (enlarge[start[:, i, None] + pixels] for i in (0, 1))  # [B, S, cells] each
    pattern = (rows @ values @ columns.transpose(1, 2)).flatten(1)
    share = coverage[0] + rng.uniform(1) * (coverage[1] - coverage[0])
    count = (share * side * side).round().long()
    # By rank and not by a threshold: equal values would make it miss the share.
    order = pattern.argsort(dim=1, stable=True)
    removed = torch.arange(side * side, device=order.device) < count
    return torch.zeros_like(removed).scatter(1, order, removed).view(-1, 1, side, side)


def blocks(rng: PerImageRNG, side: int) -> Tensor:
    """Overlapping rectangles with sides of an eighth to a quarter of the image's, together up to a
    quarter of it.
    """
    low, high = round(side / 8), round(side / 4)

    def rectangle() -> Tensor:
        size = low + rng.integers(high - low + 1, 2)
        start = rng.integers(side - size + 1, 2)
        pixels = torch.arange(side, device=rng.device)
        along = (pixels >= start[..., None]) & (pixels < (start + size)[..., None])  # [B, 2, S]
        return along[:, 0, :, None] & along[:, 1, None, :]

    return _pasted(rng, side, rectangle, least=0.23, most=0.25, tries=50)


def blobs(rng: PerImageRNG, side: int) -> Tensor:
    """Star-shaped outlines, closest to silhouettes of objects: 20 to 25 % of the image.

    The radius at angle t is R (1 + sum of a_k cos(k t + phase_k), k = 2..6), stretched and turned
    at random.
    """

    def outline() -> Tensor:
        bends = rng.normal(5) * 0.35 / torch.arange(2, 7, device=rng.device)
        phases = rng.uniform(5) * 2 * math.pi
        radius = (0.10 + 0.18 * rng.uniform(1, 1)) * side
        aspect = torch.exp(rng.uniform(1, 1) - 0.5)
        turn = rng.uniform(1, 1) * 2 * math.pi
        center = rng.uniform(2) * side
        y = torch.arange(side, device=rng.device)[None, :, None] + 0.5 - center[:, 0, None, None]
        x = torch.arange(side, device=rng.device)[None, None, :] + 0.5 - center[:, 1, None, None]
        along = (x * turn.cos() + y * turn.sin()) / aspect.sqrt()
        across = (y * turn.cos() - x * turn.sin()) * aspect.sqrt()
        angle = torch.atan2(across, along)
        shape = torch.ones_like(angle)
        for k in range(5):
            shape = shape + bends[:, k, None, None] * torch.cos(
                (k + 2) * angle + phases[:, k, None, None]
            )
        return torch.hypot(along, across) < radius * shape.clamp(0.3, 1.9)

    return _pasted(rng, side, outline, least=0.20, most=0.25, tries=50)


def from_shapes(rng: PerImageRNG, side: int, shapes: Tensor) -> Tensor:
    """The user's own shapes, flipped, turned, scaled by 0.5 to 1.5 and pasted anywhere: 20 to 25 %
    of the image.

    Args:
        rng: The images' random numbers.
        side: S.
        shapes: uint8 ``[K, 1, s, s]``, 255 inside the shape; from `read_shapes`.
    """

    def silhouette() -> Tensor:
        which = rng.integers(len(shapes), 1)[:, 0]
        mirror = torch.where(rng.bernoulli(0.5, 1)[:, 0], -1.0, 1.0)
        angle = rng.uniform(1)[:, 0] * 2 * math.pi
        scale = 0.5 + rng.uniform(1)[:, 0]
        shift = rng.uniform(2) * 2 - 1  # of the shape's center, in halves of the image
        cos, sin = angle.cos() / scale, angle.sin() / scale
        turn = torch.stack(
            [torch.stack([cos * mirror, sin * mirror], 1), torch.stack([-sin, cos], 1)], 1
        )
        affine = torch.cat([turn, -(turn @ shift[..., None])], dim=2)
        grid = F.affine_grid(affine, [rng.count, 1, side, side], align_corners=False)
        return F.grid_sample(shapes[which].float(), grid, align_corners=False)[:, 0] > 127

    return _pasted(rng, side, silhouette, least=0.20, most=0.25, tries=50)


def read_shapes(folder: Path, side: int) -> Tensor:
    """Read mask images (light = inside the shape) at side ``side``: uint8 ``[K, 1, side, side]``,
    at most 1000.

    Raises:
        UsageError: There is no such folder.
        DataError: The folder has no masks, or one of them cannot be read or is empty.
    """
    if not folder.is_dir():
        raise UsageError(f"--mask-files {folder} is no folder; name one of black and white images")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)[
        :_MOST_FILES
    ]
    if not files:
        raise DataError(
            f"--mask-files {folder} holds no images; put black and white PNG files there"
        )
    shapes = []
    for file in files:
        try:
            image = torch.from_numpy(_read_gray(file))
        except DAMAGED as error:
            raise DataError(
                f"--mask-files: {file} cannot be read; remove it or write it again as PNG"
            ) from error
        square = F.interpolate(
            image[None, None].float(), (side, side), mode="bilinear", antialias=True
        )[0]
        if not bool((square > 127).any()):
            raise DataError(
                f"--mask-files: {file} has no light pixels; the shape should be white on black"
            )
        shapes.append(square.to(torch.uint8))
    return torch.stack(shapes)


def _read_gray(file: Path) -> NDArray[np.uint8]:
    """A mask as gray levels ``[H, W]``.

    Raises:
        DataError: It is too large.
    """
    with Image.open(file, formats=_FORMATS) as image:
        if image.width * image.height > _MOST_PIXELS:
            raise DataError(
                f"--mask-files: {file} has more than {_MOST_PIXELS // 10**6} megapixels; make it "
                "smaller"
            )
        return np.array(image.convert("L"))


def fingerprint(shapes: Tensor) -> str:
    """SHA-256 of a stack of shapes, to know them again."""
    return hashlib.sha256(shapes.cpu().contiguous().numpy().tobytes()).hexdigest()


def boundary_index(mask: Tensor) -> Tensor:
    """Pairs of unequal neighbors divided by the side, ``[B]``: how ragged a mask is, whatever its
    scale.
    """
    down = (mask[..., 1:, :] != mask[..., :-1, :]).flatten(1).sum(dim=1)
    across = (mask[..., 1:] != mask[..., :-1]).flatten(1).sum(dim=1)
    return (down + across) / mask.shape[-1]


def _pasted(
    rng: PerImageRNG, side: int, shape: Callable[[], Tensor], least: float, most: float, tries: int
) -> Tensor:
    """Paste shapes ``[B, S, S]`` until a mask covers ``least`` of the image, leaving out those that
    pass ``most``.
    """
    mask = torch.zeros(rng.count, side, side, dtype=torch.bool, device=rng.device)
    covered = torch.zeros(rng.count, device=rng.device)
    for _ in range(tries):
        joined = mask | shape()
        share = joined.flatten(1).float().mean(dim=1)
        taken = (covered < least) & (share <= most)
        mask = torch.where(taken[:, None, None], joined, mask)
        covered = torch.where(taken, share, covered)
        # Asking would stop a GPU; there the remaining tries cost little and change nothing.
        if not mask.is_cuda and bool((covered >= least).all()):
            break
    return mask[:, None]
