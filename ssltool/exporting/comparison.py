"""Compare exports with the encoder: each is opened by its own library, in another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

import ssltool
from ssltool.encoders.encoder import Encoder
from ssltool.errors import WeightsError
from ssltool.exporting import readers

TOLERANCE = 1e-4
"""Largest difference of two features, relative to the largest feature where that exceeds 1."""


@dataclass(frozen=True)
class Job:
    """An export to open.

    Attributes:
        reader: Key of `ssltool.exporting.readers.READERS`.
        path: File or folder.
        arguments: Of the reader.
        outputs: What it computes: ``pooled``, and stages.
        side: Side in pixels of uint8 images it takes; None for the encoder's.
    """

    reader: str
    path: Path
    arguments: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("pooled",)
    side: int | None = None


class Comparison(BaseModel):
    """How close an export comes to the encoder.

    Attributes:
        reader: The library that opened it.
        outputs: Output -> largest difference of a feature.
        difference: Of the pooled feature.
        largest: The largest pooled feature, of either sign.
        cosine: The smallest cosine similarity of the pooled features of an image.
    """

    model_config = ConfigDict(frozen=True)

    reader: str
    outputs: dict[str, float]
    difference: float
    largest: float
    cosine: float


def compare(encoder: Encoder, images: Tensor, jobs: Sequence[Job]) -> list[Comparison]:
    """Compute features of images by each export and compare them with the encoder's.

    Args:
        encoder: On the CPU, in evaluation mode, with its metadata.
        images: uint8 ``[N, 3, S, S]``, S the encoder's ``image_size``.
        jobs: The exports.

    Raises:
        WeightsError: One cannot be opened, or computes other features.
    """
    given, expected = {}, []
    for number, job in enumerate(jobs):
        own = _resized(images, job.side) if job.side else images
        inputs = encoder.transform(own).contiguous()  # the layout that other libraries make
        given[f"{number}/images"] = own.contiguous()
        given[f"{number}/inputs"] = inputs
        expected.append(_features(encoder, inputs, job.outputs))
    found = _run(jobs, given)
    return [
        _compared(job, want, {name: found[f"{number}/{name}"] for name in job.outputs})
        for number, (job, want) in enumerate(zip(jobs, expected, strict=True))
    ]


@torch.no_grad()
def _features(encoder: Encoder, inputs: Tensor, outputs: tuple[str, ...]) -> dict[str, Tensor]:
    pooled = {"pooled": encoder(inputs)}
    return pooled if len(outputs) == 1 else pooled | encoder.maps(inputs)


def _resized(images: Tensor, side: int) -> Tensor:
    if images.shape[-1] == side:
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True)


def _run(jobs: Sequence[Job], given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Features by job and output, computed in another process."""
    lines = [
        {"reader": job.reader, "path": str(job.path), "outputs": job.outputs, **job.arguments}
        for job in jobs
    ]
    with tempfile.TemporaryDirectory(prefix="ssltool-") as folder:
        images, results = Path(folder, "images.safetensors"), Path(folder, "features.safetensors")
        save_file(given, images)
        # -P: the folder of the script is no place to import from; it has a file timm.py.
        command = [sys.executable, "-P", readers.__file__, json.dumps(lines)]
        command += [str(images), str(results)]
        process = subprocess.run(command, capture_output=True, text=True, env=_environment())
        if process.returncode:
            reason = (process.stderr.strip() or f"exit {process.returncode}").splitlines()[-1]
            raise WeightsError(f"the export is not usable: {reason[:400]}; nothing was written")
        return load_file(results)


def _environment() -> dict[str, str]:
    """Nothing is downloaded, and this ssltool is found."""
    root = str(Path(ssltool.__file__).parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def _compared(job: Job, expected: dict[str, Tensor], found: dict[str, Tensor]) -> Comparison:
    differences = {}
    for name, features in found.items():
        want = expected[name]
        if features.shape != want.shape:
            raise WeightsError(
                f"{job.reader} computes {name} of shape {list(features.shape)} instead of "
                f"{list(want.shape)}; nothing was written"
            )
        differences[name] = float((features - want).abs().max())
        limit = TOLERANCE * max(1.0, float(want.abs().max()))
        if not differences[name] <= limit:
            raise WeightsError(
                f"{job.reader} computes features ({name}) that differ by {differences[name]:.2g}, "
                f"more than {limit:.2g}; nothing was written"
            )
    pooled, want = found["pooled"].double(), expected["pooled"].double()
    return Comparison(
        reader=job.reader,
        outputs=differences,
        difference=differences["pooled"],
        largest=float(want.abs().max()),
        cosine=float(torch.cosine_similarity(pooled, want).min()),
    )
