"""Figure of dense features as colors, by their principal components.

The first three principal components of a stage's vectors, one vector per location, are drawn as
red, green and blue (Oquab et al. 2024, DINOv2, section 7.5): locations of one color have similar
features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssltool.device import choose_device
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.padding import replicate_padding
from ssltool.encoders.transform import InputTransform
from ssltool.errors import UsageError
from ssltool.ops.principal import principal_components
from ssltool.options import DeviceName
from ssltool.plotting import frames
from ssltool.plotting.figures import require_format, save_figure
from ssltool.plotting.image_grid import as_rows, image_grid
from ssltool.probing.features import compute_batch, recalibrate_batch_norm
from ssltool.visualizing.loading import (
    Pretrained,
    check_stages,
    load_pretrained,
    open_images,
    read_images,
)
from ssltool.visualizing.results import FigureResult

_STAGES = 3  # drawn of the last ones
_TILE = 160  # px, about the side of a drawn image
_TAIL = 0.01  # of the values at either end, drawn as the darkest and the brightest


class PCAFigure(FigureResult):
    """What `draw_pca` drew.

    Attributes:
        method: Pretext task of the weights.
        images: Number of images drawn.
        joint: Whether all images share their components and their scale.
        image_size: Side in pixels at which the encoder read them.
        stages: Side of the map by stage.
        variance: Fraction of the variance along the three components by stage, of each image, or
            of all of them together.
    """

    method: str
    images: int
    joint: bool
    image_size: int
    stages: dict[str, int]
    variance: dict[str, tuple[float, ...]]

    def summary(self) -> list[str]:
        """Variance along the components of each stage."""
        return [
            f"{name}, {side} x {side}: variance {_percent(self.variance[name])}"
            for name, side in self.stages.items()
        ]


def draw_pca(
    weights: Path,
    path: Path,
    *,
    data: Sequence[str] = (),
    image: Sequence[Path] = (),
    count: int = 6,
    stages: Sequence[str] = (),
    size: int | None = None,
    joint: bool = True,
    device: DeviceName = "auto",
) -> PCAFigure:
    """Draw the first three principal components of dense features as red, green and blue.

    Args:
        weights: Run folder or weights file.
        path: File to write, PNG, SVG or PDF by its suffix.
        data: Images; the run's own if empty.
        image: Draw these files instead; batch norm statistics are then taken over ``data`` as
            well, if there is any.
        count: Images drawn of ``data``.
        stages: Names of the stages to draw; the last three if empty.
        size: Side in pixels at which the encoder reads the images, that of the weights file if
            None; a larger one gives finer maps.
        joint: Components and scale are those of all drawn images; else each image has its own,
            and colors are not comparable between images.
        device: Where to compute, see `ssltool.device.choose_device`.

    Raises:
        UsageError: The encoder has no such stage or takes no images of this size, or the weights
            belong to no run and no images were named.
    """
    require_format(path)
    where = choose_device(device)
    pretrained = load_pretrained(weights, where)
    check_stages(pretrained.encoder, stages)
    if size is not None:
        pretrained = _at_size(pretrained, size)
    encoder, metadata, transform, read_size = pretrained
    opened = open_images(weights, data, image, background_required=False)
    drawn, background = read_images(opened, read_size, count=None if image else count)
    recalibrate_batch_norm(encoder, background, transform)
    maps = dense_features(encoder.eval(), transform, drawn)
    names = [name for name in maps if name in stages] or list(maps)[-_STAGES:]
    colored = {name: principal_colors(maps[name], joint=joint) for name in names}
    figure = image_grid(
        _columns(drawn, colored),
        f"{pretrained.title}: principal components of dense features",
        notes=(_note(len(drawn), transform.size, joint=joint),),
    )
    return PCAFigure(
        path=save_figure(figure, path),
        method=metadata.method,
        images=len(drawn),
        joint=joint,
        image_size=transform.size,
        stages={name: colors.images.shape[-1] for name, colors in colored.items()},
        variance={name: colors.variance for name, colors in colored.items()},
    )


def _at_size(pretrained: Pretrained, size: int) -> Pretrained:
    """The same encoder, reading images at another size."""
    encoder = pretrained.encoder
    if encoder.image_size not in (None, size):
        raise UsageError(
            f"--size {size}: {encoder.name} takes images of {encoder.image_size} px only; "
            "omit --size"
        )
    return pretrained._replace(
        transform=InputTransform.of(pretrained.metadata, size), image_size=size
    )


def _columns(images: Tensor, colored: dict[str, Colors]) -> dict[str, NDArray[np.uint8]]:
    """Images and, by stage, their colored maps, with the size and the variance in the title."""
    large = frames.enlarged(images, max(1, round(_TILE / images.shape[-1])))
    columns = {"image": as_rows(large)}
    for name, (maps, variance) in colored.items():
        height, width = maps.shape[-2:]
        columns[f"{name}\n{width} \u00d7 {height}\n{_percent(variance)}"] = as_rows(maps)
    return columns


def _note(images: int, size: int, *, joint: bool) -> str:
    """What the colors are, for the foot of the figure."""
    of = f"joint over {images} images" if joint else "of each image by itself"
    of = of if images > 1 else "of one image"
    return (
        f"Components 1 to 3 as red, green and blue, {of}; in percent, the variance along "
        f"them{'' if joint else ' (mean over images)'}. Images read at {size} px."
    )


@torch.no_grad()
def dense_features(
    encoder: Encoder, transform: InputTransform, images: Tensor
) -> dict[str, Tensor]:
    """Maps of every stage, float32 ``[B, C, h, w]`` on the CPU, of images uint8 ``[B, 3, S, S]``.

    Convolutions pad with the outermost values, `ssltool.encoders.padding.replicate_padding`; else
    the frame that zero padding leaves would be among the first components.
    """
    device = next(encoder.parameters()).device
    parts: dict[str, list[Tensor]] = {}
    with replicate_padding(encoder):
        for batch in torch.split(images, compute_batch(transform.size, device)):
            for name, values in encoder.maps(transform(batch.to(device))).items():
                parts.setdefault(name, []).append(values.float().cpu())
    return {name: torch.cat(batches) for name, batches in parts.items()}


class Colors(NamedTuple):
    """Maps as images.

    Attributes:
        images: uint8 ``[B, 3, h, w]``.
        variance: Fraction of the variance along the three components: one number if they are
            joint, else one per image.
    """

    images: Tensor
    variance: tuple[float, ...]


def principal_colors(maps: Tensor, *, joint: bool = True) -> Colors:
    """Color maps by the three principal components of their vectors.

    Each component is scaled from its 1st to its 99th percentile to 0..255. Its largest weight is
    positive, so that the same maps give the same colors.

    Args:
        maps: float ``[B, C, h, w]``.
        joint: Components and scale of all maps together, else of each map by itself.
    """
    if not joint:
        each = [principal_colors(one) for one in torch.split(maps, 1)]
        return Colors(
            torch.cat([colors.images for colors in each]),
            tuple(part for colors in each for part in colors.variance),
        )
    vectors = maps.double().permute(0, 2, 3, 1)  # [B, h, w, C]
    values, shares = principal_components(vectors.flatten(0, 2), 3)
    low, high = np.quantile(values.numpy(), (_TAIL, 1 - _TAIL), axis=0)
    span = torch.from_numpy(high - low)
    scaled = (values - torch.from_numpy(low)) / span.clamp_min(1e-12)
    scaled = torch.where(span > 1e-9 * float(span.max().clamp_min(1e-9)), scaled, 0.5)
    images = (255 * scaled.clamp(0, 1)).round().to(torch.uint8)
    return Colors(images.view(*vectors.shape[:3], 3).permute(0, 3, 1, 2), (sum(shares),))


def _percent(parts: Sequence[float]) -> str:
    return f"{sum(parts) / len(parts):.0%}"
