"""Contrastive predictive coding: identify the patch some rows ahead among all of the batch.

O. Hénaff, A. Srinivas, J. De Fauw, A. Razavi, C. Doersch, S. M. A. Eslami, A. van den Oord,
"Data-Efficient Image Recognition with Contrastive Predictive Coding", ICML 2020. The first version,
called v1 here: A. van den Oord, Y. Li, O. Vinyals, "Representation Learning with Contrastive
Predictive Coding", 2018, section 3.2.

An image is cut into a grid of overlapping patches and each patch is encoded alone. A context
network of masked convolutions summarizes the rows above; linear predictions from it have to
identify the patch k rows below among all patches of all images of the batch (InfoNCE). The same is
done upwards, to the right and to the left, with separate networks. Shortcuts are closed: k is large
enough that context and target share no pixel, there is no batch norm through which patches would
exchange information, and each patch is augmented on its own.

Letters: B images of side H, G x G patches of side P every S pixels, C dimension of a patch's
vector, T dimension of queries and targets, k offset in rows, N candidates.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssltool.distributed.collectives import gather, rank, world_size
from ssltool.encoders.encoder import Encoder
from ssltool.errors import UsageError
from ssltool.methods.base import EncoderInput, Loss, Method, Metric, PatchGrid
from ssltool.methods.cpc import audit, figures, infonce
from ssltool.methods.cpc.context_network import Predictor
from ssltool.methods.cpc.options import CpcOptions
from ssltool.methods.cpc.patch_augment import augment
from ssltool.methods.options import DataInfo
from ssltool.ops import grids, patches
from ssltool.ops.chunked import chunked
from ssltool.ops.color import NORMALIZED_MEAN, NORMALIZED_STD, normalize_contrast
from ssltool.ops.grids import DIRECTIONS, Direction
from ssltool.ops.per_image_rng import PerImageRNG
from ssltool.ops.select import mirror

_MIN_MAP = 2  # side of a patch's map: with 1x1 there is nothing to average and norms fail
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class CpcView(NamedTuple):
    """A batch of grids, patches in reading order.

    Attributes:
        patches: float ``[B, G*G, C_in, P, P]``, augmented and standardized, the encoder's input.
        sampled: int64 ``[B, m]``, the cells of each image that are candidates; m = 0 unless
            negatives are random.
        image: uint8 ``[B, 3, H, H]``, the square that was cut.
    """

    patches: Tensor
    sampled: Tensor
    image: Tensor


class Cpc(Method[CpcOptions, CpcView]):
    """Cuts grids of patches, predicts ahead in each direction, and contrasts with all patches."""

    Options = CpcOptions
    figures = figures
    audit = audit

    def __init__(self, options: CpcOptions, encoder: Encoder, data: DataInfo) -> None:
        super().__init__(options, encoder, data)
        leaking = any(isinstance(module, _BATCH_NORMS) for module in encoder.modules())
        if leaking and not options.allow_batchnorm:
            raise UsageError(
                "batch norm leaks information between the patches of an image through the batch's "
                "statistics, and the task is solved without learning; type --norm ln, or "
                "--allow-batchnorm to train with it"
            )
        self.options = options
        self.grid = options.grid()
        self.offsets = range(self.grid.least_offset, self.grid.least_offset + options.offsets)
        self.gray, self.rgb, self.channels = data.gray, data.rgb, data.channels
        self._batch_size = data.batch_size or min(256, data.count)
        gray_in = encoder.in_channels == 1
        self.mean: Tensor
        self.std: Tensor
        mean, std = data.mean, data.std
        if options.standardize:
            mean, std = (NORMALIZED_MEAN,) * len(mean), (NORMALIZED_STD,) * len(mean)
        for name, values in (("mean", mean), ("std", std)):
            channels = (sum(values) / len(values),) if gray_in else values
            statistic = torch.tensor(channels).view(-1, 1, 1).clamp_min(1e-3)
            self.register_buffer(name, statistic, persistent=False)
        self.predictors = nn.ModuleDict(
            {
                direction: Predictor(
                    encoder.width,
                    options.target_width,
                    options.context_width,
                    options.context_blocks,
                    self.offsets,
                )
                for direction in self.directions
            }
        )

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The directions of prediction."""
        return DIRECTIONS[: self.options.directions]

    @classmethod
    def inputs(cls, options: CpcOptions, data: DataInfo) -> EncoderInput:
        """One patch, encoded without batch norm up to the last map of 2x2 or larger."""
        grid = options.grid()
        return EncoderInput(
            train_size=options.patch,
            feature_size=data.image_size,
            patch_grid=PatchGrid(grid.patch, grid.stride),
            standardize="image" if options.standardize else "data",
            norm=options.norm,
            last_stage=options.last_stage,
            min_map_size=_MIN_MAP,
            typed=lambda size: f"--patch {size} --image-size {4 * size}",
        )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Chance levels are those of a uniform choice among N candidates: loss ln N."""
        count, cells = self._candidates(self._batch_size), self.grid.count**2
        same_image = {
            "all": cells,
            "other-images": 1,
            "same-image": cells,
            "random": min(self.options.sampled, cells) + 1,
        }[self.options.negatives]
        return (
            Metric("loss", "", math.log(count)),
            Metric("loss_ratio", "fraction", 1.0),
            Metric("accuracy", "fraction", 1 / count),
            Metric("top5", "fraction", min(1.0, 5 / count)),
            Metric("correct_image", "fraction", same_image / count),
        )

    def _candidates(self, batch_size: int) -> int:
        """N of a global batch."""
        cells = self.grid.count**2
        sampled = min(self.options.sampled, cells)
        return infonce.candidates(self.options.negatives, batch_size, cells, sampled)

    def view(self, images: Tensor, index: Tensor, generator: torch.Generator) -> CpcView:
        """Cut each image into its grid and augment the patches; see `Method.view`."""
        rng = PerImageRNG(index, generator)
        margin = images.shape[-1] - self.grid.side
        device = images.device
        mirrored = torch.zeros(len(index), dtype=torch.bool, device=device)
        start = torch.full((len(index), 1, 2), margin // 2, device=device)
        if self.training:
            mirrored = rng.bernoulli(self.options.flip)
            start = rng.integers(margin + 1, 1, 2)
        return chunked(2, self._cut, images, rng, mirrored, start)

    def _cut(self, images: Tensor, rng: PerImageRNG, mirrored: Tensor, start: Tensor) -> CpcView:
        """Build the view from what was sampled for it; patch augmentations are sampled here."""
        if self.training and self.options.flip:
            images = mirror(images, mirrored)
        image = images
        if images.shape[-1] > self.grid.side:
            image = patches.cut(images, start[..., 0], start[..., 1], self.grid.side)[:, 0]
        level = self.options.augment if self.training else "none"
        cut = augment(self.cut(image), level, rng, gray=self.gray, rgb=self.rgb)
        sampled = torch.zeros(len(images), 0, dtype=torch.int64, device=images.device)
        if self.options.negatives == "random":
            sampled = rng.permutation(self.grid.count**2)[:, : self.options.sampled]
        return CpcView(self.standardized(cut), sampled, image)

    def cut(self, image: Tensor) -> Tensor:
        """Patches float ``[B, G*G, 3, P, P]`` in 0..1 of squares uint8 ``[B, 3, H, H]``, before
        augmentation.
        """
        if self.options.standardize:
            return grids.cut(self._normalized(image), self.grid)
        return grids.cut(image, self.grid).to(torch.float32).div_(255)

    def _normalized(self, images: Tensor) -> Tensor:
        """Images uint8 ``[B, 3, S, S]`` of the same mean and contrast, float in 0..1."""
        images = images.to(torch.float32).div_(255)
        if self.encoder.in_channels == 1:
            images = images.mean(dim=1, keepdim=True)
        return normalize_contrast(images).expand(-1, self.channels, -1, -1)

    def standardized(self, cut: Tensor) -> Tensor:
        """Patches float ``[B, G*G, 3, P, P]`` in 0..1 as the encoder's input."""
        if self.encoder.in_channels == 1:
            cut = cut.mean(dim=2, keepdim=True)
        return (cut - self.mean).div_(self.std)

    def forward(self, view: CpcView) -> Loss:
        """Mean InfoNCE loss over directions and offsets, its ratio to ln N, retrieval metrics."""
        retrieved = self.retrieve(view).values()
        loss = torch.stack([one.loss.mean() for one in retrieved]).mean()
        images = len(view.patches)
        with torch.no_grad():
            names = ("accuracy", "top5", "correct_image")
            rates = torch.stack([self._rates(one, images) for one in retrieved]).mean(dim=0)
            ratio = loss.detach() / math.log(self._candidates(images * world_size()))
            metrics = dict(zip(names, rates.unbind(), strict=True))
        return Loss(loss, {"loss_ratio": ratio, **metrics})

    def retrieve(self, view: CpcView) -> dict[tuple[Direction, int], infonce.Retrieval]:
        """Retrieve each context's target, by direction and offset; cells are numbered along the
        direction.

        With several processes the candidates are those of all of them, as if their batches were
        one.
        """
        codes = self.codes(view.patches)
        sampled = gather(view.sampled) if self.options.negatives == "random" else view.sampled
        retrieved: dict[tuple[Direction, int], infonce.Retrieval] = {}
        for direction in self.directions:
            targets, predictions = self.predictors[direction](grids.orient(codes, direction))
            targets = gather(targets)
            for offset, queries in predictions.items():
                retrieved[direction, offset] = infonce.retrieve(
                    queries,
                    targets,
                    offset,
                    scale=self.options.logit_scale,
                    negatives=self.options.negatives,
                    sampled=sampled,
                    first=rank() * len(codes),
                )
        return retrieved

    def codes(self, cut: Tensor) -> Tensor:
        """Encode patches ``[B, G*G, C_in, P, P]`` one by one: vectors ``[B, C, G, G]``."""
        vectors = self.encoder(cut.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        grid: Tensor = vectors.view(len(cut), self.grid.count, self.grid.count, -1)
        return grid.permute(0, 3, 1, 2)

    def _rates(self, retrieved: infonce.Retrieval, images: int) -> Tensor:
        """Fractions ``[3]`` of contexts whose target ranks first, ranks among the first five, and
        whose best candidate is of the same image.
        """
        best = retrieved.best
        own = torch.arange(images, device=best.device).repeat_interleave(len(best) // images)
        own = own + rank() * images
        hits = [retrieved.rank == 0, retrieved.rank < 5, best // self.grid.count**2 == own]
        return torch.stack(hits).float().mean(dim=1)
