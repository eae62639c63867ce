"""One vector an image, written to a file that other tools read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor

from ssltool.atomic import atomic_file
from ssltool.data.loader import AllImages
from ssltool.data.sources.registry import open_source
from ssltool.device import best_device
from ssltool.encoders.weights import find_weights, load_encoder
from ssltool.errors import SslToolError, UsageError
from ssltool.probing import features
from ssltool.probing.extraction import noting, read_size, reader_of
from ssltool.probing.store import FeatureStore, Stored

FORMS = (".safetensors", ".npz", ".parquet")


def embed(
    weights: Path,
    data: tuple[str, ...],
    to: Path,
    *,
    stage: str = features.POOLED,
    batch_size: int = 256,
    workers: int | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run ``ssltool embed``.

    The file holds ``features`` float32 ``[N, D]``, ``names`` and, where images have classes,
    ``labels`` int64 ``[N]`` (-1 = none) with their ``classes``. In a .safetensors file names and
    classes are JSON in the metadata.

    Args:
        weights: Run folder or weights file.
        data: The images.
        to: A .safetensors, .npz or .parquet file.
        stage: ``pooled``, or a stage's name for the average of its map.
        batch_size: Images per batch.
        workers: Processes that decode; None decides from the cores.
        console: Where progress goes; stderr if not given.

    Returns:
        In JSON kinds: ``file, images, numbers, stage, skipped``.

    Raises:
        UsageError: There is no such form or stage.
        SslToolError: The weights or the images are not what they should be.
    """
    console = console or Console(stderr=True, highlight=False)
    if to.suffix not in FORMS:
        raise UsageError(f"--to {to}: a file that ends in {', '.join(FORMS)} is expected")
    encoder = load_encoder(find_weights(weights))
    metadata = encoder.metadata
    assert metadata is not None, "load_encoder attaches it"
    names = [features.POOLED, *(part.name for part in encoder.stages)]
    if stage not in names:
        raise UsageError(f"--stage {stage}: one of {', '.join(names)} is expected")
    encoder.to(best_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    source = open_source(data)
    images = AllImages(
        source,
        size=read_size(metadata),
        batch_size=batch_size,
        workers=workers,
        device=best_device(),
    )

    def rows() -> Iterator[tuple[Mapping[str, Tensor], Tensor]]:
        places: list[Tensor] = []
        batches = track(
            ((batch.images, batch.indices.cpu()) for batch in images),
            "reading images",
            total=-(-len(images) // batch_size),
            console=console,
            disable=console.quiet,
        )
        for found in features.stream(
            encoder, noting(iter(batches), places), reader_of(encoder, metadata)
        ):
            yield {stage: found[stage]}, places.pop()

    store = FeatureStore(
        None
    )  # a file again, so that the vectors of many images need not fit into memory
    with images:
        stored = store.put("embedded", rows())
    told = [source.label(place) for place in stored.places.tolist()]
    labels = torch.tensor([-1 if label is None else label for label in told])
    with atomic_file(to) as temporary:
        _write(
            temporary,
            to.suffix,
            stored,
            stage,
            [source.name(p) for p in stored.places.tolist()],
            labels,
            source.classes,
        )
    return {
        "file": str(to),
        "images": len(labels),
        "numbers": stored.stages[stage].shape[1],
        "stage": stage,
        "skipped": images.skipped,
    }


def _write(
    path: Path,
    form: str,
    stored: Stored,
    stage: str,
    names: list[str],
    labels: Tensor,
    classes: tuple[str, ...],
) -> None:
    values = stored.stages[stage]
    if form == ".safetensors":
        metadata = {
            "ssltool_embedding": json.dumps({"stage": stage, "names": names, "classes": classes})
        }
        save_file({"features": values.contiguous(), "labels": labels}, path, metadata=metadata)
    elif form == ".npz":
        with path.open("wb") as opened:
            np.savez(
                opened,
                features=values.numpy(),
                labels=labels.numpy(),
                names=np.array(names),
                classes=np.array(classes, dtype=np.str_),
            )
    else:
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError as error:
            raise SslToolError(
                "a .parquet file needs pyarrow; type pip install 'ssltool[parquet]'"
            ) from error
        shown = [classes[label] if label >= 0 else None for label in labels.tolist()]
        vectors = pa.FixedSizeListArray.from_arrays(
            pa.array(values.numpy().reshape(-1)), values.shape[1]
        )
        parquet.write_table(pa.table({"name": names, "label": shown, "features": vectors}), path)
