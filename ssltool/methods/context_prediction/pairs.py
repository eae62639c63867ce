"""Patch geometry and samplers of patch pairs for context prediction.

Doersch, Gupta & Efros 2015, section 3.2. Letters: B images of side S, N patches of p pixels with
gap g and jitter j, M ordered pairs per image. The position of the second patch of a pair is its
number in reading order around the first, 0..7.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import product
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ssltool.errors import UsageError
from ssltool.ops.cached_tensors import cached_tensor
from ssltool.ops.per_image_rng import PerImageRNG

Sampler = Literal["grid", "pair", "all8", "center"]
SMALLEST_PATCH = 5
# Row and column of each position relative to the first patch.
POSITIONS = tuple((dy, dx) for dy, dx in product((-1, 0, 1), repeat=2) if dy or dx)


class Geometry(NamedTuple):
    """Sizes in pixels.

    Attributes:
        patch: Side p of a patch.
        gap: Pixels g between neighbors before jitter.
        jitter: Reach j of the shift of each patch along each axis.
    """

    patch: int
    gap: int
    jitter: int

    @property
    def pitch(self) -> int:
        """Distance of the corners of neighbors."""
        return self.patch + self.gap

    def span(self, count: int) -> int:
        """Pixels that ``count`` patches in a row need, whatever their jitter."""
        return count * self.patch + (count - 1) * self.gap + 2 * self.jitter


def geometry_of(patch: int) -> Geometry:
    """The paper's gap of half a patch and jitter of 7/96 of one (section 3.2)."""
    return Geometry(patch, math.floor(patch / 2 + 0.5), math.floor(7 * patch / 96 + 0.5))


def geometry(side: int, rule: Literal["paper", "fit3"] = "paper") -> Geometry:
    """The paper's patches, 96 px in images of 300,000, for images of another side; or the largest
    three that fit.

    Raises:
        UsageError: Patches would be under 5 px; the message names the smallest image that works.
    """
    patch = (
        math.floor(96 * side / 300_000**0.5 + 0.5) if rule == "paper" else largest_patch(side, 3)
    )
    if patch < SMALLEST_PATCH:
        needed = geometry_of(SMALLEST_PATCH).span(3)
        raise UsageError(
            f"{side} px images give {patch} px patches but {SMALLEST_PATCH} are needed; type "
            f"--image-size {needed}"
        )
    return geometry_of(patch)


def largest_patch(side: int, count: int) -> int:
    """The largest patch of which ``count`` fit in a row with the paper's gap and jitter; 0 if none
    does.
    """
    return max((p for p in range(1, side + 1) if geometry_of(p).span(count) <= side), default=0)


def grid_size(side: int, origin: int, sizes: Geometry) -> int:
    """Patches along a side of the released code's grid that begins at ``origin``."""
    return (side + sizes.gap - origin) // sizes.pitch


class Pairs(NamedTuple):
    """Patches and pairs of them; all int64.

    Attributes:
        corner: ``[B, N, 2]``, row and column of each patch's first pixel.
        first: ``[B, M]`` in 0..N-1.
        second: ``[B, M]``.
        target: ``[B, M]`` in 0..7, position of the second patch relative to the first.
    """

    corner: Tensor
    first: Tensor
    second: Tensor
    target: Tensor


def sample_grid(rng: PerImageRNG, side: int, sizes: Geometry, pairs: int | None = None) -> Pairs:
    """Sample a grid of patches at a random position, and equally many pairs of each position.

    The released code adds every ordered pair of neighbors, so that straight positions are more
    frequent than diagonal ones (a constant prediction scores 15 %). Here straight pairs are
    subsampled and all eight positions are equally likely. The grid is as large as fits at every
    origin of the released code, at least 3.

    Args:
        rng: Random streams of the images.
        side: S.
        sizes: Patch, gap and jitter.
        pairs: Most pairs per image, a multiple of 8; None for as many as the diagonal positions
            allow.
    """
    count = max(grid_size(side, sizes.pitch - 1, sizes), 3 if sizes.span(3) <= side else 2)
    slack = side - (count * sizes.pitch - sizes.gap)
    cells = torch.arange(count * count, device=rng.device)
    base = rng.integers(slack + 1, 1, 2) + sizes.pitch * torch.stack(
        [cells // count, cells % count], dim=-1
    )
    corner = _jittered(rng, base, side, sizes)
    each = (count - 1) ** 2 if pairs is None else min(pairs // 8, (count - 1) ** 2)
    table, missing = _neighbor_table(count, rng.device)
    order = (
        rng.bits(8, table.shape[1])
        .masked_fill_(missing, torch.iinfo(torch.int64).max)
        .argsort(dim=-1)
    )
    # [B, 8, each, 2]
    chosen = table[torch.arange(8, device=rng.device)[:, None], order[..., :each]]
    target = torch.arange(8, device=rng.device)[None, :, None].expand(len(corner), 8, each)
    return Pairs(corner, chosen[..., 0].flatten(1), chosen[..., 1].flatten(1), target.flatten(1))


def neighbors(count: int) -> list[Tensor]:
    """All ordered pairs of neighboring cells of a count x count grid, int64 ``[n, 2]`` for each
    position.
    """
    pairs = []
    for dy, dx in POSITIONS:
        rows = range(max(0, -dy), count - max(0, dy))
        columns = range(max(0, -dx), count - max(0, dx))
        pairs.append(
            torch.tensor(
                [(y * count + x, (y + dy) * count + x + dx) for y, x in product(rows, columns)]
            )
        )
    return pairs


@cache
def _neighbor_table(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """`neighbors` in one table, int64 ``[8, n, 2]``, and which of its rows are empty, bool ``[8,
    n]``.
    """
    with torch.inference_mode(False):
        table = pad_sequence(neighbors(count), batch_first=True, padding_value=-1).to(device)
        return table, table[..., 0] < 0


def sample_pairs(rng: PerImageRNG, side: int, sizes: Geometry, count: int) -> Pairs:
    """Sample ``count`` pairs: a uniform position, then a uniform first corner that fits."""
    target = rng.integers(8, count)
    step = cached_tensor(POSITIONS, rng.device)[target] * sizes.pitch  # [B, count, 2]
    low = sizes.jitter + (-step).clamp_min(0)
    high = side - sizes.patch - sizes.jitter - step.clamp_min(0)
    first = low + rng.integers(high - low + 1, count, 2)
    base = torch.stack([first, first + step], dim=2).flatten(1, 2)  # [B, 2*count, 2]
    even = torch.arange(0, 2 * count, 2, device=rng.device).expand(len(target), -1)
    return Pairs(_jittered(rng, base, side, sizes), even, even + 1, target)


def sample_star(rng: PerImageRNG, side: int, sizes: Geometry, central: bool) -> Pairs:
    """Sample a first patch, uniform where all eight neighbors fit or central, and all of them."""
    low = sizes.jitter + sizes.pitch
    room = side - sizes.patch - sizes.jitter - sizes.pitch - low
    middle = torch.full((1, 2), (side - sizes.patch) // 2, device=rng.device)
    first = middle.expand(rng.count, 1, 2) if central else low + rng.integers(room + 1, 1, 2)
    steps = cached_tensor(((0, 0), *POSITIONS), rng.device) * sizes.pitch
    target = torch.arange(8, device=rng.device).expand(rng.count, -1)
    return Pairs(
        _jittered(rng, first + steps, side, sizes), torch.zeros_like(target), target + 1, target
    )


def _jittered(rng: PerImageRNG, base: Tensor, side: int, sizes: Geometry) -> Tensor:
    """Shift each corner by up to the jitter along each axis and keep the patch inside the image."""
    shift = rng.integers(2 * sizes.jitter + 1, base.shape[1], 2) - sizes.jitter
    return (base + shift).clamp(0, side - sizes.patch)


def sample(
    sampler: Sampler, rng: PerImageRNG, side: int, sizes: Geometry, pairs: int | None = None
) -> Pairs:
    """Sample patches and pairs by a sampler's name; ``pairs`` bounds those of an image."""
    if sampler == "grid":
        return sample_grid(rng, side, sizes, pairs)
    if sampler == "pair":
        return sample_pairs(rng, side, sizes, pairs or 1)
    return sample_star(rng, side, sizes, central=sampler == "center")


def position_leak(
    sampler: Sampler, side: int, sizes: Geometry, bins: int = 24, images: int = 20_000
) -> float:
    """Accuracy of predicting the relative position from the second patch's position in the image.

    Half of the simulated pairs decide the best prediction in each of bins x bins cells, the other
    half score it.
    """
    rng = PerImageRNG(torch.arange(images), torch.Generator().manual_seed(0))
    sampled = sample(sampler, rng, side, sizes, pairs=8)
    position = (
        sampled.corner.gather(1, sampled.second[..., None].expand(-1, -1, 2))
        * bins
        // (side - sizes.patch + 1)
    )
    cell = position[..., 0] * bins + position[..., 1]
    half = images // 2
    counts = torch.zeros(bins * bins, 8)
    counts.index_put_(
        (cell[:half].flatten(), sampled.target[:half].flatten()), torch.ones(()), accumulate=True
    )
    best = counts.argmax(dim=1)
    return float((best[cell[half:]] == sampled.target[half:]).double().mean())
