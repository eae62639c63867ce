"""Instance discrimination: every image is a class of its own, to be told from all others by one
remembered vector.

Z. Wu, Y. Xiong, S. X. Yu, D. Lin, "Unsupervised Feature Learning via Non-Parametric Instance
Discrimination", CVPR 2018.

A randomly cropped and colored view of image i is mapped to a unit vector f and has to be nearer to
the vector v_i that a memory bank keeps of the image than to the vectors of other images. After the
step v_i moves towards f, so the second view of an image is what the network made of it an epoch
ago. Three losses: the softmax over all images, NCE with m noise samples (the paper's), and InfoNCE,
a softmax over the positive and m samples.

Letters: B images, C channels of the encoder's input, S image side, D numbers of a vector, n images
in the bank, m sampled negatives, tau temperature, c the mean of exp(<f, v> / tau) over negatives
(the paper's Z / n).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ssltool.distributed.collectives import gather, rank
from ssltool.encoders.encoder import Encoder
from ssltool.errors import CheckpointError, UsageError
from ssltool.methods.base import Chart, DataInfo, Lines, Loss, Method, MethodOptions, Predictions
from ssltool.methods.npid import augment
from ssltool.methods.npid import losses as nce
from ssltool.methods.npid.memory_bank import MemoryBank
from ssltool.ops.cached_tensors import cached_tensor
from ssltool.ops.chunked import chunks
from ssltool.ops.crops import random_boxes, resized_crop
from ssltool.ops.per_image_rng import PerImageRNG

_ALL_AT_MOST = 65_536  # images up to which the softmax over all of them is affordable
_WARM_AT_MOST = (
    100_000  # images up to which a pass of the untrained network is a small part of a run
)
_EPS = 1e-6  # least length that a vector is divided by
_NEIGHBORS = 3  # drawn beside an image
_CHARTED = 4096  # rows that the histogram of similarities looks at
_BINS = 80
_EMBEDDED = 64  # images of a chart embedded at a time


class NpidOptions(MethodOptions):
    """Options of ``ssltool pretrain npid``."""

    loss: Literal["softmax", "nce", "infonce"] | None = Field(
        None,
        description="softmax = over all images; automatic: softmax up to 65,536 images, else nce",
    )
    temperature: float | None = Field(
        None,
        ge=0.02,
        le=2,
        description="tau, divides the similarities; automatic: 0.1 for softmax, else 0.07",
    )
    dim: int = Field(128, ge=2, le=4096, description="Numbers D of a remembered vector")
    negatives: int = Field(
        4096,
        ge=1,
        le=2**24,
        description="Sampled negatives m of nce and infonce; at most all other images are used",
    )
    shared_negatives: bool = Field(
        True,
        description="One sample a step for the whole batch, much faster; otherwise one for each "
        "image",
    )
    exclude_positive: bool = Field(
        True,
        description="An image is never among its own sampled negatives; the released code lets it",
    )
    constant: Literal["ema", "first", "fixed"] = Field(
        "ema",
        description="c of nce: followed by a moving average of rate 0.99, measured once before "
        "the first step "
        "as in the paper, or fixed at that of random vectors",
    )
    proximal: float = Field(
        0.0,
        ge=0,
        description="Weight of |f - v|^2; with --bank-momentum 0, 30 is the paper's text as we "
        "remember it",
    )
    bank_init: Literal["warm", "random"] | None = Field(
        None,
        description="warm = the untrained network's vectors of all images; automatic: warm up to "
        "100,000 images",
    )
    bank_momentum: float = Field(
        0.5, ge=0, lt=1, description="Weight of the OLD vector when one is rewritten; 0 replaces it"
    )
    bank_dtype: Literal["fp32", "fp16"] = Field(
        "fp32",
        description="Number format in which the bank is kept: 512 or 256 bytes an image at D = 128",
    )
    crop: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Least share of the image's area in a random crop; automatic: 0.2, or 0.5 "
        "for gray images",
    )
    flip: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Probability of mirroring; automatic: 0.5, or 0 for gray or up to 32 px images",
    )
    rotation: float | None = Field(
        None,
        ge=0,
        le=180,
        description="Largest turn in degrees; automatic: 0, or 10 for gray images up to 32 px",
    )
    jitter: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Reach of the factors of brightness, contrast, saturation; automatic: 0.4, "
        "or 0 for gray images",
    )
    hue: float | None = Field(
        None,
        ge=0,
        le=0.5,
        description="Largest turn of the color circle; automatic: 0.4, or 0 for gray images",
    )
    grayscale: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Probability of making gray; automatic: 0.2, or 0 for gray images",
    )

    def resolved(self, info: DataInfo) -> Self:
        """Decide loss, bank and augmentation for these images."""
        small = info.image_size <= 32
        loss = self.loss or ("softmax" if info.count <= _ALL_AT_MOST else "nce")
        automatic = {
            "loss": loss,
            "temperature": 0.1 if loss == "softmax" else 0.07,
            "bank_init": "warm" if info.count <= _WARM_AT_MOST else "random",
            "crop": 0.5 if info.gray else 0.2,
            "flip": 0.0 if info.gray or small else 0.5,
            "rotation": 10.0 if info.gray and small else 0.0,
            "jitter": 0.0 if info.gray else 0.4,
            "hue": 0.0 if info.gray else 0.4,
            "grayscale": 0.0 if info.gray else 0.2,
        }
        return self.model_copy(
            update={name: v for name, v in automatic.items() if getattr(self, name) is None}
        )


class NpidView(NamedTuple):
    """A batch of views, one of each image.

    Attributes:
        images: float ``[B, C, S, S]``, standardized, as the encoder sees them.
        which: int64 ``[B]``, the images' places in the data.
        seed: int64 ``[B]``, random; the images' negatives are drawn from it.
    """

    images: Tensor
    which: Tensor
    seed: Tensor


class _Compared(NamedTuple):
    """What comparing vectors with the bank gave; [B] is this process's batch.

    Attributes:
        similarity: With the own row, ``[B]``.
        against: Of the softmaxes, ln of the sum of exp over the negatives; of NCE, the noise terms.
            ``[B]``.
        largest: Largest logit of a negative, ``[B]``.
        log_c: ln c of the batches of all processes, scalar.
    """

    similarity: Tensor
    against: Tensor
    largest: Tensor
    log_c: Tensor


class Npid(Method[NpidOptions, NpidView]):
    """The projection, the memory bank and the loss that names an image by its row."""

    Options = NpidOptions
    crops = True
    presets = {
        "paper": {
            "backbone": "resnet18",
            "image_size": 224,
            # about the shorter side of ImageNet's files, of which the released code cuts its crops
            "load_size": 384,
            "loss": "nce",
            "negatives": 4096,
            "temperature": 0.07,
            "shared_negatives": False,
            "exclude_positive": False,
            "constant": "first",
            "bank_init": "random",
            "optimizer": "sgd",
            "lr": 0.03,
            "weight_decay": 1e-4,
            "batch_size": 256,
            "epochs": 200,
            "schedule": "step",
            "warmup": 0,
        },
        "infonce": {
            "backbone": "resnet50",
            "image_size": 224,
            "load_size": 384,
            "loss": "infonce",
            "negatives": 65_536,
            "temperature": 0.07,
            "optimizer": "sgd",
            "lr": 0.03,
            "weight_decay": 1e-4,
            "batch_size": 256,
            "epochs": 200,
        },
        "small": {"backbone": "resnet10_w32", "loss": "softmax", "bank_init": "warm"},
    }

    def __init__(self, options: NpidOptions, encoder: Encoder, info: DataInfo) -> None:
        super().__init__(options, encoder, info)
        self.side = info.image_size
        assert options.loss and options.temperature, "resolved"
        self.options = options
        self.loss = options.loss
        self.temperature = options.temperature
        self.count = info.count
        self.negatives = (
            info.count - 1 if options.loss == "softmax" else min(options.negatives, info.count - 1)
        )
        self.head = nn.Linear(encoder.width, options.dim)
        self.bank = MemoryBank(
            info.count,
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
        for name, values in {"_mean": info.mean, "_std": info.std}.items():
            statistic = torch.tensor(values).view(1, -1, 1, 1)
            if encoder.in_channels == 1:
                statistic = statistic.mean(dim=1, keepdim=True)
            self.register_buffer(name, statistic, persistent=False)
        self._to_write: list[tuple[Tensor, Tensor, Tensor]] = []
        self._looked = False

    @property
    def chance(self) -> dict[str, float]:
        """Loss and accuracy of vectors that are independent of the bank's, c being measured on
        them.
        """
        log_c = nce.log_constant(self.options.dim, self.temperature)
        log_sum = math.log(self.negatives + (self.loss != "nce")) + log_c
        return {"loss": log_sum + (self.loss == "nce"), "accuracy": 1 / (self.negatives + 1)}

    @property
    def sharded(self) -> frozenset[str]:
        """The rows of the bank."""
        return frozenset({"bank.rows"})

    def view(self, images: Tensor, index: Tensor, generator: torch.Generator) -> NpidView:
        """Draw a view of each image; in evaluation mode it is the image itself. See `Method.view`."""
        rng = PerImageRNG(index, generator)
        seed = rng.bits()
        if not self.training:
            return NpidView(self._standardized(images.to(torch.float32) / 255), index, seed)
        drawn = self._drawn(rng, images.shape[-1])
        seen = torch.empty(
            len(images), self.encoder.in_channels, self.side, self.side, device=images.device
        )
        for some in chunks(images, 4):
            self._standardized(
                self._augmented(images[some], *(each[some] for each in drawn)), out=seen[some]
            )
        return NpidView(seen, index, seed)

    def _drawn(self, rng: PerImageRNG, side: int) -> tuple[Tensor, ...]:
        """Draw what `_augmented` does to images of this side; what is switched off is empty."""
        chosen = self.options
        assert chosen.crop and chosen.flip is not None and chosen.rotation is not None, "resolved"
        assert (
            chosen.jitter is not None and chosen.hue is not None and chosen.grayscale is not None
        ), "resolved"
        boxes = random_boxes(rng, side, (chosen.crop, 1.0))
        mirrored = rng.bernoulli(chosen.flip)
        angle = factors = turn = gray = torch.empty(rng.count, 0, device=rng.device)
        if chosen.rotation:
            angle = (2 * rng.uniform() - 1) * chosen.rotation
        if chosen.jitter or chosen.hue:
            factors, turn = augment.draw_jitter(rng, chosen.jitter, chosen.hue)
        if chosen.grayscale:
            gray = rng.bernoulli(chosen.grayscale)
        return boxes, mirrored, angle, factors, turn, gray

    def _augmented(
        self,
        images: Tensor,
        boxes: Tensor,
        mirrored: Tensor,
        angle: Tensor,
        factors: Tensor,
        turn: Tensor,
        gray: Tensor,
    ) -> Tensor:
        """Crop, mirror, turn and color each image as it was drawn: float ``[B, 3, S, S]`` in 0..1."""
        cropped = resized_crop(images, boxes, self.side, mirrored)
        # From here on channel by channel: colors are sums of whole channels.
        image = torch.empty(cropped.shape, device=images.device).copy_(cropped)
        if self.options.rotation:
            image = augment.rotate(image, angle)
        if not (self.options.jitter or self.options.hue):
            image.div_(255)
        else:  # the factor of the brightness brings bytes to 0..1 as well
            factors = factors / cached_tensor((255.0, 1.0, 1.0), images.device)
            image = augment.jitter(image, factors, turn if self.options.hue else None)
        return augment.grayscale(image, gray) if self.options.grayscale else image

    def _standardized(self, image: Tensor, out: Tensor | None = None) -> Tensor:
        """Float ``[B, 3, S, S]`` in 0..1 -> ``[B, C, S, S]``, standardized over the data, in
        ``out`` if given.
        """
        if self.encoder.in_channels == 1:
            image = image.mean(dim=1, keepdim=True)
        return torch.sub(image, self._mean, out=out).div_(self._std)

    def embed(self, images: Tensor) -> Tensor:
        """Unit vectors float32 ``[B, D]`` of images float ``[B, C, S, S]``; float32 whatever the
        encoder runs in.
        """
        pooled = self.encoder(images)
        with torch.autocast(pooled.device.type, enabled=False):
            return F.normalize(self.head(pooled.float()), eps=_EPS)

    @torch.no_grad()
    def prepare(self, batches: Iterable[tuple[Tensor, Tensor]]) -> str:
        """Fill the bank with the untrained network's vectors if it starts warm, and measure c."""
        warm, seen = self.options.bank_init == "warm", 0
        for images, index in batches:
            if len(images) == 1:
                continue  # batch norm knows no statistics of one image
            # In training mode, as the first step's vectors will be; without augmentation, which
            # shows the most.
            features, places = self.embed(self._standardized(images.to(torch.float32) / 255)), index
            seen += len(images)
            if not warm:
                break
            self.bank.update(index, features, momentum=0.0)
        # Vectors of one untrained network are alike: among random rows a few of them would give
        # themselves away.
        if warm and 2 * seen < self.count:
            self.bank.randomize()
            warm = False
        if seen and self.loss == "nce" and self.options.constant != "fixed":
            seed = PerImageRNG(places, torch.Generator().manual_seed(0)).bits()
            self.log_c.copy_(self._compare(features, places, seed).log_c)
            self._check_constant()
        if warm:
            return f"bank: the untrained network's vectors of {seen:,} images"
        return (
            f"bank: {self.count:,} random rows; in the first epoch the loss cannot fall, since "
            "positives are "
            "noise, and in the next few it goes up and down"
        )

    def forward(self, view: NpidView) -> Loss:
        """The loss, how many images are nearer to their own row than to every negative, and the
        similarities.
        """
        if not self.training and int(view.which.max()) >= self.count:
            raise UsageError(
                f"npid asks which of its {self.count} training images it is shown, and these are "
                "others; "
                "drop --data, or look at the new ones with 'ssltool visualize features'"
            )
        features = self.embed(view.images)
        with torch.autocast(features.device.type, enabled=False):
            compared = self._compare(features, view.which, view.seed)
            positive = compared.similarity / self.temperature
            if self.loss == "nce":
                losses = nce.nce_loss(
                    positive, compared.against, self.log_c + math.log(self.negatives)
                )
            else:
                losses = nce.softmax_loss(positive, compared.against)
            if self.options.proximal:
                losses = losses + nce.proximal(features, compared.similarity, self.options.proximal)
        if self.training and torch.is_grad_enabled():
            self._to_write.append((gather(view.which), gather(features.detach()), compared.log_c))
        numbers = {
            "accuracy": (positive > compared.largest).float().mean().detach(),
            "own_similarity": compared.similarity.mean().detach(),
            "nearest_similarity": compared.largest.mean() * self.temperature,
        }
        return Loss(
            losses.mean(),
            {**numbers, "log_c": self.log_c.clone()} if self.loss == "nce" else numbers,
        )

    def _compare(self, features: Tensor, index: Tensor, seed: Tensor) -> _Compared:
        """Compare vectors with the rows of the bank.

        With several processes the vectors of all of them are compared with the rows held here, and
        the parts of each vector's sums come back to where it came from.
        """
        batch = len(features)
        features, index, seed = gather(features), gather(index), gather(seed)
        own = self.bank.place(index)
        similarity = self.bank.similarity(features, own)
        ids = self._sampled(index, seed)
        left_out = own if ids is None or self.options.exclude_positive else torch.full_like(own, -1)
        others = nce.Others(self.bank.rows, ids, left_out)
        if self.loss == "nce":
            log_cm = self.log_c + math.log(self.negatives)
            against, log_sum, largest = nce.noise_terms(features, others, self.temperature, log_cm)
        else:
            against, largest = nce.log_sum_exp(features, others, self.temperature)
            log_sum = against.detach()
        parts = gather(
            torch.stack([similarity, against, log_sum, largest])[None]
        )  # [processes, 4, all images]
        log_c = parts[:, 2].detach().logsumexp(dim=(0, 1)) - math.log(len(index) * self.negatives)
        mine = parts[:, :, rank() * batch : (rank() + 1) * batch]
        against = mine[:, 1].sum(dim=0) if self.loss == "nce" else mine[:, 1].logsumexp(dim=0)
        return _Compared(mine[:, 0].sum(dim=0), against, mine[:, 3].amax(dim=0).detach(), log_c)

    def _sampled(self, index: Tensor, seed: Tensor) -> Tensor | None:
        """Places of the sampled negatives held here; None for all rows, which a sample of all
        others is.
        """
        if self.negatives == self.count - 1:
            return None
        options = self.options
        drawn = nce.sample(
            seed,
            index,
            self.count,
            self.negatives,
            shared=options.shared_negatives,
            exclude=options.exclude_positive,
        )
        return self.bank.sampled(drawn)

    def after_step(self, view: NpidView) -> None:
        """Write the vectors of the step's batches into the bank, and follow c."""
        del view  # its vectors were kept by `forward`
        for index, features, log_c in self._to_write:
            self.bank.update(index, features, self.options.bank_momentum)
            if self.loss == "nce" and self.options.constant == "ema":
                # The average of c, not of ln c: early batches differ by whole factors.
                followed = torch.logaddexp(self.log_c + math.log(0.99), log_c + math.log(0.01))
                self.log_c.copy_(torch.where(followed.isfinite(), followed, self.log_c))
        self._to_write.clear()
        # Reading a number stops a GPU, so there it is looked at once: rows and vectors are unit by
        # construction.
        if self.log_c.device.type == "cpu" or not self._looked:
            self._looked = True
            self._check_constant()

    def _check_constant(self) -> None:
        """Make sure that c is one that unit vectors can have."""
        log_c, bound = float(self.log_c), 1.01 / self.temperature
        if not abs(log_c) <= bound:
            raise CheckpointError(
                f"ln c is {log_c:.4g}, but unit vectors keep it within {bound:.4g}: the memory "
                "bank is damaged; "
                "start the run again"
            )

    def draw_task(
        self, images: Tensor, index: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The image and the views that are shown of it in three epochs."""
        views = {}
        for epoch in range(1, 4):
            rng = PerImageRNG(index, generator)
            rng.bits()  # the seed of the negatives comes first, as in `view`
            shown = (
                self._augmented(images, *self._drawn(rng, images.shape[-1]))
                if self.training
                else images / 255
            )
            views[f"view, epoch {epoch}"] = (shown * 255).round().to(torch.uint8)
        return {"image": images, **views}

    @torch.no_grad()
    def draw_predictions(
        self, images: Tensor, index: Tensor, generator: torch.Generator
    ) -> Predictions:
        """The images whose rows are nearest, and how near the own row is.

        With several processes only the rows held here are looked at.
        """
        features = self.embed(self.view(images, index, generator).images)
        known = index < self.count
        place = torch.where(known, self.bank.place(index * known), -1)
        scores = features @ self.bank.rows.to(features.dtype).T  # [B, n]
        own = self.bank.similarity(features, place)
        order = (scores > own[:, None]).sum(dim=1) + 1
        scores[place >= 0, place[place >= 0]] = -math.inf
        similarity, nearest = scores.topk(min(_NEIGHBORS, scores.shape[1] - 1), dim=1)
        captions = [
            (f"own row {s:.2f}, rank {o:,} of {scores.shape[1]:,}; " if p >= 0 else "")
            + f"nearest others {', '.join(f'{value:.2f}' for value in values)}"
            for s, o, p, values in zip(own, order, place, similarity.tolist(), strict=True)
        ]
        titles = [f"nearest {i + 1}" for i in range(nearest.shape[1])]
        places = dict(zip(titles, (nearest + self.bank.start).unbind(dim=1), strict=True))
        return Predictions({"image": images}, captions, places)

    @torch.no_grad()
    def plots(self, images: Tensor, index: Tensor, generator: torch.Generator) -> dict[str, Chart]:
        """In evaluation mode: how similar images are to their own and to other rows, as histograms."""
        if self.training or int(index.max()) >= self.count:
            return {}
        parts = zip(torch.split(images, _EMBEDDED), torch.split(index, _EMBEDDED), strict=True)
        features = torch.cat([self.embed(self.view(*part, generator).images) for part in parts])
        some = torch.arange(
            0, len(self.bank.rows), -(-len(self.bank.rows) // _CHARTED), device=index.device
        )
        scores = features @ self.bank.rows[some].to(features.dtype).T
        place = self.bank.place(index)
        others = scores[place[:, None] != some]
        own = self.bank.similarity(features, place)[place >= 0]
        y = {"own row": own, "other rows": others}
        edges = torch.linspace(-1, 1, _BINS + 1)
        return {
            "similarities": Lines(
                ((edges[1:] + edges[:-1]) / 2).tolist(),
                {
                    name: (values.cpu().histc(_BINS, -1, 1) / max(1, values.numel())).tolist()
                    for name, values in y.items()
                },
                "similarity (cosine)",
                f"share of the pairs in bins of {2 / _BINS:g}",
            )
        }
