"""The weights file: a backbone's tensors under torchvision's key names, and a card that says what
they are.

A safetensors file whose keys are those of the plain torchvision model (no prefix, no head), so that
``resnet18().load_state_dict(load_file(F), strict=False)`` leaves only the classifier missing. Its
metadata has one entry, ``ssltool``: the card as JSON with sorted keys. It is one entry, not one per
field, because safetensors writes several in an order that changes from call to call, and the same
weights must give the same bytes.

Reading is strict and runs no code from the file: every key and shape must fit and every number must
be finite; otherwise a one-line :class:`~ssltool.errors.WeightsError` names the first faults.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ssltool.atomic import atomic_file
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.metadata import ColorSpace, EncoderMetadata, Stem
from ssltool.encoders.registry import build_encoder
from ssltool.errors import UsageError, WeightsError

FILE_NAME = "encoder.safetensors"
FORMAT_VERSION = 1
_METADATA_KEY = "ssltool"
_NAMED_FAULTS = 3
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def describe(
    encoder: Encoder,
    *,
    method: str,
    color_space: ColorSpace,
    image_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    training: dict[str, str | int | float],
    patch: tuple[int, int] | None = None,
) -> EncoderMetadata:
    """The card of ``encoder``: what it knows of itself, and the fields given here (see
    :class:`EncoderMetadata`).

    A vision transformer can only be read at its own image size, which then stands in for
    ``image_size``.
    """
    return EncoderMetadata(
        method=method,
        backbone=encoder.name,
        stem=encoder.stem,
        norm=encoder.norm,
        in_channels=encoder.in_channels,
        color_space=color_space,
        image_size=encoder.image_size or image_size,
        patch=patch,
        mean=mean,
        std=std,
        stages=encoder.stages,
        width=encoder.width,
        training=training,
    )


def save_encoder(encoder: Encoder, metadata: EncoderMetadata, path: Path) -> None:
    """Write the weights file; a kill at any moment leaves the old file or the new one.

    The same weights and card give the same bytes.

    Raises:
        ValueError: The card is not this encoder's; the file could not be loaded back.
        DiskFullError, CheckpointError: ``path`` cannot be written.
    """
    said = (
        metadata.backbone,
        metadata.stem,
        metadata.norm,
        metadata.in_channels,
        metadata.stages,
        metadata.width,
    )
    if said != (
        encoder.name,
        encoder.stem,
        encoder.norm,
        encoder.in_channels,
        encoder.stages,
        encoder.width,
    ):
        raise ValueError(f"the card describes {said}, not this {encoder.name}")
    if encoder.image_size not in (None, metadata.image_size):
        raise ValueError(
            f"{encoder.name} only takes {encoder.image_size} px images, the card says "
            f"{metadata.image_size}"
        )
    tensors = {
        key: tensor.detach().cpu().contiguous()
        for key, tensor in encoder.backbone.state_dict().items()
    }
    header = {_METADATA_KEY: json.dumps(metadata.model_dump(mode="json"), sort_keys=True)}
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata=header)


def find_weights(path: Path | str) -> Path:
    """The weights file that ``path`` means: itself, or ``encoder.safetensors`` in it when it is a
    run folder.

    Raises:
        WeightsError: There is no such file, or the folder holds none.
    """
    path = Path(path)
    if path.is_file():
        return path
    if (path / FILE_NAME).is_file():
        return path / FILE_NAME
    if path.is_dir():
        raise WeightsError(
            f"the folder {path} holds no {FILE_NAME}; name a run folder or a weights file"
        )
    raise WeightsError(f"there is no file {path}; name a run folder or a .safetensors file")


def read_metadata(path: Path | str) -> EncoderMetadata:
    """Read what a weights file, or the one in a run folder, says about itself.

    Raises:
        WeightsError: Not a weights file of this tool, or of a newer version of it.
    """
    file = find_weights(path)
    text = _read_header(file).get(_METADATA_KEY)
    if text is None:
        raise WeightsError(
            f"{file} does not say what it holds (no {_METADATA_KEY!r} metadata); "
            "to start from plain torchvision weights type --backbone NAME --init FILE"
        )
    return _parse_metadata(text, file)


def has_metadata(path: Path | str) -> bool:
    """Whether a safetensors file says what it holds; one that does not may be a plain state dict.

    Raises:
        WeightsError: It is not a safetensors file.
    """
    return _METADATA_KEY in _read_header(find_weights(path))


def load_plain(
    path: Path, backbone: str, stem: Stem, image_size: int
) -> tuple[Encoder, int, tuple[str, ...]]:
    """Read a plain state dict of a torchvision model, or of one with the same keys (timm's ResNets
    have them).

    The card says what torchvision's own weights expect: RGB images, normalized by ImageNet's mean
    and deviation. torch's global generator is left as it was.

    Returns:
        The encoder in evaluation mode with ``metadata`` attached, the number of tensors that
        matched, and the keys of the classifier, which were passed over.

    Raises:
        UsageError: There is no such backbone.
        WeightsError: A tensor of the file or of the backbone is left over, or misshapen.
    """
    file = find_weights(path)
    with torch.random.fork_rng(devices=[]):
        encoder = build_encoder(backbone, stem=stem, image_size=image_size, empty=True)
    matched = load_backbone(encoder, file)
    passed = tuple(key for key in _read_keys(file) if key not in encoder.backbone.state_dict())
    encoder.metadata = describe(
        encoder,
        method="plain weights",
        color_space="rgb",
        image_size=image_size,
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        training={},
    )
    return encoder.eval(), matched, passed


def load_encoder(path: Path | str) -> Encoder:
    """Rebuild the encoder of a weights file, or of a run folder, in evaluation mode with
    ``metadata`` attached.

    torch's global generator is left as it was.

    Raises:
        WeightsError: The file is not what it should be; the message says in what.
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
                last_stage=metadata.stages[-1].name if metadata.stages else None,
                empty=True,
            )
        except UsageError as error:
            raise WeightsError(f"{file} asks for what cannot be built: {error}") from error
    if (encoder.stages, encoder.width) != (metadata.stages, metadata.width):
        raise WeightsError(
            f"{file} lists other stages than {metadata.backbone} has; write it again with "
            "'ssltool export'"
        )
    load_backbone(encoder, file)
    encoder.metadata = metadata
    return encoder.eval()


def load_backbone(encoder: Encoder, path: Path) -> int:
    """Load a weights file, or any safetensors file with torchvision's keys, into ``encoder``.

    Keys of the classifier, which the encoder does not have, are passed over; all others must match.
    Only batch norm's step counts may be missing, as they are in files of old torch versions.

    Returns:
        Number of tensors loaded.

    Raises:
        WeightsError: A key is missing, unexpected or misshapen, or a value is not finite;
            ``encoder`` is unchanged.
    """
    file = find_weights(path)
    tensors = _read_tensors(file)
    if encoder.classifier is not None:
        tensors = {
            key: t for key, t in tensors.items() if not key.startswith(f"{encoder.classifier}.")
        }
    expected: dict[str, Tensor] = encoder.backbone.state_dict()
    faults = _faults(tensors, expected)
    if faults:
        more = f" and {len(faults) - _NAMED_FAULTS} more" if len(faults) > _NAMED_FAULTS else ""
        raise WeightsError(
            f"{file} does not fit {encoder.name} (stem {encoder.stem}, {encoder.in_channels} "
            "channels): "
            f"{', '.join(faults[:_NAMED_FAULTS])}{more}; {_advice(file)}"
        )
    broken = next((key for key, tensor in tensors.items() if not _is_finite(tensor)), None)
    if broken is not None:
        raise WeightsError(
            f"{file} has NaN or infinite values in {broken}; use an earlier checkpoint of its run"
        )
    if any(wanted.is_meta for wanted in expected.values()):
        # Copied, so that nothing depends on the file any more.
        own = {key: tensor.to(expected[key].dtype, copy=True) for key, tensor in tensors.items()}
        encoder.backbone.load_state_dict(own, assign=True)
    else:
        encoder.backbone.load_state_dict(tensors)
    return len(tensors)


def _advice(file: Path) -> str:
    """What to type so that the encoder fits the file."""
    text = _read_header(file).get(_METADATA_KEY)
    if text is None:
        return "name the --backbone and --stem it was trained with"
    metadata = _parse_metadata(text, file)
    norm = (
        ""
        if metadata.norm == "batch"
        else f", norm {metadata.norm}, up to {metadata.stages[-1].name}"
    )
    return f"it was written for --backbone {metadata.backbone} --stem {metadata.stem} with {metadata.in_channels} channels{norm}"


def _faults(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """One phrase for each key that does not match, starting with one of every kind of fault."""
    counts = ".num_batches_tracked"
    missing = [
        f"{key} is missing" for key in expected if key not in tensors and not key.endswith(counts)
    ]
    unexpected = [f"{key} is unexpected" for key in tensors if key not in expected]
    misfit = [
        f"{key} is {_form(tensors[key])} instead of {_form(wanted)}"
        for key, wanted in expected.items()
        if key in tensors and not _same_form(tensors[key], wanted)
    ]
    kinds = (misfit, missing, unexpected)
    return [kind[0] for kind in kinds if kind] + [fault for kind in kinds for fault in kind[1:]]


def _same_form(found: Tensor, wanted: Tensor) -> bool:
    """Same shape and kind of number; one floating-point precision may stand for another."""
    return found.shape == wanted.shape and (
        found.dtype == wanted.dtype or {found.dtype, wanted.dtype} <= _FLOATS
    )


def _form(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _parse_metadata(text: str, file: Path) -> EncoderMetadata:
    """Check the card's JSON, its version first: a newer one may have fields unknown here."""
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise WeightsError(
            f"{file} has unreadable metadata ({error}); write it again with 'ssltool export'"
        ) from error
    version = fields.get("format_version") if isinstance(fields, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise WeightsError(
            f"{file} has format version {version} and this ssltool reads up to {FORMAT_VERSION}; "
            "type pip install --upgrade ssltool"
        )
    try:
        return EncoderMetadata.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the card"
        raise WeightsError(
            f"{file} has wrong metadata, {where}: {first['msg']}; write it again with 'ssltool "
            "export'"
        ) from error


def _read_header(file: Path) -> dict[str, str]:
    try:
        with safe_open(file, framework="pt") as opened:
            return opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _unreadable(file, error) from error


def _read_keys(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as opened:
        return sorted(opened.keys())


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> WeightsError:
    """Say what the file is instead of safetensors, going by its first bytes."""
    try:
        with file.open("rb") as opened:
            start = opened.read(9)
    except OSError as failure:
        return WeightsError(f"cannot read {file}: {failure.strerror}")
    if start.startswith(b"PK\x03\x04") or (
        start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    ):
        return WeightsError(
            f"{file} is a pickle (.pt, .pth, .bin), which can run code and is never read; "
            "convert it on a machine you "
            "trust with torch.load(FILE, weights_only=True) and safetensors.torch.save_file, and "
            "name the new file"
        )
    if start[8:9] == b"{" or len(start) < 9:
        return WeightsError(
            f"{file} is cut off or damaged ({error}); copy it again or use another checkpoint"
        )
    return WeightsError(
        f"{file} is not a safetensors file; name a run folder or a .safetensors file"
    )
