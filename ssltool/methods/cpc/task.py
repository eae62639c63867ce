"""Contrastive predictive coding: from the patches above, pick the true patch some rows below out of
the whole batch.

O. Hénaff, A. Srinivas, J. De Fauw, A. Razavi, C. Doersch, S. M. A. Eslami, A. van den Oord,
"Data-Efficient Image Recognition with Contrastive Predictive Coding", ICML 2020. The first version,
called v1 here: A. van den Oord, Y. Li, O. Vinyals, "Representation Learning with Contrastive
Predictive Coding", 2018, section 3.2.

An image is cut into a grid of overlapping patches and each patch is encoded alone. A context
network of masked convolutions summarizes the rows above; linear predictions from it are to find the
patch k rows below among all patches of all images of the batch. The same is done upwards, to the
right and to the left, with networks of their own. What
would give the answer away is closed: k is large enough that context and target share no pixel, no
batch norm lets patches see each other, and each patch is augmented on its own.

Letters: B images of side H, G x G patches of side P every S pixels, C width of a patch's vector, T
width of what is compared, k offset in rows, N candidates.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssltool.distributed.collectives import gather, rank, world_size
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.metadata import Norm, Stem
from ssltool.encoders.registry import build_encoder
from ssltool.encoders.sizes import deepest_stage
from ssltool.errors import UsageError
from ssltool.methods.base import (
    Chart,
    DataInfo,
    Lines,
    Loss,
    Matrix,
    Method,
    MethodOptions,
    Predictions,
)
from ssltool.methods.cpc import infonce
from ssltool.methods.cpc.context_network import Predictor
from ssltool.methods.cpc.patch_augment import Level, augment
from ssltool.ops import grids, patches
from ssltool.ops.chunked import chunked
from ssltool.ops.grids import DIRECTIONS, Direction, Grid
from ssltool.ops.per_image_rng import PerImageRNG
from ssltool.ops.select import mirror
from ssltool.plotting import frames

_LEAST_MAP = (
    2  # places a side of a patch's map: with one there is nothing to average and norms fail
)
_SHOWN = 8  # candidates drawn
_GAP_GRAY = 200
_DRAWN = 192  # px, about the side of a drawn image


class CpcOptions(MethodOptions):
    """Options of ``ssltool pretrain cpc``."""

    patch: int | None = Field(
        None,
        ge=4,
        le=512,
        description="Side P of the patches in px; automatic: a quarter of the image, 8 or more",
    )
    stride: int | None = Field(
        None, ge=1, le=512, description="Pixels S between patches; automatic: half a patch"
    )
    crop: int | None = Field(
        None,
        ge=8,
        description="Side in px of the square that is cut into patches, at a random place in "
        "training; "
        "automatic: the largest that the grid fills",
    )
    flip: float = Field(0.5, ge=0, le=1, description="Probability that an image is mirrored")
    augment: Level = Field(
        "light",
        description="What is done to each patch on its own: v1 = small crop and gray; light = "
        "crop, brightness, "
        "contrast, noise, color drop; v2 = the paper's, without sample pairing",
    )
    norm: Norm = Field(
        "ln",
        description="In place of the backbone's batch norm: ln = over channels and places of "
        "each patch, "
        "ln2d = over channels at each place; batch needs --allow-batchnorm",
    )
    allow_batchnorm: bool = Field(
        False, description="Train with batch norm although patches see each other through it"
    )
    last_stage: str | None = Field(
        None,
        description="Stage of the backbone to stop at; automatic: the deepest with a map of 2x2 "
        "or more",
    )
    directions: int | None = Field(
        None,
        ge=1,
        le=4,
        description="How many of down, up, right, left to predict in; automatic: 4, or 2 up to "
        "64 px",
    )
    offsets: int | None = Field(
        None,
        ge=1,
        le=64,
        description="How many offsets, from the least that shares no pixel; automatic: all",
    )
    context_width: int | None = Field(
        None,
        ge=1,
        description="Channels inside the context network; automatic: 256, or 64 up to 64 px "
        "(paper 256)",
    )
    context_blocks: int = Field(
        5, ge=1, le=32, description="Blocks of the context network, each reaching a row further"
    )
    target_width: int = Field(64, ge=1, description="Width T of what is compared")
    logit_scale: float = Field(0.1, gt=0, le=10, description="Factor on the dot products")
    negatives: infonce.Negatives = Field(
        "all",
        description="Patches to pick the true one from: all of the batch, or those of this choice",
    )
    offered: int = Field(
        16, ge=1, description="Patches that each image offers with --negatives random"
    )

    def resolved(self, info: DataInfo) -> Self:
        """Decide patch, stride and crop for these images; refuse grids with hardly a task."""
        patch = self.patch or max(8, 2 * round(info.image_size / 8))
        stride = self.stride or max(1, patch // 2)
        if self.crop is not None and self.crop > info.image_size:
            raise UsageError(
                f"--crop {self.crop} is larger than the {info.image_size} px images; type less"
            )
        grid = grids.fit(self.crop or info.image_size, patch, stride)
        if self.crop not in (None, grid.side):
            raise UsageError(
                f"patches of {patch} px every {stride} px do not fill a {self.crop} px square; "
                f"type --crop {grid.side}"
            )
        most = grid.count - grid.least_offset
        if self.offsets is not None and self.offsets > most:
            raise UsageError(
                f"--offsets {self.offsets}: a {grid.count}x{grid.count} grid has {most}; type "
                "that or less"
            )
        return self.model_copy(
            update={
                "patch": patch,
                "stride": stride,
                "crop": grid.side,
                "directions": self.directions or (2 if info.image_size <= 64 else 4),
                "offsets": self.offsets or most,
                "context_width": self.context_width or (64 if info.image_size <= 64 else 256),
            }
        )

    def grid(self) -> Grid:
        """The grid of resolved options."""
        assert self.crop and self.patch and self.stride, "resolved"
        return grids.fit(self.crop, self.patch, self.stride)


class CpcView(NamedTuple):
    """A batch of grids, patches in reading order.

    Attributes:
        patches: float ``[B, G*G, C_in, P, P]``, augmented and normalized, as the encoder sees them.
        offered: int64 ``[B, m]``, the cells that each image offers as candidates; m = 0 unless
            negatives are random.
        image: uint8 ``[B, 3, H, H]``, the square that was cut.
    """

    patches: Tensor
    offered: Tensor
    image: Tensor


class Cpc(Method[CpcOptions, CpcView]):
    """The grid, a predictor for each direction, and the search for the true patch."""

    Options = CpcOptions
    presets = {
        "paper": {
            "backbone": "resnet50",
            "image_size": 300,
            "crop": 260,
            "patch": 80,
            "stride": 36,
            "last_stage": "layer3",
            "augment": "v2",
            "lr": 4e-4,
            "momentum": 0.8,
            "weight_decay": 0.0,
            "clip": 0.01,
            "batch_size": 512,
            "epochs": 200,
            "schedule": "constant",
            "warmup": 0,
        },
        "v1": {
            "backbone": "resnet101",
            "image_size": 300,
            "crop": 256,
            "patch": 64,
            "stride": 32,
            "last_stage": "layer3",
            "directions": 1,
            "augment": "v1",
            "lr": 2e-4,
            "weight_decay": 0.0,
            "batch_size": 512,
            "epochs": 200,
            "schedule": "constant",
            "warmup": 0,
        },
        "small": {"backbone": "resnet10_w32", "batch_size": 64, "clip": 1.0},
    }

    def __init__(self, options: CpcOptions, encoder: Encoder, info: DataInfo) -> None:
        super().__init__(options, encoder, info)
        assert options.offsets and options.context_width, "resolved"
        leaking = any(isinstance(module, _BatchNorm) for module in encoder.modules())
        if leaking and not options.allow_batchnorm:
            raise UsageError(
                "batch norm lets the patches of an image see each other through the batch's "
                "statistics, and the task "
                "is solved without learning; type --norm ln, or --allow-batchnorm to train so "
                "all the same"
            )
        self.options = options
        self.grid = options.grid()
        self.offsets = range(self.grid.least_offset, self.grid.least_offset + options.offsets)
        self.gray = info.gray
        self._batch = info.batch_size or min(256, info.count)
        gray_in = encoder.in_channels == 1
        self.mean: Tensor
        self.std: Tensor
        for name, values in (("mean", info.mean), ("std", info.std)):
            read = (sum(values) / 3,) if gray_in else values
            self.register_buffer(
                name, torch.tensor(read).view(-1, 1, 1).clamp_min(1e-3), persistent=False
            )
        self.predictors = nn.ModuleDict(
            {
                direction: Predictor(
                    encoder.width,
                    options.target_width,
                    options.context_width,
                    options.context_blocks,
                    self.offsets,
                )
                for direction in self.directions
            }
        )

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The directions of travel."""
        return DIRECTIONS[: self.options.directions]

    @classmethod
    def build_encoder(
        cls, options: CpcOptions, info: DataInfo, backbone: str, *, stem: Stem, in_channels: int
    ) -> Encoder:
        """The backbone with another norm, up to the stage whose map of a patch is still 2x2 or
        larger.
        """
        size = cls.network_size(options, info)
        encoder = build_encoder(
            backbone, stem=stem, in_channels=in_channels, image_size=size, norm=options.norm
        )
        deepest = deepest_stage(encoder, size, _LEAST_MAP)
        stage = options.last_stage or deepest
        if stage is None:
            raise UsageError(
                f"{backbone} leaves less than {_LEAST_MAP}x{_LEAST_MAP} places of a {size} px "
                "patch; "
                "type --stem small, --backbone resnet10_w32 or a larger --patch"
            )
        encoder.cut_after(stage)
        if deepest_stage(encoder, size, _LEAST_MAP) != stage:
            raise UsageError(
                f"--last-stage {stage}: its map of a {size} px patch is less than "
                f"{_LEAST_MAP}x{_LEAST_MAP}; "
                f"type --last-stage {deepest}"
            )
        return encoder

    @classmethod
    def network_size(cls, options: CpcOptions, info: DataInfo) -> int:
        """The side of one patch."""
        del info
        assert options.patch, "resolved"
        return options.patch

    @classmethod
    def patch_grid(cls, options: CpcOptions, info: DataInfo) -> tuple[int, int] | None:
        """Side and stride of the patches."""
        del info
        grid = options.grid()
        return grid.patch, grid.stride

    @property
    def chance(self) -> dict[str, float]:
        """Loss log N, and what picking one of N candidates blindly gives, for batches as large as
        the last one.
        """
        cells = self.grid.count**2
        mode, offered = self.options.negatives, self.options.offered
        count = infonce.candidates(mode, self._batch, cells, min(offered, cells))
        own = {
            "all": cells,
            "other-images": 1,
            "same-image": cells,
            "random": min(offered, cells) + 1,
        }[mode]
        return {
            "loss": math.log(count),
            "loss_ratio": 1.0,
            "accuracy": 1 / count,
            "top5": min(1.0, 5 / count),
            "right_image": own / count,
        }

    def view(self, images: Tensor, index: Tensor, generator: torch.Generator) -> CpcView:
        """Cut each image into its grid and augment the patches; see `Method.view`."""
        rng = PerImageRNG(index, generator)
        margin = images.shape[-1] - self.grid.side
        device = images.device
        mirrored = torch.zeros(len(index), dtype=torch.bool, device=device)
        start = torch.full((len(index), 1, 2), margin // 2, device=device)
        if self.training:
            mirrored = rng.bernoulli(self.options.flip)
            start = rng.integers(margin + 1, 1, 2)
        return chunked(2, self._cut, images, rng, mirrored, start)

    def _cut(self, images: Tensor, rng: PerImageRNG, mirrored: Tensor, start: Tensor) -> CpcView:
        """The view from what was drawn for it; what happens to each patch is drawn here."""
        if self.training and self.options.flip:
            images = mirror(images, mirrored)
        image = images
        if images.shape[-1] > self.grid.side:
            image = patches.cut(images, start[..., 0], start[..., 1], self.grid.side)[:, 0]
        shown = grids.cut(image, self.grid).to(torch.float32).div_(255)
        shown = augment(
            shown, self.options.augment if self.training else "none", rng, gray=self.gray
        )
        offered = torch.zeros(len(images), 0, dtype=torch.int64, device=images.device)
        if self.options.negatives == "random":
            offered = rng.order(self.grid.count**2)[:, : self.options.offered]
        return CpcView(self._normalized(shown), offered, image)

    def _normalized(self, shown: Tensor) -> Tensor:
        """Patches float ``[B, G*G, 3, P, P]`` 0..1 as the encoder reads them."""
        if self.encoder.in_channels == 1:
            shown = shown.mean(dim=2, keepdim=True)
        return (shown - self.mean).div_(self.std)

    def shown(self, view: CpcView) -> Tensor:
        """The augmented patches as images, uint8 ``[B, G*G, 3, P, P]``."""
        values = (
            (view.patches * self.std + self.mean).mul_(255).round_().clamp_(0, 255).to(torch.uint8)
        )
        return values.expand(-1, -1, 3, -1, -1)

    def forward(self, view: CpcView) -> Loss:
        """Mean cross-entropy over directions and offsets, its ratio to log N, and how often the
        true patch is found.
        """
        found = self._search(view).values()
        loss = torch.stack([one.loss.mean() for one in found]).mean()
        self._batch = len(view.patches) * world_size()
        with torch.no_grad():
            shares = torch.stack([self._shares(one) for one in found]).mean(dim=0)
            ratio = loss.detach() / self.chance["loss"]
        names = ("accuracy", "top5", "right_image")
        return Loss(loss, {"loss_ratio": ratio, **dict(zip(names, shares.unbind(), strict=True))})

    def _search(self, view: CpcView) -> dict[tuple[Direction, int], infonce.Retrieval]:
        """How the true patches are found, by direction and offset; cells are numbered along the
        direction.

        With several processes the candidates are those of all of them, as if their batches were
        one.
        """
        codes = self.codes(view.patches)
        offered = gather(view.offered) if self.options.negatives == "random" else view.offered
        found: dict[tuple[Direction, int], infonce.Retrieval] = {}
        for direction in self.directions:
            targets, predictions = self.predictors[direction](grids.orient(codes, direction))
            targets = gather(targets.to(torch.promote_types(targets.dtype, torch.float32)))
            for offset, queries in predictions.items():
                found[direction, offset] = infonce.retrieve(
                    queries,
                    targets,
                    offset,
                    scale=self.options.logit_scale,
                    negatives=self.options.negatives,
                    offered=offered,
                    first=rank() * len(codes),
                )
        return found

    def codes(self, shown: Tensor) -> Tensor:
        """Vectors ``[B, C, G, G]`` of patches ``[B, G*G, C_in, P, P]``, each encoded alone,
        averaged over its map.
        """
        vectors = self.encoder(shown.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        return vectors.view(len(shown), self.grid.count, self.grid.count, -1).permute(0, 3, 1, 2)  # type: ignore[no-any-return]

    def _shares(self, found: infonce.Retrieval) -> Tensor:
        """Shares of contexts whose true patch is first, is among the first five, and whose first is
        of its image.
        """
        images = self._batch // world_size()
        own = torch.arange(images, device=found.best.device).repeat_interleave(
            len(found.best) // images
        )
        own = own + rank() * images
        right = [found.rank == 0, found.rank < 5, found.best // self.grid.count**2 == own]
        return torch.stack(right).float().mean(dim=1)

    def draw_task(
        self, images: Tensor, index: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The grid, a context and its targets, the patches as they are shown, and the pixels that a
        context sees.
        """
        view = self.view(images, index, generator)
        row, column = self._middle()
        tiling = torch.arange(0, self.grid.count, self.grid.least_offset)
        cells = (tiling[:, None] * self.grid.count + tiling).flatten()
        targets = torch.tensor(
            [
                (row + k) * self.grid.count + column
                for k in self.offsets
                if row + k < self.grid.count
            ]
        )
        context = torch.tensor([row * self.grid.count + column])
        seen = [
            _lit(view.image, self._influence(view.image, d, row, column) > 0)
            for d in self.directions
        ]
        columns = 2 if len(seen) == 4 else len(seen)
        return {
            "grid (patches that do not overlap)": self._framed(view.image, cells, frames.YELLOW),
            "context (yellow), its targets going down": self._framed(
                view.image, targets, frames.GREEN, context, frames.YELLOW
            ),
            "all patches, as the network sees them": patches.assemble(
                self.shown(view), self.grid.count, 1, _GAP_GRAY
            ),
            f"pixels a context depends on: {', '.join(self.directions)}": patches.assemble(
                torch.stack(seen, dim=1), columns, 4, _GAP_GRAY
            ),
        }

    @torch.no_grad()
    def draw_predictions(
        self, images: Tensor, index: Tensor, generator: torch.Generator
    ) -> Predictions:
        """For one context of each image: the best candidates of all images shown, with the true one
        framed.
        """
        view = self.view(images, index, generator)
        rng = PerImageRNG(index, generator)
        codes, side = self.codes(view.patches), self.grid.count
        drawn = torch.cat(
            [rng.integers(len(self.directions), 1), rng.integers(len(self.offsets), 1)], dim=1
        )
        which = [(self.directions[d], self.offsets[k]) for d, k in drawn.tolist()]
        place = rng.uniform(2)
        columns: dict[str, list[Tensor]] = {}
        captions = []
        for b, (direction, k) in enumerate(which):
            targets, predictions = self.predictors[direction](grids.orient(codes, direction))
            i, j = int(place[b, 0] * (side - k)), int(place[b, 1] * side)
            scores = (
                self.options.logit_scale * (targets @ predictions[k][b, i, j]).float()
            )  # [B, G, G]
            scores = grids.restore(scores, direction).flatten(1)
            cells = grids.orient(
                torch.arange(side**2, device=codes.device).view(side, side), direction
            )
            true, context = cells[i + k, j], cells[i, j]
            row = self._answer(view, b, scores, true, context)
            for name, image in row.items():
                columns.setdefault(name, []).append(image)
            best = int(scores.argmax())
            rank = int((scores > scores[b, true]).sum()) + 1
            own = "the same" if best // side**2 == b else "another"
            captions.append(
                f"{k} {direction}: the true patch is number {rank} of {scores.numel()}, similarity "
                f"{float(scores[b, true]):.2f}; the first has {float(scores.max()):.2f} and is "
                f"of {own} image"
            )
        return Predictions({name: torch.stack(stack) for name, stack in columns.items()}, captions)

    def _answer(
        self, view: CpcView, b: int, scores: Tensor, true: Tensor, context: Tensor
    ) -> dict[str, Tensor]:
        """The drawings of one row of `answers`, each uint8 ``[3, h, w]``; ``scores [B, G*G]``,
        cells as numbers.
        """
        side = self.grid.count
        best = scores.flatten().argsort(descending=True, stable=True)[:_SHOWN]
        ranked = _enlarged(
            self.shown(view).flatten(0, 1)[best][None], max(1, _DRAWN // 4 // self.grid.patch)
        )
        green = frames.border(
            ranked,
            frames.GREEN.to(best.device).expand(1, len(best), 3),
            max(1, ranked.shape[-1] // 12),
        )
        ranked = torch.where((best == b * side**2 + true)[None, :, None, None, None], green, ranked)
        heat = frames.to_uint8(scores[b].view(1, 1, side, side)).expand(1, 3, -1, -1)
        heat = _enlarged(heat, 8)
        heat = frames.outline(
            heat, true.view(1, 1) // side * 8, true.view(1, 1) % side * 8, 8, frames.GREEN
        )
        marked = self._framed(
            view.image[b : b + 1], true[None], frames.GREEN, context[None], frames.YELLOW
        )
        return {
            "context (yellow) and target (green)": marked[0],
            "true patch": self.shown(view)[b, true],
            f"the {_SHOWN} best candidates": patches.assemble(ranked, _SHOWN // 2, 4, _GAP_GRAY)[0],
            "similarity, brighter = more": heat[0],
        }

    def plots(self, images: Tensor, index: Tensor, generator: torch.Generator) -> dict[str, Chart]:
        """Training: how far contexts see. Evaluation: accuracy by direction and offset."""
        if self.training:
            return {"reach of contexts": self._reach(images[:2], index[:2], generator)}
        right: dict[tuple[Direction, int], list[Tensor]] = {}
        parts = -(-len(images) // 64)
        for some, places in zip(
            torch.tensor_split(images, parts), torch.tensor_split(index, parts), strict=True
        ):
            for key, one in self._search(self.view(some, places, generator)).items():
                right.setdefault(key, []).append(one.rank == 0)
        shares = [
            [float(torch.cat(right[d, k]).float().mean()) for k in self.offsets]
            for d in self.directions
        ]
        values, offsets = (
            100 * torch.tensor(shares, dtype=torch.float64),
            [str(k) for k in self.offsets],
        )
        return {
            "accuracy in percent": Matrix(
                values, self.directions, offsets, "direction", "offset in rows"
            )
        }

    def _reach(self, images: Tensor, index: Tensor, generator: torch.Generator) -> Lines:
        """Last pixel row that contexts of each row depend on, the furthest of all directions, and
        the legal limit.
        """
        image = self.view(images, index, generator).image
        contexts = range(self.grid.count - self.grid.least_offset)
        last = []
        for i in contexts:
            seen = [
                grids.orient(self._influence(image, d, i, self._middle()[1]), d)
                for d in self.directions
            ]
            rows = torch.stack([one.amax(dim=(0, 2)) for one in seen]).amax(dim=0)
            last.append(float(rows.nonzero().max()) if rows.any() else -1.0)
        limit = [float((i + self.grid.least_offset) * self.grid.stride) for i in contexts]
        drawn = {
            "last pixel row a context depends on": last,
            "first pixel row of its nearest target": limit,
        }
        return Lines(
            [float(i) for i in contexts], drawn, "row of the context", "pixel row, in the direction"
        )

    def _influence(self, image: Tensor, direction: Direction, row: int, column: int) -> Tensor:
        """|d c[row, column] / d pixel| float ``[B, H, H]`` of uint8 images, all contexts of the
        batch summed.
        """
        # A copy, because batch norm would count these images.
        encoder, predictor = copy.deepcopy(self.encoder), self.predictors[direction]
        assert isinstance(predictor, Predictor)
        with torch.enable_grad():
            x = (image.float() / 255).requires_grad_()
            shown = self._normalized(grids.cut(x, self.grid)).flatten(0, 1)
            codes = (
                encoder(shown)
                .view(len(x), self.grid.count, self.grid.count, -1)
                .permute(0, 3, 1, 2)
            )
            context = predictor.context(grids.orient(codes, direction))[:, :, row, column]
            (gradient,) = torch.autograd.grad(context.sum(), x)
        return gradient.abs().sum(dim=1)

    def _middle(self) -> tuple[int, int]:
        """Row and column of a context with rows above it and a target below it."""
        return (self.grid.count - self.grid.least_offset) // 2, self.grid.count // 2

    def _framed(self, image: Tensor, *cells_and_colors: Tensor) -> Tensor:
        """Images uint8 ``[B, 3, H, H]`` enlarged, with thin frames: cells int64 ``[n]``, their
        color, and so on.
        """
        times = max(1, _DRAWN // image.shape[-1])
        drawn = _enlarged(image, times)
        step = self.grid.stride * times
        for cells, color in zip(cells_and_colors[::2], cells_and_colors[1::2], strict=True):
            at = cells.to(image.device).expand(len(image), -1)
            top, left = at // self.grid.count * step, at % self.grid.count * step
            drawn = frames.outline(drawn, top, left, self.grid.patch * times, color)
        return drawn


def _lit(image: Tensor, seen: Tensor) -> Tensor:
    """Images uint8 ``[B, 3, H, H]``, enlarged to half of a drawn one, gray where not seen, bool
    ``[B, H, H]``.
    """
    shown = torch.where(seen[:, None], image, (image * 0.25).to(torch.uint8) + 90)
    return _enlarged(shown, max(1, _DRAWN // 2 // image.shape[-1]))


def _enlarged(images: Tensor, times: int) -> Tensor:
    """Repeat the pixels of ``[..., h, w]``."""
    return images.repeat_interleave(times, dim=-2).repeat_interleave(times, dim=-1)
