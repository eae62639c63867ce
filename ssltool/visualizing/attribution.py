"""Where in an image each stage of an encoder responds, drawn over the images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib import colormaps
from torch import Tensor
from torch.nn import functional as F

from ssltool.data.sample import sample
from ssltool.device import best_device
from ssltool.encoders.transform import InputTransform
from ssltool.encoders.weights import find_weights, load_encoder
from ssltool.errors import UsageError
from ssltool.plotting import frames
from ssltool.plotting.sheet import save_sheet
from ssltool.probing import features
from ssltool.visualizing.sampling import spread
from ssltool.visualizing.sources import png, sources_of

_SEEN = 64  # images over which a channel's mean is taken and batch norm re-estimated
_SIDE = 160  # px, about the side of a drawn image
_HEAT = 0.6  # share of the color in the mixture with the gray image


def draw_attribution(
    weights: Path,
    path: Path,
    *,
    data: Sequence[str] = (),
    image: Sequence[Path] = (),
    count: int = 6,
    stages: Sequence[str] = (),
) -> dict[str, Any]:
    """Draw for each stage how strongly each place of an image moves its channels away from their
    means.

    The map is the root mean square over channels of (activation - the channel's mean over images
    and places), each from its own lowest (dark) to its highest (bright), enlarged to the image. No
    gradient and no label is used.

    Args:
        weights: Run folder or weights file.
        path: PNG to write.
        data: Images; the run's own if empty.
        image: Draw these files instead; means are still taken over ``data`` as well, if there is
            any.
        count: Images drawn of ``data``.
        stages: Names of the stages to draw; all if empty.

    Returns:
        The path, the stages and, for each, the side of its map.

    Raises:
        UsageError: A stage that the encoder does not have.
    """
    encoder = load_encoder(find_weights(weights)).to(best_device())
    metadata = encoder.metadata
    assert metadata is not None, "load_encoder attaches it"
    names = [stage.name for stage in encoder.stages]
    unknown = sorted(set(stages) - set(names))
    if unknown:
        raise UsageError(f"--stage {unknown[0]}: {encoder.name} has the stages {', '.join(names)}")
    chosen = [name for name in names if name in stages] if stages else names
    size = metadata.read_size
    own, around = sources_of(weights, data, image, optional=bool(image))
    shown = sample(own, size, len(own) if image else _SEEN)[0]
    seen = torch.cat([shown, sample(around, size, _SEEN)[0]]) if around is not None else shown
    drawn = shown if image else shown[spread(shown, count)]
    reader = InputTransform.of(metadata)
    features.recalibrate_batch_norm(encoder, [seen.to(best_device())], reader)
    found = responses(encoder.eval(), reader, seen, drawn, chosen)
    columns = {"image": frames.enlarged(drawn, _times(drawn))}
    sides = {}
    for name, heat in found.items():
        sides[name] = heat.shape[-1]
        columns[f"{name}, {heat.shape[-1]} x {heat.shape[-2]}"] = overlaid(columns["image"], heat)
    title = f"{metadata.method}, {metadata.backbone}: where each stage responds, from its weakest (dark) to its strongest place"
    save_sheet(columns, png(path), title=title)
    return {
        "path": str(png(path)),
        "method": metadata.method,
        "images": len(drawn),
        "stages": sides,
    }


@torch.no_grad()
def responses(
    encoder: Any, reader: InputTransform, seen: Tensor, drawn: Tensor, stages: Sequence[str]
) -> dict[str, Tensor]:
    """Response maps float ``[B, h, w]`` in 0..1 of images uint8 ``[B, 3, S, S]``, by stage.

    Args:
        encoder: The network, in evaluation mode.
        reader: Resizes and normalizes.
        seen: Images over which channels' means are taken.
        drawn: Images whose maps are wanted.
        stages: Names of the stages.
    """
    device = next(encoder.parameters()).device
    means = {
        name: values.mean(dim=(0, 2, 3))
        for name, values in encoder.maps(reader(seen.to(device))).items()
    }
    found = {}
    for name, values in encoder.maps(reader(drawn.to(device))).items():
        if name in stages:
            energy = (values - means[name][:, None, None]).square().mean(dim=1).sqrt()
            low, high = energy.amin(dim=(1, 2), keepdim=True), energy.amax(dim=(1, 2), keepdim=True)
            found[name] = ((energy - low) / (high - low).clamp_min(1e-12)).cpu()
    return found


def overlaid(images: Tensor, heat: Tensor) -> Tensor:
    """Images uint8 ``[B, 3, h, w]`` in gray under their maps ``[B, y, x]`` of 0..1 in colors; uint8
    again.
    """
    large = F.interpolate(heat[:, None], images.shape[-2:], mode="bilinear")[:, 0].clamp(0, 1)
    colors = torch.from_numpy(colormaps["inferno"](large.numpy())[..., :3]).permute(0, 3, 1, 2)
    gray = images.double().mean(dim=1, keepdim=True) / 255
    mixed = _HEAT * colors + (1 - _HEAT) * gray
    return (255 * mixed).round().clamp(0, 255).to(torch.uint8)


def _times(images: Tensor) -> int:
    """How many times an image's pixels are repeated to be about as large as others on a sheet."""
    return max(1, round(_SIDE / images.shape[-1]))
