"""Colorization: predict the color distribution at every location from the lightness.

R. Zhang, P. Isola, A. A. Efros, "Colorful Image Colorization", ECCV 2016.

An image is split into lightness L, the input, and the color (a, b) of CIE Lab, the target. Many
colors are plausible for most objects, so the prediction is a distribution over Q bins of the (a, b)
plane, learned by cross-entropy against a soft target; class rebalancing gives rare, vivid colors
more weight. Gray images would teach that nothing has color, so their weight is 0.

Letters: B images, S image side, n side of the encoder's last map, t side of the target map, Q bins,
K bins that share a color, p share of a bin in the images, T temperature.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssltool.distributed.collectives import globally_weighted_mean
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.registry import keep_last_resolution
from ssltool.methods.base import EncoderInput, Loss, Method, Metric
from ssltool.methods.colorization import ab_bins, audit, figures, prior
from ssltool.methods.colorization.ab_bins import SoftTarget
from ssltool.methods.colorization.networks import color_head
from ssltool.methods.colorization.options import ColorizationOptions
from ssltool.methods.colorization.prior import is_gray, sample_points
from ssltool.methods.options import DataInfo
from ssltool.ops.chunked import chunked
from ssltool.ops.crops import crop_boxes, resized_crop
from ssltool.ops.lab import lightness, rgb_to_lab
from ssltool.ops.per_image_rng import PerImageRNG
from ssltool.ops.resize import resized

_SCALE = 110.0  # of a and b in the prediction of the euclidean loss
# Logits of rare and common colors lie 10 apart, a long way for small steps of weights.
_LOGIT_SCALE = 5.0
_RAREST = 1e-5  # share below which a bin's weight in the rebalanced area grows no further
_CONSTANT_IMAGES = 512  # on which constant predictions are evaluated


def mean_over(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of ``[B, t, t]`` over all locations of the counted images, bool ``[B]``; 0 if there are
    none.
    """
    weights = counted.to(values.dtype)[:, None, None].expand_as(values)
    return (values * weights).sum() / weights.sum().clamp_min(1)


def _keeping(
    batches: Iterable[tuple[Tensor, Tensor]], kept: list[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches, of which the first few are kept too."""
    for images, index in batches:
        if sum(len(indices) for _, indices in kept) < _CONSTANT_IMAGES:
            kept.append((images, index))
        yield images, index


class ColorizationView(NamedTuple):
    """A batch of images split into lightness and color.

    Attributes:
        lightness: float ``[B, 1, S, S]``, (L - 50) / 50, the encoder's input.
        ab: float ``[B, 2, t, t]``, the colors.
        bins: int64 ``[B, t, t, K]``, bins of the soft targets.
        shares: float ``[B, t, t, K]``, their probabilities.
        colored: bool ``[B]``, false for gray images, decided on the whole image.
        image: uint8 ``[B, 3, S, S]``, the image after crop and flip.
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
    """Splits lightness and color, and predicts a distribution over color bins."""

    Options = ColorizationOptions
    figures = figures
    audit = audit

    def __init__(self, options: ColorizationOptions, encoder: Encoder, data: DataInfo) -> None:
        super().__init__(options, encoder, data)
        self.side = data.image_size
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
        self.constant: Tensor
        self.steps_taken: Tensor
        self.register_buffer("centers", centers, persistent=False)  # [Q, 2]
        # Share of each bin; see `prepare`.
        self.register_buffer("prior", torch.full((len(centers),), 1 / len(centers)))
        # Loss and cross-entropy of the best constant prediction, in evaluation and in training;
        # 0 before `prepare`.
        self.register_buffer("constant", torch.zeros(2, 2))
        self.register_buffer("steps_taken", torch.zeros((), dtype=torch.int64))
        if options.encoding == "table":
            table = ab_bins.build_table(options.bin_step, options.neighbors, self.sigma)
            self.table_bins: Tensor
            self.table_shares: Tensor
            self.register_buffer("table_bins", table.bins, persistent=False)
            self.register_buffer("table_shares", table.shares, persistent=False)

    @classmethod
    def inputs(cls, options: ColorizationOptions, data: DataInfo) -> EncoderInput:
        """The lightness of whole images, randomly cropped."""
        del options
        side = data.image_size
        return EncoderInput(side, side, color_space="lightness", random_crop=True)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """At chance level the prediction is the best constant one: a distribution, or with least
        squares a color. It is measured by `prepare`, for the weights after their ramp.
        """
        areas = tuple(
            Metric(f"{weighting}auc{baseline}", eval_only=True)
            for weighting in ("", "rebalanced_")
            for baseline in ("", "_of_gray")
        )
        measured = self.constant[int(self.training)].tolist()
        loss, cross_entropy = (level or None for level in measured)
        if self.options.loss == "euclidean":
            return (Metric("loss", "", loss), Metric("saturation"), *areas)
        return (
            Metric("loss", "", loss),
            Metric("cross_entropy", "nats", cross_entropy),
            Metric("target_entropy", "nats"),
            Metric("saturation"),
            *areas,
        )

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Number and SHA-256 of the bins."""
        lines = "".join(f"{a},{b}\n" for a, b in self.centers.int().tolist())
        digest = hashlib.sha256(lines.encode()).hexdigest()
        return {"bins": {"count": len(self.centers), "sha256": digest}}

    def prepare(self, batches: Iterable[tuple[Tensor, Tensor]]) -> str:
        """Count the colors of the images, for the rebalancing weights, and measure constant
        predictions; see `Method.prepare`.
        """
        kept: list[tuple[Tensor, Tensor]] = []
        counted = prior.count_colors(
            _keeping(batches, kept),
            self.encode,
            len(self.centers),
            self.stride,
            self.options.gray_rule,
        )
        shares = counted.shares
        if self.options.neighbors == 1:  # soft targets are smooth already
            shares = ab_bins.smoothed(shares, self.centers.cpu(), self.sigma)
        self.prior.copy_(shares)
        self._measure_constants(kept)
        classes = self.options.loss == "classification"
        level, name = self.constant[1, int(classes)], "cross-entropy" if classes else "loss"
        remark = f"; the best constant prediction has a {name} of {level:.4g} in training"
        return prior.summary(shares, self.centers, counted, remark if level else "")

    @torch.no_grad()
    def _measure_constants(self, batches: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Evaluate the best constant predictions on the views of some images."""
        training = self.training
        for mode in (False, True):
            self.train(mode)
            generator = torch.Generator().manual_seed(0)
            views = [self.view(images, index, generator) for images, index in batches]
            ab = torch.cat([view.ab.movedim(1, -1)[view.colored] for view in views])
            if not len(ab):
                continue
            if self.options.loss == "euclidean":
                spread = ab.flatten(0, 2).var(dim=0, correction=0).sum()
                self.constant[int(mode)] = spread / (2 * _SCALE**2)
                continue
            target = self.encode(ab)
            weights = ab_bins.rebalancing_weights(self.prior, self.options.rebalance)
            for column, of_bin in enumerate((weights, torch.ones_like(weights))):
                self.constant[int(mode), column] = ab_bins.best_constant_loss(target, of_bin)
        self.train(training)

    def encode(self, ab: Tensor) -> SoftTarget:
        """Soft targets ``[..., K]`` of colors ``[..., 2]``."""
        if self.options.encoding == "exact":
            return ab_bins.encode_exact(ab, self.centers, self.options.neighbors, self.sigma)
        if self.options.encoding == "dense":
            return ab_bins.encode_dense(ab, self.centers, self.sigma)
        return ab_bins.look_up(
            ab, ab_bins.Table(self.table_bins, self.table_shares), self.options.bin_step
        )

    def view(
        self,
        images: Tensor,
        index: Tensor,
        generator: torch.Generator,
        aspects: Tensor | None = None,
    ) -> ColorizationView:
        """Crop and flip the images and split lightness and color; see `Method.view`."""
        # Sampled in training only.
        boxes = mirrored = torch.empty(len(index), 0, device=images.device)
        if self.training:
            rng = PerImageRNG(index, generator)
            options = self.options
            boxes = crop_boxes(rng, images.shape[-1], options.crop_min, options.crop_side, aspects)
            mirrored = rng.bernoulli(self.options.flip)
        return chunked(4, self._split, images, boxes, mirrored)

    def _split(self, images: Tensor, boxes: Tensor, mirrored: Tensor) -> ColorizationView:
        """Build the view from what was sampled for it."""
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

    def predict(self, inputs: Tensor, side: int) -> Tensor:
        """Logits ``[B, Q, side, side]`` of lightness ``[B, 1, S, S]``, or (a, b) / 110 with the
        euclidean loss.
        """
        coarse: Tensor = self.head(self.encoder.map(inputs))
        if self.options.loss == "classification":
            coarse = coarse * _LOGIT_SCALE
        return resized(coarse, side)

    def colors(self, predicted: Tensor, temperature: float) -> Tensor:
        """Decode a prediction to colors a, b ``[B, 2, t, t]``."""
        if self.options.loss == "euclidean":
            return predicted * _SCALE
        return ab_bins.decode_logits(predicted, self.centers, temperature)

    def colorize(self, images: Tensor, temperature: float | None = None) -> Tensor:
        """Colors a, b ``[B, 2, t, t]`` predicted from the lightness of whole images.

        Args:
            images: uint8 ``[B, 3, S, S]``, whose own colors are not looked at.
            temperature: Of the annealed mean (section 2.3), 0 to 1; None for that of the options.
        """
        annealed = self.options.temperature if temperature is None else temperature
        light = (lightness(images) - 50) / 50
        return self.colors(self.predict(light, -(-self.side // self.stride)), annealed)

    @property
    def weights(self) -> Tensor:
        """Weight of each bin in the loss at this step of the ramp, ``[Q]``; 1 on average over the
        images.
        """
        ramp = self.options.rebalance_ramp
        done = (self.steps_taken / ramp).clamp(max=1) if ramp else 1.0
        return ab_bins.rebalancing_weights(self.prior, 1 - (1 - self.options.rebalance) * done)

    def after_step(self, updates: Sequence[tuple[Tensor, ...]]) -> None:
        """Count the steps, for the ramp of the weights."""
        del updates
        self.steps_taken += 1

    def forward(self, view: ColorizationView) -> Loss:
        """Weighted cross-entropy (equations 2 to 4), or half the squared error (equation 1), over
        images with color.

        Metrics: the cross-entropy without weights, its floor, which is the entropy of the targets,
        and the mean predicted chroma over the true one. In evaluation also the area under the curve
        of the errors, plain and rebalanced (a weight of 1/p), each beside that of a gray
        prediction.
        """
        predicted = self.predict(view.lightness, view.ab.shape[-1])
        target = view.target
        metrics: dict[str, Tensor] = {}
        if self.options.loss == "euclidean":
            loss = mean_over((predicted - view.ab / _SCALE).square().sum(dim=1) / 2, view.colored)
        else:
            cost = ab_bins.soft_cross_entropy(predicted, target)
            # Weights multiply the loss itself; the release applies them to the gradient alone.
            loss = mean_over(self.weights[target.nearest] * cost, view.colored)
            metrics["cross_entropy"] = mean_over(cost.detach(), view.colored)
            metrics["target_entropy"] = mean_over(target.entropy, view.colored)
        # Other processes have more or fewer images with color.
        loss = globally_weighted_mean(loss, view.colored.sum())
        with torch.no_grad(), torch.autocast(predicted.device.type, enabled=False):
            every = 2 if self.training else 1  # a quarter of the locations suffices in training
            decoded = self.colors(predicted[..., ::every, ::every], self.options.temperature)
            chroma = [
                mean_over(ab.norm(dim=1), view.colored)
                for ab in (decoded, view.ab[..., ::every, ::every])
            ]
            metrics["saturation"] = chroma[0] / chroma[1].clamp_min(1e-6)
            if not self.training:
                metrics |= self._areas(decoded, view)
        return Loss(loss, metrics, counted=view.colored.sum())

    def _areas(self, decoded: Tensor, view: ColorizationView) -> dict[str, Tensor]:
        """Area under the curve of the errors and its rebalanced form, beside those of gray."""
        rare = self.rarity[view.target.nearest]
        metrics = {}
        for name, ab in {"auc": decoded, "auc_of_gray": torch.zeros_like(decoded)}.items():
            area = ab_bins.area_under_curve((ab - view.ab).norm(dim=1))
            metrics[name] = mean_over(area, view.colored)
            weighted, total = mean_over(rare * area, view.colored), mean_over(rare, view.colored)
            metrics[f"rebalanced_{name}"] = weighted / total.clamp_min(1e-9)
        return metrics

    @property
    def rarity(self) -> Tensor:
        """Weight of each bin in the rebalanced area, 1/p, ``[Q]``: lambda = 0."""
        return 1 / self.prior.clamp_min(_RAREST)
