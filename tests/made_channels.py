"""Images of several channels as TIFF, NumPy and DICOM files, made from a folder of RGB images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssltool.data.sources.base import Source
from ssltool.data.sources.registry import open_source


def bands(pixels: NDArray[np.uint8], index: int) -> NDArray[np.uint16]:
    """Five bands of 16 bits ``[5, H, W]``: the colors at other gains, a difference as of a
    vegetation index, and a blurred sum, with noise of a sensor.
    """
    red, green, blue = (pixels[..., i].astype(np.float64) for i in range(3))
    near = (red + green + blue) / 3
    blurred = (near + np.roll(near, 1, 0) + np.roll(near, 1, 1) + np.roll(near, -1, 0)) / 4
    planes = np.stack([40 * red, 55 * green, 70 * blue, 30 * (255 + red - blue), 90 * blurred])
    noise = np.random.default_rng(index).normal(0, 30, planes.shape)
    return np.clip(planes + 800 + noise, 0, 65535).astype(np.uint16)


def write_bands(data: str | Source, folder: Path, size: int = 64, count: int | None = None) -> Path:
    """Write images as TIFF files of five bands, planar and contiguous in turn, class by class."""
    import tifffile

    source = open_source(data) if isinstance(data, str) else data
    chosen = np.linspace(0, len(source) - 1, min(count or len(source), len(source))).astype(int)
    for index in chosen.tolist():
        label = source.label(index)
        name = source.classes[label] if label is not None else "all"
        (folder / name).mkdir(parents=True, exist_ok=True)
        planes = bands(source.read(index, size), index)
        options: dict[str, Any] = {"photometric": "minisblack"}
        if index % 2:
            options["planarconfig"] = "contig"
            planes = planes.transpose(1, 2, 0)
        else:
            options["planarconfig"] = "separate"
        tifffile.imwrite(folder / name / f"{index:05d}.tif", planes, **options)
    return folder


if __name__ == "__main__":
    import sys

    data, to, size, count = sys.argv[1:]
    write_bands(data, Path(to), int(size), int(count))
