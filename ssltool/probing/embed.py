"""Embedding files: the features of a set of images, with their names and classes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor

from ssltool.atomic import atomic_file
from ssltool.console import stderr_console
from ssltool.data.loader import AllImages
from ssltool.data.sources.base import Source
from ssltool.data.sources.registry import open_source
from ssltool.device import choose_device
from ssltool.encoders.weights import find_weights, load_encoder
from ssltool.errors import SslToolError, UsageError
from ssltool.probing.features import POOLED, FeatureExtractor
from ssltool.probing.options import EmbedOptions
from ssltool.probing.store import FeatureStore
from ssltool.runs.records import Part


class EmbedResult(Part):
    """What was written.

    Attributes:
        file: The file.
        images: Number of images in it.
        dim: Dimensions of each vector.
        stage: Of the encoder.
        skipped: Name -> reason of images that could not be read.
    """

    file: str
    images: int
    dim: int
    stage: str
    skipped: dict[str, str]


class Embedding(NamedTuple):
    """The content of an embedding file.

    Attributes:
        features: float32 ``[N, D]``.
        names: Of the N images.
        labels: int64 ``[N]``; -1 for none.
        classes: Class names, in the order of the labels.
        stage: Of the encoder.
    """

    features: Tensor
    names: list[str]
    labels: Tensor
    classes: tuple[str, ...]
    stage: str


def embed(
    options: EmbedOptions, console: Console | None = None, source: Source | None = None
) -> EmbedResult:
    """Write the features of images to a file.

    It holds ``features`` float32 ``[N, D]``, ``names`` and, where images have classes, ``labels``
    int64 ``[N]`` (-1 for none) with their ``classes``. In a .safetensors file names and classes are
    JSON in the metadata.

    Args:
        options: Which images, weights and stage.
        console: Where progress goes; stderr if not given.
        source: Images in place of those that the options name.

    Raises:
        UsageError: There is no such file type or stage.
        SslToolError: The weights or the images are invalid.
    """
    if options.to.suffix not in _WRITERS:
        raise UsageError(
            f"--to {options.to}: a file that ends in {', '.join(_WRITERS)} is expected"
        )
    embedding, skipped = compute(options, console, source)
    write(embedding, options.to)
    return EmbedResult(
        file=str(options.to),
        images=len(embedding.labels),
        dim=embedding.features.shape[1],
        stage=embedding.stage,
        skipped=skipped,
    )


def compute(
    options: EmbedOptions, console: Console | None = None, source: Source | None = None
) -> tuple[Embedding, dict[str, str]]:
    """Compute the features of images, and why some could not be read; see `embed`."""
    console = console or stderr_console()
    stage, device = options.stage, choose_device(options.device)
    encoder = load_encoder(find_weights(options.weights))
    stages = [POOLED, *(part.name for part in encoder.stages)]
    if stage not in stages:
        raise UsageError(f"--stage {stage}: one of {', '.join(stages)} is expected")
    encoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    extractor = FeatureExtractor(encoder, encoder.transform)
    source = source or open_source(options.data)
    images = AllImages(
        source,
        size=encoder.metadata.read_size,
        batch_size=options.batch_size,
        workers=options.workers,
        device=device,
    )

    def batches() -> Iterator[tuple[Mapping[str, Tensor], Tensor]]:
        total = -(-len(images) // options.batch_size)
        for batch in track(
            images, "extracting", total=total, console=console, disable=console.quiet
        ):
            yield {stage: extractor(batch.images)[stage]}, batch.indices

    store = FeatureStore(None)  # in a temporary file: the features need not fit into memory
    with images:
        stored = store.put("embedding", batches())
    indices = stored.indices.tolist()
    labels = [source.label(index) for index in indices]
    embedding = Embedding(
        stored.stages[stage],
        [source.name(index) for index in indices],
        torch.tensor([-1 if label is None else label for label in labels]),
        source.classes,
        stage,
    )
    return embedding, images.skipped


def write(embedding: Embedding, to: Path) -> None:
    """Write an embedding to a .safetensors, .npz or .parquet file.

    Raises:
        UsageError: Another file type.
    """
    if to.suffix not in _WRITERS:
        raise UsageError(f"--to {to}: a file that ends in {', '.join(_WRITERS)} is expected")
    with atomic_file(to) as temporary:
        _WRITERS[to.suffix](temporary, embedding)


def _write_safetensors(path: Path, content: Embedding) -> None:
    document = {"stage": content.stage, "names": content.names, "classes": content.classes}
    save_file(
        {"features": content.features.contiguous(), "labels": content.labels},
        path,
        metadata={"ssltool_embedding": json.dumps(document)},
    )


def _write_npz(path: Path, content: Embedding) -> None:
    with path.open("wb") as opened:
        np.savez(
            opened,
            features=content.features.numpy(),
            labels=content.labels.numpy(),
            names=np.array(content.names),
            classes=np.array(content.classes, dtype=np.str_),
        )


def _write_parquet(path: Path, content: Embedding) -> None:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise SslToolError(
            "a .parquet file needs pyarrow; type pip install 'ssltool[parquet]'"
        ) from error
    labels = [content.classes[n] if n >= 0 else None for n in content.labels.tolist()]
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(content.features.numpy().reshape(-1)), content.features.shape[1]
    )
    table = pa.table({"name": content.names, "label": labels, "features": vectors})
    parquet.write_table(table, path)


_WRITERS = {
    ".safetensors": _write_safetensors,
    ".npz": _write_npz,
    ".parquet": _write_parquet,
}
