"""Features of frozen encoders, raw pixels as their baseline, and batch-norm recalibration.

Shapes: N images, B per batch, S image side, D width of the pooled vector, C_s width of a stage.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.projection import Projection
from ssltool.encoders.transform import InputTransform, resize
from ssltool.errors import DataError, WeightsError
from ssltool.ops import grids
from ssltool.runs.probe_record import POOLED as POOLED
from ssltool.runs.probe_record import PROJECTION

PATCH_MOMENTS = "patch moments"
"""Name of the features of `FeatureExtractor` that are no stage's."""

_PIXEL_SIDE = 32  # px: raw pixels of larger images are read at this size, 3072 dimensions
_MAX_BATCH = 256  # images that a network is applied to at a time
_PIXELS_AT_ONCE = 32 * 224**2  # of such a batch: a few gigabytes of maps
_PIXELS_AT_ONCE_ACCELERATOR = 256 * 224**2
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Grid(NamedTuple):
    """How a stage's map is reduced to a square grid, besides to its average.

    Attributes:
        dim: Largest dimension of the grid; 0 for none.
        bilinear: Resize the map to the grid, also to a larger one, as Zhang et al. 2016 do, in
            place of averaging over its cells.
    """

    dim: int = 0
    bilinear: bool = False

    def side(self, map_: Tensor) -> int:
        """Side of the grid of a map ``[B, C, h, w]``."""
        most = math.isqrt(self.dim // map_.shape[1])
        return most if self.bilinear else min(*map_.shape[2:], most)

    def of(self, map_: Tensor) -> Tensor:
        """Grid features ``[B, C * side * side]`` of a map."""
        size = (self.side(map_),) * 2
        if self.bilinear:
            return F.interpolate(map_, size, mode="bilinear", align_corners=False).flatten(1)
        return F.adaptive_avg_pool2d(map_, size).flatten(1)


class PatchEncoder(nn.Module):
    """An encoder applied to a grid of patches, as in patch-based pretraining.

    Each location of its maps is one patch, encoded alone and averaged; its pooled vector is the
    mean over the patches.

    Args:
        encoder: The network.
        patch: Side P of the patches in pixels.
        stride: Pixels from one patch to the next.
    """

    def __init__(self, encoder: Encoder, patch: int, stride: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.stages = encoder.stages
        self._patch, self._stride = patch, stride

    def forward(self, x: Tensor) -> Tensor:
        """Mean of the patches' pooled vectors, ``[B, D]``, of images ``[B, C, H, H]``."""
        return self.vectors(x).mean(dim=1)

    def vectors(self, x: Tensor) -> Tensor:
        """The patches' pooled vectors in reading order, ``[B, G*G, D]``."""
        patches, _ = self._cut(x)
        return torch.stack([self.encoder(patch) for patch in patches.unbind(dim=1)], dim=1)

    def map(self, x: Tensor) -> Tensor:
        """The last stage's averages over each patch, ``[B, C_last, G, G]``."""
        return self.maps(x)[self.stages[-1].name]

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Every stage's averages over each patch, by the stage's name: ``[B, C_s, G, G]``."""
        patches, side = self._cut(x)
        # One grid location at a time: the maps of all patches at once would be several times the
        # size of the images.
        averages = [
            {name: values.mean(dim=(2, 3)) for name, values in self.encoder.maps(patch).items()}
            for patch in patches.unbind(dim=1)
        ]
        stacked = {name: torch.stack([a[name] for a in averages], dim=2) for name in averages[0]}
        return {name: values.view(len(x), -1, side, side) for name, values in stacked.items()}

    def _cut(self, x: Tensor) -> tuple[Tensor, int]:
        """Patches ``[B, G*G, C, P, P]`` and G."""
        count = (x.shape[-1] - self._patch) // self._stride + 1
        grid = grids.Grid(self._patch, self._stride, count)
        return grids.cut(x, grid), grid.count


_NO_GRID = Grid()


class FeatureExtractor:
    """Features of all stages from one forward pass, in evaluation mode and without gradients.

    Args:
        encoder: The network; its modes are restored after each call.
        transform: Resizes and normalizes.
        grid: Also reduce each stage's map to a grid.
        projection: Also project the pooled vector; on the encoder's device.
        patch_moments: Also the first two moments of the vectors of a `PatchEncoder`'s patches.
        dtype: ``torch.bfloat16`` or ``torch.float16`` compute under autocast.
    """

    def __init__(
        self,
        encoder: Encoder | PatchEncoder,
        transform: InputTransform,
        grid: Grid = _NO_GRID,
        *,
        projection: Projection | None = None,
        patch_moments: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._encoder, self._transform, self._projection = encoder, transform, projection
        self._grid, self._dtype = grid, dtype
        self._patch_moments = patch_moments
        self._device = next(encoder.parameters()).device
        self._pools_by_average: bool | None = None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the features of a batch.

        Args:
            images: uint8 ``[B, 3, S, S]``, on any device.

        Returns:
            float32 on the encoder's device: ``pooled`` ``[B, D]``, the encoder's own vector;
            ``layer1`` ... (each stage's name) ``[B, C_s]``, the averages of the stages' maps;
            ``layer1 grid`` ... ``[B, C_s * g * g]`` of the stages whose grid has more than one
            location; ``projection`` ``[B, P]``, unit vectors; and ``patch moments``
            ``[B, 2 * D]``, the means over the patches of their vectors and of these squared.
        """
        with _evaluation_mode(self._encoder):
            x = self._transform(images.to(self._device))
            if self._pools_by_average is None:
                self._pools_by_average = _pools_by_average(self._encoder, x[:2])
            mixed = self._dtype != torch.float32
            with torch.autocast(self._device.type, dtype=self._dtype, enabled=mixed):
                maps = {name: map_.float() for name, map_ in self._encoder.maps(x).items()}
                pooled = None if self._pools_by_average else self._encoder(x).float()
                moments = self._moments(x, maps) if self._patch_moments else None
        averages = {name: map_.mean(dim=(2, 3)) for name, map_ in maps.items()}
        pooled = averages[self._encoder.stages[-1].name] if pooled is None else pooled
        grids_ = {
            f"{name} grid": self._grid.of(map_)
            for name, map_ in maps.items()
            if self._grid.side(map_) > 1
        }
        projected = {} if self._projection is None else {PROJECTION: self._projection(pooled)}
        further = projected if moments is None else {**projected, PATCH_MOMENTS: moments}
        return {POOLED: pooled, **averages, **grids_, **further}

    def _moments(self, x: Tensor, maps: dict[str, Tensor]) -> Tensor:
        """Moments ``[B, 2 * D]`` of the patches of ``x``."""
        assert isinstance(self._encoder, PatchEncoder)
        if self._pools_by_average:
            vectors = maps[self._encoder.stages[-1].name].flatten(2).transpose(1, 2)
        else:
            vectors = self._encoder.vectors(x).float()
        return torch.cat([vectors.mean(dim=1), vectors.square().mean(dim=1)], dim=1)


def extract(
    encoder: Encoder | PatchEncoder,
    batches: Iterable[Tensor],
    transform: InputTransform,
    grid: Grid = _NO_GRID,
    *,
    projection: Projection | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Compute the features of all images into memory.

    Args:
        encoder: As for `FeatureExtractor`.
        batches: uint8 ``[B, 3, S, S]``, on any device.
        transform: As for `FeatureExtractor`.
        grid: Likewise.
        projection: Likewise.
        dtype: Likewise.

    Returns:
        Name of the stage -> float32 ``[N, D]`` on the encoder's device, see `FeatureExtractor`.

    Raises:
        DataError: There are no images.
        WeightsError: A feature is NaN or infinite.
    """
    extractor = FeatureExtractor(encoder, transform, grid, projection=projection, dtype=dtype)
    parts: dict[str, list[Tensor]] = {}
    for images in batches:
        for name, values in extractor(images).items():
            parts.setdefault(name, []).append(values)
    if not parts:
        raise no_images()
    # Parts are freed as they are joined: only the largest stage is in memory twice.
    features = {name: torch.cat(parts.pop(name)) for name in list(parts)}
    for name, values in features.items():
        check_finite(name, values)
    return features


def check_finite(name: str, values: Tensor) -> None:
    """Refuse features of diverged weights.

    Raises:
        WeightsError: A value is NaN or infinite.
    """
    if not values.isfinite().all():
        raise WeightsError(
            f"the encoder's {name!r} features hold NaN or infinity, finite values were expected; "
            "the weights have diverged: probe an earlier checkpoint"
        )


def no_images(reasons: Mapping[str, str] | None = None) -> DataError:
    """The error of data without a readable image.

    Args:
        reasons: Name of an image -> why it cannot be read, as far as known.
    """
    if not reasons:
        return DataError("there are no images; check that --data holds readable images")
    name, reason = next(iter(reasons.items()))
    of = "" if len(reasons) == 1 else f" (first of {len(reasons):,})"
    return DataError(f"no image can be read as the encoder needs it: {name}: {reason}{of}")


def pixels(images: Tensor, side: int, channels: int) -> Tensor:
    """Raw pixels, the baseline every feature should beat.

    Args:
        images: uint8 ``[B, 3, S, S]``.
        side: Side to which images are resized.
        channels: As many as the images have, or 1 for their mean.

    Returns:
        float32 ``[B, channels * side * side]`` in 0..1.
    """
    x = resize(images, side)
    return (x.mean(dim=1, keepdim=True) if channels == 1 else x).flatten(1)


def pixel_format(batches: Iterable[Tensor]) -> tuple[int, int]:
    """Side and channels at which images uint8 ``[B, 3, S, S]`` are read as raw pixels.

    The side is their own up to 32 px; one channel is enough when no image has any color.

    Raises:
        DataError: There are no images.
    """
    side, channels = 0, 1
    for images in batches:
        side = min(_PIXEL_SIDE, images.shape[-1])
        if not bool((images == images[:, :1]).all()):
            channels = images.shape[1]
    if not side:
        raise no_images()
    return side, channels


@torch.no_grad()
def recalibrate_batch_norm(
    encoder: Encoder | PatchEncoder,
    images: Tensor,
    transform: InputTransform,
    *,
    projection: Projection | None = None,
    seed: int = 0,
) -> int:
    """Re-estimate batch norm's running statistics on whole images, without changing a weight.

    An encoder trained on tiles or patches has other statistics than those of whole images, and a
    random one has none. Means and variances become their averages over batches of images in random
    order: images are usually sorted by class, and a batch of one class varies less than the set.

    Args:
        encoder: Changed in place, if it has batch norm; its modes are restored afterwards.
        images: uint8 ``[N, 3, S, S]``, unlabeled training images, on any device.
        transform: Resizes and normalizes.
        projection: Treated alike, if it has a norm.
        seed: Of the order.

    Returns:
        Images used; 0 without batch norm, or of a single image, which has no variance.
    """
    parts = [encoder] if projection is None else [encoder, projection]
    network = nn.Sequential(*parts)
    norms = [m for m in network.modules() if isinstance(m, _BATCH_NORMS) and m.track_running_stats]
    if not norms or len(images) < 2:
        return 0
    momenta = [norm.momentum for norm in norms]
    device = next(encoder.parameters()).device
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    # Of nearly equal length: a short last batch would have poor statistics.
    size = max(2, compute_batch(transform.size, device))
    batches = order.tensor_split(max(1, round(len(order) / size)))
    used = 0
    with _evaluation_mode(network):
        for norm in norms:
            norm.train()
            # A weight of zero would not rid the averages of a NaN.
            norm.reset_running_stats()
        for batch in batches:
            used += len(batch)
            for norm in norms:
                # 1 for the first batch: together a plain average over images.
                norm.momentum = len(batch) / used
            network(transform(images[batch.to(images.device)].to(device)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return used


def compute_batch(side: int, device: torch.device) -> int:
    """Images of a side in pixels that a network is applied to at a time.

    It does not depend on how many are read at a time: that changes nothing but the speed.
    """
    budget = _PIXELS_AT_ONCE if device.type == "cpu" else _PIXELS_AT_ONCE_ACCELERATOR
    return min(_MAX_BATCH, max(1, budget // side**2))


def _pools_by_average(encoder: Encoder | PatchEncoder, x: Tensor) -> bool:
    """Whether the pooled vector is the average of the last map, so that one pass gives both."""
    average = encoder.map(x).mean(dim=(2, 3))
    pooled: Tensor = encoder(x)
    return bool((pooled - average).abs().max() <= 1e-4 * average.abs().max())


@contextmanager
def _evaluation_mode(encoder: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each module is in the mode it was in."""
    modes = {module: module.training for module in encoder.modules()}
    encoder.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
