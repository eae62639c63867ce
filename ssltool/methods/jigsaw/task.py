"""Jigsaw puzzles: name the permutation of the shuffled tiles of an image.

M. Noroozi, P. Favaro, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles",
ECCV 2016.

An image is cut into g x g cells, a smaller tile is taken from a random place in each cell, and the
tiles are shown in one of K fixed orders. The Context-Free Network sees every tile alone (shared
weights), joins the vectors late and names the order, K ways. Everything that would give the answer
away without knowing objects is closed: edges that continue from tile to tile (the gap), brightness
and contrast (standardization of each tile), chromatic aberration (channel jitter and gray images).

Letters: B images, N = g*g tiles, P puzzles per image, K permutations, D encoder width, S image
side, c cell side, t tile side, h side of the tile as the encoder sees it. Cells and slots are
numbered in reading order. A permutation p shows in slot i the tile of cell p[i]: ``shown[i] =
tile[p[i]]``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.sizes import map_shape
from ssltool.errors import UsageError
from ssltool.methods.base import DataInfo, Loss, Method, MethodOptions, Predictions
from ssltool.methods.jigsaw import permutations
from ssltool.ops import patches
from ssltool.ops.chunked import chunked
from ssltool.ops.color import project_color, to_gray
from ssltool.ops.per_image_rng import PerImageRNG
from ssltool.ops.select import mirror
from ssltool.plotting import frames

PermutationMode = Literal["max_min", "max_mean", "min_mean", "random", "code", "all", "file"]
_SMALLEST_TILE = 6
_GAP_GRAY = 200  # between drawn tiles, which may be white


class JigsawOptions(MethodOptions):
    """Options of ``ssltool pretrain jigsaw``."""

    grid: int | None = Field(
        None, ge=2, le=5, description="Cells along a side; automatic: 2 up to 32 px, else 3"
    )
    permutations: int | None = Field(
        None,
        ge=2,
        le=10_000,
        description="Orders K to tell apart; automatic: 24 for grid 2, else 100, or 1000 from "
        "100,000 images",
    )
    permutation_mode: PermutationMode | None = Field(
        None,
        description="How orders are chosen; automatic: all for grid 2, else max_min; max_mean is "
        "the paper's",
    )
    permutation_seed: int = Field(
        0,
        ge=0,
        description="Relabels cells and slots of the set; 0 = the canonical set, whose first "
        "order is unshuffled",
    )
    permutation_file: Path | None = Field(
        None, description="Orders from a .npy or legacy .bin file (with --permutation-mode file)"
    )
    tile_input: int | None = Field(
        None,
        ge=_SMALLEST_TILE,
        le=512,
        description="Side in px to which tiles are resized; automatic: 64, or the tile itself up "
        "to 64 px images",
    )
    crop: Literal["center", "random"] = Field(
        "center", description="Where the cells lie when they do not fill the image"
    )
    gap: bool = Field(
        True,
        description="Take a smaller tile from a random place in each cell, so that edges do not "
        "continue; "
        "without it a tile is its whole cell, and channels have no room to shift",
    )
    channel_jitter: bool = Field(
        True,
        description="Shift the color channels of each tile by 0 to 2 px (at 85 px cells) against "
        "each other",
    )
    grayscale: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Probability that an image is made gray (color images only)",
    )
    color_projection: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Probability that the green-magenta axis of a color image is removed",
    )
    standardize: bool = Field(
        True, description="Give every channel of every tile zero mean and unit deviation"
    )
    flip: float = Field(
        0.0, ge=0, le=1, description="Probability that an image is mirrored before it is cut"
    )
    puzzles: int = Field(
        1, ge=1, le=64, description="Orders asked per image and step; the tiles are encoded once"
    )
    fc6: int = Field(
        512,
        ge=1,
        description="Width of the layer on each tile's vector (paper 512, released code 1024)",
    )
    fc7: int = Field(
        1024, ge=1, description="Width of the layer on the joined vectors (paper 4096)"
    )
    head_norm: bool = Field(True, description="Batch norm in the head; the paper has none")
    dropout: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="Dropout before the last layer (and after fc6 without batch norm)",
    )
    spatial_features: bool = Field(
        False,
        description="Give fc6 the flattened last map instead of its average, as the paper does",
    )

    def resolved(self, info: DataInfo) -> Self:
        """Decide grid, permutations, mode and tile size for these images; refuse tiles under 6 px."""
        grid = self.grid or (2 if info.image_size <= 32 else 3)
        mode = self.permutation_mode or ("file" if self.permutation_file else None)
        if (mode == "file") != (self.permutation_file is not None):
            raise UsageError(
                "--permutation-mode file and --permutation-file FILE go together; type both or "
                "neither"
            )
        count = self.permutations or (24 if grid == 2 else 100 if info.count < 100_000 else 1000)
        if mode == "file":
            count = permutations.load(Path(str(self.permutation_file))).count
        if mode is None:
            mode = "all" if grid == 2 and count == 24 else "max_min"
        tile = geometry(info.image_size, grid, self.gap).tile
        automatic_input = tile if info.image_size <= 64 else 64
        return self.model_copy(
            update={
                "grid": grid,
                "permutations": count,
                "permutation_mode": mode,
                "tile_input": self.tile_input or automatic_input,
            }
        )


class Geometry(NamedTuple):
    """How an image of side S is cut; all in pixels.

    Attributes:
        cell: Side c of a cell; the cells fill a square of side grid * c.
        tile: Side t of the tile taken from each cell.
        slack: c - t, the reach of the tile's random place.
        jitter: Reach d of the channels' own shifts, included in the slack.
    """

    cell: int
    tile: int
    slack: int
    jitter: int


def geometry(side: int, grid: int, gap: bool = True) -> Geometry:
    """Scale the paper's 85 px cells, 64 px tiles and 2 px channel shifts to images of another side.

    Without the gap a tile is its whole cell; that leaves the shortcut of continuing edges open, to
    measure it.

    Raises:
        UsageError: Tiles would be under 6 px; the message names the smallest image that works.
    """
    cell = side // grid
    tile = math.floor(64 * cell / 85 + 0.5)
    if tile < _SMALLEST_TILE:
        smallest = grid * next(
            c for c in range(cell, 100) if math.floor(64 * c / 85 + 0.5) >= _SMALLEST_TILE
        )
        raise UsageError(
            f"{side} px images give {tile} px tiles in a {grid}x{grid} grid; "
            f"type --image-size {smallest} or more, or a smaller --grid"
        )
    return (
        Geometry(cell, tile, cell - tile, math.floor(2 * cell / 85 + 0.5))
        if gap
        else Geometry(cell, cell, 0, 0)
    )


class Head(nn.Module):
    """The late layers of the Context-Free Network: fc6 on each tile, fc7 and fc8 on all tiles
    joined.
    """

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
        self.fc8 = nn.Linear(fc7, classes)
        # Small last weights: the first loss is ln K, the loss of knowing nothing.
        nn.init.normal_(self.fc8.weight, std=0.001)
        nn.init.zeros_(self.fc8.bias)

    def forward(self, vectors: Tensor, orders: Tensor) -> Tensor:
        """Score the orders.

        Args:
            vectors: float ``[B, N, D]``, the tiles' vectors in the order of their cells.
            orders: int64 ``[B, P, N]``, the permutations asked.

        Returns:
            Logits ``[B*P, K]``.
        """
        tiles = self.fc6(vectors.flatten(0, 1)).view(*vectors.shape[:2], -1)  # [B, N, fc6]
        # The encoder sees tiles alone: shuffling their vectors is shuffling the tiles, and many
        # puzzles cost one pass.
        images = torch.arange(len(tiles), device=tiles.device)[:, None, None]
        shown = tiles[images, orders]  # [B, P, N, fc6], slot i holds tile p[i]
        logits: Tensor = self.fc8(self.fc7(shown.flatten(0, 1).flatten(1)))
        return logits


class JigsawView(NamedTuple):
    """A batch of puzzles.

    Attributes:
        tiles: float ``[B, N, C, h, h]``, the tiles as the encoder (C channels) sees them, in the
            order of their cells.
        target: int64 ``[B, P]`` in 0..K-1, the permutation of each puzzle.
        raw: uint8 ``[B, N, 3, t, t]``, the same tiles before resizing and standardization, for
            images.
        image: uint8 ``[B, 3, S, S]``, the image as it was cut: mirrored or gray if that was drawn.
        corner: int64 ``[B, N, 2]``, row and column of each tile's first pixel in it.
    """

    tiles: Tensor
    target: Tensor
    raw: Tensor
    image: Tensor
    corner: Tensor


class Jigsaw(Method[JigsawOptions, JigsawView]):
    """The puzzle, its guards and the head that solves it."""

    Options = JigsawOptions
    presets = {
        "paper": {
            "backbone": "caffenet",
            "image_size": 256,
            "grid": 3,
            "permutations": 1000,
            "permutation_mode": "max_mean",
            "tile_input": 64,
            "fc6": 1024,
            "fc7": 4096,
            "head_norm": False,
            "spatial_features": True,
            "optimizer": "sgd",
            "lr": 0.01,
            "weight_decay": 5e-4,
            "batch_size": 256,
            "steps": 350_000,
            "schedule": "step",
            "warmup": 0,
        },
        "modern": {
            "backbone": "resnet50",
            "image_size": 256,
            "flip": 0.5,
            "fc6": 1024,
            "fc7": 4096,
            "optimizer": "sgd",
            "lr": 0.1,
            "weight_decay": 1e-4,
            "batch_size": 256,
            "epochs": 105,
            "warmup": 5,
        },
        "small": {"backbone": "resnet10_w32", "puzzles": 4, "flip": 0.5},
    }

    def __init__(self, options: JigsawOptions, encoder: Encoder, info: DataInfo) -> None:
        super().__init__(options, encoder, info)
        assert (
            options.grid
            and options.permutations
            and options.permutation_mode
            and options.tile_input
        ), "resolved"
        self.options = options
        self.grid = options.grid
        self.tiles = options.grid**2
        self.tile_input = options.tile_input
        self.color = not info.gray
        chosen = _permutation_set(options)
        self._permutations = chosen
        self.orders: Tensor
        self.register_buffer(
            "orders", torch.from_numpy(chosen.permutations.astype("int64"))
        )  # [K, N]
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
    def network_size(cls, options: JigsawOptions, info: DataInfo) -> int:
        """The side of one tile."""
        del info
        assert options.tile_input, "resolved"
        return options.tile_input

    @classmethod
    def feature_size(cls, options: JigsawOptions, info: DataInfo) -> int:
        """Whole images are enlarged as the tiles were, so that objects keep the scale the encoder
        was trained at.
        """
        assert options.grid and options.tile_input, "resolved"
        tile = geometry(info.image_size, options.grid, options.gap).tile
        return round(info.image_size * options.tile_input / tile)

    @property
    def chance(self) -> dict[str, float]:
        """The loss ln K, accuracy 1/K, 5/K and one tile in N."""
        count = len(self.orders)
        return {
            "loss": math.log(count),
            "accuracy": 1 / count,
            "top5": min(1.0, 5 / count),
            "tile_accuracy": 1 / self.tiles,
        }

    @property
    def facts(self) -> dict[str, Any]:
        """Statistics and SHA-256 of the permutation set."""
        return {"permutation_set": self._permutations.facts()}

    def view(self, images: Tensor, index: Tensor, generator: torch.Generator) -> JigsawView:
        """Cut each image into tiles and draw the orders to be named; see `Method.view`."""
        rng = PerImageRNG(index, generator)
        target = rng.integers(len(self.orders), self.options.puzzles)
        mirrored = gray = projected = torch.zeros(
            len(index), dtype=torch.bool, device=images.device
        )
        if self.training:
            mirrored = rng.bernoulli(self.options.flip)
            if self.color:
                gray = rng.bernoulli(self.options.grayscale)
        place, corner = self._places(rng, images, gray)
        if self.training and self.color and self.options.color_projection:
            projected = rng.bernoulli(self.options.color_projection) & ~gray
        return chunked(4, self._cut, images, target, place, corner, mirrored, gray, projected)

    def _cut(
        self,
        images: Tensor,
        target: Tensor,
        place: Tensor,
        corner: Tensor,
        mirrored: Tensor,
        gray: Tensor,
        projected: Tensor,
    ) -> JigsawView:
        """The view from what was drawn for it."""
        if self.training:
            if self.options.flip:
                images = mirror(images, mirrored)
            if self.color:
                images = to_gray(images, gray)
        raw = patches.cut(images, place[..., 0], place[..., 1], self._geometry(images).tile)
        tiles = patches.resize(raw, self.tile_input)
        if self.training and self.color and self.options.color_projection:
            tiles = tiles.to(torch.float32)
            tiles = project_color(
                tiles.flatten(0, 1), projected.repeat_interleave(self.tiles)
            ).view_as(tiles)
        if self.encoder.in_channels == 1:
            tiles = tiles.to(torch.float32).mean(dim=2, keepdim=True)
        if self.options.standardize:
            tiles = patches.standardize(tiles, level=1.0)
        else:
            tiles = tiles / 255
        return JigsawView(tiles, target, raw, images, corner)

    def _geometry(self, images: Tensor) -> Geometry:
        return geometry(images.shape[-1], self.grid, self.options.gap)

    def _places(self, rng: PerImageRNG, images: Tensor, gray: Tensor) -> tuple[Tensor, Tensor]:
        """Draw where each channel of each tile starts, row and column ``[B, N, 3, 2]``, and corners
        ``[B, N, 2]``.
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
        shift = rng.integers(jitter + 1, self.tiles, 3, 2) * ~gray[:, None, None, None]
        return corner[:, :, None, :] + shift, corner

    def forward(self, view: JigsawView) -> Loss:
        """K-way cross-entropy over all puzzles, with top-1, top-5 and the share of tiles put right."""
        logits = self.logits(view).float()
        target = view.target.flatten()
        loss = F.cross_entropy(logits, target)
        with torch.no_grad():
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices
            right = best == target[:, None]
            numbers = {
                "accuracy": right[:, 0].float().mean(),
                "top5": right.any(dim=1).float().mean(),
                "tile_accuracy": (self.orders[best[:, 0]] == self.orders[target]).float().mean(),
            }
        return Loss(loss, numbers)

    def logits(self, view: JigsawView) -> Tensor:
        """Scores of the permutations, ``[B*P, K]``."""
        images, count = view.tiles.shape[:2]
        # Row b*N+i is cell i of image b: all tiles are one batch for the encoder and its batch
        # norm.
        flat = view.tiles.flatten(0, 1)
        vectors = (
            self.encoder.map(flat).flatten(1)
            if self.options.spatial_features
            else self.encoder(flat)
        )
        scores: Tensor = self.head(vectors.view(images, count, -1), self.orders[view.target])
        return scores

    def draw_task(
        self, images: Tensor, index: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The image with its cells and tiles, the tiles in place, and the puzzle as shown."""
        view = self.view(images, index, generator)
        tile = view.raw.shape[-1]
        marked = frames.outline(
            view.image, view.corner[..., 0], view.corner[..., 1], tile, frames.YELLOW
        )
        return {
            "image and tiles": marked,
            "tiles in place": self._laid_out(view.raw),
            "puzzle as shown": self._laid_out(self._shown(view)),
            "as the network sees it": self._laid_out(
                self._shown(view, frames.to_uint8(view.tiles).expand(-1, -1, 3, -1, -1))
            ),
        }

    @torch.no_grad()
    def draw_predictions(
        self, images: Tensor, index: Tensor, generator: torch.Generator
    ) -> Predictions:
        """Puzzle, the network's solution with right and wrong tiles framed, truth."""
        view = self.view(images, index, generator)
        scores = (
            self.logits(view).float().view(len(images), -1, len(self.orders))[:, 0]
        )  # the first puzzle of each image
        confidence, guess = scores.softmax(dim=1).max(dim=1)
        true, guessed = self.orders[view.target[:, 0]], self.orders[guess]
        right = true == guessed  # [B, N], by slot
        shown = self._shown(view)
        colors = torch.where(
            right[..., None], frames.GREEN.to(right.device), frames.RED.to(right.device)
        )
        framed = frames.border(shown, colors, width=max(1, shown.shape[-1] // 16))
        place = guessed.argsort(dim=1)  # solved[p[i]] = shown[i] is a gather with the inverse of p
        solved = framed[torch.arange(len(framed), device=framed.device)[:, None], place]
        captions = [
            f"{int(r)} of {self.tiles} tiles right, {c:.0%} sure"
            for r, c in zip(right.sum(dim=1), confidence.tolist(), strict=True)
        ]
        columns = {
            "puzzle": self._laid_out(shown),
            "answer": self._laid_out(solved),
            "truth": self._laid_out(view.raw),
        }
        return Predictions(columns, captions)

    def _laid_out(self, tiles: Tensor) -> Tensor:
        """Tiles uint8 ``[B, N, 3, t, t]`` as one image each, in reading order, with gaps that show
        on white ones.
        """
        return patches.assemble(tiles, self.grid, gap=2, fill=_GAP_GRAY)

    def _shown(self, view: JigsawView, tiles: Tensor | None = None) -> Tensor:
        """The tiles ``[B, N, 3, t, t]`` in the slots of each image's first puzzle."""
        tiles = view.raw if tiles is None else tiles
        order = self.orders[view.target[:, 0]]
        return tiles[torch.arange(len(tiles), device=tiles.device)[:, None], order]


def _permutation_set(options: JigsawOptions) -> permutations.PermutationSet:
    assert options.permutation_mode and options.permutations and options.grid, "resolved"
    if options.permutation_mode == "file":
        chosen = permutations.load(Path(str(options.permutation_file)))
        if chosen.tiles != options.grid**2:
            raise UsageError(
                f"{options.permutation_file} permutes {chosen.tiles} tiles but the grid has "
                f"{options.grid**2}; "
                f"type --grid {math.isqrt(chosen.tiles)}"
            )
        return chosen
    return permutations.build(
        options.permutation_mode, options.permutations, options.grid, options.permutation_seed
    )
