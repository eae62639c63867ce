"""Context encoders: inpaint a region that was removed from an image.

D. Pathak, P. Krahenbuhl, J. Donahue, T. Darrell, A. A. Efros, "Context Encoders: Feature Learning
by Inpainting", CVPR 2016.

The encoder sees an image with a hole, a decoder predicts what is missing, and the error over the
hole is the loss. The paper's two networks are presets of the same parts. The *feature network*
(``--preset paper``, and the default) is any backbone up to its last map, a channel-wise fully
connected layer and a decoder of the whole image; holes are random regions and there is no
adversarial loss, with which it diverged. The *inpainting network* (``--preset inpainting``) is an
encoder-decoder of strided convolutions for a central hole; a band around the hole has ten times the
weight, and a discriminator that sees only the predicted part makes it sharp.

Letters: B images of side S, C channels, n side of the encoder's last map, t side of the predicted
window: the central half of the image for a central hole, else all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssltool.distributed.collectives import globally_weighted_mean
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.sizes import map_shape
from ssltool.errors import UsageError
from ssltool.methods.base import EncoderInput, Loss, Method, Metric
from ssltool.methods.context_encoder import audit, figures, inpainting, masks
from ssltool.methods.context_encoder.losses import (
    adversarial_losses,
    band_weights,
    reconstruction_loss,
)
from ssltool.methods.context_encoder.networks import (
    ChannelwiseLinear,
    Decoder,
    Discriminator,
)
from ssltool.methods.context_encoder.options import ContextEncoderOptions
from ssltool.methods.options import DataInfo
from ssltool.ops.cached_tensors import cached_tensor
from ssltool.ops.chunked import chunked
from ssltool.ops.color import (
    NORMALIZED_MEAN,
    NORMALIZED_STD,
    normalize_contrast,
    restore_contrast,
    standardize_colors,
)
from ssltool.ops.crops import crop_boxes, resized_crop
from ssltool.ops.per_image_rng import PerImageRNG

_LARGEST_CHANNELWISE = 50_000_000  # parameters
_REFERENCES = 1024  # training images among which the nearest neighbor is searched


class ContextEncoderView(NamedTuple):
    """A batch of images with holes.

    Attributes:
        inputs: float ``[B, C, S, S]``, standardized, 0 (the mean color) where removed.
        target: float ``[B, C, t, t]`` in -1..1, the window to predict.
        mask: bool ``[B, 1, S, S]``, true where removed.
        image: float ``[B, C, S, S]`` in 0..1, the whole image.
        indices: int64 ``[B]``, of the images in the data.
    """

    inputs: Tensor
    target: Tensor
    mask: Tensor
    image: Tensor
    indices: Tensor


class ContextEncoder(Method[ContextEncoderOptions, ContextEncoderView]):
    """Removes a region, predicts it, and optionally adds an adversarial loss."""

    Options = ContextEncoderOptions
    figures = figures
    audit = audit
    reference_count = _REFERENCES

    def __init__(self, options: ContextEncoderOptions, encoder: Encoder, data: DataInfo) -> None:
        super().__init__(options, encoder, data)
        self.options = options
        self.side = data.image_size
        self.overlap = options.overlap
        gray = encoder.in_channels == 1
        mean, std = data.mean, data.std
        if options.standardize:
            mean, std = (NORMALIZED_MEAN,) * len(mean), (NORMALIZED_STD,) * len(mean)
        self._std = (sum(std) / len(std),) if gray else std
        self._mean = (sum(mean) / len(mean),) if gray else mean
        channels, map_side = map_shape(encoder, self.side)
        if _use_channelwise(options.channelwise, encoder, channels, map_side):
            self.channelwise: nn.Module = nn.Sequential(
                ChannelwiseLinear(channels, map_side), nn.ReLU()
            )
        else:
            self.channelwise = nn.Identity()
        self.window = self.side // 2 if options.mask == "center" else self.side
        self.decoder = Decoder(
            channels, map_side, self.window, options.decoder, options.decoder_width, self._mean
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

    @classmethod
    def inputs(cls, options: ContextEncoderOptions, data: DataInfo) -> EncoderInput:
        """Whole images, randomly cropped."""
        return EncoderInput(
            train_size=data.image_size,
            feature_size=data.image_size,
            random_crop=True,
            standardize="image" if options.standardize else "data",
        )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """At chance level the mean color is predicted everywhere: a squared error equal to the
        images' variance. In evaluation errors stand beside those of filling without learning.
        """
        variance = sum(std**2 for std in self._std) / len(self._std)
        loss = 4 * variance  # images are -1..1 in the loss
        if self.options.reconstruction == "l1":
            # As if pixels were normally distributed.
            loss = math.sqrt(loss * 2 / math.pi)
        if self.options.mask == "center":
            loss *= float(band_weights(self.side, self.overlap).mean())
        weight = self.options.adversarial
        undecided = (weight + 2) * math.log(2) if weight else 0.0
        declared = [
            Metric("loss", "", (1 - weight) * loss + undecided),
            Metric("l1"),
            Metric("l2", chance=variance),
            Metric("psnr", "dB"),
        ]
        for name in self.baselines:
            declared += [
                Metric(f"l1_{name}", eval_only=True),
                Metric(f"l2_{name}", eval_only=True),
                Metric(f"psnr_{name}", "dB", eval_only=True),
            ]
        if self.discriminator is not None:
            declared += [Metric("real_as_real"), Metric("predicted_as_real")]
        return tuple(declared)

    @property
    def lr_scales(self) -> dict[str, float]:
        """The discriminator learns more slowly: at a tenth of the learning rate in the paper."""
        if self.discriminator is None:
            return {}
        return {"discriminator": self.options.discriminator_lr_scale}

    @property
    def fingerprint(self) -> dict[str, Any]:
        """SHA-256 of the user's mask files, if any."""
        return {"mask_files": masks.fingerprint(self.shapes)} if len(self.shapes) else {}

    def view(
        self,
        images: Tensor,
        index: Tensor,
        generator: torch.Generator,
        aspects: Tensor | None = None,
    ) -> ContextEncoderView:
        """Crop, flip and remove regions; see `Method.view`. In evaluation images are whole, regions
        still random.
        """
        rng = PerImageRNG(index, generator)
        # Sampled in training only.
        boxes = mirrored = torch.empty(len(index), 0, device=images.device)
        if self.training:
            options = self.options
            boxes = crop_boxes(rng, images.shape[-1], options.crop_min, options.crop_side, aspects)
            mirrored = rng.bernoulli(self.options.flip)
        return chunked(8, self._cut, images, index, rng, boxes, mirrored)

    def _cut(
        self, images: Tensor, index: Tensor, rng: PerImageRNG, boxes: Tensor, mirrored: Tensor
    ) -> ContextEncoderView:
        """Build the view from what was sampled for it; regions are sampled here."""
        if self.training:
            images = resized_crop(images, boxes, self.side, mirrored)
        image = images.to(torch.float32).div_(255)
        if self.encoder.in_channels == 1:
            image = image.mean(dim=1, keepdim=True)
        return self._without(image, self._mask(rng), index)

    def _without(self, image: Tensor, mask: Tensor, index: Tensor) -> ContextEncoderView:
        """The view of images float ``[B, C, S, S]`` in 0..1 with given regions removed."""
        if self.options.standardize:
            image = normalize_contrast(image, visible=~mask)
        mean, std = (cached_tensor(values, image.device) for values in (self._mean, self._std))
        # Filled after standardization: zero is the mean color.
        inputs = standardize_colors(image, mean, std).mul_(~mask)
        return ContextEncoderView(inputs, 2 * self._windowed(image) - 1, mask, image, index)

    def _mask(self, rng: PerImageRNG) -> Tensor:
        """Sample the regions to remove, bool ``[B, 1, S, S]``."""
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
        """The predicted window ``[B, C, t, t]`` of images ``[B, C, S, S]``."""
        start = self.side // 4 if self.options.mask == "center" else 0
        return whole[..., start : start + self.window, start : start + self.window]

    def forward(self, view: ContextEncoderView) -> Loss:
        """Error of the predicted window, plus both players' adversarial losses; L1, L2 and PSNR
        over the hole.
        """
        predicted = self.predict(view)
        central = self.options.mask == "center"
        weights = self.band if central else self._windowed(view.mask)
        kind = self.options.reconstruction
        loss = reconstruction_loss(
            predicted, view.target, weights.to(predicted.dtype), kind, normalized=not central
        )
        if not central:  # other processes have removed more or less
            loss = globally_weighted_mean(loss, weights.sum())
        metrics = self._errors(predicted, view)
        weight = self.options.adversarial
        if self.discriminator is not None:
            generator, discriminator, real, fake = adversarial_losses(
                self.discriminator, predicted, view.target
            )
            loss = (1 - weight) * loss + weight * generator + discriminator
            metrics |= {"real_as_real": real.detach(), "predicted_as_real": fake.detach()}
        return Loss(loss, metrics)

    def predict(self, view: ContextEncoderView) -> Tensor:
        """The predicted window, float32 ``[B, C, t, t]`` in -1..1."""
        maps = self.encoder.map(view.inputs)
        predicted: Tensor = self.decoder(self.channelwise(maps))
        return predicted

    def inpaint(self, view: ContextEncoderView) -> Tensor:
        """The images ``[B, C, S, S]`` in 0..1 with their holes inpainted; visible pixels stay."""
        window = (self.predict(view) + 1) / 2
        start = self.side // 4 if self.options.mask == "center" else 0
        end = self.side - self.window - start
        return torch.where(view.mask, F.pad(window, (start, end, start, end)), view.image)

    def paint(self, images: Tensor, mask: Tensor) -> Tensor:
        """Inpaint given regions, in the images' own colors and contrast.

        Args:
            images: float ``[B, 3, S, S]`` in 0..1; an encoder with one channel reads their mean and
                paints gray.
            mask: bool ``[B, 1, S, S]``, true where to paint; for a central hole within `hole`,
                all of which is then hidden from the network.

        Returns:
            float ``[B, 3, S, S]`` in 0..1: the images, or their mean, and the regions painted.
        """
        image = images.mean(dim=1, keepdim=True) if self.encoder.in_channels == 1 else images
        if self.options.mask == "center":
            mask = self.hole | mask
        index = torch.arange(len(images), device=images.device)
        painted = self.inpaint(self._without(image, mask, index))
        if self.options.standardize:
            painted = restore_contrast(painted, image, visible=~mask)
        return painted.expand(-1, 3, -1, -1)

    @torch.no_grad()
    def _errors(self, predicted: Tensor, view: ContextEncoderView) -> dict[str, Tensor]:
        """Errors over the hole in the paper's units; in evaluation also those of the baselines."""
        hole, truth = self._windowed(view.mask), self._windowed(view.image)
        fillings = {"": (predicted + 1) / 2}
        if not self.training:
            for name, baseline in self.baselines.items():
                fillings[f"_{name}"] = self._windowed(baseline(view))
        metrics: dict[str, Tensor] = {}
        for suffix, filled in fillings.items():
            l1, l2, psnr = inpainting.errors(filled, truth, hole)
            metrics[f"l1{suffix}"] = l1.mean()
            metrics[f"l2{suffix}"] = l2.mean()
            metrics[f"psnr{suffix}"] = psnr.mean()
        return metrics

    @property
    def baselines(self) -> dict[str, Callable[[ContextEncoderView], Tensor]]:
        """Ways to fill a hole without learning, by name: a view -> images ``[B, C, S, S]``.

        The nearest neighbor needs `reference`.
        """
        ways: dict[str, Callable[[ContextEncoderView], Tensor]] = {
            "mean_color": self.mean_color,
            "interpolation": self.interpolated,
        }
        if self.reference is not None:
            ways["nearest_neighbor"] = self.from_nearest
        return ways

    def mean_color(self, view: ContextEncoderView) -> Tensor:
        """The mean color of the data everywhere, ``[B, C, S, S]``."""
        mean = torch.tensor(self._mean, device=view.image.device).view(1, -1, 1, 1)
        return mean.expand_as(view.image)

    def interpolated(self, view: ContextEncoderView) -> Tensor:
        """The images with holes interpolated from their border."""
        return inpainting.interpolate(view.image, view.mask)

    def from_nearest(self, view: ContextEncoderView) -> Tensor:
        """The images with holes from the other training image whose visible pixels are closest
        (section 5.1).
        """
        assert self.reference is not None
        gallery, indices = self.reference
        own = view.indices[:, None] == indices
        standardized = self.options.standardize
        return inpainting.nearest_neighbor(
            view.image, view.mask, gallery, own, standardized=standardized
        )


def _use_channelwise(asked: bool | None, encoder: Encoder, channels: int, side: int) -> bool:
    """Whether the channel-wise layer is used for maps of this shape.

    Raises:
        UsageError: It was asked for where it would do nothing, or be too large.
    """
    size = channels * side**4
    convolutional = encoder.patch is None
    if asked and side == 1:
        raise UsageError(
            f"{encoder.name} ends in a 1x1 map, where --channelwise would only scale; "
            "type --no-channelwise, --stem small or a larger --image-size"
        )
    if asked and size > _LARGEST_CHANNELWISE:
        raise UsageError(
            f"--channelwise would need {size / 1e6:.0f} million parameters for {channels} "
            f"channels of {side}x{side}, but at most {_LARGEST_CHANNELWISE // 10**6} are allowed; "
            "type --no-channelwise"
        )
    if asked is not None:
        return asked
    return convolutional and 3 <= side <= 16 and size <= _LARGEST_CHANNELWISE
