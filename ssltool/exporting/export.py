"""Export an encoder: weights for other libraries, with a model card beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from ssltool.atomic import atomic_file
from ssltool.data.sample import sample
from ssltool.data.sources.registry import DataSpec, open_source
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.files import find_weights
from ssltool.encoders.metadata import EncoderMetadata
from ssltool.encoders.projection import Projection, load_projection, save_projection
from ssltool.encoders.weights import load_encoder
from ssltool.errors import UsageError
from ssltool.exporting.input_forms import convert
from ssltool.exporting.model_card import model_card
from ssltool.exporting.options import InputForm
from ssltool.exporting.torchvision import save_verified
from ssltool.probing.features import POOLED, extract

_COMPARED_IMAGES, _BATCH = 512, 64


class ExportResult(BaseModel):
    """What `export` wrote.

    Attributes:
        path: The weights file.
        model_card: The Markdown file beside it.
        projection: The file of the projection beside it; None if none was asked for.
        tensors: Number of tensors in the file.
        parameters: Number of parameters of the encoder.
        similarity: Mean cosine similarity between the pooled features of the exported encoder and
            those of the weights; None without images to compare on.
        metadata: Metadata in the file.
    """

    model_config = ConfigDict(frozen=True)

    path: Path
    model_card: Path
    projection: Path | None = None
    tensors: int
    parameters: int
    similarity: float | None
    metadata: EncoderMetadata


def export(
    weights: Path | str,
    to: Path | str,
    *,
    form: InputForm | None = None,
    with_projection: bool = False,
    data: DataSpec | Sequence[DataSpec] = (),
    device: torch.device | str = "cpu",
) -> ExportResult:
    """Write an encoder and its model card, load it back and compare.

    Args:
        weights: A run folder or a weights file.
        to: A ``.safetensors`` file to write; the model card goes beside it, with the suffix
            ``.md``.
        form: Input form of an encoder trained on lightness, see `ssltool.exporting.input_forms`;
            None exports it as it is.
        with_projection: Also write the projection, see `ssltool.encoders.projection`.
        data: Images on which to measure how close the form comes to the weights.
        device: Where the features of these images are computed.

    Raises:
        UsageError: ``to`` is no ``.safetensors`` file or is the source; the form does not apply;
            there is no projection.
        WeightsError: The weights cannot be loaded, or the copy computes other features.
    """
    weights, to = Path(weights), Path(to)
    if to.suffix != ".safetensors":
        raise UsageError(
            f"--to {to} should end in .safetensors; type --to {to.with_suffix('.safetensors')}"
        )
    if data and form is None:
        raise UsageError(
            "--data is there to compare a --form with the weights; type --form rgb, or drop --data"
        )
    source = find_weights(weights)
    if to.exists() and source.resolve() == to.resolve():
        raise UsageError(f"--to {to} is the file to be exported; name another")
    original = load_encoder(source)
    projection = _projection(source, original.metadata) if with_projection else None
    encoder = convert(original, form) if form else original
    similarity = _similarity(original, encoder, data, device) if data else None
    copy = save_verified(encoder, to)
    written = save_projection(projection, copy.metadata, to) if projection else None
    card = to.with_suffix(".md")
    with atomic_file(card) as temporary:
        temporary.write_text(model_card(copy.metadata, to.name), encoding="utf-8")
    return ExportResult(
        path=to,
        model_card=card,
        projection=written,
        tensors=len(copy.backbone.state_dict()),
        parameters=sum(parameter.numel() for parameter in copy.parameters()),
        similarity=similarity,
        metadata=copy.metadata,
    )


def _projection(weights: Path, metadata: EncoderMetadata) -> Projection:
    projection = load_projection(weights, metadata)
    if projection is None:
        raise UsageError(
            f"--with-projection: {weights} has none beside it; only npid trains one, so drop the "
            "option"
        )
    return projection


def _similarity(
    original: Encoder,
    encoder: Encoder,
    data: DataSpec | Sequence[DataSpec],
    device: torch.device | str,
) -> float:
    """Mean cosine similarity of the pooled features of two encoders, over a sample of images."""
    images, _ = sample(open_source(data), original.metadata.image_size, _COMPARED_IMAGES)
    expected, features = (_features(each, images, device) for each in (original, encoder))
    return float(torch.cosine_similarity(expected, features).mean())


def _features(encoder: Encoder, images: Tensor, device: torch.device | str) -> Tensor:
    """Pooled features ``[N, D]`` of images uint8 ``[N, 3, S, S]``; the encoder ends on the CPU."""
    batches = torch.split(images.to(device), _BATCH)
    features = extract(encoder.to(device), batches, encoder.transform)[POOLED]
    encoder.to("cpu")
    return features
