"""Instance discrimination: each image is its own class, recognized by its memory vector.

Z. Wu, Y. Xiong, S. X. Yu, D. Lin, "Unsupervised Feature Learning via Non-Parametric Instance
Discrimination", CVPR 2018.

An augmented view of image i is mapped to a unit vector f and has to be closer to the vector v_i
that a memory bank keeps of the image than to the vectors of other images. After the step v_i moves
towards f, so the second view of an image is its embedding of an epoch ago. Three losses: the
softmax over all images, NCE with m noise samples (the paper's), and InfoNCE, a softmax over the
positive and m samples.

Letters: B images, C channels of the encoder's input, S image side, D embedding dimension, n images
in the bank, m sampled negatives, tau temperature, c the mean of exp(<f, v> / tau) over negatives
(the paper's Z / n).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssltool.distributed.collectives import gather, rank
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.projection import Projection
from ssltool.errors import SslToolError, UsageError
from ssltool.methods.base import EncoderInput, Loss, Memory, Method, Metric
from ssltool.methods.npid import audit, figures
from ssltool.methods.npid import losses as nce
from ssltool.methods.npid.augment import Augmentation
from ssltool.methods.npid.memory_bank import MemoryBank
from ssltool.methods.npid.options import NpidOptions
from ssltool.methods.options import DataInfo
from ssltool.ops import patches
from ssltool.ops.chunked import chunks
from ssltool.ops.per_image_rng import PerImageRNG
from ssltool.options import SMALLEST_SIDE

_CHECK_EVERY = 100  # steps between checks of c on a GPU, which reading a value stops
_ROUNDING = 1.001  # of a product of unit vectors, of which float16 keeps the length within 0.0005


class NpidView(NamedTuple):
    """One augmented view of each image of a batch.

    Attributes:
        images: float ``[B, C, S, S]``, standardized, the encoder's input.
        indices: int64 ``[B]``, the images' index in the data.
        seed: int64 ``[B]``, random, from which negatives are sampled.
    """

    images: Tensor
    indices: Tensor
    seed: Tensor


class Npid(Method[NpidOptions, NpidView]):
    """Projects features to embeddings and compares them with a memory bank."""

    Options = NpidOptions
    figures = figures
    audit = audit

    def __init__(self, options: NpidOptions, encoder: Encoder, data: DataInfo) -> None:
        super().__init__(options, encoder, data)
        self.options = options
        self.loss = options.loss
        self.temperature = options.temperature
        self.count = data.count
        self.negatives = (
            data.count - 1 if options.loss == "softmax" else min(options.negatives, data.count - 1)
        )
        self.head = nn.Linear(encoder.width, options.dim)
        self.norm = (
            nn.BatchNorm1d(options.dim, affine=False) if options.head_norm else nn.Identity()
        )
        self.bank = MemoryBank(
            data.count,
            options.dim,
            torch.float32 if options.bank_dtype == "fp32" else torch.float16,
            seed=int(torch.randint(2**31, ())),
        )
        self.log_c: Tensor
        self.register_buffer(
            "log_c", torch.tensor(nce.log_constant(options.dim, options.temperature))
        )
        self._mean: Tensor
        self._std: Tensor
        for name, values in {"_mean": data.mean, "_std": data.std}.items():
            statistic = torch.tensor(values).view(1, -1, 1, 1)
            if encoder.in_channels == 1:
                statistic = statistic.mean(dim=1, keepdim=True)
            self.register_buffer(name, statistic, persistent=False)
        self.augmentation = Augmentation(
            size=_crop_size(options, data),
            crop=options.crop,
            flip=options.flip,
            rotation=options.rotation,
            jitter=options.jitter,
            hue=options.hue,
            grayscale=options.grayscale,
            invert=options.invert,
            rgb=data.rgb,
        )
        self._steps_unchecked = 0

    @classmethod
    def inputs(cls, options: NpidOptions, data: DataInfo) -> EncoderInput:
        """Whole images, randomly cropped."""
        return EncoderInput(
            train_size=_crop_size(options, data),
            feature_size=data.image_size,
            random_crop=True,
            standardize="image" if options.standardize else "data",
        )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Chance levels are those of a network that embeds all images alike: ln n, or with a sample
        ln (m + 1); of NCE those of the best constant logit, ln c.
        """
        count = self.negatives
        constant = math.log(count + 1)
        if self.loss == "nce":
            constant += count * math.log1p(1 / count)
        declared = (
            Metric("loss", "", constant),
            Metric("accuracy", "fraction", 1 / (count + 1)),
            Metric("own_similarity", ""),
            Metric("nearest_similarity", ""),
        )
        return (*declared, Metric("log_c", "")) if self.loss == "nce" else declared

    @property
    def sharded_buffers(self) -> frozenset[str]:
        """The vectors of the bank."""
        return frozenset({"bank.rows"})

    def view(
        self,
        images: Tensor,
        index: Tensor,
        generator: torch.Generator,
        aspects: Tensor | None = None,
    ) -> NpidView:
        """Augment each image; in evaluation it is left as it is. See `Method.view`."""
        rng = PerImageRNG(index, generator)
        seed = rng.bits()
        if not self.training:
            return NpidView(self._standardized(images.to(torch.float32) / 255), index, seed)
        params = self.augmentation.sample(rng, images.shape[-1], aspects)
        side = self.augmentation.size
        inputs = torch.empty(
            len(images), self.encoder.in_channels, side, side, device=images.device
        )
        for part in chunks(images, 4):
            augmented = self.augmentation.apply(images[part], params.part(part))
            self._standardized(augmented, out=inputs[part])
        return NpidView(inputs, index, seed)

    def augmented(self, images: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
        """The images of `view` before standardization, float ``[B, 3, S, S]`` in 0..1."""
        if not self.training:
            return images / 255
        rng = PerImageRNG(index, generator)
        rng.bits()  # the seed of the negatives
        return self.augmentation.apply(images, self.augmentation.sample(rng, images.shape[-1]))

    def _standardized(self, image: Tensor, out: Tensor | None = None) -> Tensor:
        """Standardize ``[B, 3, S, S]`` in 0..1, over the data or by itself: ``[B, C, S, S]``."""
        if self.encoder.in_channels == 1:
            image = image.mean(dim=1, keepdim=True)
        if self.options.standardize:
            standardized = patches.standardize(image, level=1 / 255, jointly=True)
            return standardized if out is None else out.copy_(standardized)
        return torch.sub(image, self._mean, out=out).div_(self._std)

    def embed(self, images: Tensor) -> Tensor:
        """Unit vectors ``[B, D]`` of images float ``[B, C, S, S]``; float32 at any precision."""
        embedded: Tensor = self.projection(self.encoder(images))
        return embedded

    @property
    def projection(self) -> Projection:
        """Linear layer, optional norm, unit length (section 3.1)."""
        return Projection(self.head, self.norm)

    @property
    def memory(self) -> Memory:
        """The bank."""
        return Memory(self.bank.rows, self.temperature)

    @torch.no_grad()
    def prepare(self, batches: Iterable[tuple[Tensor, Tensor]]) -> str:
        """Fill a warm bank with the untrained network's embeddings, and measure c."""
        warm, seen = self.options.bank_init == "warm", 0
        for images, index in batches:
            if len(images) == 1:
                continue  # batch norm has no statistics of one image
            # In training mode, as in the first step; without augmentation.
            features = self.embed(self._standardized(images.to(torch.float32) / 255))
            last_index = index
            seen += len(images)
            if not warm:
                break
            self.bank.update(index, features, momentum=0.0)
        # Embeddings of an untrained network are alike: a few of them would stand out among random
        # vectors.
        if warm and 2 * seen < self.count:
            self.bank.randomize()
            warm = False
        if seen and self.loss == "nce" and self.options.constant != "fixed":
            seed = PerImageRNG(last_index, torch.Generator().manual_seed(0)).bits()
            self.log_c.copy_(self._compare(features, last_index, seed).log_c)
            self._check_constant(self.log_c)
        if warm:
            return f"bank: the untrained network's embeddings of {seen:,} images"
        return (
            f"bank: {self.count:,} random vectors; in the first epoch the loss cannot fall, since "
            "positives are noise, and in the next few it goes up and down"
        )

    def forward(self, view: NpidView) -> Loss:
        """The loss, how many images are closer to their own memory vector than to every negative,
        and the similarities.

        Raises:
            UsageError: In evaluation mode, images that are not in the bank.
        """
        if not self.training and int(view.indices.max()) >= self.count:
            raise UsageError(
                f"npid identifies its own {self.count} training images, and these are others; drop "
                "--data, or inspect the new ones with 'ssltool visualize features'"
            )
        features = self.embed(view.images)
        with torch.autocast(features.device.type, enabled=False):
            compared = self._compare(features, view.indices, view.seed)
            positive = compared.similarity / self.temperature
            if self.loss == "nce":
                log_cm = self.log_c + math.log(self.negatives)
                losses = nce.nce_loss(positive, compared.against, log_cm)
            else:
                losses = nce.softmax_loss(positive, compared.against)
            if self.options.proximal:
                losses = losses + nce.proximal(features, compared.similarity, self.options.proximal)
        metrics = {
            "accuracy": (positive > compared.hardest).float().mean().detach(),
            "own_similarity": compared.similarity.mean().detach(),
            "nearest_similarity": compared.hardest.mean() * self.temperature,
        }
        if self.loss == "nce":
            metrics["log_c"] = self.log_c.clone()
        update: tuple[Tensor, ...] = ()
        if self.training and torch.is_grad_enabled():
            update = (gather(view.indices), gather(features.detach()), compared.log_c)
        return Loss(losses.mean(), metrics, update)

    def _compare(self, features: Tensor, index: Tensor, seed: Tensor) -> nce.Comparison:
        """Compare embeddings with the vectors of the bank.

        With several processes the embeddings of all of them are compared with the shard held here,
        and the parts of each embedding's sums are sent back to its process.
        """
        batch = len(features)
        features, index, seed = gather(features), gather(index), gather(seed)
        own = self.bank.local_index(index)
        similarity = self.bank.similarity(features, own)
        sampled = self._sampled(index, seed)
        exclude = sampled is None or self.options.exclude_positive
        others = nce.Others(self.bank.rows, sampled, own if exclude else torch.full_like(own, -1))
        if self.loss == "nce":
            log_cm = self.log_c + math.log(self.negatives)
            against, log_sum, hardest = nce.noise_terms(features, others, self.temperature, log_cm)
        else:
            against, hardest = nce.log_sum_exp(features, others, self.temperature)
            log_sum = against.detach()
        # [processes, 4, images of all processes]
        parts = gather(torch.stack([similarity, against, log_sum, hardest])[None])
        log_c = parts[:, 2].detach().logsumexp(dim=(0, 1)) - math.log(len(index) * self.negatives)
        local = parts[:, :, rank() * batch : (rank() + 1) * batch]
        against = local[:, 1].sum(dim=0) if self.loss == "nce" else local[:, 1].logsumexp(dim=0)
        hardest = local[:, 3].amax(dim=0).detach()
        return nce.Comparison(local[:, 0].sum(dim=0), against, hardest, log_c)

    def _sampled(self, index: Tensor, seed: Tensor) -> Tensor | None:
        """Local indices of the sampled negatives in this shard; None for all images."""
        if self.negatives == self.count - 1:
            return None
        options = self.options
        sampled = nce.sample(
            seed,
            index,
            self.count,
            self.negatives,
            shared=options.shared_negatives,
            exclude=options.exclude_positive,
        )
        return self.bank.local_samples(sampled)

    def after_step(self, updates: Sequence[tuple[Tensor, ...]]) -> None:
        """Write the embeddings of the step's batches into the bank, and update c."""
        for index, features, log_c in updates:
            self.bank.update(index, features, self.options.bank_momentum)
            if self.loss == "nce" and self.options.constant == "ema":
                self.log_c.copy_(nce.moving_average(self.log_c, log_c))
        if self.loss == "nce":
            self._check_when_due([log_c for _, _, log_c in updates])

    def _check_when_due(self, measured: list[Tensor]) -> None:
        self._steps_unchecked += 1
        if self.log_c.device.type == "cpu" or self._steps_unchecked >= _CHECK_EVERY:
            self._steps_unchecked = 0
            self._check_constant(torch.stack([self.log_c, *measured]))

    def _check_constant(self, log_c: Tensor) -> None:
        """Check that values of ln c are some that unit vectors can have: |ln c| <= 1 / tau.

        NaN passes: the loop has an error of its own for a diverged step.

        Raises:
            SslToolError: One is not.
        """
        largest, bound = float(log_c.nan_to_num(0.0).abs().max()), 1 / self.temperature
        if largest <= _ROUNDING * bound:
            return
        lengths = self.bank.rows.float().norm(dim=1)
        worst = int((lengths - 1).abs().argmax())
        raise SslToolError(
            f"|ln c| of the constant Z = c n is {largest:.4g}; products of unit vectors keep it "
            f"within 1 / tau = {bound:.4g}, so something is not of unit length (memory vector "
            f"{self.bank.start + worst} has length {float(lengths[worst]):.3g}); start the run "
            "again, or remove its newest checkpoint and type --resume"
        )


def _crop_size(options: NpidOptions, data: DataInfo) -> int:
    """Side in pixels of the crops in training."""
    return max(SMALLEST_SIDE, round(options.crop_scale * data.image_size))
