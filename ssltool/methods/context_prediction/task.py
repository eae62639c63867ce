"""Context prediction: classify the relative position of two neighboring patches.

C. Doersch, A. Gupta, A. A. Efros, "Unsupervised Visual Representation Learning by Context
Prediction", ICCV 2015.

Two neighboring patches are cut from an image, with a gap and jitter between them. An encoder with
shared weights sees each patch alone, and a head classifies the position of the second relative to
the first, 8 ways. Shortcuts are closed: lines that continue from patch to patch (gap and jitter),
chromatic aberration (all channels but one replaced by noise, or the green-magenta axis projected
away), sharpness (some patches are downsampled and upsampled), and the position in the image (the
first patch lies anywhere).

Letters: B images of side S, N patches of p pixels and M ordered pairs per image, h side of a patch
as the encoder's input, D encoder width. Positions are numbered in reading order around the first
patch, 0..7 in tensors, 1..8 in figures::

    1 2 3
    4 . 5
    6 7 8
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.sizes import map_shape
from ssltool.methods.base import EncoderInput, Loss, Method, Metric
from ssltool.methods.context_prediction import audit, figures
from ssltool.methods.context_prediction.geometry import Geometry
from ssltool.methods.context_prediction.guards import (
    downsampled,
    downsampled_side,
    downsampling_matrices,
    replace_other_channels,
)
from ssltool.methods.context_prediction.network import Head
from ssltool.methods.context_prediction.options import ContextPredictionOptions
from ssltool.methods.context_prediction.pairs import (
    label_shares,
    leak_of,
    position_leak,
    sample,
    sample_grids,
    sample_pairs,
)
from ssltool.methods.options import DataInfo
from ssltool.ops import patches
from ssltool.ops.chunked import chunked
from ssltool.ops.color import project_color, to_gray
from ssltool.ops.crops import random_boxes, resized_crop
from ssltool.ops.per_image_rng import PerImageRNG
from ssltool.ops.select import mirror

_SMALLEST_DOWNSAMPLED = 24  # px: smaller patches would lose too much
_EVAL_PAIRS = 4  # pairs per image in evaluation
_PAIRS_PER_PATCH = 3
_SIMULATED = 4000  # images of 4:3 that the position leak of resized images is measured on


class ContextPredictionView(NamedTuple):
    """Patches of a batch of images and pairs of them.

    Attributes:
        patches: float ``[B, N, C, h, h]``, the encoder's input (C channels).
        first: int64 ``[B, M]`` in 0..N-1, first patch of each pair.
        second: int64 ``[B, M]`` in 0..N-1, second patch.
        target: int64 ``[B, M]`` in 0..7, position of the second relative to the first.
        raw: uint8 ``[B, N, 3, p, p]``, or all channels of the images, the patches as cut, for
            figures.
        image: uint8 ``[B, 3, H, H]``, the image that was cut, flipped or gray if so sampled.
        corner: int64 ``[B, N, 2]``, row and column of each patch's first pixel in it; ``[B, N, 4]``
            with height and width where the image was stretched.
    """

    patches: Tensor
    first: Tensor
    second: Tensor
    target: Tensor
    raw: Tensor
    image: Tensor
    corner: Tensor


class ContextPrediction(Method[ContextPredictionOptions, ContextPredictionView]):
    """Samples pairs of patches, guards against shortcuts, and classifies the relative position."""

    Options = ContextPredictionOptions
    figures = figures
    audit = audit

    def __init__(self, options: ContextPredictionOptions, encoder: Encoder, data: DataInfo) -> None:
        super().__init__(options, encoder, data)
        self.options = options
        self.sizes = Geometry(options.patch, options.gap, options.jitter)
        self.patch_input = options.patch_input
        self.color_guard = "none" if data.gray or encoder.in_channels == 1 else options.color_guard
        self._side = data.image_size
        self._downsamples = options.downsample > 0 and options.patch >= _SMALLEST_DOWNSAMPLED
        self._matrices: Tensor
        matrices = downsampling_matrices(options.patch) if self._downsamples else torch.empty(0)
        self.register_buffer("_matrices", matrices, persistent=False)
        channels, side = map_shape(encoder, options.patch_input)
        width = channels * side**2 if options.spatial_features else encoder.width
        self.head = Head(width, options.fc6, options.fc7)

    @classmethod
    def inputs(cls, options: ContextPredictionOptions, data: DataInfo) -> EncoderInput:
        """One patch. Whole images are enlarged for features as the patches were, so that objects
        keep the scale of pretraining.
        """
        return EncoderInput(
            train_size=options.patch_input,
            feature_size=round(data.image_size * options.patch_input / options.patch),
            random_crop=True,
            standardize="channels" if options.color_guard == "drop" else "image",
            typed="--patch-input {}".format,
        )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Chance levels of a constant prediction: in evaluation loss ln 8 and accuracies 1/8; in
        training straight positions of a grid are more frequent than diagonal ones. Guesses are
        consistent in 1/8 of the pairs, and one constant answer never, as 7 - y is not y.
        """
        shares = self._prior[1] if self.training else [1 / 8] * 8
        return (
            Metric("loss", "", -sum(share * math.log(share) for share in shares)),
            Metric("accuracy", "fraction", max(shares)),
            Metric("both_orders", "fraction", 1 / 8, eval_only=True),
            Metric("swap_consistency", "fraction", eval_only=True),
        )

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Sizes in pixels, and the accuracy of predicting from the position in the image."""
        return {"geometry": self.sizes._asdict(), "position_leak": self._prior[0]}

    @cached_property
    def _prior(self) -> tuple[float, list[float]]:
        """The position leak in training, and the share of each relative position."""
        sampler, options = self.options.sampler, self.options
        if not options.pixels_min:
            leak = position_leak(sampler, self._side, self.sizes)
            return round(leak, 4), label_shares(sampler, self._side, self.sizes)
        rng = PerImageRNG(torch.arange(_SIMULATED), torch.Generator().manual_seed(0))
        height, width = self._resized(rng, torch.full((_SIMULATED,), 4 / 3))
        count = options.pairs or _PAIRS_PER_PATCH * options.patches
        pairs = sample_grids(rng, height, width, self.sizes, options.patches, count)
        shares = torch.bincount(pairs.target.flatten(), minlength=8) / pairs.target.numel()
        leak = leak_of(pairs, torch.stack([height, width], dim=-1), self.sizes)
        return round(leak, 4), shares.tolist()

    def prepare(self, batches: Iterable[tuple[Tensor, Tensor]]) -> str:
        """What the second patch's position in the image tells about the relative position."""
        del batches
        leak, shares = self._prior
        return (
            f"position leak: where the second patch lies in the image predicts the relative "
            f"position of {leak:.1%} of the pairs (the most frequent position: {max(shares):.1%})"
        )

    def view(
        self,
        images: Tensor,
        index: Tensor,
        generator: torch.Generator,
        aspects: Tensor | None = None,
    ) -> ContextPredictionView:
        """Cut patches and sample pairs of them; see `Method.view`.

        In evaluation pairs come from the balanced ``pair`` sampler, without jitter or downsampling.
        The color guard stays: without it the input distribution would change.
        """
        rng, side, options = PerImageRNG(index, generator), self._side, self.options
        # Sampled in training only.
        mirrored = boxes = gray = torch.empty(len(index), 0, device=images.device)
        if not self.training:
            pairs = sample_pairs(rng, side, self.sizes._replace(jitter=0), _EVAL_PAIRS)
            return chunked(8, self._cut, images, rng, mirrored, boxes, gray, *pairs)
        mirrored = rng.bernoulli(options.flip)
        if options.grayscale:
            gray = rng.bernoulli(options.grayscale)
        if options.pixels_min and options.pixels_max:
            height, width = self._resized(rng, aspects)
            count = options.pairs or _PAIRS_PER_PATCH * options.patches
            pairs = sample_grids(rng, height, width, self.sizes, options.patches, count)
            extent = torch.stack([height, width], dim=-1)
            return chunked(2, self._cut_resized, images, rng, mirrored, gray, extent, *pairs)
        area = (options.crop_min, 1.0)
        boxes = random_boxes(rng, images.shape[-1], area, ratio=(1.0, 1.0), aspects=aspects)
        pairs = sample(options.sampler, rng, side, self.sizes, options.pairs)
        return chunked(8, self._cut, images, rng, mirrored, boxes, gray, *pairs)

    def _resized(self, rng: PerImageRNG, aspects: Tensor | None) -> tuple[Tensor, Tensor]:
        """Sample the size in pixels to which each image is resized, int64 ``[B]`` each: a uniform
        number of pixels, more where two patches would not fit.
        """
        low, high = self.options.pixels_min or 0, self.options.pixels_max or 0
        aspect = torch.ones(rng.count) if aspects is None else aspects
        aspect = aspect.to(rng.device, torch.float32)
        least = self.sizes.span(2)
        height = ((low + rng.uniform() * (high - low)) / aspect).sqrt()
        height = height.clamp_min(least).maximum(least / aspect)
        return height.round().long(), (height * aspect).round().long().clamp_min(least)

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
        """Build the view from what was sampled for it; sides and noise are sampled here."""
        if self.training:
            images = resized_crop(images, boxes, self._side, mirrored)
            if self.options.grayscale:
                images = to_gray(images, gray)
        raw = patches.cut(images, corner[..., 0], corner[..., 1], self.sizes.patch)
        inputs = self.network_input(rng, raw)
        return ContextPredictionView(inputs, first, second, target, raw, images, corner)

    def _cut_resized(
        self,
        images: Tensor,
        rng: PerImageRNG,
        mirrored: Tensor,
        gray: Tensor,
        extent: Tensor,
        corner: Tensor,
        first: Tensor,
        second: Tensor,
        target: Tensor,
    ) -> ContextPredictionView:
        """As `_cut`, from images that stand for ones of ``extent``, int64 ``[B, 2]``: each patch is
        resampled from the square that its image was stretched to.
        """
        if self.options.flip:
            images = mirror(images, mirrored)
        if self.options.grayscale:
            images = to_gray(images, gray)
        scale = images.shape[-1] / extent[:, None].to(torch.float32)  # [B, 1, 2]
        boxes = torch.cat([corner * scale, (self.sizes.patch * scale).expand(corner.shape)], dim=-1)
        raw = patches.cut_resampled(images, boxes, self.sizes.patch).round().to(torch.uint8)
        return ContextPredictionView(
            self.network_input(rng, raw), first, second, target, raw, images, boxes.round().long()
        )

    def network_input(self, rng: PerImageRNG, raw: Tensor) -> Tensor:
        """Apply the guards to patches uint8 or float ``[B, N, 3, p, p]`` in 0..255, standardize and
        resize them: float ``[B, N, C, h, h]``, the encoder's input.
        """
        return patches.resize(self._guarded(rng, raw), self.patch_input)

    def _guarded(self, rng: PerImageRNG, raw: Tensor) -> Tensor:
        """Downsample some of the patches ``[B, N, 3, p, p]``, apply the color guard and standardize
        each: float ``[B, N, C, p, p]``.
        """
        count, side = raw.shape[1], None
        if self.training and self._downsamples:
            side = downsampled_side(rng.uniform(count), self.sizes.patch)
            chosen = rng.bernoulli(self.options.downsample, count)
            side = torch.where(chosen, side, self.sizes.patch)
        if self.color_guard == "drop":
            kept = rng.integers(raw.shape[2], count)
            images, numbers = (torch.arange(n, device=raw.device) for n in raw.shape[:2])
            planes = raw[images[:, None], numbers, kept][:, :, None]  # the others need no work
            planes = patches.standardize(self._downsampled(planes, side), level=1.0)
            return replace_other_channels(rng, planes, kept, raw.shape[2])
        inputs = raw
        if self.encoder.in_channels == 1:
            inputs = raw.to(torch.float32).mean(dim=2, keepdim=True)
        inputs = self._downsampled(inputs, side)
        if self.color_guard == "project":
            flat = inputs.to(torch.float32).flatten(0, 1)
            every = torch.ones(len(flat), dtype=torch.bool, device=flat.device)
            inputs = project_color(flat, every).view_as(inputs)
        return patches.standardize(inputs, level=1.0, jointly=True)

    def _downsampled(self, inputs: Tensor, side: Tensor | None) -> Tensor:
        if side is None:
            return inputs
        return downsampled(inputs.to(torch.float32), side, self._matrices)

    def forward(self, view: ContextPredictionView) -> Loss:
        """8-way cross-entropy over all pairs; in evaluation also with the patches exchanged."""
        vectors = self.vectors(view)
        logits = self.head(vectors, view.first, view.second)
        target = view.target.flatten()
        loss = F.cross_entropy(logits, target)
        predicted = logits.detach().argmax(dim=1)
        metrics = {"accuracy": (predicted == target).float().mean()}
        if not self.training:
            # Exchanging the patches turns position y into 7 - y.
            swapped = self.head(vectors, view.second, view.first).detach().flip(1)
            both = (logits.detach().softmax(dim=1) + swapped.softmax(dim=1)).argmax(dim=1)
            metrics["both_orders"] = (both == target).float().mean()
            metrics["swap_consistency"] = (swapped.argmax(dim=1) == predicted).float().mean()
        return Loss(loss, metrics)

    def vectors(self, view: ContextPredictionView) -> Tensor:
        """The patches' vectors ``[B, N, D]``: all patches are one batch for the encoder and its
        batch norm.
        """
        flat = view.patches.flatten(0, 1)
        vectors: Tensor = (
            self.encoder.map(flat).flatten(1)
            if self.options.spatial_features
            else self.encoder(flat)
        )
        return vectors.view(*view.patches.shape[:2], -1)
