"""Saving and loading encoders: safetensors files with torchvision's keys and our metadata.

The keys are those of the plain torchvision model (no prefix, no head), so that
``resnet18().load_state_dict(load_file(F), strict=False)`` leaves only the classifier missing. The
file's metadata has one entry, ``ssltool``: `EncoderMetadata` as JSON with sorted keys. It is one
entry, not one per field, because safetensors writes several in an order that changes from call to
call, and equal weights must give equal bytes.

Loading is strict and runs no code from the file: every key and shape must fit and every value must
be finite; otherwise a one-line :class:`~ssltool.errors.WeightsError` names the first faults.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ssltool.arrays import open_tensors
from ssltool.atomic import atomic_file
from ssltool.documents import DocumentError
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.files import find_weights
from ssltool.encoders.metadata import (
    IMAGENET_NORM,
    ColorSpace,
    EncoderMetadata,
    Standardize,
    Stem,
    TrainingSummary,
)
from ssltool.encoders.registry import build_encoder
from ssltool.encoders.sizes import accepts
from ssltool.errors import UsageError, WeightsError

_METADATA_KEY = "ssltool"
_NAMED_FAULTS = 3
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def describe(
    encoder: Encoder,
    *,
    method: str,
    color_space: ColorSpace,
    image_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    training: TrainingSummary | None = None,
    patch: tuple[int, int] | None = None,
    standardize: Standardize = "data",
    value_range: tuple[tuple[float, float], ...] | None = None,
    value_type: str | None = None,
) -> EncoderMetadata:
    """Metadata of an encoder: its architecture, and the fields given here.

    See :class:`EncoderMetadata` for the arguments. The size that a vision transformer's position
    embeddings are for replaces ``image_size``.
    """
    return EncoderMetadata(
        method=method,
        backbone=encoder.name,
        timm=encoder.timm_version,
        stem=encoder.stem,
        norm=encoder.norm,
        in_channels=encoder.in_channels,
        color_space=color_space,
        value_range=value_range,
        value_type=value_type,
        image_size=encoder.position_size or image_size,
        patch=patch,
        mean=mean,
        std=std,
        standardize=standardize,
        stages=encoder.stages,
        width=encoder.width,
        training=training,
    )


def save_encoder(encoder: Encoder, metadata: EncoderMetadata, path: Path) -> None:
    """Write a weights file; a kill at any moment leaves the old file or the new one.

    Equal weights and metadata give equal bytes.

    Raises:
        ValueError: The metadata describe another encoder; the file could not be loaded.
        DiskFullError, CheckpointError: ``path`` cannot be written.
    """
    own = encoder.name, encoder.stem, encoder.norm, encoder.in_channels, encoder.stages
    described = (
        metadata.backbone,
        metadata.stem,
        metadata.norm,
        metadata.in_channels,
        metadata.stages,
    )
    if (*described, metadata.width) != (*own, encoder.width):
        raise ValueError(f"the metadata describe {described}, not this {encoder.name}")
    if encoder.position_size not in (None, metadata.image_size):
        raise ValueError(
            f"{encoder.name} was built for {encoder.position_size} px images, the metadata say "
            f"{metadata.image_size}"
        )
    tensors = {
        key: tensor.detach().cpu().contiguous()
        for key, tensor in encoder.backbone.state_dict().items()
    }
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata={_METADATA_KEY: metadata.to_json()})


def read_metadata(path: Path | str) -> EncoderMetadata:
    """Read the metadata of a weights file, or of the one in a run folder.

    Raises:
        UsageError: There is no such file.
        WeightsError: It is no weights file of ssltool, or of another format.
    """
    file = find_weights(path)
    text = _read_header(file).get(_METADATA_KEY)
    if text is None:
        raise WeightsError(
            f"{file} has no {_METADATA_KEY!r} metadata; "
            "to start from plain torchvision weights type --backbone NAME --init FILE"
        )
    return EncoderMetadata.from_json(text, file)


def has_metadata(path: Path | str) -> bool:
    """Whether a safetensors file has our metadata; without it, it may be a plain state dict.

    Raises:
        UsageError: There is no such file.
        WeightsError: It is not a safetensors file.
    """
    return _METADATA_KEY in _read_header(find_weights(path))


def load_plain(
    path: Path, backbone: str, stem: Stem, image_size: int
) -> tuple[Encoder, int, tuple[str, ...]]:
    """Load a plain state dict with torchvision's keys, such as timm's ResNets have.

    The metadata are those of torchvision's own weights: RGB images, normalized by ImageNet's mean
    and standard deviation. torch's global generator is left as it was.

    Args:
        path: A safetensors file.
        backbone: Name of the backbone.
        stem: Stem of the backbone.
        image_size: Side in pixels of images for feature extraction.

    Returns:
        The encoder in evaluation mode with ``metadata`` attached, the number of tensors loaded, and
        the keys of the classifier, which were skipped.

    Raises:
        UsageError: There is no such backbone, or no such file.
        WeightsError: A tensor is missing, unexpected or misshapen.
    """
    file = find_weights(path)
    with torch.random.fork_rng(devices=[]):
        encoder = build_encoder(backbone, stem=stem, image_size=image_size, empty=True)
    matched = load_backbone(encoder, file)
    skipped = tuple(key for key in _read_keys(file) if key not in encoder.backbone.state_dict())
    mean, std = IMAGENET_NORM
    encoder.metadata = describe(
        encoder,
        method="plain weights",
        color_space="rgb",
        image_size=image_size,
        mean=mean,
        std=std,
    )
    return encoder.eval(), matched, skipped


def load_encoder(path: Path | str) -> Encoder:
    """Rebuild the encoder of a weights file or run folder, with its pretrained weights.

    torch's global generator is left as it was.

    Args:
        path: A weights file or a run folder.

    Returns:
        The encoder on the CPU, in evaluation mode, with ``metadata`` attached.

    Raises:
        UsageError: There is no such file.
        WeightsError: The file is damaged or does not fit; the message says how.
    """
    file = find_weights(path)
    metadata = read_metadata(file)
    with torch.random.fork_rng(devices=[]):
        try:
            encoder = build_encoder(
                metadata.backbone,
                stem=metadata.stem,
                in_channels=metadata.in_channels,
                image_size=metadata.image_size,
                norm=metadata.norm,
                last_stage=metadata.stages[-1].name,
                empty=True,
            )
        except UsageError as error:
            raise WeightsError(f"{file} cannot be rebuilt: {error}") from error
    if (encoder.stages, encoder.width) != (metadata.stages, metadata.width):
        raise WeightsError(
            f"{file} lists other stages than {metadata.backbone} has; use another copy of the file"
        )
    for size in (metadata.image_size, *(metadata.patch or ())[:1]):
        if not accepts(encoder, size):
            raise WeightsError(
                f"{file} asks for {size} px images, which {metadata.backbone} cannot take; use "
                "another copy of the file"
            )
    load_backbone(encoder, file)
    encoder.metadata = metadata
    return encoder.eval()


def load_backbone(encoder: Encoder, path: Path) -> int:
    """Load a weights file, or any safetensors file with torchvision's keys, into ``encoder``.

    Keys of the classifier, which the encoder does not have, are skipped; all others must match.
    Only batch norm's ``num_batches_tracked`` may be missing, as in files of old torch versions.

    Returns:
        Number of tensors loaded.

    Raises:
        UsageError: There is no such file.
        WeightsError: A key is missing, unexpected or misshapen, or a value is not finite;
            ``encoder`` is unchanged.
    """
    file = find_weights(path)
    tensors = read_tensors(file)
    if encoder.classifier is not None:
        tensors = {
            key: t for key, t in tensors.items() if not key.startswith(f"{encoder.classifier}.")
        }
    fill(encoder, tensors, file)
    return len(tensors)


def fill(encoder: Encoder, tensors: dict[str, Tensor], file: Path) -> None:
    """Put tensors into an encoder, if they are all of its own and nothing else.

    Args:
        encoder: Changed in place.
        tensors: By key.
        file: Where they were read, for messages.

    Raises:
        WeightsError: As `load_backbone`.
    """
    expected: dict[str, Tensor] = encoder.backbone.state_dict()
    faults = _faults(tensors, expected)
    if faults:
        more = f" and {len(faults) - _NAMED_FAULTS} more" if len(faults) > _NAMED_FAULTS else ""
        raise WeightsError(
            f"{file} does not fit {encoder.name} "
            f"(stem {encoder.stem}, {encoder.in_channels} channels): "
            f"{', '.join(faults[:_NAMED_FAULTS])}{more}; {_advice(file)}"
        )
    not_finite = next((key for key, tensor in tensors.items() if not _is_finite(tensor)), None)
    if not_finite is not None:
        raise WeightsError(
            f"{file} has NaN or infinite values in {not_finite}; use an earlier checkpoint"
        )
    if any(tensor.is_meta for tensor in expected.values()):
        # Copied, so that no tensor is backed by the file.
        copies = {key: tensor.to(expected[key].dtype, copy=True) for key, tensor in tensors.items()}
        encoder.backbone.load_state_dict(copies, assign=True)
    else:
        encoder.backbone.load_state_dict(tensors)


def _advice(file: Path) -> str:
    """What to type so that the encoder fits the file."""
    text = _read_header(file).get(_METADATA_KEY)
    if text is None:
        return "name the --backbone and --stem it was trained with"
    metadata = EncoderMetadata.from_json(text, file)
    norm = "" if metadata.norm == "batch" else f", norm {metadata.norm}"
    last = f", up to {metadata.stages[-1].name}" if norm else ""
    return (
        f"it was written for --backbone {metadata.backbone} --stem {metadata.stem} with "
        f"{metadata.in_channels} channels{norm}{last}"
    )


def _faults(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """One phrase for each key that does not match; one of each kind of fault comes first."""
    counts = ".num_batches_tracked"
    missing = [
        f"{key} is missing" for key in expected if key not in tensors and not key.endswith(counts)
    ]
    unexpected = [f"{key} is unexpected" for key in tensors if key not in expected]
    misfit = [
        f"{key} is {_signature(tensors[key])} instead of {_signature(tensor)}"
        for key, tensor in expected.items()
        if key in tensors and not _compatible(tensors[key], tensor)
    ]
    kinds = (misfit, missing, unexpected)
    return [kind[0] for kind in kinds if kind] + [fault for kind in kinds for fault in kind[1:]]


def _compatible(tensor: Tensor, expected: Tensor) -> bool:
    """Same shape and dtype; any floating-point dtype may replace another."""
    return tensor.shape == expected.shape and (
        tensor.dtype == expected.dtype or {tensor.dtype, expected.dtype} <= _FLOATS
    )


def _signature(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _read_header(file: Path) -> dict[str, str]:
    try:
        with open_tensors(file) as opened:
            return opened.metadata() or {}
    except DocumentError as error:
        raise _unreadable(file, error) from error


def _read_keys(file: Path) -> list[str]:
    with open_tensors(file) as opened:
        return sorted(opened.keys())


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by key.

    Raises:
        WeightsError: It is damaged, or of another kind; a pickle is never read.
    """
    try:
        with open_tensors(file) as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - not a mapping
    except DocumentError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> WeightsError:
    """Say what the file is instead of safetensors, going by its first bytes."""
    try:
        with file.open("rb") as opened:
            start = opened.read(9)
    except OSError as failure:
        return WeightsError(f"cannot read {file}: {failure.strerror}")
    is_zip = start.startswith(b"PK\x03\x04")
    if is_zip or (start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")):
        return WeightsError(
            f"{file} is a pickle (.pt, .pth, .bin), which can run code and is never read; convert "
            "it on a machine you trust with torch.load(FILE, weights_only=True) and "
            "safetensors.torch.save_file, and name the new file"
        )
    if start[8:9] == b"{" or len(start) < 9:
        return WeightsError(
            f"{file} is cut off or damaged ({error}); copy it again or use another checkpoint"
        )
    return WeightsError(
        f"{file} is not a safetensors file; name a run folder or a .safetensors file"
    )
