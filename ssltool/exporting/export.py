"""Export an encoder: weights for other libraries, with a model card beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from ssltool.atomic import atomic_file, atomic_folder, refuse_input
from ssltool.data.channels import Channels
from ssltool.data.sample import sample
from ssltool.data.sources.base import Source
from ssltool.data.sources.channels import as_they_are
from ssltool.data.sources.registry import DataSpec, open_source
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.files import find_weights
from ssltool.encoders.metadata import EncoderMetadata
from ssltool.encoders.projection import Projection, load_projection, save_projection
from ssltool.encoders.weights import load_encoder, save_encoder
from ssltool.errors import SslToolError, UsageError
from ssltool.exporting import onnx, program, safetensors, timm
from ssltool.exporting.comparison import Comparison, Job, compare
from ssltool.exporting.graph import Graph
from ssltool.exporting.input_forms import convert, with_fixed_norm
from ssltool.exporting.model_card import CARD, Card, is_model_card, model_card
from ssltool.exporting.options import Format, InputForm, check_target
from ssltool.exporting.provenance import Provenance
from ssltool.exporting.safetensors import torchvision_arguments
from ssltool.probing.features import POOLED, extract
from ssltool.runs.folder import Run
from ssltool.runs.task_files import PREDICTIONS, refuse_values, task_path
from ssltool.runs.task_model import save_task

_COMPARED, _APPROXIMATED = 16, 64  # images
_SYNTHETIC = "demo:64"
PLACES: dict[Format, str] = {
    "safetensors": safetensors.WEIGHTS,
    "timm": ".",
    "onnx": onnx.FILE,
    "torch": program.FILE,
}
"""Where each format lies in the folder."""


class ExportResult(BaseModel):
    """What `export` wrote.

    Attributes:
        path: The weights file, or the folder.
        files: All files, in the order in which they were written.
        model_card: The Markdown file among them.
        tensors: Number of tensors of the encoder.
        parameters: Number of its parameters.
        compared_on: The images on which features were compared, in words.
        notes: Why they are synthetic, and the like, one line each.
        comparisons: Each library that opened what was written, and how close its features are to
            those of the encoder.
        similarity: Mean cosine similarity between the pooled features of a ``form`` or of
            ``fixed_norm`` and those of the weights as they were trained; None without one.
        metadata: Of the exported encoder.
    """

    model_config = ConfigDict(frozen=True)

    path: Path
    files: tuple[Path, ...]
    model_card: Path
    tensors: int
    parameters: int
    compared_on: str
    notes: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    similarity: float | None
    metadata: EncoderMetadata


def export(
    weights: Path | str,
    to: Path | str,
    *,
    formats: Sequence[Format] = ("safetensors",),
    form: InputForm | None = None,
    fixed_norm: bool = False,
    uint8: bool = False,
    with_projection: bool = False,
    with_head: bool = False,
    license: str = "unknown",
    data: DataSpec | Sequence[DataSpec] = (),
) -> ExportResult:
    """Write an encoder and its model card, and compare what other libraries make of it.

    Every format is written under a temporary name, opened by the library it is for in another
    process and compared on 16 images, see `ssltool.exporting.comparison`. Only then does it get its
    name.

    Args:
        weights: A run folder or a weights file.
        to: A ``.safetensors`` file to write, with the model card beside it under the suffix
            ``.md``; or a folder, which must not exist yet.
        formats: Of the folder: ``safetensors`` (torchvision's key names), ``timm`` (timm and
            transformers), ``onnx``, ``torch`` (a torch.export archive).
        form: Input form of an encoder trained on lightness, see `ssltool.exporting.input_forms`;
            None exports it as it is.
        fixed_norm: Normalize by the data's mean and deviation in place of each image's own.
        uint8: Put the input transform into the graphs of ``onnx`` and ``torch``.
        with_projection: Also write the projection, see `ssltool.encoders.projection`.
        with_head: Also write the whole model of the task, encoder and head as they were trained,
            see `ssltool.runs.task_files`; of a run alone.
        license: Of the weights, for the model card.
        data: Images on which to compare; those of the run if empty, else synthetic ones.

    Raises:
        UsageError: ``to`` is not possible, or is the source; a format or a form does not apply;
            there is no projection, or no head.
        WeightsError: The weights cannot be loaded, or a library computes other features.
        SslToolError: A package is missing.
    """
    weights, to, formats = Path(weights), Path(to), tuple(dict.fromkeys(formats))
    source = _source(weights, to, formats)
    original = load_encoder(source)
    projection = _projection(source, original.metadata) if with_projection else None
    task = _task(source, original.metadata) if with_head else None
    encoder = _converted(original, form, fixed_norm, formats)
    images = _images(source, data, Channels.of(original.metadata))
    similarity = _similarity(original, encoder, images) if form or fixed_norm else None
    squares, _ = sample(images, encoder.metadata.image_size, _COMPARED)
    card = Card(
        metadata=encoder.metadata,
        path=to,
        formats=formats,
        uint8=uint8,
        torchvision=torchvision_arguments(encoder),
        prediction=PREDICTIONS[task.config.method] if task else None,
        license=license,
        provenance=Provenance.of(source, original),
        comparisons=(),
        similarity=similarity,
    )
    write = _write_file if to.suffix == ".safetensors" else _write_folder
    files, comparisons = write(to, _Parts(encoder, projection, task), squares, card)
    return ExportResult(
        path=to,
        files=tuple(files),
        model_card=_card_path(to),
        tensors=len(encoder.backbone.state_dict()),
        parameters=sum(parameter.numel() for parameter in encoder.parameters()),
        compared_on=f"{len(squares)} of {images.description}",
        notes=images.notes,
        comparisons=tuple(comparisons),
        similarity=similarity,
        metadata=encoder.metadata,
    )


def _converted(
    original: Encoder, form: InputForm | None, fixed_norm: bool, formats: Sequence[Format]
) -> Encoder:
    """The encoder in the form and with the normalization that are asked for."""
    encoder = convert(original, form) if form else original
    encoder = with_fixed_norm(encoder) if fixed_norm else encoder
    if "timm" in formats:
        timm.architecture(encoder)  # its refusal comes before any work
    return encoder


class _Parts(NamedTuple):
    """What is written: the encoder, and on request its projection and the run of its task."""

    encoder: Encoder
    projection: Projection | None
    task: Run | None

    def save_beside(self, weights: Path) -> list[Path]:
        """Write the requested parts beside a weights file."""
        files = []
        if self.projection:
            files.append(save_projection(self.projection, self.encoder.metadata, weights))
        if self.task:
            files.append(save_task(self.task, task_path(weights)))
        return files


def _card_path(to: Path) -> Path:
    return to.with_suffix(".md") if to.suffix == ".safetensors" else to / CARD


def _source(weights: Path, to: Path, formats: tuple[Format, ...]) -> Path:
    """The weights file, after making sure that ``to`` replaces neither it nor a text of the user.

    Raises:
        UsageError: It does, or it is not possible.
    """
    check_target(to, formats)
    path = _card_path(to)
    if path.exists() and not is_model_card(path):
        raise UsageError(
            f"--to {to} puts its model card into {path.name}, which is another text; type another "
            "--to"
        )
    source = find_weights(weights)
    refuse_input(to, [source])
    return source


def _write_file(
    to: Path, parts: _Parts, squares: Tensor, card: Card
) -> tuple[list[Path], list[Comparison]]:
    """Write one weights file with its model card; the files, and what was compared."""
    with atomic_file(to) as temporary:
        places: dict[Format, Path] = {"safetensors": temporary}
        comparisons = _verified(parts.encoder, squares, places, uint8=False)
    with atomic_file(_card_path(to)) as temporary:
        text = model_card(replace(card, comparisons=comparisons))
        temporary.write_text(text, encoding="utf-8")
    return [to, _card_path(to), *parts.save_beside(to)], comparisons


def _write_folder(
    to: Path, parts: _Parts, squares: Tensor, card: Card
) -> tuple[list[Path], list[Comparison]]:
    """As `_write_file`, a folder of the formats that the card names."""
    with atomic_folder(to) as folder:
        places = {name: folder / PLACES[name] for name in card.formats}
        comparisons = _verified(parts.encoder, squares, places, uint8=card.uint8)
        text = model_card(replace(card, comparisons=comparisons))
        (folder / CARD).write_text(text, encoding="utf-8")
        parts.save_beside(folder / safetensors.WEIGHTS)
    return sorted(to.iterdir()), comparisons


def _verified(
    encoder: Encoder, squares: Tensor, places: Mapping[Format, Path], uint8: bool
) -> list[Comparison]:
    """Write each format to its place, and compare what the libraries make of it."""
    jobs: list[Job] = []
    if "safetensors" in places:
        save_encoder(encoder, encoder.metadata, places["safetensors"])
        jobs.append(_weights_job(encoder, places["safetensors"]))
    if "timm" in places:
        timm.write(encoder, places["timm"])
        readers = ["timm", *(["transformers"] if find_spec("transformers") else [])]
        about = {"channels": encoder.metadata.color_space == "channels"}
        jobs += [Job(reader, places["timm"], about) for reader in readers]
    if "onnx" in places:
        graph = onnx.write(encoder, places["onnx"], uint8=uint8)
        jobs.append(_graph_job("onnxruntime", places["onnx"], graph))
    if "torch" in places:
        graph = program.write(encoder, places["torch"], uint8=uint8)
        jobs.append(_graph_job("torch.export", places["torch"], graph))
    return compare(encoder, squares, jobs)


def _weights_job(encoder: Encoder, file: Path) -> Job:
    arguments = torchvision_arguments(encoder)
    if arguments is None:
        return Job("ssltool", file)
    about = {
        "backbone": encoder.name,
        "classifier": encoder.classifier,
        "arguments": arguments,
    }
    return Job("torchvision", file, about)


def _graph_job(reader: str, file: Path, graph: Graph) -> Job:
    return Job(reader, file, {"uint8": graph.uint8}, graph.outputs, graph.side)


def _images(source: Path, data: DataSpec | Sequence[DataSpec], channels: Channels | None) -> Source:
    """The images to compare on: those given, those of the run, or synthetic ones of RGB."""
    if not isinstance(data, Sequence) or data:
        return as_they_are(open_source(data, arrays=channels is not None), channels)
    try:
        return Run.open(source).open_images("name images with --data")
    except SslToolError as error:
        if channels is not None:
            raise
        images = open_source(_SYNTHETIC)
        images.notes = (f"compared on synthetic images: {error}",)
        return images


def _projection(weights: Path, metadata: EncoderMetadata) -> Projection:
    projection = load_projection(weights, metadata)
    if projection is None:
        raise UsageError(
            f"--with-projection: {weights} has none beside it; only npid trains one, so drop the "
            "option"
        )
    return projection


def _task(weights: Path, metadata: EncoderMetadata) -> Run:
    """The run whose whole model is written."""
    method = metadata.method
    if method not in PREDICTIONS:
        raise UsageError(
            f"--with-head: {weights} is of {method}, whose task makes no images; only "
            f"{' and '.join(PREDICTIONS)} do, so drop the option"
        )
    try:
        run = Run.open(weights)
    except UsageError as error:
        raise UsageError(
            f"--with-head: {weights} is an encoder alone; name the run folder that it comes from"
        ) from error
    if not run.record.trained(metadata):
        raise UsageError(
            f"--with-head: {weights} is not of the run in {run.folder}; name the run folder that "
            "it comes from"
        )
    refuse_values(weights, run.config.data)
    return run


def _similarity(original: Encoder, encoder: Encoder, images: Source) -> float:
    """Mean cosine similarity of the pooled features of two encoders, over a sample of images."""
    squares, _ = sample(images, original.metadata.image_size, _APPROXIMATED)
    expected, features = (
        extract(each, torch.split(squares, _COMPARED), each.transform)[POOLED]
        for each in (original, encoder)
    )
    return float(torch.cosine_similarity(expected, features).mean())
