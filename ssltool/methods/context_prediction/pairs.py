"""Samplers of patch pairs for context prediction.

Doersch, Gupta & Efros 2015, section 3.2. Letters: B images of side S, N patches of p pixels with
gap g and jitter j, M ordered pairs per image. The position of the second patch of a pair is its
number in reading order around the first, 0..7.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from ssltool.methods.context_prediction.geometry import Geometry
from ssltool.methods.context_prediction.options import Sampler
from ssltool.ops.cached_tensors import cached_tensor
from ssltool.ops.per_image_rng import PerImageRNG

# Row and column of each position relative to the first patch.
POSITIONS = tuple((dy, dx) for dy, dx in product((-1, 0, 1), repeat=2) if dy or dx)


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
    """Sample a grid of patches at a random position, and ordered pairs of neighbors in it.

    As in the released code all ordered pairs are used, or a random part of them, so that straight
    positions are more frequent than diagonal ones: a constant prediction scores 15 % in a grid of
    3x3. Equally many pairs of each position would tell more about it by where they lie in the
    image: 28 % instead of 22.5 % are then predicted from the second patch's cell alone, and 27 %
    whichever straight pairs are left out. The grid is as large as fits at every origin of the
    released code, at least 3.

    Args:
        rng: Random streams of the images.
        side: S.
        sizes: Patch, gap and jitter.
        pairs: Most pairs per image; None for all.
    """
    count = grid_count(side, sizes)
    slack = side - (count * sizes.pitch - sizes.gap)
    cells = torch.arange(count * count, device=rng.device)
    base = rng.integers(slack + 1, 1, 2) + sizes.pitch * torch.stack(
        [cells // count, cells % count], dim=-1
    )
    corner = _jittered(rng, base, side, sizes)
    table, target = _neighbor_table(count, rng.device)
    chosen = rng.bits(len(table)).argsort(dim=-1)[:, :pairs]  # [B, M]
    return Pairs(corner, table[chosen][..., 0], table[chosen][..., 1], target[chosen])


def grid_count(side: int, sizes: Geometry) -> int:
    """Patches along each side of the grids of `sample_grid`."""
    least = 3 if sizes.span(3) <= side else 2
    return max(grid_size(side, sizes.pitch - 1, sizes), least)


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
    """`neighbors` in one table, int64 ``[n, 2]``, and the position of each row, int64 ``[n]``."""
    with torch.inference_mode(False):
        by_position = neighbors(count)
        lengths = torch.tensor([len(each) for each in by_position])
        target = torch.arange(8).repeat_interleave(lengths)
        return torch.cat(by_position).to(device), target.to(device)


def sample_grids(
    rng: PerImageRNG, height: Tensor, width: Tensor, sizes: Geometry, patches: int, pairs: int
) -> Pairs:
    """Sample grids in images of different sizes, as the released code does, until each image has
    its number of patches; the last grid of an image is cut short.

    Args:
        rng: Random streams of the images.
        height: int64 ``[B]``, pixels, at least two patches with gap and jitter.
        width: int64 ``[B]``, likewise.
        sizes: Patch, gap and jitter.
        patches: N of each image.
        pairs: M of each image, chosen among the ordered pairs of neighbors of one grid; repeated
            where there are fewer.
    """
    grids, extent = -(-patches // 4), torch.stack([height, width], dim=-1)[:, None]  # [B, 1, 2]
    # The released code's origins, as far as two patches fit along each side.
    reach = (extent + sizes.gap - 2 * sizes.pitch + 1).clamp_max(sizes.pitch)
    origin = (rng.uniform(grids, 2) * reach).long()
    counts = (extent + sizes.gap - origin) // sizes.pitch  # [B, G, 2]: rows, columns
    ends = counts.prod(dim=-1).cumsum(dim=1)
    slot = torch.arange(patches, device=rng.device).expand(len(height), -1).contiguous()
    grid = torch.searchsorted(ends, slot, right=True)  # [B, N]
    starts = torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], dim=1)
    cell, columns = slot - starts.gather(1, grid), counts[..., 1].gather(1, grid)
    place = torch.stack([cell // columns, cell % columns], dim=-1)  # [B, N, 2]: row, column
    base = origin.gather(1, grid[..., None].expand_as(place)) + sizes.pitch * place
    shift = rng.integers(2 * sizes.jitter + 1, patches, 2) - sizes.jitter
    corner = torch.minimum((base + shift).clamp_min(0), extent - sizes.patch)
    step = place[:, None] - place[:, :, None]  # [B, first, second, 2]
    same = grid[:, None] == grid[:, :, None]
    adjacent = (same & (step.abs().amax(dim=-1) == 1)).flatten(1)
    order = rng.bits(adjacent.shape[1]).masked_fill(~adjacent, torch.iinfo(torch.int64).max)
    rank = torch.arange(pairs, device=rng.device) % adjacent.sum(dim=1, keepdim=True)
    chosen = order.argsort(dim=1).gather(1, rank)
    position = (3 * (step[..., 0] + 1) + step[..., 1] + 1).flatten(1).gather(1, chosen)
    target = position - (position > 4).long()  # the middle is no position
    return Pairs(corner, chosen // patches, chosen % patches, target)


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
    return leak_of(sampled, torch.full((images, 2), side), sizes, bins)


def leak_of(sampled: Pairs, extent: Tensor, sizes: Geometry, bins: int = 24) -> float:
    """`position_leak` of sampled pairs in images of heights and widths int64 ``[B, 2]``."""
    second = sampled.corner.gather(1, sampled.second[..., None].expand(-1, -1, 2))
    position = second * bins // (extent[:, None] - sizes.patch + 1)
    cell = position[..., 0] * bins + position[..., 1]
    half = len(extent) // 2
    counts = torch.zeros(bins * bins, 8)
    counts.index_put_(
        (cell[:half].flatten(), sampled.target[:half].flatten()), torch.ones(()), accumulate=True
    )
    best = counts.argmax(dim=1)
    return float((best[cell[half:]] == sampled.target[half:]).double().mean())


def label_shares(sampler: Sampler, side: int, sizes: Geometry) -> list[float]:
    """Share of each position among the pairs of a sampler."""
    if sampler != "grid":
        return [1 / 8] * 8
    lengths = [len(each) for each in neighbors(grid_count(side, sizes))]
    return [length / sum(lengths) for length in lengths]
