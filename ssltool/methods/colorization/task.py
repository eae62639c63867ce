"""Colorization: from the lightness of an image, tell the distribution of colors at every place.

R. Zhang, P. Isola, A. A. Efros, "Colorful Image Colorization", ECCV 2016.

An image is split into lightness L, which the network sees, and the color (a, b) of CIE Lab, which
it has to tell. Many colors are plausible for most things, so the answer is a distribution over Q
bins of the (a, b) plane, learned by cross-entropy against a soft target, where rare, vivid colors
weigh more. To know that grass is green one has to know grass. There is no shortcut to close but
one: images without color teach that nothing has any, so they weigh 0.

Letters: B images, S image side, n side of the encoder's last map, t side of the map of colors to
tell, Q bins, K bins that share a color, p share of a bin in the images, T temperature.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ssltool.distributed.collectives import globally_weighted_mean
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.registry import keep_last_resolution
from ssltool.errors import DataError
from ssltool.methods.base import (
    Chart,
    DataInfo,
    Lines,
    Loss,
    Method,
    MethodOptions,
    Points,
    Predictions,
)
from ssltool.methods.colorization import ab_bins
from ssltool.methods.colorization.ab_bins import SoftTarget
from ssltool.methods.colorization.networks import ColorHead, color_head
from ssltool.ops.chunked import chunked
from ssltool.ops.crops import random_boxes, resized_crop
from ssltool.ops.lab import lab_to_rgb, lightness, rgb_to_lab
from ssltool.ops.per_image_rng import PerImageRNG
from ssltool.ops.resize import resized

GrayRule = Literal["any", "p99"]

_GRAY = 5.0  # of a, b or chroma: below it there is no color to speak of (the release's threshold)
_SCALE = 110.0  # of a and b in the answer of the euclidean loss
_LOGIT_SCALE = (
    5.0  # logits of rare and common colors lie 10 apart, a long way for small steps of weights
)
_VIVID = 30.0  # chroma: a commonest color beyond it is seldom that of real images
_LOOKED_AT = 10_000  # images whose colors are counted at most
_ENOUGH, _AGREE = (
    256,
    0.02,
)  # images, total variation: when two halves of them agree, counting stops
_RAREST = 1e-5  # share below which a color's weight in the rebalanced area grows no further
_SHOWN_LIGHTNESS = 65.0  # at which colors alone are drawn
_CHART_BATCH = 32
NO_COLOR = "colorization learns from color; name color images with --data, or type 'ssltool pretrain jigsaw'"


class ColorizationOptions(MethodOptions):
    """Options of ``ssltool pretrain colorization``."""

    loss: Literal["classification", "euclidean"] = Field(
        "classification",
        description="Distribution over colors, or one color by least squares (dull; to compare)",
    )
    bin_step: int = Field(
        10,
        ge=5,
        le=30,
        description="Spacing of the bins in units of a and b; 10 gives the paper's 313",
    )
    neighbors: int = Field(
        10,
        ge=1,
        le=32,
        description="Nearest bins that share a color; the paper says 5, its code has 10",
    )
    sigma: float | None = Field(
        None,
        gt=0,
        le=30,
        description="Width of the Gaussian by which they share it; automatic: half of --bin-step",
    )
    encoding: ab_bins.Encoding = Field(
        "table",
        description="How soft targets are made: looked up at a twentieth of a step, exact, or "
        "dense (all bins share)",
    )
    rebalance: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Lambda of the weights 1/((1-lambda) p + lambda/Q): 1 = all colors weigh the "
        "same, "
        "less = rare ones weigh more (classification only)",
    )
    rebalance_ramp: int = Field(
        200,
        ge=0,
        description="Steps over which lambda goes from 1 to --rebalance; 0 = there from the start",
    )
    head: ColorHead = Field(
        "fcn",
        description="fcn: one 3x3 layer; deep: the paper's conv8, which doubles the map; fc: its "
        "AlexNet's fc6 and fc7",
    )
    target_stride: int | None = Field(
        None,
        ge=1,
        le=32,
        description="Pixels per place whose color is told; automatic: 4 from 64 px on, else 2",
    )
    last_stride: Literal[1, 2] = Field(
        2,
        description="1: a ResNet's last stage keeps its resolution while training; the weights "
        "fit the plain ResNet",
    )
    min_crop: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Least share of an image's area that a random crop keeps; 1 = whole images",
    )
    flip: float = Field(0.5, ge=0, le=1, description="Probability that an image is mirrored")
    gray_rule: GrayRule = Field(
        "p99",
        description="An image is gray, and weighs 0, if 99 % of its places have a chroma below 5 "
        "(p99), "
        "or if a and b are within 5 of zero at all of them (any: the release's rule)",
    )
    temperature: float = Field(
        0.38,
        ge=0,
        le=1,
        description="Of the colors shown and scored: 1 = mean, 0 = likeliest; never of the loss",
    )

    def resolved(self, info: DataInfo) -> Self:
        """Decide sigma and the target's stride; refuse images without color."""
        if info.gray:
            raise DataError(f"all images looked at are gray; {NO_COLOR}")
        return self.model_copy(
            update={
                "sigma": self.sigma or self.bin_step / 2,
                "target_stride": self.target_stride or (4 if info.image_size >= 64 else 2),
            }
        )


def sample_points(images: Tensor, stride: int) -> Tensor:
    """The pixels in the middle of the places: ``[B, C, S, S]`` -> ``[B, C, t, t]``, t = S / stride
    rounded up.

    Single pixels, because averages are duller; in the middle, because corners shift the colors when
    enlarged.
    """
    side = images.shape[-1]
    count = -(-side // stride)
    middle = ((torch.arange(count, device=images.device) + 0.5) * (side / count)).long()
    return images[..., middle[:, None], middle]


def is_gray(ab: Tensor, rule: GrayRule) -> Tensor:
    """Whether images have no color worth learning: ``[B, 2, h, w]`` -> bool ``[B]``, see
    `ColorizationOptions`.
    """
    if rule == "any":
        return ab.abs().flatten(1).amax(dim=1) <= _GRAY
    chroma = ab.norm(dim=1).flatten(1)
    most: Tensor = chroma.kthvalue(math.ceil(0.99 * chroma.shape[1]), dim=1).values
    return most < _GRAY


def mean_over(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of ``[B, t, t]`` over the places of the counted images, bool ``[B]``; exactly 0 if there
    are none.
    """
    weights = counted.to(values.dtype)[:, None, None].expand_as(values)
    return (values * weights).sum() / weights.sum().clamp_min(1)


class ColorizationView(NamedTuple):
    """A batch of images split into what is seen and what is to be told.

    Attributes:
        lightness: float ``[B, 1, S, S]``, (L - 50) / 50, what the encoder sees.
        ab: float ``[B, 2, t, t]``, the colors.
        bins: int64 ``[B, t, t, K]``, those that share each color.
        shares: float ``[B, t, t, K]``, how much of it they have.
        colored: bool ``[B]``, false for images without color, which weigh 0. Decided on the whole
            image.
        image: uint8 ``[B, 3, S, S]``, the image as it was cropped and mirrored.
    """

    lightness: Tensor
    ab: Tensor
    bins: Tensor
    shares: Tensor
    colored: Tensor
    image: Tensor

    @property
    def target(self) -> SoftTarget:
        """The soft targets ``[B, t, t, K]``."""
        return SoftTarget(self.bins, self.shares)


class Colorization(Method[ColorizationOptions, ColorizationView]):
    """Lightness and colors, the weights of the colors, and the head that tells them."""

    Options = ColorizationOptions
    crops = True
    color_space = "lightness"
    presets = {
        "paper": {
            "backbone": "colornet",
            "image_size": 176,
            "head": "deep",
            "gray_rule": "any",
            "rebalance_ramp": 0,
            "lr": 3e-5,
            "weight_decay": 1e-3,
            "batch_size": 40,
            "steps": 500_000,
            "schedule": "step",
            "warmup": 0,
        },
        "features": {
            "backbone": "color_alexnet",
            "image_size": 180,
            "head": "fc",
            "target_stride": 8,
            "gray_rule": "any",
            "rebalance_ramp": 0,
            "lr": 3e-5,
            "weight_decay": 1e-3,
            "batch_size": 80,
            "steps": 450_000,
            "schedule": "step",
            "warmup": 0,
        },
        "small": {"backbone": "resnet10_w32", "weight_decay": 1e-4},
    }

    def __init__(self, options: ColorizationOptions, encoder: Encoder, info: DataInfo) -> None:
        super().__init__(options, encoder, info)
        self.side = info.image_size
        assert options.sigma and options.target_stride, "resolved"
        assert encoder.in_channels == 1, "lightness is one channel"
        self.options = options
        self.sigma = options.sigma
        self.stride = options.target_stride
        if options.last_stride == 1:
            keep_last_resolution(encoder)
        centers = ab_bins.bin_centers(options.bin_step).float()
        classes = options.loss == "classification"
        self.head = color_head(
            options.head, encoder.stages[-1].width, len(centers) if classes else 2
        )
        self.centers: Tensor
        self.prior: Tensor
        self.energy: Tensor
        self.steps_taken: Tensor
        self.register_buffer("centers", centers, persistent=False)  # [Q, 2]
        self.register_buffer(
            "prior", torch.full((len(centers),), 1 / len(centers))
        )  # share of each bin; `prepare`
        self.register_buffer("energy", torch.zeros(()))  # mean of a^2 + b^2; `prepare`
        self.register_buffer("steps_taken", torch.zeros((), dtype=torch.int64))
        if options.encoding == "table":
            table = ab_bins.build_table(options.bin_step, options.neighbors, self.sigma)
            self.table_bins: Tensor
            self.table_shares: Tensor
            self.register_buffer("table_bins", table.bins, persistent=False)
            self.register_buffer("table_shares", table.shares, persistent=False)

    @property
    def chance(self) -> dict[str, float]:
        """ln(Q) of a uniform distribution, whatever the weights; of least squares the loss of
        answering gray.
        """
        if self.options.loss == "euclidean":
            return (
                {"loss": float(self.energy) / (2 * _SCALE**2)} if self.energy > 0 else {}
            )  # nothing before `prepare`
        return {
            "loss": math.log(len(self.centers)),
            "cross_entropy_nats": math.log(len(self.centers)),
        }

    @property
    def facts(self) -> dict[str, Any]:
        """Number and SHA-256 of the bins."""
        lines = "".join(f"{a},{b}\n" for a, b in self.centers.int().tolist())
        return {
            "bins": {
                "count": len(self.centers),
                "sha256": hashlib.sha256(lines.encode()).hexdigest(),
            }
        }

    def prepare(self, batches: Iterable[tuple[Tensor, Tensor]]) -> str:
        """Count the colors of the images, until two halves of them agree; see `Method.prepare`."""
        halves = torch.zeros(2, len(self.centers), dtype=torch.float64)
        energy, seen, gray = 0.0, 0, 0
        for images, _ in batches:
            ab = rgb_to_lab(sample_points(images, self.stride))[:, 1:]
            colored = ab[~is_gray(ab, self.options.gray_rule)]
            energy += float(colored.square().sum())
            for number in range(
                2
            ):  # every other image that has color, going on from the last batch
                part = colored[(seen - gray + number) % 2 :: 2].movedim(1, -1)
                halves[number] += ab_bins.total(self.encode(part), len(self.centers))
            seen += len(images)
            gray += len(images) - len(colored)
            shares = halves / halves.sum(dim=1, keepdim=True).clamp_min(1)
            difference = float((shares[0] - shares[1]).abs().sum()) / 2
            if seen >= _LOOKED_AT or (seen - gray >= _ENOUGH and difference < _AGREE):
                break
        if seen == gray:
            raise DataError(f"all of the {seen} images looked at are gray; {NO_COLOR}")
        prior = halves.sum(dim=0) / halves.sum()
        if self.options.neighbors == 1:  # soft targets are smooth already
            prior = ab_bins.smoothed(prior, self.centers.cpu(), self.sigma)
        self.prior.copy_(prior)
        self.energy.fill_(energy / float(halves.sum()))
        return self._said(prior, seen, gray)

    def _said(self, prior: Tensor, seen: int, gray: int) -> str:
        """What there is to say of the colors counted."""
        constant = -float(torch.xlogy(prior, prior).sum())
        line = (
            f"colors of {seen:,} images, {gray:,} of them gray ({gray / seen:.1%}), which weigh 0; "
            f"the best constant answer has a cross-entropy of {constant:.3f}"
        )
        a, b = self.centers[int(prior.argmax())].tolist()
        if (
            math.hypot(a, b) > _VIVID
        ):  # such is the known corrupt list of shares, counted in a wrong range
            line += f"; the commonest color is vivid, a = {a:.0f}, b = {b:.0f}: make sure that the images are sRGB"
        return line

    def encode(self, ab: Tensor) -> SoftTarget:
        """Soft targets ``[..., K]`` of colors ``[..., 2]``."""
        if self.options.encoding == "exact":
            return ab_bins.encode_exact(ab, self.centers, self.options.neighbors, self.sigma)
        if self.options.encoding == "dense":
            return ab_bins.encode_dense(ab, self.centers, self.sigma)
        return ab_bins.look_up(
            ab, ab_bins.Table(self.table_bins, self.table_shares), self.options.bin_step
        )

    def view(self, images: Tensor, index: Tensor, generator: torch.Generator) -> ColorizationView:
        """Crop and mirror the images and split them; see `Method.view`."""
        boxes = mirrored = torch.empty(
            len(index), 0, device=images.device
        )  # only drawn in training
        if self.training:
            rng = PerImageRNG(index, generator)
            boxes = random_boxes(rng, images.shape[-1], (self.options.min_crop, 1.0))
            mirrored = rng.bernoulli(self.options.flip)
        return chunked(4, self._split, images, boxes, mirrored)

    def _split(self, images: Tensor, boxes: Tensor, mirrored: Tensor) -> ColorizationView:
        """The view from what was drawn for it."""
        gray = is_gray(
            rgb_to_lab(sample_points(images, self.stride))[:, 1:], self.options.gray_rule
        )
        if self.training:
            images = resized_crop(images, boxes, self.side, mirrored)
        ab = rgb_to_lab(sample_points(images, self.stride))[:, 1:]
        target = self.encode(ab.movedim(1, -1))
        return ColorizationView(
            (lightness(images) - 50) / 50, ab, target.bins, target.shares, ~gray, images
        )

    def answer(self, seen: Tensor, side: int) -> Tensor:
        """What the network says of lightness ``[B, 1, S, S]``: logits ``[B, Q, side, side]``, or
        (a, b) / 110.
        """
        coarse: Tensor = self.head(self.encoder.map(seen)).float()
        if self.options.loss == "classification":
            coarse = coarse * _LOGIT_SCALE
        return resized(coarse, side)

    def colors(self, answer: Tensor, temperature: float) -> Tensor:
        """The colors a, b ``[B, 2, t, t]`` that an answer stands for."""
        if self.options.loss == "euclidean":
            return answer * _SCALE
        return ab_bins.decode_logits(answer, self.centers, temperature)

    @property
    def weights(self) -> Tensor:
        """Weight of each bin in the loss, ``[Q]``, as far as the ramp has come; its mean over the
        images is 1.
        """
        ramp = self.options.rebalance_ramp
        done = (self.steps_taken / ramp).clamp(max=1) if ramp else 1.0
        return ab_bins.rebalancing_weights(self.prior, 1 - (1 - self.options.rebalance) * done)

    def after_step(self, view: ColorizationView) -> None:
        """Count the steps, for the ramp of the weights."""
        del view
        self.steps_taken += 1

    def forward(self, view: ColorizationView) -> Loss:
        """Weighted cross-entropy (equations 2 to 4), or half the squared error (equation 1), over
        images with color.

        Numbers: the cross-entropy without weights, its floor, which is the entropy of the targets,
        and the mean chroma told over the true one. In evaluation also the area under the curve of
        the errors, plain and rebalanced (a weight of 1/p), each beside that of answering gray.
        """
        answer = self.answer(view.lightness, view.ab.shape[-1])
        target = view.target
        numbers: dict[str, Tensor] = {}
        if self.options.loss == "euclidean":
            loss = mean_over((answer - view.ab / _SCALE).square().sum(dim=1) / 2, view.colored)
        else:
            cost = ab_bins.soft_cross_entropy(answer, target)
            # Weights multiply the loss openly; the release has them in the gradient alone, out of
            # sight.
            loss = mean_over(self.weights[target.nearest] * cost, view.colored)
            numbers["cross_entropy_nats"] = mean_over(cost.detach(), view.colored)
            numbers["floor_nats"] = mean_over(target.entropy, view.colored)
        loss = globally_weighted_mean(
            loss, view.colored.sum()
        )  # other processes have more or fewer images with color
        with torch.no_grad(), torch.autocast(answer.device.type, enabled=False):
            every = 2 if self.training else 1  # places: a quarter of them is enough to watch a run
            told = self.colors(answer[..., ::every, ::every], self.options.temperature)
            chroma = [
                mean_over(ab.norm(dim=1), view.colored)
                for ab in (told, view.ab[..., ::every, ::every])
            ]
            numbers["saturation"] = chroma[0] / chroma[1].clamp_min(1e-6)
            if not self.training:
                numbers |= self._areas(told, view)
        return Loss(loss, numbers)

    def _areas(self, told: Tensor, view: ColorizationView) -> dict[str, Tensor]:
        """Area under the curve of the errors and its rebalanced form, beside those of a gray
        answer.
        """
        rare = self._rarity[view.target.nearest]
        found = {}
        for name, answer in {"auc": told, "auc_of_gray": torch.zeros_like(told)}.items():
            area = ab_bins.area_under_curve((answer - view.ab).norm(dim=1))
            found[name] = mean_over(area, view.colored)
            weighed = mean_over(rare * area, view.colored), mean_over(rare, view.colored)
            found[f"rebalanced_{name}"] = weighed[0] / weighed[1].clamp_min(1e-9)
        return found

    @property
    def _rarity(self) -> Tensor:
        """Weight of each bin in the rebalanced area, 1/p: lambda = 0."""
        return 1 / self.prior.clamp_min(_RAREST)

    def draw_task(
        self, images: Tensor, index: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The image, what the network sees of it, the colors it has to tell, and both put together."""
        view = self.view(images, index, generator)
        return {
            "image": view.image,
            "what the network sees": _painted(view.image, torch.zeros_like(view.ab)),
            "colors to tell": _swatch(view.ab, images.shape[-1]),
            "the best answer": _painted(view.image, view.ab),
        }

    @torch.no_grad()
    def draw_predictions(
        self, images: Tensor, index: Tensor, generator: torch.Generator
    ) -> Predictions:
        """What the network sees, its colors as mean, annealed mean and likeliest bin, and the
        truth.
        """
        view = self.view(images, index, generator)
        answer = self.answer(view.lightness, view.ab.shape[-1])
        told = self.colors(answer, self.options.temperature)
        shown = {"what it sees": _painted(view.image, torch.zeros_like(view.ab))}
        for name, temperature in self._temperatures.items():
            shown[name] = _painted(view.image, self.colors(answer, temperature))
        shown["truth"] = view.image
        norms = (told - view.ab, view.ab, told)
        means = torch.stack([part.norm(dim=1).mean(dim=(1, 2)) for part in norms], dim=1).tolist()
        captions = [
            f"colors off by {off:.1f} (gray would be {true:.1f}), chroma {chroma:.1f} of {true:.1f}"
            if colored
            else "a gray image, which weighs 0"
            for (off, true, chroma), colored in zip(means, view.colored.tolist(), strict=True)
        ]
        return Predictions(shown, captions)

    def plots(self, images: Tensor, index: Tensor, generator: torch.Generator) -> dict[str, Chart]:
        """The bins by their share and by their weight; in evaluation errors and chroma of the
        answers.
        """
        if self.training:
            full = ab_bins.rebalancing_weights(self.prior, self.options.rebalance)
            return {
                "colors": self._plane(self.prior, "share"),
                "weights": self._plane(full, "weight in the loss"),
            }
        parts = zip(
            torch.split(images, _CHART_BATCH), torch.split(index, _CHART_BATCH), strict=True
        )
        views = [self.view(part, places, generator) for part, places in parts]
        return {"errors": self._errors(views), "chroma": self._chroma(views)}

    def _plane(self, values: Tensor, name: str) -> Points:
        """The (a, b) plane with the bins in their own colors."""
        lab = F.pad(self.centers, (1, 0), value=_SHOWN_LIGHTNESS).T[:, None]
        colors = (lab_to_rgb(lab) * 255).round().byte()[:, 0].T
        sizes = (values / values.max()).sqrt()  # rare colors would be invisible by share itself
        label = f"a, green to red; area of a point: square root of its {name} ({values.min():.2g} to {values.max():.2g})"
        a, b = self.centers[:, 0].cpu(), self.centers[:, 1].cpu()
        return Points(a, b, colors.cpu(), sizes.cpu(), label, "b, blue to yellow")

    def _told(self, view: ColorizationView, temperature: float) -> Tensor:
        """The colors told of the colored images of a view, ``[b, 2, t, t]``."""
        return self.colors(self.answer(view.lightness, view.ab.shape[-1]), temperature)[
            view.colored
        ]

    def _errors(self, views: list[ColorizationView]) -> Lines:
        """Share of the places whose error is at most so much, plain and rebalanced, beside a gray
        answer.
        """
        true = torch.cat([view.ab[view.colored] for view in views])
        told = torch.cat([self._told(view, self.options.temperature) for view in views])
        nearest = [view.target.nearest[view.colored] for view in views]
        rare = self._rarity[torch.cat(nearest)]
        axis = torch.arange(0, 101, 2, device=true.device)
        curves = {}
        for kind, weight in {"": torch.ones_like(rare), ", rebalanced": rare}.items():
            for name, answer in {"network": told, "gray": torch.zeros_like(told)}.items():
                error = (answer - true).norm(dim=1)
                curves[name + kind] = [
                    float(((error <= most) * weight).sum() / weight.sum()) for most in axis
                ]
        return Lines(
            axis.tolist(),
            curves,
            "distance from the true color in (a, b), at most",
            "share of the places",
        )

    def _chroma(self, views: list[ColorizationView]) -> Lines:
        """Share of the places that are at least so vivid, truly and as told."""
        colors = {"true": torch.cat([view.ab[view.colored] for view in views])}
        for name, temperature in self._temperatures.items():
            colors[name] = torch.cat([self._told(view, temperature) for view in views])
        axis = torch.arange(0, 101, 2, device=self.prior.device)
        curves = {
            name: [float((ab.norm(dim=1) >= least).float().mean()) for least in axis]
            for name, ab in colors.items()
        }
        return Lines(axis.tolist(), curves, "chroma, at least", "share of the places")

    @property
    def _temperatures(self) -> dict[str, float]:
        """Name of each way to take colors from an answer, and its temperature."""
        if self.options.loss == "euclidean":
            return {"answer": 1.0}
        annealed = self.options.temperature
        return {"mean (T = 1)": 1.0, f"annealed (T = {annealed:g})": annealed, "mode (T = 0)": 0.0}


def _painted(image: Tensor, ab: Tensor) -> Tensor:
    """The lightness of images uint8 ``[B, 3, S, S]`` with colors ``[B, 2, t, t]`` enlarged onto it:
    uint8.
    """
    light = lightness(image)
    wide = F.interpolate(ab, light.shape[-2:], mode="bilinear")
    return (lab_to_rgb(torch.cat([light, wide], dim=1)) * 255).round().byte()


def _swatch(ab: Tensor, side: int) -> Tensor:
    """Colors ``[B, 2, t, t]`` alone, at one lightness, as images uint8 ``[B, 3, side, side]``."""
    light = torch.full_like(ab[:, :1], _SHOWN_LIGHTNESS)
    colors = (lab_to_rgb(torch.cat([light, ab], dim=1)) * 255).round()
    return F.interpolate(colors, (side, side), mode="nearest-exact").byte()
