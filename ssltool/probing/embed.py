"""Embedding files: the features of a set of images, with their names and classes."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import BaseModel
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor

from ssltool.arrays import DAMAGED, open_tensors, parse_array
from ssltool.atomic import atomic_file
from ssltool.console import stderr_console
from ssltool.data.channels import Channels
from ssltool.data.loader import AllImages
from ssltool.data.sources.base import Source, class_order
from ssltool.data.sources.channels import as_they_are
from ssltool.data.sources.registry import open_source
from ssltool.data.sources.splits import split_folders
from ssltool.device import choose_device
from ssltool.documents import LARGEST, DocumentError, cut, parse_json, validated
from ssltool.encoders.files import find_weights
from ssltool.encoders.weights import load_encoder
from ssltool.errors import SslToolError, UsageError
from ssltool.probing.extraction import Rebatched
from ssltool.probing.features import POOLED, FeatureExtractor, compute_batch
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

    @property
    def class_names(self) -> list[str]:
        """Class name of each image; empty for none."""
        return [self.classes[label] if label >= 0 else "" for label in self.labels.tolist()]


def embed(
    options: EmbedOptions, console: Console | None = None, source: Source | None = None
) -> EmbedResult:
    """Write the features of images to a file.

    It holds ``features`` float32 ``[N, D]``, ``names`` (paths) and, where images have classes,
    ``labels`` int64 ``[N]`` (-1 for none), the ``classes`` that they number, and ``class_names`` of
    each image (empty for none). In a .safetensors file names and classes are JSON in the metadata.

    Labels of two files can be compared if their ``classes`` are equal, as those of the splits of
    one folder are: ``train/`` and ``test/`` are numbered together. Others can be made equal by
    ``--classes-from``.

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
    how = Channels.of(encoder.metadata)
    source = as_they_are(source or open_source(options.data, arrays=how is not None), how)
    for note in source.notes:
        console.print(note)
    classes = _classes(options, source, console)
    images = AllImages(
        source,
        size=encoder.metadata.read_size,
        batch_size=options.batch_size,
        workers=options.workers,
        device=device,
    )
    stream = Rebatched(compute_batch(encoder.transform.size, device))

    def batches() -> Iterator[tuple[Mapping[str, Tensor], Tensor]]:
        total = -(-len(images) // options.batch_size)
        for read in track(
            images, "extracting", total=total, console=console, disable=console.quiet
        ):
            for batch in stream.add(read.images, read.indices):
                yield {stage: extractor(batch.images)[stage]}, batch.indices
        for batch in stream.rest():
            yield {stage: extractor(batch.images)[stage]}, batch.indices

    store = FeatureStore(None)  # in a temporary file: the features need not fit into memory
    with images:
        stored = store.put("embedding", batches())
    number = {name: label for label, name in enumerate(classes)}
    indices = stored.indices.tolist()
    labels = [source.label(index) for index in indices]
    embedding = Embedding(
        stored.stages[stage],
        [source.path(index) for index in indices],
        torch.tensor([-1 if n is None else number[source.classes[n]] for n in labels]),
        classes,
        stage,
    )
    return embedding, images.skipped


def _classes(options: EmbedOptions, source: Source, console: Console) -> tuple[str, ...]:
    """The classes that labels are numbered by.

    Raises:
        UsageError: The file of ``--classes-from`` lacks a class of the images.
    """
    if options.classes_from is not None:
        classes = read_classes(options.classes_from)
        unknown = [name for name in source.classes if name not in classes]
        if unknown:
            raise UsageError(
                f"--classes-from {options.classes_from} lacks the class {unknown[0]!r} of "
                f"{source.description}; embed both sets without it and compare by class_names"
            )
        return classes
    siblings = [_split_siblings(spec) for spec in options.data]
    if siblings and all(siblings):
        names = {name for root in siblings for name in open_source(str(root)).classes}
        return tuple(sorted(names.union(source.classes), key=class_order))
    if source.classes:
        console.print(
            f"labels number the classes of {source.description}; to compare them with those of "
            "another file, type --classes-from FILE or use class_names"
        )
    return source.classes


def _split_siblings(spec: str) -> Path | None:
    """The folder whose split, beside others, a folder is; None if it is none."""
    folder = Path(spec).expanduser()
    if not folder.is_dir():
        return None
    parts = split_folders(folder.resolve().parent) or {}
    own = any(Path(part).resolve() == folder.resolve() for part in parts.values())
    return folder.resolve().parent if own else None


def read_classes(path: Path) -> tuple[str, ...]:
    """The classes of an embedding file.

    Raises:
        UsageError: It is no such file.
    """
    try:
        if path.suffix == ".npz":
            return _npz_classes(path)
        if path.suffix == ".safetensors":
            with open_tensors(path) as file:
                text = (file.metadata() or {}).get("ssltool_embedding", "{}")
            return validated(_Classes, parse_json(text)).classes
    except DocumentError as error:
        raise UsageError(
            f"--classes-from {path}: {error}; a file that 'ssltool embed' wrote is expected"
        ) from error
    raise UsageError(f"--classes-from {path}: a .safetensors or .npz file is expected")


class _Classes(BaseModel):
    """The part of an embedding's metadata that `read_classes` needs."""

    classes: tuple[str, ...]


def _npz_classes(path: Path) -> tuple[str, ...]:
    """The array of class names of a ``.npz`` file; the others stay packed.

    Raises:
        DocumentError: It is no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open("classes.npy") as file:
            content = file.read(LARGEST + 1)
    except (*DAMAGED, zipfile.BadZipFile, NotImplementedError) as error:
        raise DocumentError(cut(str(error)) or type(error).__name__) from error
    if len(content) > LARGEST:
        raise DocumentError(f"its class names take more than {LARGEST:,} bytes")
    names = parse_array(content)
    if names.ndim != 1 or names.dtype.kind != "U":
        raise DocumentError("its classes are no list of names")
    try:
        return tuple(map(str, names.tolist()))
    except (ValueError, SystemError) as error:  # beyond the last character of Unicode
        raise DocumentError("its classes are no text") from error


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
    document = {
        "stage": content.stage,
        "names": content.names,
        "classes": content.classes,
        "class_names": content.class_names,
    }
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
            class_names=np.array(content.class_names, dtype=np.str_),
        )


def _write_parquet(path: Path, content: Embedding) -> None:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise SslToolError(
            "a .parquet file needs pyarrow; type pip install 'ssltool[parquet]'"
        ) from error
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(content.features.numpy().reshape(-1)), content.features.shape[1]
    )
    columns = {
        "name": content.names,
        "class_name": [name or None for name in content.class_names],
        "label": [label if label >= 0 else None for label in content.labels.tolist()],
        "features": vectors,
    }
    table = pa.table(columns)
    parquet.write_table(table, path)


_WRITERS = {
    ".safetensors": _write_safetensors,
    ".npz": _write_npz,
    ".parquet": _write_parquet,
}
