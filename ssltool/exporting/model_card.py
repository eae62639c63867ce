"""The model card beside exported weights: front matter that hubs read, provenance, code to load.

Every block of code runs as it stands, beside the export and an image ``photo.jpg``.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssltool.console import printable
from ssltool.encoders.metadata import EncoderMetadata
from ssltool.exporting import onnx, program, safetensors
from ssltool.exporting.comparison import Comparison
from ssltool.exporting.options import Format
from ssltool.exporting.provenance import Provenance
from ssltool.runs.folder import VALIDATION
from ssltool.runs.probe_record import MEASURES, ProbeRecord

CARD = "README.md"
_BEGIN = "---\nlibrary_name: "

_INPUT = {
    "rgb": "RGB",
    "lightness": "lightness L / 100 of CIE Lab (D65)",
    "lab": "CIE Lab (D65), L / 100, a / 100, b / 100",
    "channels": "of files as they are",
}
_STANDARDIZED = {
    "channels": "each channel of each image by its own mean and deviation",
    "image": "each channel of each image by its own mean, all by one deviation",
}


@dataclass(frozen=True)
class Card:
    """What a model card is made from.

    Attributes:
        metadata: Of the exported weights.
        path: The weights file, or the folder.
        formats: What the folder holds.
        uint8: Whether the graphs take uint8 images.
        torchvision: Arguments of torchvision's own model; None if none fits.
        prediction: What ``ssltool predict`` makes with the model of the task beside the weights;
            None without one.
        license: Of the weights.
        provenance: What is known of their origin.
        comparisons: How close other libraries came.
        similarity: Cosine similarity to the weights as they were trained, of an approximation.
    """

    metadata: EncoderMetadata
    path: Path
    formats: Sequence[Format]
    uint8: bool
    torchvision: dict[str, int] | None
    prediction: str | None
    license: str
    provenance: Provenance
    comparisons: Sequence[Comparison]
    similarity: float | None

    @property
    def weights(self) -> str:
        """Path of the weights file, as it is written in code."""
        return self.within(safetensors.WEIGHTS)

    def within(self, file: str) -> str:
        """Path of a file of the export, from where the export lies."""
        single = self.path.suffix == ".safetensors"
        return self.path.name if single else f"{self.path.name}/{file}"


def model_card(card: Card) -> str:
    """Render a model card in Markdown."""
    metadata = card.metadata
    parts = [
        _front_matter(card),
        f"# {metadata.backbone} pretrained with {metadata.method}\n\n"
        "An image encoder trained without labels by ssltool, "
        f"method `{metadata.method}`.\n\n{_bullets(list(_facts(card)))}",
        "## Use\n\nThe working directory is the folder that this export is in.\n\n"
        + "\n\n".join(f"{title}:\n\n```python\n{code}\n```" for title, code in _blocks(card)),
        _predicting(card),
        _compared(card.comparisons),
        _table(
            "Stages",
            ("stage", "width", "stride"),
            [(stage.name, str(stage.width), str(stage.stride)) for stage in metadata.stages],
        ),
        _training(card),
        _probed(card.provenance.probe),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def is_model_card(path: Path) -> bool:
    """Whether a file begins as a model card does."""
    with path.open("rb") as file:
        return file.read(len(_BEGIN)) == _BEGIN.encode()


def _front_matter(card: Card) -> str:
    """YAML; JSON strings are YAML strings, so nothing in a name is syntax."""
    library = "timm" if "timm" in card.formats else "ssltool"
    tags = ["self-supervised-learning", "image-feature-extraction", card.metadata.method, "ssltool"]
    readers = {"timm": ["timm", "transformers"], "onnx": ["onnx"], "torch": ["pytorch"]}
    tags += [tag for name in card.formats for tag in readers.get(name, [])]
    lists = {"tags": tags, "datasets": list(card.provenance.datasets)}
    if card.provenance.probe is not None:
        lists["metrics"] = ["accuracy"]
    lines = [
        f"{_BEGIN}{library}",
        "pipeline_tag: image-feature-extraction",
        f"license: {card.license}",
    ]
    for key, values in lists.items():
        if values:
            lines += [f"{key}:", *(f"  - {json.dumps(value)}" for value in values)]
    return "\n".join([*lines, "---"])


def _facts(card: Card) -> Iterator[str]:
    metadata = card.metadata
    if "safetensors" in card.formats:
        file = card.weights.rpartition("/")[2]
        yield f"file: {_code(file)} (safetensors, torchvision key names, no classifier)"
    channels = f"{metadata.in_channels} channel{'s' * (metadata.in_channels > 1)}"
    yield (
        f"stem: {metadata.stem}, norm: {metadata.norm}, input: {channels}, "
        + _INPUT[metadata.color_space]
    )
    if metadata.value_range is not None:
        ends = ", ".join(f"{low:g} to {high:g}" for low, high in metadata.value_range)
        yield (
            f"values are {metadata.value_type}; those that become 0 and 1 in each channel, others "
            f"are cut there: {ends}"
        )
    yield f"image size for feature extraction: {metadata.image_size} px"
    if metadata.read_size != metadata.image_size:
        yield (
            f"in training images were first resized to {metadata.read_size} px, then enlarged; for "
            "the same features resize files likewise"
        )
    yield (
        f"mean: {_decimals(metadata.mean)}, standard deviation: {_decimals(metadata.std)} "
        "(images on a 0..1 scale)"
    )
    yield f"feature: {metadata.width} dimensions{_receptive_patch(metadata)}"
    if metadata.standardize != "data":
        yield (
            f"normalized in pretraining and by `encoder.transform`: "
            f"{_STANDARDIZED[metadata.standardize]}; those above are the data's, for code that "
            "needs fixed ones"
        )
    if "timm" in card.formats and metadata.in_channels == 1 and metadata.value_range is None:
        yield (
            "trained on the mean of R, G and B; in `model.safetensors` each kernel is divided "
            "among three channels, which computes the same"
        )
    if metadata.converted_from:
        accuracy = "approximation" if metadata.color_space == "rgb" else "exact conversion"
        yield f"trained on {metadata.converted_from}; this form is an {accuracy}"
    if card.similarity is not None:
        yield (
            f"mean cosine similarity to the features of the weights as they were trained: "
            f"{card.similarity:.4f}"
        )


def _blocks(card: Card) -> Iterator[tuple[str, str]]:
    """Library and code, for each that opens the export."""
    if card.metadata.color_space == "channels":
        yield from _channel_blocks(card)
        return
    if "safetensors" in card.formats:
        yield (
            "ssltool",
            f"""import ssltool

encoder = ssltool.load_encoder({json.dumps(card.weights)})
# encoder.transform resizes, converts and normalizes uint8 [B, 3, S, S] images, RGB
# features = encoder(encoder.transform(images))""",
        )
        if card.torchvision is not None:
            yield "torchvision", _torchvision(card)
    if "timm" in card.formats:
        name = json.dumps(f"local-dir:{card.path.name}")
        yield (
            "timm",
            f"""import timm
from PIL import Image

model = timm.create_model({name}, pretrained=True, num_classes=0).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config({{}}, model=model))
image = Image.open("photo.jpg").convert("RGB")
features = model(transform(image)[None])  # [1, {card.metadata.width}]""",
        )
        name = json.dumps(card.path.name)
        yield (
            "transformers",
            f"""from PIL import Image
from transformers import AutoImageProcessor, AutoModel

processor, model = AutoImageProcessor.from_pretrained({name}), AutoModel.from_pretrained({name})
inputs = processor(Image.open("photo.jpg").convert("RGB"), return_tensors="pt")
features = model.eval()(**inputs).pooler_output  # [1, {card.metadata.width}]""",
        )
    if "onnx" in card.formats:
        yield "onnxruntime", _graph_code(card, _onnx_lines(card))
    if "torch" in card.formats:
        yield "torch.export", _graph_code(card, _program_lines(card))


def _predicting(card: Card) -> str:
    """How the model of the task is used."""
    if card.prediction is None:
        return ""
    weights = shlex.quote(card.weights)
    return (
        "## The task\n\nThe whole network of the task, encoder and head, lies beside the encoder "
        f"(`.task.safetensors`):\n\n```console\n$ ssltool predict {card.prediction} "
        f"--weights {weights} photo.jpg --to predicted\n```"
    )


def _channel_blocks(card: Card) -> Iterator[tuple[str, str]]:
    """As `_blocks`, of images that are read as they are, here an array ``[S, S, N]``."""
    metadata = card.metadata
    side, count = metadata.image_size, metadata.in_channels
    low, high = (list(ends) for ends in zip(*(metadata.value_range or ()), strict=True))
    head = f"""import numpy as np
import torch

values = np.load("image.npy")  # [{side}, {side}, {count}], {metadata.value_type}
low, high = (np.array(v, np.float32) for v in ({low}, {high}))
x = np.clip((values - low) / (high - low), 0, 1).transpose(2, 0, 1)[None].astype(np.float32)"""
    normalized = "\n".join([head, _normalizing_lines(metadata)])
    if "safetensors" in card.formats:
        run = "images = torch.from_numpy((x * 255).round().astype(np.uint8))"
        yield (
            "ssltool",
            f"import ssltool\n{head}\n{run}\nencoder = ssltool.load_encoder("
            f"{json.dumps(card.weights)})\nfeatures = encoder(encoder.transform(images))",
        )
    if "timm" in card.formats:
        name = json.dumps(f"local-dir:{card.path.name}")
        yield (
            "timm",
            f"import timm\n{normalized}\nmodel = timm.create_model({name}, pretrained=True, "
            "num_classes=0).eval()\nfeatures = model(torch.from_numpy(x))",
        )
        name = json.dumps(card.path.name)
        yield (
            "transformers",
            f"from transformers import AutoModel\n{normalized}\nmodel = "
            f"AutoModel.from_pretrained({name}).eval()\n"
            "features = model(pixel_values=torch.from_numpy(x)).pooler_output",
        )
    of_graph = f"{head}\nx = (x * 255).round().astype(np.uint8)" if card.uint8 else normalized
    readers = {"onnx": ("onnxruntime", _onnx_lines), "torch": ("torch.export", _program_lines)}
    for name, (title, lines) in readers.items():
        if name in card.formats:
            imports, run = lines(card)
            yield title, f"{imports}\n{of_graph}\n{run}"


def _torchvision(card: Card) -> str:
    metadata = card.metadata
    arguments = ", ".join(f"{name}={value}" for name, value in (card.torchvision or {}).items())
    return f"""from safetensors.torch import load_file
from torchvision.models import {metadata.backbone}

model = {metadata.backbone}({arguments})
weights = load_file({json.dumps(card.weights)})
model.load_state_dict(weights, strict=False)  # only the classifier is missing"""


def _graph_code(card: Card, lines: tuple[str, str]) -> str:
    """Code that reads an image, makes the input of a graph and runs it."""
    imports, run = lines
    metadata = card.metadata
    side = metadata.read_size if card.uint8 else metadata.image_size
    head = f"""import numpy as np
{imports}
from PIL import Image, ImageOps

image = Image.open("photo.jpg").convert("RGB")
image = ImageOps.fit(image, ({side}, {side}), Image.Resampling.BILINEAR)
x = np.asarray(image).transpose(2, 0, 1)[None]  # uint8 [1, 3, {side}, {side}]"""
    return "\n".join(filter(None, [head, _normalization(card), run]))


def _normalization(card: Card) -> str:
    """Code from uint8 RGB to the encoder's input; none where the graph does it."""
    metadata = card.metadata
    if card.uint8:
        return ""
    if metadata.color_space != "rgb":
        return (
            f"# The input is {_INPUT[metadata.color_space]}: see encoder.transform of ssltool, or "
            "export with --uint8.\n"
            f"x = np.zeros((1, {metadata.in_channels}, *x.shape[2:]), np.float32)"
        )
    lines = ["x = x.astype(np.float32) / 255"]
    if metadata.in_channels == 1:
        lines.append("x = x.mean(axis=1, keepdims=True)")
    return "\n".join([*lines, _normalizing_lines(metadata)])


def _normalizing_lines(metadata: EncoderMetadata) -> str:
    """Code that normalizes the channels of ``x``, on a 0..1 scale."""
    if metadata.standardize == "data":
        mean, std = (json.dumps([round(v, 6) for v in m]) for m in (metadata.mean, metadata.std))
        return (
            f"mean, std = (np.array(v, np.float32)[:, None, None] for v in ({mean}, {std}))\n"
            "x = (x - mean) / std"
        )
    axes = "(1, 2, 3)" if metadata.standardize == "image" else "(2, 3)"
    return (
        "x = x - x.mean(axis=(2, 3), keepdims=True)\n"
        f"x = x / np.maximum(np.sqrt((x**2).mean(axis={axes}, keepdims=True)), 1 / 255)"
    )


def _onnx_lines(card: Card) -> tuple[str, str]:
    path = json.dumps(card.within(onnx.FILE))
    return (
        "import onnxruntime",
        f"""session = onnxruntime.InferenceSession({path})
# [1, {card.metadata.width}]; the map of a stage has its name
features = session.run(["pooled"], {{"images": x}})[0]""",
    )


def _program_lines(card: Card) -> tuple[str, str]:
    path = json.dumps(card.within(program.FILE))
    return (
        "import torch",
        f"""encoder = torch.export.load({path}).module()
# [1, {card.metadata.width}], and a map of each stage
features, *maps = encoder(torch.tensor(x))""",
    )


def _compared(comparisons: Sequence[Comparison]) -> str:
    rows = [
        (each.reader, f"{each.difference:.1e}", f"{each.largest:.3g}", f"{each.cosine:.7f}")
        for each in comparisons
    ]
    columns = ("opened by", "largest difference", "largest feature", "cosine similarity")
    return _table("Checked", columns, rows)


def _training(card: Card) -> str:
    training = card.metadata.training
    if training is None:
        return ""
    facts = training.model_dump(exclude={"knn"})
    rows = [f"{name.replace('_', ' ')}: {value}" for name, value in facts.items()]
    if training.knn is not None:
        rows.append(
            f"of the run's encoders, the one with the best online kNN accuracy, "
            f"{training.knn:.1%}: {VALIDATION}"
        )
    if card.provenance.datasets:
        rows.insert(0, f"images of {', '.join(map(_code, card.provenance.datasets))}")
    return f"## Training\n\n{_bullets(rows)}"


def _probed(record: ProbeRecord | None) -> str:
    """Accuracies of the pooled features and of the best stage, beside the baselines."""
    if record is None:
        return ""
    rows = [
        row
        for number, row in enumerate(record.rows)
        if row.is_whole or number == record.chosen or row.chosen
    ]
    measures = [name for name in MEASURES if any(name in row.accuracy for row in rows)]
    cells = [
        (
            printable(row.source.label()),
            f"{row.stage} *" if row.chosen and row.stage else row.stage,
            *(row.score(name) for name in measures),
        )
        for row in rows
    ]
    title = f"Probe\n\nAccuracy in % {record.table_legend()}; {record.data_summary()}."
    if record.protocol.recalibrate:
        title += " Batch norm was re-estimated on the training images first."
    return _table(title, ("features", "stage", *(MEASURES[name] for name in measures)), cells)


def _receptive_patch(metadata: EncoderMetadata) -> str:
    if metadata.patch is None:
        return ""
    side, stride = metadata.patch
    return (
        f" of a patch of {side} px, one every {stride} px (averaged over the image), or of a whole "
        "image"
    )


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"## {title}\n\n{table}"


def _code(text: str) -> str:
    """A code span; its fence is longer than any run of backticks in the text."""
    text = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _decimals(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
