"""Context encoders: paint the pixels that were removed from an image.

D. Pathak, P. Krahenbuhl, J. Donahue, T. Darrell, A. A. Efros, "Context Encoders: Feature Learning
by Inpainting", CVPR 2016.

The encoder sees an image with a hole, a decoder paints what is missing, and the error over the hole
is the loss. The paper has two networks, and so have we, as presets of the same parts. The *feature
network* (``--preset paper``, and the default) is any backbone up to its last map, a channel-wise
fully connected layer and a decoder of the whole image; holes are random regions and there is no
adversary, with which it diverged. The *inpainting network* (``--preset inpainting``) is an
encoder-decoder of strided convolutions for a central hole; a band round the hole counts ten times
and a discriminator that sees only the painted part makes the filling sharp.

Letters: B images of side S, C channels, n side of the encoder's last map, t side of the window that
is painted: the central half of the image for a central hole, else all of it. M is 1 where the image
was removed.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ssltool.distributed.collectives import globally_weighted_mean
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.sizes import map_shape
from ssltool.errors import UsageError
from ssltool.methods.base import Chart, DataInfo, Lines, Loss, Method, MethodOptions, Predictions
from ssltool.methods.context_encoder import inpainting as inpaint
from ssltool.methods.context_encoder import masks
from ssltool.methods.context_encoder.networks import (
    ChannelwiseLinear,
    Decoder,
    DecoderKind,
    Discriminator,
)
from ssltool.ops.cached_tensors import cached_tensor
from ssltool.ops.chunked import chunked
from ssltool.ops.color import standardize_colors
from ssltool.ops.crops import random_boxes, resized_crop
from ssltool.ops.per_image_rng import PerImageRNG

_BAND_WEIGHT = 10.0  # of the visible band round a central hole (section 5.1)
_LARGEST_CHANNELWISE = 50_000_000
_SEAM = 12  # px from the border of a hole over which the error is charted


class ContextEncoderOptions(MethodOptions):
    """Options of ``ssltool pretrain context-encoder``."""

    mask: Literal["center", "blocks", "region"] = Field(
        "region",
        description="What is removed: the central half, random rectangles, or random shapes",
    )
    region_shapes: Literal["noise", "blobs", "files"] | None = Field(
        None,
        description="Shapes of --mask region: noise = the released code's pattern, blobs = "
        "outlines like objects', "
        "files = your own; automatic: noise, or files with --mask-files",
    )
    mask_files: Path | None = Field(
        None, description="Folder of mask images, white on black, for --mask region"
    )
    coverage_min: float = Field(
        0.2, gt=0, lt=1, description="Least share of the image that noise removes"
    )
    coverage_max: float = Field(
        0.3, gt=0, lt=1, description="Greatest share of the image that noise removes"
    )
    overlap: int | None = Field(
        None,
        ge=0,
        description="Visible band in px round a central hole that is painted too; automatic: 7 "
        "at 128 px",
    )
    reconstruction: Literal["l2", "l1"] = Field(
        "l2", description="Error that is minimized; the paper saw no difference"
    )
    adversarial: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Weight of the adversarial loss, the rest goes to reconstruction; 0 = no "
        "adversary",
    )
    discriminator_rate: float = Field(
        0.1, gt=0, description="Learning rate of the discriminator, in parts of --lr"
    )
    channelwise: bool | None = Field(
        None,
        description="Channel-wise fully connected layer before the decoder; automatic: for "
        "convolutional backbones "
        "whose last map has 3 to 16 places along a side",
    )
    decoder: DecoderKind = Field(
        "resize",
        description="Steps of the decoder: enlarge and convolve, or the paper's transposed "
        "convolutions",
    )
    decoder_width: int = Field(
        512,
        ge=32,
        description="Most channels of the decoder's first step; each step has half of the one "
        "before",
    )
    crop_min: float = Field(
        0.5, gt=0, le=1, description="Least share of the image's area that a random crop keeps"
    )
    flip: float = Field(0.5, ge=0, le=1, description="Probability that an image is mirrored")

    def resolved(self, info: DataInfo) -> Self:
        """Decide shapes and band for these images."""
        shapes = self.region_shapes or ("files" if self.mask_files else "noise")
        if (shapes == "files") != (self.mask_files is not None):
            raise UsageError(
                "--region-shapes files and --mask-files DIR go together; type both or neither"
            )
        if self.coverage_min > self.coverage_max:
            raise UsageError(
                f"--coverage-min {self.coverage_min} is more than --coverage-max "
                f"{self.coverage_max}; exchange them"
            )
        overlap = masks.overlap_of(info.image_size) if self.overlap is None else self.overlap
        if self.mask == "center" and info.image_size // 2 - 2 * overlap < 2:
            raise UsageError(
                f"--overlap {overlap} leaves nothing of the {info.image_size // 2} px hole; "
                f"type --overlap {info.image_size // 8} or less"
            )
        return self.model_copy(update={"region_shapes": shapes, "overlap": overlap})


def reconstruction_loss(
    painted: Tensor, target: Tensor, weights: Tensor, kind: str, normalized: bool
) -> Tensor:
    """Weighted mean error.

    Args:
        painted: float ``[B, C, t, t]``.
        target: float ``[B, C, t, t]``.
        weights: float, broadcasts to ``[B, 1, t, t]``.
        kind: ``l2`` or ``l1``.
        normalized: Divide by the sum of the weights (equation 1 over a random mask); else by the
            number of pixels, as the released code does for the central hole.

    Returns:
        Scalar.
    """
    error = painted - target
    error = error.square() if kind == "l2" else error.abs()
    weights = weights.expand(len(error), 1, *error.shape[2:])
    whole = (
        weights.sum() if normalized else torch.full((), float(weights.numel()), device=error.device)
    )
    return (error * weights).sum() / (whole * error.shape[1])


def band_weights(side: int, overlap: int) -> Tensor:
    """Weights of the central window: 10 in the visible band, 1 in the hole, float ``[1, 1, side //
    2, side // 2]``.
    """
    weights = torch.full((1, 1, side // 2, side // 2), _BAND_WEIGHT)
    weights[..., overlap : side // 2 - overlap, overlap : side // 2 - overlap] = 1.0
    return weights


def adversarial_losses(
    discriminator: nn.Module, painted: Tensor, real: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both players' losses of one step, whose sum can be minimized in a single backward pass.

    The painter is judged by a discriminator whose parameters are constants, the discriminator on
    images that are
    constants: neither loss has a gradient for the other player, as if each had its own backward
        pass.

    Args:
        discriminator: ``[B, C, t, t]`` -> logits ``[B]``.
        painted: From the decoder.
        real: The same windows of the true images.

    Returns:
        The painter's loss -log D(painted), the discriminator's -log D(real) - log(1 - D(painted)),
        both scalar means, and the discriminator's shares of real and of painted images that it
        takes for real.
    """
    constants = {name: p.detach() for name, p in discriminator.named_parameters()}
    statistics = {name: b.clone() for name, b in discriminator.named_buffers()}
    fooled = _exact(functional_call(discriminator, constants | statistics, (painted,)))
    on_real, on_painted = _exact(discriminator(real)), _exact(discriminator(painted.detach()))
    painter = F.softplus(-fooled).mean()
    judge = F.softplus(-on_real).mean() + F.softplus(on_painted).mean()
    return painter, judge, (on_real > 0).float().mean(), (on_painted > 0).float().mean()


def _exact(logits: Tensor) -> Tensor:
    """At least float32: small differences of large logits decide the adversarial loss."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class ContextEncoderView(NamedTuple):
    """A batch of images with holes.

    Attributes:
        seen: float ``[B, C, S, S]``, normalized, 0 (the mean color) where removed.
        target: float ``[B, C, t, t]`` in -1..1, the window to be painted.
        mask: bool ``[B, 1, S, S]``, true where removed.
        image: float ``[B, C, S, S]`` in 0..1, the whole image.
    """

    seen: Tensor
    target: Tensor
    mask: Tensor
    image: Tensor


class ContextEncoder(Method[ContextEncoderOptions, ContextEncoderView]):
    """The hole, the decoder that fills it and, if asked for, the adversary."""

    Options = ContextEncoderOptions
    crops = True
    presets = {
        "paper": {
            "backbone": "alexnet",
            "image_size": 227,
            "decoder": "tconv",
            "optimizer": "adamw",
            "lr": 5e-4,
            "batch_size": 128,
            "steps": 100_000,
            "clip": 1.0,
        },
        "inpainting": {
            "backbone": "inpaintnet",
            "image_size": 128,
            "mask": "center",
            "adversarial": 0.001,
            "decoder": "tconv",
            "optimizer": "adamw",
            "momentum": 0.5,
            "lr": 2e-3,
            "weight_decay": 0.0,
            "batch_size": 64,
            "epochs": 500,
            "schedule": "constant",
            "warmup": 0,
        },
        "small": {"backbone": "resnet10_w32", "decoder_width": 128, "clip": 1.0},
    }

    def __init__(self, options: ContextEncoderOptions, encoder: Encoder, info: DataInfo) -> None:
        super().__init__(options, encoder, info)
        assert options.overlap is not None and options.region_shapes, "resolved"
        self.options = options
        self.side = info.image_size
        self.overlap = options.overlap
        gray = encoder.in_channels == 1
        self._std = (sum(info.std) / 3,) if gray else info.std
        self._mean = (sum(info.mean) / 3,) if gray else info.mean
        channels, places = map_shape(encoder, self.side)
        if _channelwise(options.channelwise, encoder, channels, places):
            self.channelwise: nn.Module = nn.Sequential(
                ChannelwiseLinear(channels, places), nn.ReLU()
            )
        else:
            self.channelwise = nn.Identity()
        self.window = self.side // 2 if options.mask == "center" else self.side
        self.decoder = Decoder(
            channels, places, self.window, options.decoder, options.decoder_width, self._mean
        )
        self.discriminator = (
            Discriminator(len(self._mean), self.window) if options.adversarial else None
        )
        shapes = torch.empty(0, dtype=torch.uint8)
        if options.mask == "region" and options.mask_files:
            shapes = masks.read_shapes(options.mask_files, self.side)
        self.shapes: Tensor
        self.register_buffer("shapes", shapes, persistent=False)
        self.hole: Tensor
        self.band: Tensor
        self.register_buffer("band", band_weights(self.side, self.overlap), persistent=False)
        self.register_buffer("hole", masks.central_hole(self.side, self.overlap), persistent=False)

    @property
    def rates(self) -> dict[str, float]:
        """The discriminator learns more slowly than the painter: a tenth of its rate in the paper."""
        return (
            {"discriminator": self.options.discriminator_rate}
            if self.discriminator is not None
            else {}
        )

    @property
    def facts(self) -> dict[str, Any]:
        """SHA-256 of the user's mask files, if any."""
        return {"mask_files": masks.fingerprint(self.shapes)} if len(self.shapes) else {}

    @property
    def chance(self) -> dict[str, float]:
        """Painting the mean color everywhere: a squared error equal to the images' variance."""
        variance = sum(std**2 for std in self._std) / len(self._std)
        loss = 4 * variance  # images are -1..1 in the loss
        if self.options.reconstruction == "l1":
            loss = math.sqrt(
                loss * 2 / math.pi
            )  # of a normal distribution: pixels' own is not known
        if self.options.mask == "center":
            loss *= float(band_weights(self.side, self.overlap).mean())
        weight = self.options.adversarial
        undecided = (weight + 2) * math.log(2) if weight else 0.0
        return {"loss": (1 - weight) * loss + undecided, "l2": variance}

    def view(self, images: Tensor, index: Tensor, generator: torch.Generator) -> ContextEncoderView:
        """Crop, mirror and cut holes; see `Method.view`. In evaluation whole images, holes still
        random.
        """
        rng = PerImageRNG(index, generator)
        boxes = mirrored = torch.empty(
            len(index), 0, device=images.device
        )  # only drawn in training
        if self.training:
            boxes = random_boxes(rng, images.shape[-1], (self.options.crop_min, 1.0))
            mirrored = rng.bernoulli(self.options.flip)
        return chunked(8, self._cut, images, rng, boxes, mirrored)

    def _cut(
        self, images: Tensor, rng: PerImageRNG, boxes: Tensor, mirrored: Tensor
    ) -> ContextEncoderView:
        """The view from what was drawn for it; the holes are drawn here."""
        if self.training:
            images = resized_crop(images, boxes, self.side, mirrored)
        image = images.to(torch.float32).div_(255)
        if self.encoder.in_channels == 1:
            image = image.mean(dim=1, keepdim=True)
        mask = self._mask(rng)
        mean, std = (cached_tensor(values, image.device) for values in (self._mean, self._std))
        # Filled after normalization: the constant is the mean color, which tells nothing.
        seen = standardize_colors(image, mean, std).mul_(~mask)
        return ContextEncoderView(seen, 2 * self._windowed(image) - 1, mask, image)

    def _mask(self, rng: PerImageRNG) -> Tensor:
        """Draw what is removed, bool ``[B, 1, S, S]``."""
        options = self.options
        if options.mask == "center":
            return self.hole.expand(rng.count, -1, -1, -1)
        if options.mask == "blocks":
            return masks.blocks(rng, self.side)
        if options.region_shapes == "noise":
            return masks.noise(rng, self.side, (options.coverage_min, options.coverage_max))
        if options.region_shapes == "blobs":
            return masks.blobs(rng, self.side)
        return masks.from_shapes(rng, self.side, self.shapes)

    def _windowed(self, whole: Tensor) -> Tensor:
        """The part ``[B, C, t, t]`` of an image ``[B, C, S, S]`` that is painted."""
        start = self.side // 4 if self.options.mask == "center" else 0
        return whole[..., start : start + self.window, start : start + self.window]

    def forward(self, view: ContextEncoderView) -> Loss:
        """Error of the painted window, plus both players' adversarial losses; L1, L2 and PSNR over
        the hole.
        """
        painted = self.paint(view)
        central = self.options.mask == "center"
        weights = self.band if central else self._windowed(view.mask)
        kind = self.options.reconstruction
        loss = reconstruction_loss(
            painted, view.target, weights.to(painted.dtype), kind, normalized=not central
        )
        if not central:  # other processes have removed more or less
            loss = globally_weighted_mean(loss, weights.sum())
        numbers = self._numbers(painted, view)
        weight = self.options.adversarial
        if self.discriminator is not None:
            painter, judge, real, fake = adversarial_losses(
                self.discriminator, painted, view.target
            )
            loss = (1 - weight) * loss + weight * painter + judge
            numbers |= {
                "real_taken_for_real": real.detach(),
                "painted_taken_for_real": fake.detach(),
            }
        return Loss(loss, numbers)

    def paint(self, view: ContextEncoderView) -> Tensor:
        """What the network puts into the window, float32 ``[B, C, t, t]`` in -1..1."""
        maps = self.encoder.map(view.seen)
        painted: Tensor = self.decoder(self.channelwise(maps))
        return painted

    @torch.no_grad()
    def _numbers(self, painted: Tensor, view: ContextEncoderView) -> dict[str, Tensor]:
        """Errors over the hole in the paper's units; in evaluation beside those of filling without
        learning.
        """
        hole, truth = self._windowed(view.mask), self._windowed(view.image)
        fillings = {"": (painted + 1) / 2}
        if not self.training:
            fillings |= {
                f"_{name}": self._windowed(filled) for name, filled in self._baselines(view).items()
            }
        numbers: dict[str, Tensor] = {}
        for name, filled in fillings.items():
            l1, l2, psnr = inpaint.errors(filled, truth, hole)
            numbers |= {
                f"l1{name}": l1.mean(),
                f"l2{name}": l2.mean(),
                f"psnr{name}_db": psnr.mean(),
            }
        return numbers

    def _baselines(self, view: ContextEncoderView) -> dict[str, Tensor]:
        """Whole images filled with the mean color, and by interpolation from the border of the
        hole.
        """
        mean = (
            torch.tensor(self._mean, device=view.image.device)
            .view(1, -1, 1, 1)
            .expand_as(view.image)
        )
        return {"mean_color": mean, "interpolation": inpaint.interpolate(view.image, view.mask)}

    def draw_task(
        self, images: Tensor, index: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The image, its mask, what the network sees and what it should paint."""
        view = self.view(images, index, generator)
        mean = self._baselines(view)["mean_color"]
        return {
            "image": _shown(view.image),
            "removed": _shown(view.mask.float()),
            "as the network sees it": _shown(torch.where(view.mask, mean, view.image)),
            "to be painted": _shown((view.target + 1) / 2),
        }

    @torch.no_grad()
    def draw_predictions(
        self, images: Tensor, index: Tensor, generator: torch.Generator
    ) -> Predictions:
        """Image with the hole in white, the hole filled, filled by interpolation, truth, and the
        error.
        """
        view = self.view(images, index, generator)
        filled = self._filled(view)
        interpolated = self._baselines(view)["interpolation"]
        columns = {
            "input": _shown(torch.where(view.mask, 1.0, view.image)),
            "answer": _shown(filled),
            "interpolation": _shown(interpolated),
            "truth": _shown(view.image),
            "error of the answer": _shown(
                (filled - view.image).abs().mean(dim=1, keepdim=True) * 2
            ),
        }
        measured = [inpaint.errors(part, view.image, view.mask) for part in (filled, interpolated)]
        captions = [
            f"L1 {100 * float(ours[0][i]):.1f} %, L2 {100 * float(ours[1][i]):.2f} %, "
            f"{float(ours[2][i]):.1f} dB; "
            f"interpolation {100 * float(theirs[0][i]):.1f} %, {100 * float(theirs[1][i]):.2f} %, "
            f"{float(theirs[2][i]):.1f} dB"
            for ours, theirs in [measured]
            for i in range(len(images))
        ]
        return Predictions(columns, captions)

    def _filled(self, view: ContextEncoderView) -> Tensor:
        """The images ``[B, C, S, S]`` with their holes painted; what was visible stays, the band
        round a hole too.
        """
        painted = (self.paint(view) + 1) / 2
        start = self.side // 4 if self.options.mask == "center" else 0
        end = self.side - self.window - start
        whole = F.pad(painted, (start, end, start, end))
        return torch.where(view.mask, whole, view.image)

    def plots(self, images: Tensor, index: Tensor, generator: torch.Generator) -> dict[str, Chart]:
        """In evaluation: the error at each distance from the border of the hole, beside filling
        without learning.
        """
        if self.training:
            return {}
        sums: dict[str, Tensor] = {}
        counts = torch.zeros(_SEAM)
        for part, places in zip(torch.split(images, 64), torch.split(index, 64), strict=True):
            view = self.view(part, places, generator)
            depth = inpaint.depth(view.mask, _SEAM).flatten().cpu()
            inside = depth > 0
            counts += torch.bincount(depth[inside] - 1, minlength=_SEAM)
            for name, filled in {
                "context encoder": self._filled(view),
                **self._baselines(view),
            }.items():
                error = (filled - view.image).abs().mean(dim=1).flatten().cpu()
                found = torch.zeros(_SEAM).index_add_(0, depth[inside] - 1, error[inside])
                sums[name] = sums.get(name, torch.zeros(_SEAM)) + found
        reached = int((counts > 0).sum())
        curves = {
            name.replace("_", " "): (100 * s / counts)[:reached].tolist()
            for name, s in sums.items()
        }
        steps = [float(step) for step in range(1, reached + 1)]
        label = (
            f"pixels from the border of the hole (the last: {_SEAM} or more)"
            if reached == _SEAM
            else "pixels"
        )
        return {"seam": Lines(steps, curves, label, "mean absolute error, %")}


def _channelwise(asked: bool | None, encoder: Encoder, channels: int, side: int) -> bool:
    """Whether the channel-wise layer is used for maps of this shape.

    Raises:
        UsageError: It was asked for where it would do nothing, or be too large.
    """
    size = channels * side**4
    convolutional = encoder.image_size is None
    if asked and side == 1:
        raise UsageError(
            f"{encoder.name} ends in a single place, where --channelwise would only scale; "
            "type --no-channelwise, --stem small or a larger --image-size"
        )
    if asked and size > _LARGEST_CHANNELWISE:
        raise UsageError(
            f"--channelwise would need {size / 1e6:.0f} million parameters for {channels} "
            f"channels of {side}x{side} "
            f"places, but at most {_LARGEST_CHANNELWISE // 10**6} are built; type --no-channelwise"
        )
    return (
        asked
        if asked is not None
        else convolutional and 3 <= side <= 16 and size <= _LARGEST_CHANNELWISE
    )


def _shown(images: Tensor) -> Tensor:
    """Images ``[B, 1 or 3, h, w]`` in 0..1 as uint8 ``[B, 3, h, w]``."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)
