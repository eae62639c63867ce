"""Figure of a pretext task as a method gives it to its network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ssltool.data.sample import sample
from ssltool.data.sources.files import FileSource
from ssltool.device import choose_device
from ssltool.ops.per_image_rng import mix
from ssltool.options import DeviceName
from ssltool.plotting.channels import legend
from ssltool.plotting.figures import require_format
from ssltool.plotting.sheet_layout import save_sheet
from ssltool.runs.config import RunConfig
from ssltool.runs.data_info import inspect
from ssltool.runs.folder import build_method
from ssltool.runs.images import open_training_images
from ssltool.runs.resolve import resolve
from ssltool.visualizing.results import FigureResult
from ssltool.visualizing.sampling import SAMPLE, spread_indices
from ssltool.visualizing.task_plots import save_task_plots


class TaskFigure(FigureResult):
    """What `draw_task` drew.

    Attributes:
        method: Name of the method.
        images: Number of images drawn.
    """

    method: str
    images: int


def draw_task(
    config: RunConfig,
    path: Path,
    *,
    image: Sequence[Path] = (),
    count: int = 6,
    seed: int = 0,
    device: DeviceName = "auto",
) -> TaskFigure:
    """Draw the task of an untrained method with the options given.

    Args:
        config: Method and options.
        path: PNG, SVG or PDF to write; plots beside it have the same suffix.
        image: Draw these files instead of the images of ``config``.
        count: Images drawn.
        seed: Seed of the task.
        device: Where to compute, see `ssltool.device.choose_device`.
    """
    require_format(path)
    where = choose_device(device)
    files = FileSource(image, as_they_are=config.run.as_they_are) if image else None
    source = open_training_images(config.run, files)
    resolved = resolve(config, inspect(source, config.run.image_size))
    size, load_size = resolved.run.image_size, resolved.run.load_size
    torch.manual_seed(mix(seed))
    method = build_method(resolved).train().to(where)
    images, index = (part.to(where) for part in sample(source, size, SAMPLE))
    method.prepare([(images, index)])
    chosen = spread_indices(images, count)
    large = images
    if load_size:
        large = sample(source, load_size, SAMPLE)[0].to(where)
    generator = torch.Generator().manual_seed(seed)
    sheet = method.figures.draw_task(method, large[chosen], index[chosen], generator)
    read = f"From {source.description}, read at {load_size or size} px."
    note = f"{sheet.note} {read} {legend(source.channels)}".strip()
    save_sheet(sheet._replace(note=note), path)
    plots = save_task_plots(method, images, index, path, seed)
    return TaskFigure(path=path, plots=plots, method=config.method, images=len(chosen))
