"""``ssltool embed``: the features of a set of images, with their names and classes, in a file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from ssltool.data.batch import Batch
from ssltool.data.channels import Channels
from ssltool.data.loader import AllImages
from ssltool.data.sources.base import Source
from ssltool.data.sources.channels import as_they_are
from ssltool.data.sources.class_names import class_order
from ssltool.data.sources.registry import open_source, whole_of
from ssltool.data.sources.same import require_same_images
from ssltool.device import choose_device
from ssltool.distributed.collectives import is_main, world_size
from ssltool.distributed.parts import divided_work, gathered, own_part, send_to_main
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.files import find_weights
from ssltool.encoders.weights import load_encoder
from ssltool.errors import UsageError
from ssltool.probing.embedding_files import (
    EmbeddingRows,
    Spool,
    check_packages,
    read_classes,
    write,
)
from ssltool.probing.extraction import in_blocks
from ssltool.probing.features import (
    POOLED,
    FeatureExtractor,
    check_finite,
    compute_batch,
    no_images,
)
from ssltool.probing.options import EmbedOptions
from ssltool.runs.records import Part


class EmbedResult(Part):
    """What was written.

    Attributes:
        file: The file.
        images: Number of images in it.
        dim: Dimensions of each vector.
        grid: Rows and columns of vectors of each image, with ``--patches``; else None.
        stage: Of the encoder.
        classes: Number of classes that labels number.
        skipped: Name -> reason of images that could not be read.
    """

    file: str
    images: int
    dim: int
    grid: tuple[int, int] | None
    stage: str
    classes: int
    skipped: dict[str, str]


def embed(
    options: EmbedOptions, console: Console | None = None, source: Source | None = None
) -> EmbedResult | None:
    """Write the features of images to a file; see `ssltool.probing.embedding_files` for what it
    holds.

    Labels of two files can be compared if their ``classes`` are equal, as those of the splits of
    one folder, manifest, zip file or dataset are: ``train/`` and ``test/`` are numbered together.
    Others can be made equal by ``--classes-from``.

    Features go through a temporary file beside the one that is written, so that memory does not
    grow with the number of images. Processes that torchrun started compute a part of them each.

    Args:
        options: Which images, weights and stage.
        console: Where progress goes; stderr if not given.
        source: Images in place of those that the options name.

    Returns:
        What was written; None in all processes but the first.

    Raises:
        UsageError: There is no such stage.
        SslToolError: The weights or the images are invalid, or a package is missing.
    """
    check_packages(options.to)
    with divided_work(console) as console:
        # Beside the file: /tmp is often in memory.
        rows, skipped = compute(options, console, source, options.to.parent)
        if not is_main():
            return None
        write(rows, options.to)
    shape = rows.features.shape
    return EmbedResult(
        file=str(options.to),
        images=shape[0],
        dim=shape[-1],
        grid=(shape[1], shape[2]) if options.patches else None,
        stage=rows.stage,
        classes=len(rows.classes),
        skipped=skipped,
    )


def compute(
    options: EmbedOptions,
    console: Console,
    source: Source | None = None,
    folder: Path | None = None,
) -> tuple[EmbeddingRows, dict[str, str]]:
    """Compute the features of images, and why some could not be read; see `embed`.

    Of several processes, which `divided_work` has joined, the first returns all images and each
    other one those that it computed.

    Args:
        options: Which images, weights and stage.
        console: Where progress goes.
        source: Images in place of those that the options name; None for these.
        folder: Of the temporary file of the features; None for the system's.
    """
    device = choose_device(options.device)
    encoder = load_encoder(find_weights(options.weights))
    stage = _stage(options, encoder)
    encoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    how = Channels.of(encoder.metadata)
    source = as_they_are(source or open_source(options.data, arrays=how is not None), how)
    require_same_images(source)
    for note in source.notes:
        console.print(note)
    classes = _classes(options, source, console)
    block = compute_batch(encoder.transform.size, device)
    images = AllImages(
        source,
        indices=own_part(len(source), block),
        size=encoder.metadata.read_size,
        batch_size=options.batch_size,
        workers=options.workers,
        device=device,
        whole=options.framing == "whole",
    )
    spool, indices = Spool(folder), list[int]()
    extractor = FeatureExtractor(encoder, encoder.transform)
    with images, torch.no_grad():
        read = ((b.images, b.indices) for b in _shown(images, options.batch_size, console))
        for batch in in_blocks(read, block):
            if options.patches:
                maps = encoder.maps(encoder.transform(batch.images))
                vectors = maps[stage].permute(0, 2, 3, 1)
            else:
                vectors = extractor(batch.images)[stage]
            check_finite(stage, vectors)
            spool.append(vectors)
            indices += batch.indices.tolist()
    indices, skipped = _join(spool, indices, images.skipped)
    if is_main() and not indices:
        raise no_images(skipped)
    number = {name: label for label, name in enumerate(classes)}
    labels = [source.label(index) for index in indices]
    rows = EmbeddingRows(
        spool,
        [source.path(index) for index in indices],
        [-1 if n is None else number[source.classes[n]] for n in labels],
        classes,
        stage,
    )
    return rows, skipped


def _shown(images: AllImages, read: int, console: Console) -> Iterable[Batch]:
    """The batches, with their progress, of ``read`` images each."""
    total = -(-len(images) // read)
    return track(images, "extracting", total=total, console=console, disable=console.quiet)


def _join(
    spool: Spool, indices: list[int], skipped: dict[str, str]
) -> tuple[list[int], dict[str, str]]:
    """In the first process append the rows of the others to its own; their indices, and why images
    could not be read.
    """
    if world_size() == 1:
        return indices, skipped
    shapes = gathered(spool.shape[1:])
    row = next((shape for shape in shapes if shape), ())
    blocks = (torch.from_numpy(block.copy()) for block in spool.blocks())
    send_to_main(blocks, lambda data: spool.append(data.view(torch.float32).view(-1, *row)))
    parts = gathered((indices, skipped))
    if not is_main():
        return indices, skipped
    return (
        [index for own, _ in parts for index in own],
        {name: reason for _, own in parts for name, reason in own.items()},
    )


def _stage(options: EmbedOptions, encoder: Encoder) -> str:
    """The stage whose features are written.

    Raises:
        UsageError: The encoder has no such stage.
    """
    stages = [part.name for part in encoder.stages]
    if options.stage not in (POOLED, *stages):
        raise UsageError(
            f"--stage {options.stage}: one of {', '.join((POOLED, *stages))} is expected"
        )
    return stages[-1] if options.patches and options.stage == POOLED else options.stage


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
    wholes = [whole_of(spec) for spec in options.data]
    if wholes and all(wholes):
        names = {name for whole in wholes if whole for name in open_source(whole).classes}
        return tuple(sorted(names.union(source.classes), key=class_order))
    if source.classes:
        console.print(
            f"labels number the classes of {source.description}; to compare them with those of "
            "another file, type --classes-from FILE or use class_names"
        )
    return source.classes
