"""What the probes read: features of frozen encoders, pixels to compare them with, and batch-norm
statistics.

Shapes: N images, B per batch, S image side, D width of the pooled vector, C_s width of a stage.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ssltool.encoders.encoder import Encoder
from ssltool.encoders.transform import InputTransform, resize
from ssltool.errors import DataError, WeightsError
from ssltool.ops import grids

POOLED = "pooled"
_PIXEL_SIDE = 32  # px: raw pixels of larger images are read at this size, 3072 numbers


class Patchwise(nn.Module):
    """An encoder that reads an image patch by patch, as one trained on a grid of patches did.

    A place of its maps is one patch, encoded alone and averaged; its pooled vector is the mean over
    the patches.

    Args:
        encoder: The network.
        patch: Side P of the patches in pixels.
        stride: Pixels between their first ones.
    """

    def __init__(self, encoder: Encoder, patch: int, stride: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.stages = encoder.stages
        self._patch, self._stride = patch, stride

    def forward(self, x: Tensor) -> Tensor:
        """Mean of the patches' pooled vectors, ``[B, D]``, of images ``[B, C, H, H]``."""
        shown, _ = self._cut(x)
        return torch.stack([self.encoder(patches) for patches in shown.unbind(dim=1)]).mean(dim=0)

    def map(self, x: Tensor) -> Tensor:
        """Last stage's averages of the patches, ``[B, C_last, G, G]``."""
        return self.maps(x)[self.stages[-1].name]

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Averages ``[B, C_s, G, G]`` of every stage's map of each patch, by the stage's name."""
        shown, side = self._cut(x)
        # One place of the grid at a time: the stages' maps of all patches at once would be several
        # times the images.
        rows = [
            {name: found.mean(dim=(2, 3)) for name, found in self.encoder.maps(patches).items()}
            for patches in shown.unbind(dim=1)
        ]
        averages = {
            name: torch.stack([row[name] for row in rows], dim=2) for name in rows[0]
        }  # [B, C_s, G*G]
        return {name: values.view(len(x), -1, side, side) for name, values in averages.items()}

    def _cut(self, x: Tensor) -> tuple[Tensor, int]:
        """Patches ``[B, G*G, C, P, P]`` and G."""
        grid = grids.Grid(
            self._patch, self._stride, (x.shape[-1] - self._patch) // self._stride + 1
        )
        return grids.cut(x, grid), grid.count


def extract(
    encoder: Encoder | Patchwise,
    batches: Iterable[Tensor],
    reader: InputTransform,
    grid_numbers: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Read the features of all stages in one pass, in evaluation mode, into memory.

    Args:
        encoder: As for :func:`stream`.
        batches: Likewise.
        reader: Likewise.
        grid_numbers: Likewise.
        dtype: Likewise.

    Returns:
        Name of the stage -> float32 ``[N, D]`` on the encoder's device, see :func:`stream`.

    Raises:
        DataError: If there are no images.
        WeightsError: If a feature is NaN or infinite.
    """
    collected: dict[str, list[Tensor]] = {}
    for rows in stream(encoder, batches, reader, grid_numbers, dtype=dtype):
        for name, values in rows.items():
            collected.setdefault(name, []).append(values)
    if not collected:
        raise DataError(
            "there are no images to probe with; check that --data holds readable images"
        )
    # Parts are let go as they are joined: the largest features are wanted in memory twice, not all
    # of them.
    found = {name: torch.cat(collected.pop(name)) for name in list(collected)}
    for name, values in found.items():
        if not values.isfinite().all():
            raise WeightsError(
                f"the encoder's {name!r} features hold NaN or infinity, finite numbers were "
                "expected; "
                "the weights have diverged: probe an earlier checkpoint"
            )
    return found


def pixels(images: Tensor, side: int, channels: int) -> Tensor:
    """Raw pixels, the baseline every feature should beat.

    Args:
        images: uint8 ``[B, 3, S, S]``.
        side: Side to which images are resized.
        channels: 3, or 1 for the plain mean of R, G and B.

    Returns:
        float32 ``[B, channels * side * side]`` in 0..1.
    """
    x = resize(images, side)
    return (x.mean(dim=1, keepdim=True) if channels == 1 else x).flatten(1)


def pixel_form(batches: Iterable[Tensor]) -> tuple[int, int]:
    """Side and channels at which images uint8 ``[B, 3, S, S]`` are read as raw pixels.

    The side is their own up to 32 px; one channel is enough when no image has any color.

    Raises:
        DataError: If there are no images.
    """
    side, channels = 0, 1
    for images in batches:
        side = min(_PIXEL_SIDE, images.shape[-1])
        if not bool((images == images[:, :1]).all()):
            channels = 3
    if not side:
        raise DataError(
            "there are no images to probe with; check that --data holds readable images"
        )
    return side, channels


@torch.no_grad()
def recalibrate_batch_norm(
    encoder: Encoder | Patchwise, batches: Iterable[Tensor], reader: InputTransform
) -> int:
    """Re-estimate batch norm's running statistics on whole images, without touching a weight.

    An encoder trained on tiles or patches has seen other statistics than those of whole images, and
    a random one has seen none. Means and variances become their averages over the batches, each
    batch weighted by its images.

    Args:
        encoder: Changed in place, if it has batch norm; its modes are restored afterwards.
        batches: uint8 ``[B, 3, S, S]``, unlabeled training images. A batch of one image, which has
            no variance to speak of, is left out.
        reader: Resizes and normalizes.

    Returns:
        Images used; 0 without batch norm.
    """
    norms = [
        module
        for module in encoder.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    if not norms:
        return 0
    momenta = [norm.momentum for norm in norms]
    device = next(encoder.parameters()).device
    used = 0
    with _evaluating(encoder):
        for norm in norms:
            norm.train()
        for images in batches:
            if len(images) == 1:
                continue
            if not used:
                # A weight of zero would not rid the averages of a NaN.
                for norm in norms:
                    norm.reset_running_stats()
            used += len(images)
            for norm in norms:
                norm.momentum = (
                    len(images) / used
                )  # 1 for the first batch: together a plain average over images
            encoder(reader(images.to(device)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return used


@torch.no_grad()
def stream(
    encoder: Encoder | Patchwise,
    batches: Iterable[Tensor],
    reader: InputTransform,
    grid_numbers: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
) -> Iterator[dict[str, Tensor]]:
    """Features of all stages, batch by batch, in evaluation mode.

    Args:
        encoder: The network; its modes are restored afterwards.
        batches: uint8 ``[B, 3, S, S]``, on any device.
        reader: Resizes and normalizes.
        grid_numbers: Also average each stage's map over the largest square grid of at most this
            many numbers, as the papers do with about 9,000.
        dtype: ``torch.bfloat16`` or ``torch.float16`` compute under autocast. Features decide
            accuracy, so float32 is the default.

    Yields:
        float32 on the encoder's device: ``pooled`` ``[B, D]``, the encoder's own vector; ``layer1``
        ... (each stage's name) ``[B, C_s]``, the averages of the stages' maps; and, with
        ``grid_numbers``, ``layer1 grid`` ... ``[B, C_s * g * g]`` of the stages whose grid has more
        than one place.
    """
    device = next(encoder.parameters()).device
    averaged: bool | None = None
    with _evaluating(encoder):
        for images in batches:
            x = reader(images.to(device))
            if averaged is None:
                averaged = _pools_by_average(encoder, x[:2])
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                maps = {name: values.float() for name, values in encoder.maps(x).items()}
                pooled = None if averaged else encoder(x).float()
            averages = {name: values.mean(dim=(2, 3)) for name, values in maps.items()}
            sides = {name: _grid_side(values, grid_numbers) for name, values in maps.items()}
            yield {
                POOLED: averages[encoder.stages[-1].name] if pooled is None else pooled,
                **averages,
                **{
                    f"{name} grid": F.adaptive_avg_pool2d(maps[name], side).flatten(1)
                    for name, side in sides.items()
                    if side > 1
                },
            }


def _pools_by_average(encoder: Encoder | Patchwise, x: Tensor) -> bool:
    """Whether the pooled vector is the average of the last map, as it mostly is, so that one pass
    gives both.
    """
    average = encoder.map(x).mean(dim=(2, 3))
    pooled: Tensor = encoder(x)
    return bool((pooled - average).abs().max() <= 1e-4 * average.abs().max())


def _grid_side(values: Tensor, numbers: int) -> int:
    """Side of the largest grid over a map ``[B, C, h, w]`` whose cells hold at most ``numbers``
    numbers in all.
    """
    height, width = values.shape[2:]
    return min(height, width, math.isqrt(numbers // values.shape[1]))


@contextmanager
def _evaluating(encoder: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each module is in the mode it was in."""
    modes = {module: module.training for module in encoder.modules()}
    encoder.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
