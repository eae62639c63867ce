"""Context prediction: name which of its eight neighbors a second patch is.

C. Doersch, A. Gupta, A. A. Efros, "Unsupervised Visual Representation Learning by Context
Prediction", ICCV 2015.

Two patches are taken from neighboring places of an image, with a gap and jitter between them. A
network with shared weights sees each patch alone, joins the two vectors late and names the place of
the second relative to the first, 8 ways. What would give the answer away without knowing objects is
closed: lines that run on from patch to patch (gap and jitter), chromatic aberration (all channels
but one replaced by noise, or the green-magenta axis projected away), sharpness (some patches are
shrunk and enlarged again), and the place in the image (the first patch lies anywhere).

Letters: B images of side S, N patches of p pixels and M ordered pairs per image, h side of a patch
as the encoder sees it, D encoder width. Places are numbered in reading order round the first patch,
0..7 in tensors, 1..8 in print::

    1 2 3
    4 . 5
    6 7 8
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.sizes import map_shape
from ssltool.errors import UsageError
from ssltool.methods.base import Chart, DataInfo, Loss, Matrix, Method, MethodOptions, Predictions
from ssltool.methods.context_prediction.pairs import (
    SMALLEST_PATCH,
    Geometry,
    Sampler,
    geometry,
    geometry_of,
    largest_patch,
    position_leak,
    sample,
    sample_pairs,
)
from ssltool.ops import patches
from ssltool.ops.chunked import chunked
from ssltool.ops.color import among_noise, project_color, to_gray
from ssltool.ops.crops import random_boxes, resized_crop
from ssltool.ops.per_image_rng import PerImageRNG
from ssltool.plotting import frames

_NAMES = [str(place + 1) for place in range(8)]
_SHRINKABLE = 24  # px: shrinking smaller patches would leave nothing of them
_DRAWN = 192  # px, about the side of a drawn image
_SCORED_PAIRS = 4  # pairs per image in evaluation


class ContextPredictionOptions(MethodOptions):
    """Options of ``ssltool pretrain context-prediction``."""

    sampler: Sampler = Field(
        "grid",
        description="Where patches come from: grid = all neighbors in a grid of 3x3 or more at a "
        "random place; "
        "pair = one pair anywhere; all8, center = a patch and all its neighbors (center gives "
        "the place away)",
    )
    geometry: Literal["paper", "fit3"] | None = Field(
        None,
        description="Patch size: the paper's 96 px in 548, or the largest of which three fit; "
        "automatic: paper from 64 px images, else fit3",
    )
    patch: int | None = Field(
        None, ge=SMALLEST_PATCH, description="Side of a patch in px; automatic: by --geometry"
    )
    gap: int | None = Field(
        None, ge=0, description="Pixels between neighbors; automatic: half a patch"
    )
    jitter: int | None = Field(
        None,
        ge=0,
        description="Largest shift of each patch along each axis in px; automatic: 7/96 of a patch",
    )
    patch_input: int | None = Field(
        None,
        ge=SMALLEST_PATCH,
        le=512,
        description="Side in px to which patches are resized; automatic: 64, or the patch itself "
        "up to 64 px images",
    )
    color_guard: Literal["drop", "project", "none"] = Field(
        "drop",
        description="Against chromatic aberration: drop = keep one random channel of each patch, "
        "noise in the others; "
        "project = remove the green-magenta axis (color images only)",
    )
    shrink: float = Field(
        0.33,
        ge=0,
        le=1,
        description="Probability that a patch is shrunk and enlarged again (patches from 24 px)",
    )
    grayscale: float = Field(0.0, ge=0, le=1, description="Probability that an image is made gray")
    crop_min: float = Field(
        0.33,
        gt=0,
        le=1,
        description="Least share of the image that is enlarged to its size before it is cut: the "
        "paper's random "
        "resizing to 150,000 to 450,000 pixels; 1 = never",
    )
    flip: float = Field(
        0.0, ge=0, le=1, description="Probability that an image is mirrored before it is cut"
    )
    pairs: int | None = Field(
        None,
        ge=1,
        description="Pairs per image and step (grid: a multiple of 8); automatic: 1 for pair, "
        "all balanced for grid",
    )
    fc6: int = Field(
        512, ge=1, description="Width of the layer on each patch's vector (paper 4096)"
    )
    fc7: int = Field(
        512, ge=1, description="Width of the two layers on the joined vectors (paper 4096)"
    )
    spatial_features: bool = Field(
        False,
        description="Give fc6 the flattened last map instead of its average, as the paper does",
    )

    def resolved(self, info: DataInfo) -> Self:
        """Decide the geometry for these images; refuse patches that do not fit."""
        side = info.image_size
        rule = self.geometry or ("paper" if side >= 64 else "fit3")
        known = geometry(side, rule)
        patch = self.patch or known.patch
        scaled = geometry_of(patch)
        gap = scaled.gap if self.gap is None else self.gap
        jitter = scaled.jitter if self.jitter is None else self.jitter
        chosen = Geometry(patch, gap, jitter)
        least = 3 if self.sampler in ("all8", "center") else 2
        if chosen.span(least) > side:
            raise UsageError(
                f"{least} patches of {patch} px with gaps of {gap} px and jitter {jitter} px "
                f"need {chosen.span(least)} "
                f"px but the images have {side}; type --patch {largest_patch(side, least)}, or a "
                "larger --image-size"
            )
        if self.sampler == "grid" and self.pairs and self.pairs % 8:
            raise UsageError(
                f"--pairs {self.pairs} cannot be shared by eight places; type a multiple of 8"
            )
        return self.model_copy(
            update={
                "geometry": rule,
                "patch": patch,
                "gap": gap,
                "jitter": jitter,
                "patch_input": self.patch_input or (patch if side <= 64 else 64),
            }
        )


class Head(nn.Module):
    """The late layers: fc6 on each patch's vector, fc7 to fc9 on two of them joined (figure 3).

    Batch norm has no scale and shift: a learned scale lets a layer silence itself, and the network
    then stays at the saddle point where it always answers uniformly (section 3.2).
    """

    def __init__(self, width: int, fc6: int, fc7: int) -> None:
        super().__init__()
        self.fc6 = nn.Sequential(
            nn.Linear(width, fc6), nn.BatchNorm1d(fc6, affine=False), nn.ReLU()
        )
        self.fc7 = nn.Sequential(
            nn.Linear(2 * fc6, fc7), nn.BatchNorm1d(fc7, affine=False), nn.ReLU()
        )
        self.fc8 = nn.Sequential(nn.Linear(fc7, fc7), nn.ReLU())
        self.fc9 = nn.Linear(fc7, 8)
        # Small last weights: the first loss is ln 8, the loss of knowing nothing.
        nn.init.normal_(self.fc9.weight, std=0.001)
        nn.init.zeros_(self.fc9.bias)

    def forward(self, vectors: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Score the places.

        Args:
            vectors: float ``[B, N, D]``, the patches' vectors.
            first: int64 ``[B, M]``, first patch of each pair.
            second: int64 ``[B, M]``, second patch.

        Returns:
            Logits ``[B*M, 8]``.
        """
        embedded = self.fc6(vectors.flatten(0, 1)).view(
            *vectors.shape[:2], -1
        )  # [B, N, fc6], each patch once
        images = torch.arange(len(embedded), device=embedded.device)[:, None]
        joined = torch.cat(
            [embedded[images, first], embedded[images, second]], dim=-1
        )  # [B, M, 2*fc6]
        logits: Tensor = self.fc9(self.fc8(self.fc7(joined.flatten(0, 1))))
        return logits


class ContextPredictionView(NamedTuple):
    """A batch of pairs.

    Attributes:
        patches: float ``[B, N, C, h, h]`` as the encoder (C channels) sees them.
        first: int64 ``[B, M]`` in 0..N-1.
        second: int64 ``[B, M]`` in 0..N-1.
        target: int64 ``[B, M]`` in 0..7.
        raw: uint8 ``[B, N, 3, p, p]``, the patches as cut, for images.
        image: uint8 ``[B, 3, S, S]``, the image as it was cut: mirrored or gray if that was drawn.
        corner: int64 ``[B, N, 2]``, row and column of each patch's first pixel in it.
    """

    patches: Tensor
    first: Tensor
    second: Tensor
    target: Tensor
    raw: Tensor
    image: Tensor
    corner: Tensor


class ContextPrediction(Method[ContextPredictionOptions, ContextPredictionView]):
    """The pairs, their guards and the head that names the place."""

    Options = ContextPredictionOptions
    crops = True
    presets = {
        "paper": {
            "backbone": "contextnet",
            "image_size": 548,
            "patch_input": 96,
            "fc6": 4096,
            "fc7": 4096,
            "spatial_features": True,
            "optimizer": "sgd",
            "lr": 0.023,
            "momentum": 0.0,
            "weight_decay": 0.0,
            "batch_size": 57,
            "steps": 1_000_000,
            "schedule": "constant",
            "warmup": 0,
        },
        "r50": {
            "backbone": "resnet50",
            "image_size": 255,
            "sampler": "center",
            "patch": 64,
            "gap": 21,
            "jitter": 10,
            "color_guard": "none",
            "shrink": 0.0,
            "grayscale": 0.66,
            "fc6": 1000,
            "fc7": 4096,
            "optimizer": "sgd",
            "lr": 0.1,
            "weight_decay": 1e-4,
            "batch_size": 256,
            "epochs": 35,
            "warmup": 5,
        },
        "small": {"backbone": "resnet10_w32", "flip": 0.5, "pairs": 8},
    }

    def __init__(self, options: ContextPredictionOptions, encoder: Encoder, info: DataInfo) -> None:
        super().__init__(options, encoder, info)
        assert options.patch and options.gap is not None and options.jitter is not None, "resolved"
        assert options.patch_input, "resolved"
        self.options = options
        self.sizes = Geometry(options.patch, options.gap, options.jitter)
        self.patch_input = options.patch_input
        self.color_guard = "none" if info.gray or encoder.in_channels == 1 else options.color_guard
        self._side = info.image_size
        self.shrinks = options.shrink > 0 and options.patch >= _SHRINKABLE
        self.shrinkers: Tensor
        matrices = patches.shrinkers(options.patch) if self.shrinks else torch.empty(0)
        self.register_buffer("shrinkers", matrices, persistent=False)
        channels, side = map_shape(encoder, options.patch_input)
        width = channels * side**2 if options.spatial_features else encoder.width
        self.head = Head(width, options.fc6, options.fc7)

    @classmethod
    def network_size(cls, options: ContextPredictionOptions, info: DataInfo) -> int:
        """The side of one patch."""
        del info
        assert options.patch_input, "resolved"
        return options.patch_input

    @classmethod
    def feature_size(cls, options: ContextPredictionOptions, info: DataInfo) -> int:
        """Whole images are enlarged as the patches were, so that objects keep the scale of
        pretraining.
        """
        assert options.patch and options.patch_input, "resolved"
        return round(info.image_size * options.patch_input / options.patch)

    @property
    def chance(self) -> dict[str, float]:
        """The loss ln 8 and accuracies of 1/8."""
        return {
            "loss": math.log(8),
            "accuracy": 1 / 8,
            "both_orders": 1 / 8,
            "swap_consistency": 1 / 8,
        }

    @property
    def facts(self) -> dict[str, Any]:
        """Sizes in pixels, and the accuracy of knowing nothing but where the second patch lies in
        the image.
        """
        leak = position_leak(self.options.sampler, self._side, self.sizes)
        return {"geometry": self.sizes._asdict(), "position_leak": round(leak, 4)}

    def view(
        self, images: Tensor, index: Tensor, generator: torch.Generator
    ) -> ContextPredictionView:
        """Cut patches and draw the pairs to be named; see `Method.view`.

        In evaluation pairs are drawn by the balanced `pair` sampler and patches are neither
        jittered nor shrunk. The
        color guard stays: it makes the images that the network knows.
        """
        rng, side = PerImageRNG(index, generator), self._side
        mirrored = boxes = gray = torch.empty(
            len(index), 0, device=images.device
        )  # only drawn in training
        if self.training:
            mirrored = rng.bernoulli(self.options.flip)
            boxes = random_boxes(
                rng, images.shape[-1], (self.options.crop_min, 1.0), ratio=(1.0, 1.0)
            )
            if self.options.grayscale:
                gray = rng.bernoulli(self.options.grayscale)
            drawn = sample(self.options.sampler, rng, side, self.sizes, self.options.pairs)
        else:
            drawn = sample_pairs(rng, side, self.sizes._replace(jitter=0), _SCORED_PAIRS)
        return chunked(8, self._cut, images, rng, mirrored, boxes, gray, *drawn)

    def _cut(
        self,
        images: Tensor,
        rng: PerImageRNG,
        mirrored: Tensor,
        boxes: Tensor,
        gray: Tensor,
        corner: Tensor,
        first: Tensor,
        second: Tensor,
        target: Tensor,
    ) -> ContextPredictionView:
        """The view from what was drawn for it; sides of shrunk patches and noise are drawn here."""
        if self.training:
            images = resized_crop(images, boxes, self._side, mirrored)
            if self.options.grayscale:
                images = to_gray(images, gray)
        raw = patches.cut(images, corner[..., 0], corner[..., 1], self.sizes.patch)
        seen = patches.resize(self._guarded(rng, raw), self.patch_input)
        return ContextPredictionView(seen, first, second, target, raw, images, corner)

    def _guarded(self, rng: PerImageRNG, raw: Tensor) -> Tensor:
        """Shrink some of the patches ``[B, N, 3, p, p]``, apply the color guard and standardize
        each: float.
        """
        count, side = raw.shape[1], None
        if self.training and self.shrinks:
            side = patches.shrunk_side(rng.uniform(count), self.sizes.patch)
            side = torch.where(rng.bernoulli(self.options.shrink, count), side, self.sizes.patch)
        if self.color_guard == "drop":
            kept = rng.integers(3, count)
            images, places = (torch.arange(n, device=raw.device) for n in raw.shape[:2])
            planes = raw[images[:, None], places, kept][:, :, None]  # the others need no work
            return among_noise(
                rng, patches.standardize(self._shrunk(planes, side), level=1.0), kept
            )
        seen = (
            raw.to(torch.float32).mean(dim=2, keepdim=True)
            if self.encoder.in_channels == 1
            else raw
        )
        seen = self._shrunk(seen, side)
        if self.color_guard == "project":
            flat = seen.to(torch.float32).flatten(0, 1)
            seen = project_color(
                flat, torch.ones(len(flat), dtype=torch.bool, device=flat.device)
            ).view_as(seen)
        return patches.standardize(seen, level=1.0, jointly=True)

    def _shrunk(self, seen: Tensor, side: Tensor | None) -> Tensor:
        return (
            seen if side is None else patches.shrunk(seen.to(torch.float32), side, self.shrinkers)
        )

    def forward(self, view: ContextPredictionView) -> Loss:
        """8-way cross-entropy over all pairs; in evaluation also with the pair asked both ways."""
        vectors = self.vectors(view)
        logits = self.head(vectors, view.first, view.second).float()
        target = view.target.flatten()
        loss = F.cross_entropy(logits, target)
        guess = logits.detach().argmax(dim=1)
        numbers = {"accuracy": (guess == target).float().mean()}
        if not self.training:
            # Exchanging the patches turns place y into 7 - y.
            swapped = self.head(vectors, view.second, view.first).float().detach().flip(1)
            both = (logits.detach().softmax(dim=1) + swapped.softmax(dim=1)).argmax(dim=1)
            numbers["both_orders"] = (both == target).float().mean()
            numbers["swap_consistency"] = (swapped.argmax(dim=1) == guess).float().mean()
        return Loss(loss, numbers)

    def vectors(self, view: ContextPredictionView) -> Tensor:
        """The patches' vectors ``[B, N, D]``: all patches are one batch for the encoder and its
        batch norm.
        """
        flat = view.patches.flatten(0, 1)
        found = (
            self.encoder.map(flat).flatten(1)
            if self.options.spatial_features
            else self.encoder(flat)
        )
        return found.view(*view.patches.shape[:2], -1)

    def draw_task(
        self, images: Tensor, index: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """All patches on the image, one pair of them, and that pair as the network sees it."""
        view = self.view(images, index, generator)
        # One pair of each image, spread over the places so that a sheet shows several of them.
        asked = (
            torch.arange(len(images), device=images.device)
            * 3
            % 8
            * (view.target.shape[1] // 8)
            % view.target.shape[1]
        )
        pair = self._pair(view, asked)
        marked = self._marked(view, pair, others=True)
        seen = frames.to_uint8(_taken(view.patches, pair)).expand(-1, -1, 3, -1, -1)
        place = view.target.gather(1, asked[:, None])[:, 0]
        return {
            "first blue, second green": marked,
            "the second in its place": self._neighborhood(
                _taken(view.raw, pair), place, place, None
            ),
            "as the network sees them": patches.assemble(seen, 2, gap=2, fill=255),
        }

    @torch.no_grad()
    def draw_predictions(
        self, images: Tensor, index: Tensor, generator: torch.Generator
    ) -> Predictions:
        """The pair on the image, the eight places shaded by their probability, the second patch
        where it was put.
        """
        view = self.view(images, index, generator)
        logits = self.head(self.vectors(view), view.first, view.second).float()
        belief = logits.softmax(dim=1).view(*view.target.shape, 8)[
            :, 0
        ]  # the first pair of each image
        place, guess = view.target[:, 0], belief.argmax(dim=1)
        pair = self._pair(view, torch.zeros_like(place))
        marked = self._marked(view, pair, others=False)
        raw = _taken(view.raw, pair)
        columns = {
            "first blue, second green": marked,
            "answer: brighter = likelier": self._neighborhood(raw, guess, place, belief),
            "truth": self._neighborhood(raw, place, place, None),
        }
        captions = [
            f"place {t + 1}; answer {g + 1}, {b[g]:.0%} sure"
            for t, g, b in zip(place.tolist(), guess.tolist(), belief.tolist(), strict=True)
        ]
        return Predictions(columns, captions)

    def plots(self, images: Tensor, index: Tensor, generator: torch.Generator) -> dict[str, Chart]:
        """In evaluation: the confusion of the eight places, rows summing to 1."""
        if self.training:
            return {}
        counts = torch.zeros(8, 8)
        for part, places in zip(torch.split(images, 64), torch.split(index, 64), strict=True):
            view = self.view(part, places, generator)
            guess = self.head(self.vectors(view), view.first, view.second).argmax(dim=1)
            pairs = (view.target.flatten().cpu(), guess.cpu())
            counts.index_put_(pairs, torch.ones(()), accumulate=True)
        shares = counts / counts.sum(dim=1, keepdim=True).clamp_min(1)
        return {
            "confusion": Matrix(shares, _NAMES, _NAMES, "true place of the second patch", "answer")
        }

    def _pair(self, view: ContextPredictionView, asked: Tensor) -> Tensor:
        """First and second patch ``[B, 2]`` of pair ``asked`` ``[B]``."""
        return torch.cat(
            [part.gather(1, asked[:, None]) for part in (view.first, view.second)], dim=1
        )

    def _marked(self, view: ContextPredictionView, pair: Tensor, others: bool) -> Tensor:
        """The images with the first patch of the pair ``[B, 2]`` outlined in blue, the second in
        green.
        """
        times = max(1, _DRAWN // view.image.shape[-1])
        marked, corner = frames.enlarged(view.image, times), view.corner * times
        first, second = (corner.gather(1, pair[:, i, None, None].expand(-1, -1, 2)) for i in (0, 1))
        drawn = [(corner, frames.YELLOW)] if others else []
        for place, color in [*drawn, (first, frames.BLUE), (second, frames.GREEN)]:
            size = self.sizes.patch * times
            marked = frames.outline(marked, place[..., 0], place[..., 1], size, color, width=2)
        return marked

    def _neighborhood(
        self, pair: Tensor, shown: Tensor, true: Tensor, belief: Tensor | None
    ) -> Tensor:
        """A 3x3 field with the first patch in the middle and the second at place ``shown``, as one
        image each.

        Args:
            pair: uint8 ``[B, 2, 3, p, p]``.
            shown: int64 ``[B]``, where the second patch is put.
            true: int64 ``[B]``, where it belongs; the frame is green there and red elsewhere.
            belief: float ``[B, 8]``, gray level of the empty places; all dark if None.
        """
        pair = frames.enlarged(pair, max(1, _DRAWN // 3 // pair.shape[-1]))
        count, size = len(pair), pair.shape[-1]
        rows = torch.arange(count, device=pair.device)
        levels = torch.zeros(count, 8, device=pair.device) if belief is None else belief.sqrt()
        cells = (40 + 190 * levels).to(torch.uint8)[
            :, [0, 1, 2, 3, 3, 4, 5, 6, 7]
        ]  # the middle is painted over
        field = cells[:, :, None, None, None].expand(-1, -1, 3, size, size).clone()
        field[:, 4] = pair[:, 0]
        cell = shown + (shown >= 4)  # places round the middle -> cells of the field
        right = (shown == true)[:, None, None]
        color = torch.where(right, frames.GREEN.to(pair.device), frames.RED.to(pair.device))
        framed = frames.border(
            pair[:, 1:], color.expand(-1, 1, -1)[:, 0][:, None], width=max(1, size // 16)
        )
        field[rows, cell] = framed[:, 0]
        return patches.assemble(field, 3, gap=max(1, size // 16), fill=255)


def _taken(stack: Tensor, pair: Tensor) -> Tensor:
    """Patches ``pair`` ``[B, 2]`` out of ``[B, N, ...]``."""
    return stack[torch.arange(len(stack), device=stack.device)[:, None], pair]
