"""Fine-tuning: the whole network is trained on labeled images, from pretrained or from random init.

How much pretraining is worth is read off by giving both the same labels, the same number of steps
and the same learning rate. On the pooled vector come a batch norm without scale (Hénaff et al.
2020, appendix, put one before their linear classifier) and a linear classifier that starts at zero;
everything is trained with AdamW along a warm-up and half a cosine, on mirrored and slightly shifted
images. The classifier, which has everything to learn, learns ten
times as fast: at the encoder's rate it lags behind and spoils pretrained features meanwhile.

Shapes: N training images, B per batch, S their side in pixels, D width of the pooled vector, K
classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.transform import InputTransform
from ssltool.errors import DataError
from ssltool.ops import patches
from ssltool.ops.per_image_rng import PerImageRNG, mix

_HEAD = 10.0  # the classifier's learning rate over the encoder's
_SHIFT = 14  # images are shifted by up to a fourteenth of their side: 2 px of 28


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a network is fine-tuned.

    Attributes:
        images: Images shown in all, repeats included: with few labels each is seen often, with many
            not even once.
        batch_size: B; all labeled images if there are fewer.
        lr: Highest learning rate of the encoder; ten times that is the classifier's.
        weight_decay: Of matrices and kernels.
        warmup: Share of the steps over which the rate rises.
    """

    images: int = 12_800
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.1

    @property
    def steps(self) -> int:
        """Optimizer steps, at least one."""
        return max(1, self.images // self.batch_size)


class Classifier(nn.Module):
    """An encoder with a linear classifier, which starts at zero, on its standardized pooled vector."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.norm = nn.BatchNorm1d(encoder.width, affine=False)
        self.head = nn.Linear(encoder.width, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, K]`` of images ``[B, C, H, W]``."""
        logits: Tensor = self.head(self.norm(self.encoder(x)))
        return logits


def finetune(
    encoder: Encoder,
    images: Tensor,
    labels: Tensor,
    reader: InputTransform,
    classes: int,
    seed: int,
    *,
    schedule: Schedule | None = None,
    dtype: torch.dtype = torch.float32,
) -> Classifier:
    """Train the encoder, in place, and a classifier on labeled images.

    torch's global generator is left as it was.

    Args:
        encoder: Pretrained, or with random init to see what pretraining is worth.
        images: uint8 ``[N, 3, S, S]``, on any device.
        labels: int64 ``[N]``, classes 0 to ``classes - 1``.
        reader: Resizes and normalizes.
        classes: K.
        seed: Of the order of the images, of their changes and of dropout.
        schedule: How long and how fast.
        dtype: ``torch.bfloat16`` computes under autocast.

    Returns:
        The trained network; the same inputs give the same bytes on a CPU.

    Raises:
        DataError: There are fewer than two images.
    """
    schedule = schedule or Schedule()
    if len(images) < 2:
        raise DataError(
            f"fine-tuning needs two labeled images or more, not {len(images)}; type a larger "
            "--labels"
        )
    device = next(encoder.parameters()).device
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _train(
            Classifier(encoder, classes).to(device).train(),
            images,
            labels,
            reader,
            seed,
            schedule,
            dtype,
        )


def _train(
    network: Classifier,
    images: Tensor,
    labels: Tensor,
    reader: InputTransform,
    seed: int,
    schedule: Schedule,
    dtype: torch.dtype,
) -> Classifier:
    device = network.head.weight.device
    optimizer = AdamW(
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
    rates = LambdaLR(optimizer, lambda step: _rate(step, schedule))
    generator = torch.Generator()
    for step, chosen in enumerate(_batches(len(images), schedule, seed)):
        generator.manual_seed(mix(seed, step))
        some = shifted(images[chosen].to(device), chosen.to(device), generator)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits = network(reader(some))
        loss = F.cross_entropy(logits.float(), labels[chosen].to(device))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        rates.step()
    return network.eval()


@torch.no_grad()
def accuracy(
    network: Classifier,
    batches: Iterable[tuple[Tensor, Tensor]],
    reader: InputTransform,
    *,
    dtype: torch.dtype = torch.float32,
) -> float:
    """Top-1 accuracy in percent over batches of uint8 ``[B, 3, S, S]`` and classes int64 ``[B]``."""
    device = next(network.parameters()).device
    right, seen = 0, 0
    network.eval()
    for images, labels in batches:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            guess = network(reader(images.to(device))).argmax(dim=1)
        right += int((guess == labels.to(device)).sum())
        seen += len(labels)
    if not seen:
        raise DataError(
            "there are no images to test on; check that --test-data holds readable images"
        )
    return 100 * right / seen


def shifted(images: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images and shift each by up to a fourteenth of its side, repeating what is
    at its border.

    Args:
        images: uint8 ``[B, C, S, S]``.
        index: int64 ``[B]``, which image each one is.
        generator: Supplies the key of the random numbers.
    """
    rng, side = PerImageRNG(index, generator), images.shape[-1]
    reach = max(1, side // _SHIFT)
    images = torch.where(rng.bernoulli(0.5)[:, None, None, None], images.flip(-1), images)
    padded = F.pad(images.float(), (reach,) * 4, mode="replicate").to(torch.uint8)
    start = rng.integers(2 * reach + 1, 1, 2)
    return patches.cut(padded, start[..., 0], start[..., 1], side)[:, 0]


def _batches(count: int, schedule: Schedule, seed: int) -> Iterator[Tensor]:
    """Indices int64 ``[B]`` of each step: whole permutations one after the other, cut into batches
    of one size.
    """
    generator = torch.Generator().manual_seed(seed)
    size = min(schedule.batch_size, count)
    waiting = torch.empty(0, dtype=torch.int64)
    for _ in range(schedule.steps):
        while len(waiting) < size:
            waiting = torch.cat([waiting, torch.randperm(count, generator=generator)])
        yield waiting[:size]
        waiting = waiting[size:]


def _rate(step: int, schedule: Schedule) -> float:
    """Factor on the learning rate: a linear rise, then half a cosine (Loshchilov & Hutter 2017)."""
    rise = max(1, round(schedule.warmup * schedule.steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, schedule.steps - rise)))
