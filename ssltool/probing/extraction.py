"""Extraction of features from labeled images, cached on disk; one pass over the images feeds all
networks of a table.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor

import ssltool
from ssltool.data.decode import decode_identity, installed
from ssltool.distributed.collectives import copy_from_main, from_main, is_main
from ssltool.distributed.parts import own_part
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.metadata import EncoderMetadata
from ssltool.encoders.projection import Projection
from ssltool.encoders.registry import reinitialized_copy
from ssltool.encoders.transform import InputTransform
from ssltool.ops.per_image_rng import mix
from ssltool.probing import features
from ssltool.probing.datasets import LabeledImages, Split
from ssltool.probing.features import FeatureExtractor, Grid, PatchEncoder, compute_batch
from ssltool.probing.health import MAX_IMAGES, health
from ssltool.probing.store import FeatureStore, StoredFeatures, cache_key
from ssltool.runs.probe_record import POOLED, FeatureKind, FeatureSource, HealthRow

_RECALIBRATION = 1024  # images from which batch-norm statistics are estimated
_PIXEL_BATCH = 256  # images of which raw pixels are taken at a time


class Features(NamedTuple):
    """Features of both splits.

    Attributes:
        train: Of the training images.
        test: Of the test images.
        key: Equal for features that were computed alike.
    """

    train: StoredFeatures
    test: StoredFeatures
    key: str


class EncoderVariant(NamedTuple):
    """An encoder and how it reads an image: whole, or as a grid of patches.

    Attributes:
        source: Identifies its features.
        network: The encoder, or the encoder applied to patches.
        metadata: Of the weights.
        projection: Applied to the encoder's pooled vector, besides; None for none.
    """

    source: FeatureSource
    network: Encoder | PatchEncoder
    metadata: EncoderMetadata
    projection: Projection | None = None

    @property
    def transform(self) -> InputTransform:
        """What turns images into the network's input. Patches are cut at the size files are read
        at.
        """
        patches = isinstance(self.network, PatchEncoder)
        size = self.metadata.read_size if patches else self.metadata.image_size
        return InputTransform.of(self.metadata, size)

    def buffers(self) -> Iterator[Tensor]:
        """Batch norm's statistics, of the projection too."""
        yield from self.network.buffers()
        if self.projection is not None:
            yield from self.projection.buffers()


def encoder_variants(
    encoder: Encoder,
    metadata: EncoderMetadata,
    kind: FeatureKind,
    *,
    patches: bool = True,
    projection: Projection | None = None,
) -> list[EncoderVariant]:
    """The whole-image variant and, for an encoder trained on patches, the patch variant.

    Args:
        encoder: The network.
        metadata: Of the pretrained weights, for a random init as well.
        kind: ``pretrained`` or ``random_init``.
        patches: Whether the patch variant is wanted.
        projection: Of the encoder; applied to whole images.
    """
    source = FeatureSource(
        kind=kind,
        method=metadata.method if kind == "pretrained" else "",
        network=network_summary(metadata),
        input=_input_summary(metadata),
        identity=cache_key(**metadata.function)[:8],
    )
    variants = [EncoderVariant(source, encoder, metadata, projection)]
    if patches and metadata.patch is not None:
        of_patches = source.model_copy(update={"variant": "patches"})
        network = PatchEncoder(encoder, *metadata.patch)
        variants.append(EncoderVariant(of_patches, network, metadata))
    return variants


def pixel_source(metadata: EncoderMetadata) -> FeatureSource:
    """Raw pixels of files, read as those of an encoder."""
    size, ranges = metadata.read_size, metadata.value_range
    read = cache_key(size=size, ranges=ranges, type=metadata.value_type)[:8]
    return FeatureSource(kind="pixels", input=f"{size} px", identity=read)


def network_summary(metadata: EncoderMetadata) -> str:
    """Backbone, stem, norm and channels in words."""
    norm = "" if metadata.norm == "batch" else f"{metadata.norm} norm, "
    plural = "s" if metadata.in_channels > 1 else ""
    channels = f"{metadata.in_channels} channel{plural}"
    return f"{metadata.backbone}, {metadata.stem} stem, {norm}{channels}"


def _input_summary(metadata: EncoderMetadata) -> str:
    size, read = metadata.image_size, metadata.read_size
    return f"{size} px" if size == read else f"{size} px of {read}"


def random_init(encoder: Encoder, seed: int) -> Encoder:
    """The same network with new weights, a function of the seed.

    torch's global generator is left as it was.
    """
    with torch.random.fork_rng():
        torch.manual_seed(mix(seed))
        return reinitialized_copy(encoder)


def recalibrate(variants: Sequence[EncoderVariant], data: LabeledImages, seed: int) -> None:
    """Re-estimate batch norm's statistics on a random sample of training images, in place.

    Args:
        variants: Of one size at which files are read.
        data: Of which the training images are used.
        seed: Decides which images.
    """
    read_size = variants[0].metadata.read_size
    order = torch.randperm(data.total("train"), generator=torch.Generator().manual_seed(mix(seed)))[
        :_RECALIBRATION
    ]
    parts = [images for images, _ in data.batches("train", read_size, indices=order.tolist())]
    if not parts:
        raise features.no_images(data.skipped)
    images = torch.cat(parts)
    for variant in variants:
        features.recalibrate_batch_norm(
            variant.network, images, variant.transform, projection=variant.projection, seed=seed
        )


def compute_environment(device: torch.device) -> dict[str, str]:
    """What can change a feature besides weights, images and options: versions, those of the
    libraries that networks come from among them, decoders, the device and the threads.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "ssltool": ssltool.__version__,
        "torch": torch.__version__,
        **installed("torchvision", "timm"),
        "decoding": decode_identity(),
        "device": name,
        "threads": str(torch.get_num_threads()),
    }


class Extractor:
    """Extracts features of labeled images.

    Args:
        data: The images.
        store: Where features are cached.
        device: Where networks are evaluated.
        grid: Grid features of each stage.
        recalibrate: Whether batch-norm statistics are re-estimated on the training images first.
        patch_moments: Whether the moments of patch vectors are wanted, see `FeatureExtractor`.
        seed: Decides the images for recalibration.
    """

    def __init__(
        self,
        data: LabeledImages,
        store: FeatureStore,
        device: torch.device,
        *,
        grid: Grid = Grid(),
        recalibrate: bool = True,
        patch_moments: bool = False,
        seed: int = 0,
    ) -> None:
        self._data, self._store, self._device = data, store, device
        self._grid, self._recalibrate, self._seed = grid, recalibrate, seed
        self._patch_moments = patch_moments

    def features(
        self, variants: Sequence[EncoderVariant], *, with_pixels: bool
    ) -> dict[FeatureSource, list[Features]]:
        """Features of both splits, in one pass over the images that are not cached; in the first
        process, which gets those that the others compute. They get none.

        Networks are moved to the device, and their batch-norm statistics change if recalibrated.

        Args:
            variants: Of one size at which files are read. Several of one source are its seeds.
            with_pixels: Whether raw pixels are wanted as well; their stage is called ``pixels``.
        """
        size = variants[0].metadata.read_size
        jobs: list[_Job] = [self._network_job(variant) for variant in variants]
        if self._recalibrate:
            recalibrate(variants, self._data, self._seed)
            copy_from_main(b for variant in variants for b in variant.buffers())
        if with_pixels:
            jobs.append(self._pixel_job(variants[0].metadata))
        for split in ("train", "test"):
            self._extract(jobs, split, size)
        if not is_main():
            return {}
        result: dict[FeatureSource, list[Features]] = {}
        for job in jobs:
            train, test = (self._store.read(job.key(self._data, s)) for s in ("train", "test"))
            key = cache_key(keys=[job.key(self._data, s) for s in ("train", "test")])
            result.setdefault(job.source, []).append(Features(train, test, key))
            self._data.mark_unreadable("train", train.unreadable)
            self._data.mark_unreadable("test", test.unreadable)
        return result

    def health(self, variants: Sequence[EncoderVariant]) -> list[HealthRow]:
        """Spread of the pooled features of test images, and their alignment with mirror images."""
        size = variants[0].metadata.read_size
        images = torch.cat(
            [images for images, _ in self._data.batches("test", size, limit=MAX_IMAGES)]
        )
        return [self._health(variant, images) for variant in variants]

    def _health(self, variant: EncoderVariant, images: Tensor) -> HealthRow:
        size = compute_batch(variant.transform.size, self._device)
        plain, mirrored = (
            features.extract(variant.network, torch.split(x, size), variant.transform)[POOLED]
            for x in (images, images.flip(-1))
        )
        measured = health(plain, mirrored)
        return HealthRow(
            source=variant.source,
            effective_rank=_rounded(measured.effective_rank),
            std=_rounded(measured.std),
            uniformity=_rounded(measured.uniformity),
            alignment=_rounded(measured.alignment),
            reason=measured.reason,
            warning=measured.warning,
        )

    def _network_job(self, variant: EncoderVariant) -> _Job:
        network, metadata, transform = variant.network, variant.metadata, variant.transform
        network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        projection, further = variant.projection, {}
        if projection is not None:
            projection.to(self._device)
            further["projection"] = hash_of_tensors(projection)
        if self._grid.bilinear:
            further["resized"] = "bilinear"
        moments = self._patch_moments and isinstance(network, PatchEncoder)
        if moments:
            further["moments"] = "of patches"
        return _Job(
            variant.source,
            FeatureExtractor(
                network, transform, self._grid, projection=projection, patch_moments=moments
            ),
            compute_batch(transform.size, self._device),
            {
                "encoder": hash_of_encoder(network, metadata),  # before batch norm is recalibrated
                "patch": metadata.patch if isinstance(network, PatchEncoder) else None,
                "transform": transform.size,
                "recalibration": self._recalibration_identity(),
                "grid": self._grid.dim,
                "environment": compute_environment(self._device),
                **further,
            },
        )

    def _recalibration_identity(self) -> list[object] | None:
        if not self._recalibrate:
            return None
        return [_RECALIBRATION, self._seed, self._data.identity("train")]

    def _pixel_job(self, metadata: EncoderMetadata) -> _Job:
        size = metadata.read_size
        sample = self._data.batches("train", size, limit=_RECALIBRATION)
        side, channels = features.pixel_format(images for images, _ in sample)
        return _Job(
            pixel_source(metadata),
            lambda images: {"pixels": features.pixels(images, side, channels)},
            _PIXEL_BATCH,
            {
                "pixels": [side, channels],
                "read_size": size,
                "environment": compute_environment(self._device),
            },
        )

    def _extract(self, jobs: Sequence[_Job], split: Split, size: int) -> None:
        """Read a split once and write the features that are not in the store.

        Of several processes each computes a part, and the first one gets all.
        """
        keys = [job.key(self._data, split) for job in jobs]
        wanted = from_main(lambda: [n for n, key in enumerate(keys) if not self._store.get(key)])
        if not wanted:
            return
        missing = [jobs[n] for n in wanted]
        own = own_part(self._data.total(split), max(job.block for job in missing))
        with ExitStack() as stack:
            writers = [stack.enter_context(self._store.writer(keys[n])) for n in wanted]
            streams = [Blocks(job.block) for job in missing]
            for images, indices in self._data.batches(split, size, indices=own):
                digests = pixel_digests(images)
                for job, writer, stream in zip(missing, writers, streams, strict=True):
                    writer.add_images(indices, digests)
                    for batch in stream.add(images, indices):
                        writer.add(job.extract(batch.images))
            for job, writer, stream in zip(missing, writers, streams, strict=True):
                for batch in stream.rest():
                    writer.add(job.extract(batch.images))
                writer.unreadable = dict(self._data.unreadable(split))


class _Job:
    """Features to be extracted, and what they are a function of."""

    def __init__(
        self,
        source: FeatureSource,
        extract: Callable[[Tensor], Mapping[str, Tensor]],
        most: int,
        facts: dict[str, Any],
    ) -> None:
        self.source, self.extract, self._facts = source, extract, facts
        # Images taken at a time: a power of two, so that blocks of several jobs end together.
        self.block = 1 << (most.bit_length() - 1)
        # Images that cannot be identified are of this command alone.
        self._nonce = uuid.uuid4().hex

    def key(self, data: LabeledImages, split: Split) -> str:
        """Where the features of a split are stored."""
        images = data.identity(split)
        return cache_key(**self._facts, split=split, images=images or self._nonce)


class ImageBatch(NamedTuple):
    """Images uint8 ``[B, 3, S, S]`` and their indices int64 ``[B]``."""

    images: Tensor
    indices: Tensor


class Blocks:
    """The readable images of each block of consecutive ones, from batches of any size.

    What a network computes of an image can depend, in the last bit, on the others of its batch. A
    block is the same however many images are read at a time, by whichever process.

    Args:
        size: Images of a block, unreadable ones included.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._waiting: list[ImageBatch] = []

    def add(self, images: Tensor, indices: Tensor) -> Iterator[ImageBatch]:
        """Take a batch in, indices ascending; yield the blocks that have ended."""
        ends = (indices.cpu() // self._size).diff().nonzero().flatten() + 1
        parts = (torch.tensor_split(each, ends) for each in (images, indices))
        for part in map(ImageBatch, *parts):
            if self._waiting and self._number(part) != self._number(self._waiting[0]):
                yield from self.rest()
            self._waiting.append(part)

    def rest(self) -> Iterator[ImageBatch]:
        """Yield the last block."""
        if self._waiting:
            images, indices = zip(*self._waiting, strict=True)
            self._waiting = []
            yield ImageBatch(torch.cat(images), torch.cat(indices))

    def _number(self, part: ImageBatch) -> int:
        return int(part.indices[0]) // self._size


def in_blocks(batches: Iterable[tuple[Tensor, Tensor]], size: int) -> Iterator[ImageBatch]:
    """Images and their indices, from batches of any size, in `Blocks`."""
    blocks = Blocks(size)
    for images, indices in batches:
        yield from blocks.add(images, indices)
    yield from blocks.rest()


def pixel_digests(images: Tensor) -> Tensor:
    """A 63-bit hash of each image, int64 ``[B]``: equal for equal pixels.

    Args:
        images: uint8 ``[B, 3, S, S]``.
    """
    rows = images.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).cpu().numpy()
    digests = [hashlib.blake2b(row.data, digest_size=8).digest() for row in rows]
    return torch.tensor([int.from_bytes(digest, "big") >> 1 for digest in digests])


def hash_of_encoder(network: torch.nn.Module, metadata: EncoderMetadata) -> str:
    """SHA-256 in hex of the tensors and all else that decides features, see
    `EncoderMetadata.function`: networks that differ in a stride alone may have equal tensors.
    """
    text = json.dumps([metadata.function, hash_of_tensors(network)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_of_tensors(network: torch.nn.Module) -> str:
    """SHA-256 in hex of the names, shapes and values of a network's tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}{list(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
