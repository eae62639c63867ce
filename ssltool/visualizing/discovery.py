"""Object discovery: constellations of patches that recur in other images in the same layout.

Doersch, Gupta & Efros 2015, section 4.4: four adjacent patches of an image are searched for in all
others, each by itself; where their best matches lie about on a square, the image verifies the
constellation. Classes are used only to measure what was discovered.

Letters: N images, P patches of each on a regular grid, D dimensions, C constellations, K images
that match best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.data.sample import sample
from ssltool.data.sources.base import Source
from ssltool.device import choose_device
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.transform import InputTransform
from ssltool.errors import UsageError
from ssltool.ops import patches
from ssltool.options import DeviceName
from ssltool.plotting.colors import SKY, YELLOW
from ssltool.plotting.figures import require_format
from ssltool.plotting.sheet import Box, Column, Key, Mark, Sheet
from ssltool.plotting.sheet_layout import save_sheet
from ssltool.probing.extraction import random_init
from ssltool.probing.features import POOLED, extract, recalibrate_batch_norm
from ssltool.visualizing.loading import load_pretrained, open_images
from ssltool.visualizing.results import FigureResult

_BATCH = 256
_MATCHED = 100  # images with the strongest matches, the paper's number
_DENSITY = 2  # patches along a side of a patch: they overlap by half
_CALIBRATION = 2048  # patches on which batch norm is re-estimated
_PATCH, _SQUARE_KEY = Key(YELLOW, "patch of the query"), Key(SKY, "square of the matches")
_SQUARE = torch.tensor([[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]])  # row, column


class SquareFit(NamedTuple):
    """Axis-aligned squares through the centers of four patches, in the order of a 2x2 grid.

    Attributes:
        center: float ``[..., 2]``, row and column.
        side: float ``[...]``, within 2/3 to 4/3 of the patches' side.
        error: float ``[...]``, sum of squared distances over the side squared.
    """

    center: Tensor
    side: Tensor
    error: Tensor

    @property
    def verified(self) -> Tensor:
        """Whether the patches lie about on the square: an error below 1, bool ``[...]``."""
        return self.error < 1


def fit_square(centers: Tensor, patch: float) -> SquareFit:
    """Fit squares to four points by least squares.

    Args:
        centers: float ``[..., 4, 2]``, row and column; upper left, upper right, lower left, lower
            right.
        patch: Side of the patches, which bounds the square's.
    """
    corners = _SQUARE.to(centers)
    center = centers.mean(dim=-2)
    offset = centers - center[..., None, :]
    side = ((offset * corners).sum(dim=(-2, -1)) / 2).clamp(2 * patch / 3, 4 * patch / 3)
    residual = offset - side[..., None, None] * corners
    return SquareFit(center, side, residual.square().sum(dim=(-2, -1)) / side.square())


class Discovered(NamedTuple):
    """Constellations, the most often verified first.

    Attributes:
        image: int64 ``[C]``, image that each was sampled from.
        cell: int64 ``[C, 2]``, row and column of its first patch on the grid.
        members: int64 ``[C, K]``, the images that match best, best first.
        matches: int64 ``[C, K, 4]``, patch of each that matches best.
        verified: bool ``[C, K]``.
    """

    image: Tensor
    cell: Tensor
    members: Tensor
    matches: Tensor
    verified: Tensor

    def cluster(self, number: int) -> Tensor:
        """Verified images of a constellation, int64 ``[n]``."""
        return self.members[number][self.verified[number]]


class DiscoveryFigure(FigureResult):
    """What `draw_discovery` drew and measured.

    Attributes:
        images: Number of images that were searched.
        constellations: How many were sampled.
        verified: Mean number of images that verify a constellation, by encoder.
        purity: Share of the verified images that have the class of the constellation's image, over
            the constellations verified most often until they cover half of the images, by encoder;
            empty without classes.
        purity_chance: The same for images drawn at random.
    """

    images: int
    constellations: int
    verified: dict[str, float]
    purity: dict[str, float]
    purity_chance: float | None

    def summary(self) -> list[str]:
        """Verified images and purity by encoder."""
        lines = [f"images per constellation by {n}: {v:.1f}" for n, v in self.verified.items()]
        lines += [f"purity at half coverage by {n}: {v:.1%}" for n, v in self.purity.items()]
        if self.purity_chance is not None:
            lines.append(f"purity at chance level: {self.purity_chance:.1%}")
        return lines


def draw_discovery(
    weights: Path,
    path: Path,
    *,
    data: Sequence[str] = (),
    patch: int | None = None,
    images: int = 500,
    constellations: int = 200,
    count: int = 6,
    shown: int = 5,
    seed: int = 0,
    device: DeviceName = "auto",
) -> DiscoveryFigure:
    """Draw the constellations of patches that are verified in most other images.

    Args:
        weights: Run folder or weights file.
        path: PNG, SVG or PDF to write.
        data: Images; the run's own if empty.
        patch: Side of the patches in pixels; a quarter of the images' if not given.
        images: Most images that are searched.
        constellations: How many are sampled.
        count: How many are drawn.
        shown: Verified images of each.
        seed: Of the constellations and the random init.
        device: Where to compute, see `ssltool.device.choose_device`.

    Raises:
        UsageError: Two patches do not fit beside each other, or the weights belong to no run and no
            images were named.
    """
    require_format(path)
    where = choose_device(device)
    encoder, metadata, _, size = load_pretrained(weights, torch.device("cpu"))
    source, _ = open_images(weights, data, ())
    stack, index = sample(source, size, images)
    grid = _Grid.of(size, patch or max(8, size // 4))
    labels = _labels(source, index)
    networks = {metadata.method: encoder, "random init": random_init(encoder, seed)}
    results = {}
    for name, network in networks.items():
        side = max(1, round(grid.patch * metadata.image_size / size))
        transform = InputTransform.of(metadata, side)
        vectors = _vectors(network.to(where), transform, stack, grid)
        results[name] = discover(vectors, grid, constellations, seed)
    drawn = results[metadata.method]
    rows = range(min(count, len(drawn.image)))
    sheet = Sheet(
        {
            "query": _queries(stack, drawn, grid, rows),
            **{f"match {m + 1}": _matches(stack, drawn, grid, rows, m) for m in range(shown)},
        },
        f"Object discovery by features of {metadata.method}: patches that recur in one layout",
        [
            f"{int(drawn.verified[i].sum())} of {drawn.verified.shape[1]} best matches verified"
            for i in rows
        ],
        f"Searched: {len(stack):,} images of {source.description}. A match is verified if its four "
        "patches lie about on a square.",
    )
    save_sheet(sheet, path)
    return DiscoveryFigure(
        path=path,
        images=len(stack),
        constellations=len(drawn.image),
        verified={n: float(d.verified.sum(dim=1).double().mean()) for n, d in results.items()},
        purity={} if labels is None else {n: purity(d, labels) for n, d in results.items()},
        purity_chance=None if labels is None else _chance(labels),
    )


class _Grid(NamedTuple):
    """Patches at every half of their side.

    Attributes:
        patch: Their side in pixels.
        stride: Pixels between them.
        cells: Patches along a side of an image.
    """

    patch: int
    stride: int
    cells: int

    @classmethod
    def of(cls, size: int, patch: int) -> _Grid:
        stride = max(1, patch // _DENSITY)
        count = (size - patch) // stride + 1
        if count < _DENSITY + 1:
            raise UsageError(
                f"--patch {patch}: two patches do not fit beside each other in {size} px images; "
                f"type {size // 3} or less"
            )
        return cls(patch, stride, count)

    def corners(self) -> Tensor:
        """Row and column of each patch's first pixel, int64 ``[P, 2]``."""
        numbers = torch.arange(self.cells**2)
        return self.stride * torch.stack([numbers // self.cells, numbers % self.cells], dim=1)


def discover(vectors: Tensor, grid: _Grid, count: int, seed: int) -> Discovered:
    """Search constellations in all other images.

    Args:
        vectors: float ``[N, P, D]``, of unit length.
        grid: Where the patches lie.
        count: C.
        seed: Of the sampled constellations.
    """
    generator = torch.Generator().manual_seed(seed)
    total = len(vectors)
    image = torch.randint(0, total, (count,), generator=generator)
    room = grid.cells - _DENSITY
    cell = torch.randint(0, room, (len(image), 2), generator=generator)
    step = _DENSITY * torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    place = cell[:, None] + step  # [C, 4, 2]
    queries = vectors[image[:, None], place[..., 0] * grid.cells + place[..., 1]]  # [C, 4, D]
    kept = min(_MATCHED, total - 1)
    members, matches = [], []
    for number, query in enumerate(queries):
        similarity, best = (vectors @ query.T).max(dim=1)  # [N, 4]
        strength = similarity.sum(dim=1)
        strength[image[number]] = -math.inf
        chosen = strength.topk(kept).indices
        members.append(chosen)
        matches.append(best[chosen])
    patch = torch.stack(matches)
    centers = grid.corners()[patch].double() + grid.patch / 2
    verified = fit_square(centers, grid.patch).verified
    order = verified.sum(dim=1).argsort(descending=True, stable=True)
    every = (image, cell, torch.stack(members), patch, verified)
    return Discovered(*(part[order] for part in every))


def purity(discovered: Discovered, labels: Tensor) -> float:
    """Share of the verified images that have the class of their constellation's image, until half
    of the images are covered.

    Args:
        discovered: Constellations, the most often verified first.
        labels: int64 ``[N]``.
    """
    covered = torch.zeros(len(labels), dtype=torch.bool)
    same = total = 0
    for number, image in enumerate(discovered.image.tolist()):
        cluster = discovered.cluster(number)
        same += int((labels[cluster] == labels[image]).sum())
        total += len(cluster)
        covered[cluster] = True
        if 2 * int(covered.sum()) >= len(labels):
            break
    return same / max(1, total)


def _chance(labels: Tensor) -> float:
    shares = labels.bincount().double() / len(labels)
    return float(shares.square().sum())


def _labels(source: Source, index: Tensor) -> Tensor | None:
    """Class of each image; None with fewer than two classes or images without one."""
    labels = [source.label(i) for i in index.tolist()]
    known = [label for label in labels if label is not None]
    if len(known) < len(labels) or len(set(known)) < 2:
        return None
    return torch.tensor(known)


@torch.no_grad()
def _vectors(encoder: Encoder, transform: InputTransform, images: Tensor, grid: _Grid) -> Tensor:
    """Unit vectors of all patches, mean-subtracted, float ``[N, P, D]`` on the CPU."""
    device = next(encoder.parameters()).device
    encoder.to(memory_format=torch.channels_last)
    corners = grid.corners()[None].expand(len(images), -1, -1)
    cut = patches.cut(images, corners[..., 0], corners[..., 1], grid.patch).flatten(0, 1)
    recalibrate_batch_norm(encoder, cut[:: max(1, len(cut) // _CALIBRATION)], transform)
    batches = [batch.to(device) for batch in torch.split(cut, _BATCH)]
    vectors = extract(encoder, batches, transform)[POOLED].cpu()
    unit = F.normalize(vectors - vectors.mean(dim=0), dim=1)
    return unit.view(len(images), -1, unit.shape[1])


def _queries(images: Tensor, drawn: Discovered, grid: _Grid, rows: range) -> Column:
    """The images that the constellations were sampled from, with the four patches outlined."""
    size, patch = images.shape[-1], grid.patch
    marks = []
    for row in rows:
        top, left = (grid.stride * drawn.cell[row]).tolist()
        corners = [(left + x, top + y) for y in (0, patch) for x in (0, patch)]
        marks.append([Mark(_PATCH, _box(x, y, patch, size)) for x, y in corners])
    return Column(images[drawn.image[: len(rows)]], marks)


def _matches(images: Tensor, drawn: Discovered, grid: _Grid, rows: range, number: int) -> Column:
    """The verified image of that number of each constellation, with the square of its matches; an
    empty place where there are fewer.
    """
    shown: list[Tensor | None] = []
    marks: list[list[Mark]] = []
    for row in rows:
        verified = drawn.verified[row].nonzero().flatten()
        if number >= len(verified):
            shown.append(None)
            marks.append([])
            continue
        chosen = verified[number]
        centers = grid.corners()[drawn.matches[row][chosen]].double() + grid.patch / 2
        fit = fit_square(centers, grid.patch)
        reach = float(fit.side) + grid.patch  # of the four patches together
        top, left = (fit.center - reach / 2).clamp_min(0).tolist()
        shown.append(images[drawn.members[row][chosen]])
        marks.append([Mark(_SQUARE_KEY, _box(left, top, reach, images.shape[-1]))])
    return Column(shown, marks)


def _box(left: float, top: float, side: float, size: int) -> Box:
    """A square in fractions of an image ``size`` px wide, cut at its sides."""
    right, bottom = min(left + side, size), min(top + side, size)
    return left / size, top / size, (right - left) / size, (bottom - top) / size
