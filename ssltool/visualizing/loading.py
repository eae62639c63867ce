"""Pretrained encoders and images for the figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ssltool.data.channels import Channels
from ssltool.data.sample import sample
from ssltool.data.sources.base import Source
from ssltool.data.sources.channels import as_they_are
from ssltool.data.sources.files import FileSource
from ssltool.data.sources.registry import open_source
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.files import find_weights
from ssltool.encoders.metadata import EncoderMetadata
from ssltool.encoders.transform import InputTransform
from ssltool.encoders.weights import has_metadata, load_encoder, read_metadata
from ssltool.errors import UsageError
from ssltool.runs.folder import Run
from ssltool.visualizing.sampling import spread_indices

_BACKGROUND = 64  # images that statistics are taken over
_NAME_IMAGES = "name images with --data"


class Pretrained(NamedTuple):
    """An encoder with what is needed to feed it.

    Attributes:
        encoder: On the device, in evaluation mode.
        metadata: What it was trained on.
        transform: Resizes and normalizes images for it.
        image_size: Side in pixels at which images are read.
    """

    encoder: Encoder
    metadata: EncoderMetadata
    transform: InputTransform
    image_size: int

    @property
    def title(self) -> str:
        """Method and backbone."""
        return f"{self.metadata.method}, {self.metadata.backbone}"


def load_pretrained(weights: Path, device: torch.device) -> Pretrained:
    """Load an encoder.

    Args:
        weights: Run folder or weights file.
        device: Where to compute.

    Raises:
        WeightsError: The file is damaged, or holds no metadata.
    """
    encoder = load_encoder(find_weights(weights)).to(device)
    metadata = encoder.metadata
    return Pretrained(encoder.eval(), metadata, encoder.transform, metadata.read_size)


def check_stages(encoder: Encoder, stages: Sequence[str]) -> None:
    """Make sure that an encoder has the stages of ``--stage``.

    Raises:
        UsageError: It has no such stage.
    """
    names = [stage.name for stage in encoder.stages]
    if unknown := sorted(set(stages) - set(names)):
        raise UsageError(f"--stage {unknown[0]}: {encoder.name} has the stages {', '.join(names)}")


class Images(NamedTuple):
    """Images of a figure.

    Attributes:
        source: The images to draw.
        background: Further images that statistics or neighbors are taken from; None if there are
            none beside ``source``.
    """

    source: Source
    background: Source | None


def open_images(
    weights: Path,
    data: Sequence[str],
    image: Sequence[Path] = (),
    *,
    background_required: bool = True,
) -> Images:
    """Open the images that the user named, or those of the run.

    Args:
        weights: Run folder or weights file.
        data: Sources, as ``--data`` takes them; the run's own images if empty.
        image: Single files to draw; ``data`` is then the background.
        background_required: Whether ``image`` needs a background. If not, weights that belong to
            no run have none.

    Raises:
        UsageError: The weights belong to no run, and no data was named.
    """
    how = _channels(weights)
    files = [FileSource(image, as_they_are=how is not None)] if image else []
    drawn = [as_they_are(source, how) for source in files]
    try:
        background = (
            as_they_are(open_source(data, arrays=how is not None), how)
            if data
            else Run.open(weights).open_images(_NAME_IMAGES)
        )
    except UsageError as error:
        if data:
            raise
        if image and not background_required:
            return Images(drawn[0], None)
        text = str(error)
        raise UsageError(text if _NAME_IMAGES in text else f"{text}; {_NAME_IMAGES}") from error
    return Images(drawn[0], background) if drawn else Images(background, None)


class Drawn(NamedTuple):
    """The images of a figure, read.

    Attributes:
        images: uint8 ``[B, C, S, S]``, to draw.
        background: uint8 ``[N, C, S, S]``, those that statistics are taken over.
    """

    images: Tensor
    background: Tensor


def read_images(opened: Images, size: int, *, count: int | None) -> Drawn:
    """Read the images of a figure, and the background of its statistics.

    Args:
        opened: Of `open_images`.
        size: Side S in pixels at which they are read.
        count: How many are drawn of a sample of the source; None draws all of it.
    """
    source, more = opened
    images = sample(source, size, len(source) if count is None else _BACKGROUND)[0]
    background = images
    if more is not None:
        background = torch.cat([images, sample(more, size, _BACKGROUND)[0]])
    return Drawn(images if count is None else images[spread_indices(images, count)], background)


def _channels(weights: Path) -> Channels | None:
    """How the weights' images are read; None for RGB."""
    file = find_weights(weights)
    return Channels.of(read_metadata(file)) if has_metadata(file) else None
