"""Color bins of the (a, b) plane: soft targets, rebalancing weights, decoding.

Zhang, Isola, Efros, "Colorful Image Colorization", ECCV 2016, section 2. The published list of 313
bins comes without its rule. It is: the grid points inside the convex hull of sRGB's (a, b) values,
the hull enlarged by one step of the grid in each axis. That gives the list exactly.

Letters: Q bins, K nearest bins of a color, P pixels in any arrangement, h and w the sides of a map.
"""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ssltool.ops.lab import rgb_to_lab

_REACH = 110  # a and b of sRGB lie within +-108
_CELLS = (
    20  # of the table along a step; even, so that borders between bins fall on borders of cells
)
_LEVELS = 17  # of each color channel on the faces of the RGB cube
_LARGEST_ERROR = 150  # of the paper's area under the curve


class SoftTarget(NamedTuple):
    """A distribution over the bins for every pixel, as its non-zero part.

    Attributes:
        bins: int64 ``[..., K]``, their numbers.
        shares: float32 ``[..., K]``, adding up to 1.
    """

    bins: Tensor
    shares: Tensor

    @property
    def nearest(self) -> Tensor:
        """The bin with the largest share, the lowest of equal ones; int64 ``[...]``."""
        return self.bins.gather(-1, self.shares.argmax(dim=-1, keepdim=True))[..., 0]

    @property
    def entropy(self) -> Tensor:
        """In nats, ``[...]``: the smallest possible cross-entropy."""
        return -torch.xlogy(self.shares, self.shares).sum(dim=-1)


class Table(NamedTuple):
    """Soft targets of the centers of small square cells that tile the plane.

    Attributes:
        bins: int16 ``[n, n, K]``, by cell along a and along b.
        shares: float32 ``[n, n, K]``.
    """

    bins: Tensor
    shares: Tensor


@cache
def bin_centers(step: int = 10) -> Tensor:
    """The bins' centers, float64 ``[Q, 2]`` on the CPU, ordered by a, then b: 313 of them at step
    10.

    Args:
        step: Spacing of the grid in units of a and b.
    """
    corners = _hull(_surface())
    edges = corners.roll(-1, dims=0) - corners
    normals = torch.stack(
        [edges[:, 1], -edges[:, 0]], dim=1
    )  # outward, the hull running counter-clockwise
    normals = normals / normals.norm(dim=1, keepdim=True)
    reach = (normals * corners).sum(dim=1) + step * normals.abs().sum(dim=1)
    most = math.ceil(_REACH / step) + 1
    axis = torch.arange(-most, most + 1, dtype=torch.float64) * step
    grid = torch.cartesian_prod(axis, axis)
    inside = (grid @ normals.T <= reach).all(dim=1)
    inside &= ((grid >= corners.amin(dim=0) - step) & (grid <= corners.amax(dim=0) + step)).all(
        dim=1
    )
    return grid[inside]


def encode_exact(ab: Tensor, centers: Tensor, neighbors: int, sigma: float) -> SoftTarget:
    """Share each color among its K nearest bins by exp(-d^2 / (2 sigma^2)) (section 2.1); nearest
    first.

    Args:
        ab: float ``[..., 2]``.
        centers: float ``[Q, 2]``.
        neighbors: K. Of bins at equal distance the lower ones are taken.
        sigma: Width of the Gaussian, in units of a and b.
    """
    # Differences, not the quicker |c|^2 - 2 ab c: those round away the ties.
    squares = sum((ab[..., None, i] - centers[:, i].to(ab)).square() for i in range(2))
    assert isinstance(squares, Tensor)
    squares, index = squares.sort(dim=-1, stable=True)
    shares = (-squares[..., :neighbors].float() / (2 * sigma**2)).softmax(dim=-1)
    return SoftTarget(index[..., :neighbors].contiguous(), shares)


def encode_dense(ab: Tensor, centers: Tensor, sigma: float) -> SoftTarget:
    """Share each color among all bins, K = Q, in one matrix product; arguments as for
    `encode_exact`.
    """
    centers = centers.to(ab)
    shares = ((2 * ab @ centers.T - centers.square().sum(dim=1)) / (2 * sigma**2)).softmax(dim=-1)
    return SoftTarget(torch.arange(len(centers), device=ab.device).expand_as(shares), shares)


@cache
def build_table(step: int, neighbors: int, sigma: float) -> Table:
    """Soft targets, made by `encode_exact`, of the centers of cells of a twentieth of a step; on
    the CPU.

    Cells begin at multiples of their side, so none lies on both sides of a border between bins, and
    the nearest bin that is looked up is always right.
    """
    centers, blocks = bin_centers(step), 2 * math.ceil(_REACH / step)
    side = blocks * _CELLS
    table = Table(
        torch.empty(side, side, neighbors, dtype=torch.int16), torch.empty(side, side, neighbors)
    )
    middles = (torch.arange(side, dtype=torch.float64) + 0.5 - side / 2) * (step / _CELLS)
    for rows, columns in itertools.product(
        torch.split(torch.arange(side), _CELLS), repeat=2
    ):  # by blocks of a step
        cells = torch.cartesian_prod(middles[rows], middles[columns]).view(_CELLS, _CELLS, 2)
        distance = (centers - cells.mean(dim=(0, 1))).norm(dim=1)
        # Any point of a block has K bins within the K-th distance from its middle plus half a
        # diagonal; those lie within a whole diagonal more than that distance from the middle.
        near = (distance <= distance.kthvalue(neighbors).values + 2**0.5 * step).nonzero()[:, 0]
        target = encode_exact(cells, centers[near], neighbors, sigma)
        block = rows[:, None], columns[None, :]
        table.bins[block], table.shares[block] = near[target.bins].short(), target.shares
    return table


def look_up(ab: Tensor, table: Table, step: int) -> SoftTarget:
    """Soft targets ``[..., K]`` of colors float ``[..., 2]`` from a table made for ``step``, on the
    same device.
    """
    most = len(table.bins) // 2
    cell = (ab * (_CELLS / step)).floor().long().clamp(-most, most - 1) + most
    index = (cell[..., 0] * (2 * most) + cell[..., 1]).flatten()
    bins, shares = (part.flatten(0, 1).index_select(0, index) for part in table)
    shape = *ab.shape[:-1], bins.shape[1]
    return SoftTarget(bins.long().view(shape), shares.view(shape))


def soft_cross_entropy(logits: Tensor, target: SoftTarget) -> Tensor:
    """Cross-entropy of every pixel, ``[B, h, w]``, in nats, without making the target dense.

    Args:
        logits: float ``[B, Q, h, w]``.
        target: ``[B, h, w, K]``; with K = Q, all bins in order, as `encode_dense` gives them.
    """
    channels_last = logits.movedim(1, -1)
    dense = target.bins.shape[-1] == logits.shape[1]
    chosen = channels_last if dense else channels_last.gather(-1, target.bins)
    return logits.logsumexp(dim=1) - (target.shares * chosen).sum(dim=-1)


def total(target: SoftTarget, count: int) -> Tensor:
    """Sum of the distributions of all pixels, float64 ``[Q]`` on the CPU; ``count`` is Q."""
    bins, shares = target.bins.flatten().cpu(), target.shares.flatten().cpu().double()
    return torch.bincount(bins, weights=shares, minlength=count)


def best_constant_loss(target: SoftTarget, weights: Tensor) -> float:
    """The smallest mean weighted cross-entropy that one distribution for all pixels can have, in
    nats: that of the weighted mean of the targets.

    Args:
        target: ``[..., K]``.
        weights: Weight of a pixel by its nearest bin, float ``[Q]``.
    """
    of_pixel = weights.cpu()[target.nearest.cpu()]
    mass = total(target._replace(shares=target.shares.cpu() * of_pixel[..., None]), len(weights))
    mass = mass / of_pixel.numel()
    return -float(torch.xlogy(mass, mass / mass.sum()).sum())


def smoothed(histogram: Tensor, centers: Tensor, sigma: float) -> Tensor:
    """Spread counts of nearest bins by a Gaussian in the plane of colors, each bin's count staying
    the same in all.

    Along the numbers of the bins, as some do it, would join the end of a column with the beginning
    of the next.

    Args:
        histogram: float ``[Q]``.
        centers: float ``[Q, 2]``.
        sigma: Width of the Gaussian, in units of a and b.

    Returns:
        ``[Q]`` of the same sum.
    """
    squares = (centers[:, None] - centers).square().sum(dim=-1).to(histogram)
    kernel = torch.exp(-squares / (2 * sigma**2))
    return kernel @ (histogram / kernel.sum(dim=0))


def rebalancing_weights(prior: Tensor, mixing: float | Tensor) -> Tensor:
    """Weight of each bin, w ~ 1 / ((1 - lambda) p + lambda / Q) with sum p w = 1 (equations 3 and
    4).

    Args:
        prior: float ``[Q]``, p, adding up to 1. Bins that were never seen have their part in
            lambda, so that no weight is infinite.
        mixing: lambda in (0, 1]; 1 makes all weights 1.
    """
    weights = 1 / ((1 - mixing) * prior + mixing / len(prior))
    return weights / (prior * weights).sum()


def decode_logits(logits: Tensor, centers: Tensor, temperature: float) -> Tensor:
    """Annealed mean of the bins' colors, softmax(logits / T) (section 2.3).

    Args:
        logits: float ``[B, Q, h, w]``. Probabilities taken for logits give near-gray images: for
            those there is `decode_probabilities`.
        centers: float ``[Q, 2]``.
        temperature: T: 1 is the mean (dull), 0 the likeliest bin (vivid, patchy); the paper takes
            0.38.

    Returns:
        a, b: ``[B, 2, h, w]``.
    """
    if temperature == 0:
        return centers.to(logits)[logits.argmax(dim=1)].movedim(-1, 1)
    return torch.einsum("bqhw,qc->bchw", (logits / temperature).softmax(dim=1), centers.to(logits))


def decode_probabilities(shares: Tensor, centers: Tensor, temperature: float) -> Tensor:
    """`decode_logits` of the logarithms of probabilities ``[B, Q, h, w]``."""
    return decode_logits(shares.log(), centers, temperature)


def area_under_curve(error: Tensor) -> Tensor:
    """What each pixel adds to the paper's AuC (section 3.1): 1 for no error, 0 for one beyond 150.

    The curve is the share of pixels with an error of at most 0, 1, ..., 150; its area is taken by
    trapezoids. A pixel of error e is counted from ceil(e) on.

    Args:
        error: float, any shape: distance in the (a, b) plane.
    """
    return (_LARGEST_ERROR + 0.5 - error.ceil()).clamp(0, _LARGEST_ERROR) / _LARGEST_ERROR


def _surface() -> Tensor:
    """(a, b) of colors on the faces of the RGB cube, the extremes; float64 ``[n, 2]``."""
    levels = torch.linspace(0, 1, _LEVELS, dtype=torch.float64)
    cube = torch.cartesian_prod(levels, levels, levels)
    faces = cube[((cube == 0) | (cube == 1)).any(dim=1)]
    return rgb_to_lab(faces.T[:, None])[1:, 0].T


def _hull(points: Tensor) -> Tensor:
    """Corners of the convex hull of ``[n, 2]``, counter-clockwise (monotone chain, Andrew 1979)."""
    ordered = sorted({(x, y) for x, y in points.tolist()})
    corners: list[tuple[float, float]] = []
    for half in (ordered, ordered[::-1]):
        chain: list[tuple[float, float]] = []
        for x, y in half:
            while len(chain) > 1 and _turn(chain[-2], chain[-1], (x, y)) <= 0:
                chain.pop()
            chain.append((x, y))
        corners += chain[:-1]
    return torch.tensor(corners, dtype=torch.float64)


def _turn(o: tuple[float, float], p: tuple[float, float], q: tuple[float, float]) -> float:
    """Twice the area of a triangle; positive for a turn to the left."""
    return (p[0] - o[0]) * (q[1] - o[1]) - (p[1] - o[1]) * (q[0] - o[0])
