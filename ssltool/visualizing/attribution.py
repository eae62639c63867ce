"""Figure of where in an image each stage of an encoder responds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import ListedColormap
from torch import Tensor
from torch.nn import functional as F

from ssltool.device import choose_device
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.padding import replicate_padding
from ssltool.encoders.transform import InputTransform
from ssltool.options import DeviceName
from ssltool.plotting import frames
from ssltool.plotting.channels import as_rgb
from ssltool.plotting.figures import require_format, save_figure
from ssltool.plotting.image_grid import as_rows, image_grid
from ssltool.probing.features import recalibrate_batch_norm
from ssltool.visualizing.loading import check_stages, load_pretrained, open_images, read_images
from ssltool.visualizing.results import FigureResult

_TILE = 160  # px, about the side of a drawn image
_HEAT = 0.6  # weight of the colors over the gray image
_COLORS = colormaps["inferno"]
_HIGHEST = 0.995  # quantile of a stage's responses at the upper end of the scale


class AttributionFigure(FigureResult):
    """What `draw_attribution` drew.

    Attributes:
        method: Pretext task of the weights.
        images: Number of images drawn.
        stages: Side of the response map by stage.
    """

    method: str
    images: int
    stages: dict[str, int]


def draw_attribution(
    weights: Path,
    path: Path,
    *,
    data: Sequence[str] = (),
    image: Sequence[Path] = (),
    count: int = 6,
    stages: Sequence[str] = (),
    device: DeviceName = "auto",
) -> AttributionFigure:
    """Draw over images how strongly each location of a stage's map departs from its channel means.

    The response is the root mean square over channels of (activation - channel mean over images and
    locations), divided by the same over all images. One scale
    holds for all images and stages. The map is enlarged to the image. It needs no gradient and no
    label.

    Args:
        weights: Run folder or weights file.
        path: File to write, PNG, SVG or PDF by its suffix.
        data: Images; the run's own if empty.
        image: Draw these files instead; channel means are then taken over ``data`` as well, if
            there is any.
        count: Images drawn of ``data``.
        stages: Names of the stages to draw; all if empty.
        device: Where to compute, see `ssltool.device.choose_device`.

    Raises:
        UsageError: The encoder has no such stage, or the weights belong to no run and no images
            were named.
    """
    require_format(path)
    where = choose_device(device)
    encoder, metadata, transform, size = pretrained = load_pretrained(weights, where)
    check_stages(encoder, stages)
    opened = open_images(weights, data, image, background_required=False)
    drawn, background = read_images(opened, size, count=None if image else count)
    recalibrate_batch_norm(encoder, background, transform)
    large = frames.enlarged(as_rgb(drawn), max(1, round(_TILE / drawn.shape[-1])))
    columns = {"image": as_rows(large)}
    maps = responses(encoder.eval(), transform, background, drawn)
    maps = {name: values for name, values in maps.items() if name in stages or not stages}
    highest = max(float(values.quantile(_HIGHEST)) for values in maps.values()) or 1.0
    for name, values in maps.items():
        columns[f"{name}\n{_side(values)}"] = as_rows(overlaid(large, values / highest))
    figure = image_grid(
        columns,
        f"{pretrained.title}: response of each stage",
        colors=_color_bar(),
        limits=(0, highest),
        color_label="distance from the mean activation (1 = RMS over images)",
    )
    sides = {name: values.shape[-1] for name, values in maps.items()}
    return AttributionFigure(
        path=save_figure(figure, path), method=metadata.method, images=len(drawn), stages=sides
    )


def _side(values: Tensor) -> str:
    return f"{values.shape[-1]} \u00d7 {values.shape[-2]}"


@torch.no_grad()
def responses(
    encoder: Encoder, transform: InputTransform, background: Tensor, images: Tensor
) -> dict[str, Tensor]:
    """Response maps of every stage.

    Convolutions pad with the outermost values in place of zeros,
    `ssltool.encoders.padding.replicate_padding`: what differs at the border is then the image, not
    the padding.

    Args:
        encoder: In evaluation mode.
        transform: Resizes and normalizes.
        background: uint8 ``[N, 3, S, S]``, images that means and the unit are taken over.
        images: uint8 ``[B, 3, S, S]``, images whose responses are computed.

    Returns:
        Name of the stage -> float ``[B, h, w]`` of at least 0, on the CPU; the root mean square
        over the background is 1, or all are 0.
    """
    device = next(encoder.parameters()).device
    maps = {}
    with replicate_padding(encoder):
        known = encoder.maps(transform(background.to(device)))
        new = encoder.maps(transform(images.to(device)))
    for name, values in new.items():
        mean = known[name].mean(dim=(0, 2, 3), keepdim=True)
        unit = (known[name] - mean).square().mean().sqrt()
        energy = (values - mean).square().mean(dim=1).sqrt()
        maps[name] = (energy / unit.clamp_min(1e-12)).cpu()
    return maps


def overlaid(images: Tensor, heat: Tensor) -> Tensor:
    """Colored heat maps over gray images.

    Args:
        images: uint8 ``[B, 3, H, W]``.
        heat: float ``[B, h, w]`` in 0..1, enlarged to the images.

    Returns:
        uint8 ``[B, 3, H, W]``.
    """
    large = F.interpolate(heat[:, None], images.shape[-2:], mode="bilinear")[:, 0].clamp(0, 1)
    colors = torch.from_numpy(_COLORS(large.numpy())[..., :3]).permute(0, 3, 1, 2)
    gray = images.double().mean(dim=1, keepdim=True) / 255
    mixed = _HEAT * colors + (1 - _HEAT) * gray
    return (255 * mixed).round().clamp(0, 255).to(torch.uint8)


def _color_bar() -> ListedColormap:
    """The colors over mid-gray."""
    colors = _COLORS(np.linspace(0, 1, 256))[:, :3]
    return ListedColormap(_HEAT * colors + (1 - _HEAT) * 0.5)
