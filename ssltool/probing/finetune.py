"""Fine-tuning of an encoder with a linear classifier on labeled images.

Pretrained and random init get the same labels, the same number of steps and the same learning rate.
The pooled vector passes a batch norm without scale (as before the linear classifier of Hénaff et
al. 2020, appendix) and a linear classifier initialized to zero; everything is trained with AdamW, a
warm-up and a cosine schedule, on slightly shifted images. They are mirrored on request only: a
mirrored letter is another one. The learning rate of the classifier is ten times that of the
encoder: at the same rate it lags behind and degrades pretrained features meanwhile.

`Schedule.wu2018` is another recipe, that of Wu et al. 2018, section 4.3: a plain linear classifier,
SGD, and a learning rate that falls in steps.

Of an encoder with a frozen prefix the stages up to a named one keep their weights and the rest is
trained from new ones: how transferable each stage is (Noroozi & Favaro 2016, section 4.1).

Shapes: N training images, B per batch, S side in pixels, D dimensions of the pooled vector, K
classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.layers import full_precision
from ssltool.encoders.registry import reinitialized_copy
from ssltool.encoders.transform import InputTransform
from ssltool.errors import DataError
from ssltool.ops import patches
from ssltool.ops.per_image_rng import PerImageRNG, mix

_HEAD = 10.0  # the classifier's learning rate over the encoder's
_SHIFT = 14  # images are shifted by up to a fourteenth of their side: 2 px of 28


@dataclass(frozen=True)
class Schedule:
    """Length and learning rate of a fine-tuning.

    Attributes:
        images: Images seen in training, repetitions included; fewer if batches are smaller.
        batch_size: B; all labeled images if there are fewer, in as many steps.
        lr: Peak learning rate of the encoder; the classifier's is ten times that.
        weight_decay: Of matrices and kernels.
        warmup: Fraction of the steps over which the learning rate rises.
        mirror: Whether half of the images are mirrored.
        drops: Fractions of the steps at which the learning rate is divided by ten, in place of
            warm-up and cosine; none for those.
        plain: A linear classifier without batch norm, at the encoder's learning rate, and SGD with
            momentum 0.9 that decays all parameters.
    """

    images: int = 12_800
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    mirror: bool = False
    drops: tuple[float, ...] = ()
    plain: bool = False

    @classmethod
    def wu2018(cls, labeled: int, *, mirror: bool) -> Schedule:
        """70 epochs over the labeled images at 0.01, divided by ten every 30 (Wu et al. 2018,
        section 4.3); batch size and weight decay are those of its pretraining.
        """
        return cls(
            images=70 * labeled,
            batch_size=min(256, labeled),
            lr=0.01,
            weight_decay=1e-4,
            mirror=mirror,
            drops=(30 / 70, 60 / 70),
            plain=True,
        )

    @property
    def steps(self) -> int:
        """Optimizer steps, at least one."""
        return max(1, self.images // self.batch_size)

    def used(self, labeled: int) -> int:
        """How many of the labeled images are seen at least once."""
        labeled = min(labeled, self.images)
        return min(labeled, self.steps * self.batch_size)


class Classifier(nn.Module):
    """An encoder with batch norm and a zero-initialized linear classifier on its pooled vector.

    Args:
        encoder: The network.
        classes: K.
        plain: No batch norm, and the classifier as torch initializes it.
        freeze_to: Stage up to which its weights do not change and its batch norm keeps its
            statistics; None for none.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        *,
        plain: bool = False,
        freeze_to: str | None = None,
    ) -> None:
        super().__init__()
        paths = [] if freeze_to is None else encoder.paths_up_to(freeze_to)
        self._frozen = [attrgetter(path)(encoder.backbone) for path in paths]
        for part in self._frozen:
            part.requires_grad_(False)
        self.encoder = encoder
        self.norm = nn.Identity() if plain else nn.BatchNorm1d(encoder.width, affine=False)
        self.head = full_precision.Linear(encoder.width, classes)
        if not plain:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def train(self, mode: bool = True) -> Self:
        """As usual, but what is frozen stays in evaluation mode."""
        super().train(mode)
        for part in self._frozen:
            if isinstance(part, nn.Module):
                part.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, K]``, float32, of images ``[B, C, H, W]``."""
        logits: Tensor = self.head(self.norm(self.encoder(x)))
        return logits


def with_new_rest(encoder: Encoder, stage: str, seed: int) -> Encoder:
    """A copy that keeps the weights up to and including a stage; the rest is reinitialized.

    Args:
        encoder: The pretrained encoder, on any device.
        stage: Name of the last stage that is kept.
        seed: Of the new weights. torch's global generator is left as it was.

    Raises:
        UnknownNameError: There is no such stage; the names are listed.
    """
    paths = encoder.paths_up_to(stage)
    with torch.random.fork_rng():
        torch.manual_seed(mix(seed))
        renewed = reinitialized_copy(encoder)
    kept = {
        key: tensor
        for key, tensor in encoder.backbone.state_dict().items()
        if any(key == path or key.startswith(f"{path}.") for path in paths)
    }
    renewed.backbone.load_state_dict({**renewed.backbone.state_dict(), **kept})
    return renewed


def finetune(
    encoder: Encoder,
    images: Tensor,
    labels: Tensor,
    transform: InputTransform,
    classes: int,
    seed: int,
    *,
    schedule: Schedule | None = None,
    dtype: torch.dtype = torch.float32,
    freeze_to: str | None = None,
) -> Classifier:
    """Train the encoder, in place, and a classifier on labeled images.

    torch's global generator is left as it was.

    Args:
        encoder: Pretrained or with random init.
        images: uint8 ``[N, 3, S, S]``, on any device.
        labels: int64 ``[N]``, classes 0 to ``classes - 1``.
        transform: Resizes and normalizes.
        classes: K.
        seed: Of the order of the images, their augmentation and dropout.
        schedule: Length and learning rate.
        dtype: ``torch.bfloat16`` computes under autocast.
        freeze_to: Stage up to which the encoder is left as it is.

    Returns:
        The trained network; the same inputs give the same bytes on a CPU.

    Raises:
        DataError: There are fewer than two images.
    """
    schedule = schedule or Schedule()
    if len(images) < 2:
        raise DataError(
            f"fine-tuning needs two labeled images or more, not {len(images)}; use more labels"
        )
    device = next(encoder.parameters()).device
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _train(
            Classifier(encoder, classes, plain=schedule.plain, freeze_to=freeze_to)
            .to(device)
            .train(),
            images,
            labels,
            transform,
            seed,
            schedule,
            dtype,
        )


def _train(
    network: Classifier,
    images: Tensor,
    labels: Tensor,
    transform: InputTransform,
    seed: int,
    schedule: Schedule,
    dtype: torch.dtype,
) -> Classifier:
    device = network.head.weight.device
    optimizer = _optimizer(network, schedule)
    scheduler = LambdaLR(optimizer, lambda step: _lr_factor(step, schedule))
    generator = torch.Generator()
    for step, chosen in enumerate(_batches(len(images), schedule, seed)):
        generator.manual_seed(mix(seed, step))
        rng = PerImageRNG(chosen.to(device), generator)
        batch = shifted(images[chosen].to(device), rng)
        if schedule.mirror:
            batch = torch.where(rng.bernoulli(0.5)[:, None, None, None], batch.flip(-1), batch)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits = network(transform(batch))
        loss = F.cross_entropy(logits, labels[chosen].to(device))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        scheduler.step()
    return network.eval()


def _optimizer(network: Classifier, schedule: Schedule) -> Optimizer:
    if schedule.plain:
        decay = schedule.weight_decay
        return SGD(network.parameters(), schedule.lr, momentum=0.9, weight_decay=decay)
    return AdamW(
        [
            {
                "params": [p for p in part.parameters() if (p.dim() > 1) == matrices],
                "lr": schedule.lr * factor,
                "weight_decay": schedule.weight_decay if matrices else 0.0,
            }
            for part, factor in ((network.encoder, 1.0), (network.head, _HEAD))
            for matrices in (True, False)
        ]
    )


@torch.no_grad()
def accuracy(
    network: Classifier,
    batches: Iterable[tuple[Tensor, Tensor]],
    transform: InputTransform,
    *,
    dtype: torch.dtype = torch.float32,
) -> float:
    """Top-1 accuracy, percent, over batches of uint8 ``[B, 3, S, S]`` and labels int64 ``[B]``."""
    device = next(network.parameters()).device
    correct, seen = 0, 0
    network.eval()
    for images, labels in batches:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            predictions = network(transform(images.to(device))).argmax(dim=1)
        correct += int((predictions == labels.to(device)).sum())
        seen += len(labels)
    if not seen:
        raise DataError(
            "there are no images to test on; check that --test-data holds readable images"
        )
    return 100 * correct / seen


def shifted(images: Tensor, rng: PerImageRNG) -> Tensor:
    """Shift each image by up to a fourteenth of its side, with replicated borders.

    Args:
        images: uint8 ``[B, C, S, S]``.
        rng: Of the images.
    """
    side = images.shape[-1]
    limit = max(1, side // _SHIFT)
    padded = F.pad(images.float(), (limit,) * 4, mode="replicate").to(torch.uint8)
    start = rng.integers(2 * limit + 1, 1, 2)
    return patches.cut(padded, start[..., 0], start[..., 1], side)[:, 0]


def _batches(count: int, schedule: Schedule, seed: int) -> Iterator[Tensor]:
    """Indices int64 ``[B]`` of each step: consecutive permutations, cut into batches of one
    size.
    """
    generator = torch.Generator().manual_seed(seed)
    size = min(schedule.batch_size, count)
    waiting = torch.empty(0, dtype=torch.int64)
    for _ in range(schedule.steps):
        while len(waiting) < size:
            waiting = torch.cat([waiting, torch.randperm(count, generator=generator)])
        yield waiting[:size]
        waiting = waiting[size:]


def _lr_factor(step: int, schedule: Schedule) -> float:
    """Factor on the learning rate: steps, or linear warm-up, then a cosine (Loshchilov & Hutter
    2017).
    """
    if schedule.drops:
        return 0.1 ** sum(step >= round(drop * schedule.steps) for drop in schedule.drops)
    warmup = max(1, round(schedule.warmup * schedule.steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, schedule.steps - warmup)))
