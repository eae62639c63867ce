"""Predicted images: what the task of colorization or of a context encoder makes of image files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ssltool.atomic import atomic_file
from ssltool.console import stderr_console
from ssltool.data.decode import decode
from ssltool.device import choose_device
from ssltool.errors import UnreadableImage
from ssltool.methods.colorization.task import Colorization
from ssltool.methods.context_encoder.regions import Box
from ssltool.methods.context_encoder.task import ContextEncoder
from ssltool.options import DeviceName
from ssltool.predicting.colorize import Colorizer
from ssltool.predicting.inpaint import Inpainter, read_mask
from ssltool.predicting.options import (
    ColorizeOptions,
    InpaintOptions,
    PredictOptions,
    check_targets,
    targets,
)
from ssltool.runs.task_files import find_task
from ssltool.runs.task_model import load_task

_MOST_PIXELS = 2**26  # of the images of a batch, which are all in memory


class PredictResult(BaseModel):
    """What `predict` wrote.

    Attributes:
        files: The images, in the order of those that were given.
        skipped: Images that could not be used, and why.
        notes: What else there is to say of them, one line each.
    """

    model_config = ConfigDict(frozen=True)

    files: tuple[Path, ...]
    skipped: dict[str, str]
    notes: tuple[str, ...] = ()


class Painter(Protocol):
    """Makes images of images, in batches.

    Attributes:
        notes: What a user should know of what it makes.
    """

    notes: tuple[str, ...]

    def prepare(self, pixels: Tensor) -> Any:
        """What the network needs of an image uint8 ``[3, H, W]``, apart from others.

        Raises:
            UnreadableImage: It cannot be used.
        """

    def predict(self, images: Sequence[Tensor], inputs: Sequence[Any]) -> list[Tensor]:
        """Images uint8 ``[3, H, W]`` of the same sizes."""


class _Item(NamedTuple):
    target: Path
    pixels: Tensor
    inputs: Any


def predict(
    options: PredictOptions, device: DeviceName = "auto", console: Console | None = None
) -> PredictResult:
    """Write the predicted images of image files, as PNG; a file that cannot be used is skipped.

    Args:
        options: Of ``colorize`` or ``inpaint``; their type says which.
        device: Where to compute, see `ssltool.device.choose_device`.
        console: Where progress and skipped files go; stderr if not given.

    Raises:
        UsageError: The weights are of another task, or a file would be overwritten.
        SslToolError: The weights are damaged, or a file cannot be written.
    """
    console = console or stderr_console()
    check_targets(options.files, options.to, overwrite=options.overwrite)
    painter = _painter(options, choose_device(device))
    written: list[Path] = []
    skipped: dict[str, str] = {}
    for batch in _batches(_items(options, painter, skipped, console), options.batch_size):
        with torch.no_grad():
            images = painter.predict([i.pixels for i in batch], [i.inputs for i in batch])
        for item, image in zip(batch, images, strict=True):
            _save(image, item.target)
            written.append(item.target)
    return PredictResult(files=tuple(written), skipped=skipped, notes=painter.notes)


def _painter(options: PredictOptions, device: torch.device) -> Painter:
    """The network of the task, ready to predict."""
    prediction = "colorize" if isinstance(options, ColorizeOptions) else "inpaint"
    method = load_task(find_task(options.weights, prediction)).to(device)
    if isinstance(method, Colorization):
        assert isinstance(options, ColorizeOptions)
        return Colorizer(method, options.temperature)
    assert isinstance(method, ContextEncoder)
    assert isinstance(options, InpaintOptions)
    mask = read_mask(options.mask_file) if options.mask_file is not None else None
    return Inpainter(method, Box(*options.box) if options.box else None, mask)


def _items(
    options: PredictOptions, painter: Painter, skipped: dict[str, str], console: Console
) -> Iterator[_Item]:
    """Images with what the network needs of them; those that cannot be used are put down."""
    pairs = list(zip(options.files, targets(options.files, options.to), strict=True))
    shown = track(pairs, "predicting", console=console, disable=console.quiet, transient=True)
    for file, target in shown:
        try:
            pixels = torch.from_numpy(np.array(decode(file.expanduser()))).permute(2, 0, 1)
            yield _Item(target, pixels, painter.prepare(pixels))
        except UnreadableImage as error:
            skipped[str(file)] = str(error)
            console.print(f"skipped: {file}: {error}")


def _batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Lists of ``size`` items, or of fewer where the images are large."""
    batch: list[_Item] = []
    pixels = 0
    for item in items:
        batch.append(item)
        pixels += item.pixels.shape[1] * item.pixels.shape[2]
        if len(batch) == size or pixels > _MOST_PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def _save(image: Tensor, target: Path) -> None:
    with atomic_file(target) as temporary:
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(temporary, format="PNG")
