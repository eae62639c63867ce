"""Jigsaw puzzles: classify the permutation of the shuffled tiles of an image.

M. Noroozi, P. Favaro, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles",
ECCV 2016.

An image is cut into g x g cells, a smaller tile is cropped at random from each cell, and the tiles
are shuffled by one of K fixed permutations. The Context-Free Network encodes every tile alone
(shared weights), concatenates the vectors late and classifies the permutation, K ways. Shortcuts
are closed: edges that continue from tile to tile (the gap), brightness and contrast
(standardization of each tile), chromatic aberration (channel jitter and gray images).

Letters: B images, N = g*g tiles, P permutations per image, K permutations in the set, D encoder
width, S image side, c cell side, t tile side, h side of a tile as the encoder's input. Cells and
slots are numbered in reading order. A permutation p shows in slot i the tile of cell p[i]:
``shown[i] = tile[p[i]]``.
"""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.layers import full_precision
from ssltool.encoders.sizes import map_shape
from ssltool.errors import UsageError
from ssltool.methods.base import EncoderInput, Loss, Method, Metric
from ssltool.methods.jigsaw import audit, figures, permutations
from ssltool.methods.jigsaw.beliefs import belief_tables, best_assignments
from ssltool.methods.jigsaw.geometry import Geometry, geometry
from ssltool.methods.jigsaw.options import JigsawOptions
from ssltool.methods.options import DataInfo
from ssltool.ops import patches
from ssltool.ops.chunked import chunked
from ssltool.ops.color import project_color, to_gray
from ssltool.ops.per_image_rng import PerImageRNG
from ssltool.ops.select import mirror


class Head(nn.Module):
    """The late layers of the Context-Free Network: fc6 on each tile, fc7 and fc8 on all of them."""

    def __init__(
        self, width: int, tiles: int, classes: int, fc6: int, fc7: int, dropout: float, norm: bool
    ) -> None:
        super().__init__()
        self.fc6 = nn.Sequential(
            nn.Linear(width, fc6, bias=not norm),
            nn.BatchNorm1d(fc6) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Identity() if norm else nn.Dropout(dropout),
        )
        self.fc7 = nn.Sequential(
            nn.Linear(tiles * fc6, fc7, bias=not norm),
            nn.BatchNorm1d(fc7) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.fc8 = full_precision.Linear(fc7, classes)
        # Small last weights: the first loss is ln K, the chance level.
        nn.init.normal_(self.fc8.weight, std=0.001)
        nn.init.zeros_(self.fc8.bias)

    def forward(self, vectors: Tensor, permutations: Tensor) -> Tensor:
        """Classify the permutation of the shuffled tiles.

        Args:
            vectors: float ``[B, N, D]``, the tiles' vectors in the order of their cells.
            permutations: int64 ``[B, P, N]``, the permutations to shuffle them by.

        Returns:
            Logits ``[B*P, K]``, float32 at any precision.
        """
        tiles = self.fc6(vectors.flatten(0, 1)).view(*vectors.shape[:2], -1)  # [B, N, fc6]
        # The encoder sees tiles alone: shuffling their vectors is shuffling the tiles, and many
        # permutations cost one pass.
        images = torch.arange(len(tiles), device=tiles.device)[:, None, None]
        shuffled = tiles[images, permutations]  # [B, P, N, fc6], slot i holds tile p[i]
        logits: Tensor = self.fc8(self.fc7(shuffled.flatten(0, 1).flatten(1)))
        return logits


class JigsawView(NamedTuple):
    """Tiles of a batch of images and the permutations to classify.

    Attributes:
        tiles: float ``[B, N, C, h, h]``, the encoder's input (C channels), in the order of the
            cells.
        target: int64 ``[B, P]`` in 0..K-1, index of each permutation in the set.
        raw: uint8 ``[B, N, 3, t, t]``, or all channels of the images, the same tiles before
            resizing and standardization, for figures.
        image: uint8 ``[B, 3, S, S]``, the image that was cut, flipped or gray if so sampled.
        corner: int64 ``[B, N, 2]``, row and column of each tile's first pixel in it.
    """

    tiles: Tensor
    target: Tensor
    raw: Tensor
    image: Tensor
    corner: Tensor


class Jigsaw(Method[JigsawOptions, JigsawView]):
    """Cuts and shuffles tiles, guards against shortcuts, and classifies the permutation."""

    Options = JigsawOptions
    figures = figures
    audit = audit

    def __init__(self, options: JigsawOptions, encoder: Encoder, data: DataInfo) -> None:
        super().__init__(options, encoder, data)
        self.options = options
        self.grid = options.grid
        self.tiles = options.grid**2
        self.tile_input = options.tile_input
        self.color, self.rgb = not data.gray, data.rgb
        self._mean: Tensor
        self._std: Tensor
        for name, values in {"_mean": data.mean, "_std": data.std}.items():
            statistic = torch.tensor(values).view(-1, 1, 1)
            if encoder.in_channels == 1:
                statistic = statistic.mean(dim=0, keepdim=True)
            self.register_buffer(name, statistic, persistent=False)
        self._permutation_set = _permutation_set(options)
        self.orders: Tensor  # [K, N]
        rows = self._permutation_set.permutations.astype("int64")
        self.register_buffer("orders", torch.from_numpy(rows))
        channels, side = map_shape(encoder, options.tile_input)
        width = channels * side**2 if options.spatial_features else encoder.width
        self.head = Head(
            width=width,
            tiles=self.tiles,
            classes=len(self.orders),
            fc6=options.fc6,
            fc7=options.fc7,
            dropout=options.dropout,
            norm=options.head_norm,
        )

    @classmethod
    def inputs(cls, options: JigsawOptions, data: DataInfo) -> EncoderInput:
        """One tile. Whole images are enlarged for features as the tiles were, so that objects keep
        the scale of pretraining.
        """
        tile = geometry(data.image_size, options.grid, options.gap).tile
        return EncoderInput(
            train_size=options.tile_input,
            feature_size=round(data.image_size * options.tile_input / tile),
            standardize="channels" if options.standardize else "data",
            typed="--tile-input {}".format,
        )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Chance levels are those of a constant prediction: loss ln K, accuracies 1/K and 5/K, and
        about one tile in N.
        """
        count = len(self.orders)
        of_set, of_all = self._tile_chance
        return (
            Metric("loss", "", math.log(count)),
            Metric("accuracy", "fraction", 1 / count),
            Metric("top5", "fraction", min(1.0, 5 / count)),
            Metric("tile_accuracy", "fraction", of_set),
            Metric("assignment_tile_accuracy", "fraction", of_all, eval_only=True),
        )

    @cached_property
    def _tile_chance(self) -> tuple[float, float]:
        """Most tiles that one permutation has right on average over the set: one of the set, and
        any. More than 1/N where cells are unevenly frequent in a slot.
        """
        orders = self.orders.cpu()
        table = belief_tables(torch.zeros(1, len(orders)), orders)
        expected = [
            table[0].gather(1, candidates.T).mean(dim=0).max()
            for candidates in (orders, best_assignments(table))
        ]
        return float(expected[0]), float(expected[1])

    @property
    def nearest(self) -> Tensor:
        """Distance of each permutation to the nearest other one of the set, int64 ``[K]``."""
        return torch.from_numpy(self._permutation_set.nearest.astype("int64"))

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Statistics and SHA-256 of the permutation set."""
        return {"permutation_set": self._permutation_set.facts()}

    def view(self, images: Tensor, index: Tensor, generator: torch.Generator) -> JigsawView:
        """Cut each image into tiles and sample its permutations; see `Method.view`."""
        rng = PerImageRNG(index, generator)
        target = rng.integers(len(self.orders), self.options.permutations_per_image)
        mirrored = gray = projected = torch.zeros(
            len(index), dtype=torch.bool, device=images.device
        )
        if self.training:
            mirrored = rng.bernoulli(self.options.flip)
            if self.color and self.rgb:
                gray = rng.bernoulli(self.options.grayscale)
        position, corner = self._positions(rng, images, gray)
        if self.training and self.color and self.options.color_projection:
            projected = rng.bernoulli(self.options.color_projection) & ~gray
        return chunked(4, self._cut, images, target, position, corner, mirrored, gray, projected)

    def _cut(
        self,
        images: Tensor,
        target: Tensor,
        position: Tensor,
        corner: Tensor,
        mirrored: Tensor,
        gray: Tensor,
        projected: Tensor,
    ) -> JigsawView:
        """Build the view from what was sampled for it."""
        if self.training:
            if self.options.flip:
                images = mirror(images, mirrored)
            if self.color and self.rgb:
                images = to_gray(images, gray)
        raw = patches.cut(images, position[..., 0], position[..., 1], self._geometry(images).tile)
        return JigsawView(
            self.network_input(raw, projected if self.training else None),
            target,
            raw,
            images,
            corner,
        )

    def network_input(self, raw: Tensor, projected: Tensor | None = None) -> Tensor:
        """Resize and standardize tiles, each by its own statistics or all by those of the data.

        Args:
            raw: uint8 or float ``[B, N, 3, t, t]``, 0..255.
            projected: bool ``[B]``, images whose green-magenta axis is removed in training.

        Returns:
            float ``[B, N, C, h, h]``, the encoder's input.
        """
        tiles = patches.resize(raw, self.tile_input)
        if projected is not None and self.color and self.options.color_projection:
            tiles = tiles.to(torch.float32)
            tiles = project_color(
                tiles.flatten(0, 1), projected.repeat_interleave(self.tiles)
            ).view_as(tiles)
        if self.encoder.in_channels == 1:
            tiles = tiles.to(torch.float32).mean(dim=2, keepdim=True)
        if self.options.standardize:
            return patches.standardize(tiles, level=1.0)
        return (tiles / 255 - self._mean) / self._std

    def _geometry(self, images: Tensor) -> Geometry:
        return geometry(images.shape[-1], self.grid, self.options.gap)

    def _positions(self, rng: PerImageRNG, images: Tensor, gray: Tensor) -> tuple[Tensor, Tensor]:
        """Sample row and column of the first pixel of each channel of each tile ``[B, N, C, 2]``,
        and of each tile ``[B, N, 2]``.
        """
        cell, _, slack, jitter = self._geometry(images)
        device = images.device
        jitter = jitter if self.training and self.color and self.options.channel_jitter else 0
        margin = images.shape[-1] - self.grid * cell
        if self.training and self.options.crop == "random":
            start = rng.integers(margin + 1, 1, 2)
        else:
            start = torch.full((len(gray), 1, 2), margin // 2, device=device)
        cells = torch.arange(self.tiles, device=device)
        corner = start + cell * torch.stack(
            [cells // self.grid, cells % self.grid], dim=-1
        )  # [B, N, 2]
        if self.training:
            corner = corner + rng.integers(slack - jitter + 1, self.tiles, 2)
        else:
            corner = corner + slack // 2
        shift = rng.integers(jitter + 1, self.tiles, images.shape[1], 2)
        shift = shift * ~gray[:, None, None, None]
        return corner[:, :, None, :] + shift, corner

    def forward(self, view: JigsawView) -> Loss:
        """K-way cross-entropy over all permutations, with top-1, top-5 and tile accuracy.

        In evaluation also the tile accuracy of the assignment that suits the probabilities of all
        permutations best, see `ssltool.methods.jigsaw.beliefs`.
        """
        logits = self.logits(view)
        target = view.target.flatten()
        loss = F.cross_entropy(logits, target)
        with torch.no_grad():
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices
            correct = best == target[:, None]
            metrics = {
                "accuracy": correct[:, 0].float().mean(),
                "top5": correct.any(dim=1).float().mean(),
                "tile_accuracy": (self.orders[best[:, 0]] == self.orders[target]).float().mean(),
            }
            if not self.training:
                assigned = best_assignments(belief_tables(logits, self.orders))
                correct_tiles = assigned == self.orders[target]
                metrics["assignment_tile_accuracy"] = correct_tiles.float().mean()
        return Loss(loss, metrics)

    def logits(self, view: JigsawView) -> Tensor:
        """Logits over the permutations, ``[B*P, K]``."""
        images, count = view.tiles.shape[:2]
        # Row b*N+i is cell i of image b: all tiles are one batch for the encoder and its batch
        # norm.
        flat = view.tiles.flatten(0, 1)
        vectors = (
            self.encoder.map(flat).flatten(1)
            if self.options.spatial_features
            else self.encoder(flat)
        )
        logits: Tensor = self.head(vectors.view(images, count, -1), self.orders[view.target])
        return logits


def _permutation_set(options: JigsawOptions) -> permutations.PermutationSet:
    if options.permutation_mode == "file":
        loaded = permutations.load(Path(str(options.permutation_file)))
        if loaded.tiles != options.grid**2:
            raise UsageError(
                f"{options.permutation_file} permutes {loaded.tiles} tiles but the grid has "
                f"{options.grid**2}; "
                f"type --grid {math.isqrt(loaded.tiles)}"
            )
        return loaded
    return permutations.build(
        options.permutation_mode, options.permutations, options.grid, options.permutation_seed
    )
