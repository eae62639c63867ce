"""Images of a task, of what a network answers, of features, filters, permutation sets and training
curves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ssltool.data.sample import sample
from ssltool.data.sources.files import FileSource
from ssltool.data.sources.registry import open_source
from ssltool.ops.per_image_rng import mix
from ssltool.plotting.sheet import save_sheet
from ssltool.plotting.units import said as said
from ssltool.runs.config import RunConfig, resolve
from ssltool.runs.data_info import inspect
from ssltool.runs.folder import build_method
from ssltool.visualizing.predictions import _SCORED, _draw_charts
from ssltool.visualizing.sampling import spread
from ssltool.visualizing.sources import png


def draw_task(
    config: RunConfig, path: Path, *, image: Sequence[Path] = (), count: int = 6, seed: int = 0
) -> dict[str, Any]:
    """Draw what a method shows its network, with an untrained one and the options given.

    Args:
        config: Method and options.
        path: PNG to write; charts beside it may be SVG or PDF by its suffix.
        image: Draw these files instead of the images of ``config``.
        count: Rows drawn.
        seed: Of the task.
    """
    sheet = png(path)
    source = FileSource(image) if image else open_source(config.run.data)
    resolved = resolve(config, inspect(source, config.run.image_size))
    info = resolved.data
    torch.manual_seed(mix(seed))
    method = build_method(resolved).train()
    looked, places = sample(source, info.image_size, _SCORED)
    method.prepare([(looked, places)])
    chosen = spread(looked, count)
    loaded = config.run.load_size
    images, index = (
        (sample(source, loaded, _SCORED)[0] if loaded else looked)[chosen],
        places[chosen],
    )
    generator = torch.Generator().manual_seed(seed)
    columns = method.figures.draw_task(method, images, index, generator)
    save_sheet(columns, sheet, title=f"{config.method}: the task, {info.image_size} px images")
    charts = _draw_charts(method, looked, places, path, seed)
    return {"path": str(sheet), "charts": charts, "method": config.method, "images": len(images)}
