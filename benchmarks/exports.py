"""How close other libraries come to an encoder: backbones in every format, and files to vectors.

``formats`` prints a table of backbones and formats, with random weights; ``files`` computes
features of image files with each library's own preprocessing, from the exports of one run. Both
print Markdown::

    python benchmarks/exports.py formats resnet18 vit_b_16
    python benchmarks/exports.py files runs/npid-1 photos/ --count 100
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import ssltool
from ssltool.data.decode import decode
from ssltool.data.sample import sample
from ssltool.data.sources.registry import open_source
from ssltool.encoders.encoder import Encoder
from ssltool.encoders.registry import build_encoder
from ssltool.encoders.weights import describe, save_encoder
from ssltool.errors import SslToolError
from ssltool.exporting.export import export

FORMATS = ("safetensors", "timm", "onnx", "torch")
SIDES = {"caffenet": 96, "vit_b_16": 224, "swin_t": 224}


def randomized(name: str, side: int, data: str) -> Encoder:
    """An encoder with random scales, whose batch norms have the statistics of a few images."""
    torch.manual_seed(0)
    encoder = build_encoder(name, image_size=side)
    for key, parameter in encoder.named_parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter.data, mean=float(key.endswith("weight")), std=0.1)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average
    encoder.metadata = describe(
        encoder,
        method="random weights",
        color_space="rgb",
        image_size=side,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.3),
    )
    squares, _ = sample(open_source(data), side, 32)
    with torch.no_grad():
        encoder.train()(encoder.transform(squares))
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            module.running_var.clamp_min_(1e-3)  # no rounding is amplified
    return encoder.eval()


def formats(names: list[str], data: str, only: tuple[str, ...]) -> None:
    """A row for each backbone: largest difference of a pooled feature, or why there is none."""
    print("| backbone | side | largest feature | opened by | largest difference |")
    print("|---|---|---|---|---|")
    for name in names:
        encoder = randomized(name, SIDES.get(name, 64), data)
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder, "weights.safetensors")
            save_encoder(encoder, encoder.metadata, weights)
            for row in outcomes(weights, Path(folder, "out"), list(only), data):
                print(f"| {name} | {encoder.metadata.image_size} | {row} |", flush=True)


def outcomes(weights: Path, to: Path, kinds: list[Any], data: str) -> list[str]:
    """Cells of each library that opened the export, and of each format that was refused."""
    refused: list[str] = []
    while kinds:
        try:
            result = export(weights, to, formats=kinds, data=data)
        except SslToolError as error:
            kind = next(
                (kind for kind in kinds if str(error).startswith(f"--format {kind}:")), None
            )
            if kind is None:
                return [*refused, f"| | {error}"]
            refused.append(f"| {kind} | {error}")
            kinds.remove(kind)
        else:
            return refused + [
                f"{each.largest:.2f} | {each.reader} | {max(each.outputs.values()):.1e}"
                for each in result.comparisons
            ]
    return refused


def files(run: str, data: str, count: int, fixed_norm: bool) -> None:
    """Cosine similarity to ssltool's features, from files to vectors."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    source = open_source(data)
    chosen = np.linspace(0, len(source) - 1, min(count, len(source))).astype(int).tolist()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        kinds: list[Any] = ["safetensors", "onnx"]
        try:
            export(run, out, formats=[*kinds, "timm"], fixed_norm=fixed_norm, uint8=True, data=data)
        except SslToolError as error:
            print(error)
            export(run, out, formats=kinds, fixed_norm=fixed_norm, uint8=True, data=data)
        encoder = ssltool.load_encoder(out / "encoder.safetensors")
        side = encoder.metadata.read_size
        squares = torch.stack([torch.from_numpy(source.read(i, side)) for i in chosen])
        with torch.inference_mode():
            expected = encoder(encoder.transform(squares.permute(0, 3, 1, 2)))
            # The other libraries leave opacity and EXIF orientation to their user.
            images = [decode(source.path(i)) for i in chosen]
            report("onnxruntime", onnx_features(out, squares), expected)
            if (out / "config.json").exists():
                report("timm", timm_features(out, images), expected)
                report("transformers", transformers_features(out, images), expected)


def report(name: str, found: Tensor, expected: Tensor) -> None:
    """One row of the table."""
    cosine = torch.cosine_similarity(found.double(), expected.double())
    difference = float((found - expected).abs().max())
    print(f"| {name} | {len(found)} | {difference:.1e} | {float(cosine.min()):.8f} |", flush=True)


def onnx_features(out: Path, squares: Tensor) -> Tensor:
    """The graph has the normalization inside; files are read as squares."""
    import onnxruntime

    session = onnxruntime.InferenceSession(out / "encoder.onnx")
    pixels = np.ascontiguousarray(squares.permute(0, 3, 1, 2).numpy())
    return torch.from_numpy(session.run(["pooled"], {"images": pixels})[0])


def timm_features(out: Path, images: list[Image.Image]) -> Tensor:
    """Resized, cropped and normalized by timm."""
    import timm

    model = timm.create_model(f"local-dir:{out}", pretrained=True, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    features: Tensor = model(torch.stack([transform(image) for image in images]))
    return features


def transformers_features(out: Path, images: list[Image.Image]) -> Tensor:
    """Resized, cropped and normalized by transformers."""
    from transformers import AutoImageProcessor, AutoModel

    model = AutoModel.from_pretrained(out).eval()
    inputs = AutoImageProcessor.from_pretrained(out)(images, return_tensors="pt")
    features: Tensor = model(**inputs).pooler_output
    return features


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["formats", "files"])
    parser.add_argument("names", nargs="+", help="backbones; or a run and a folder of images")
    parser.add_argument("--data", default="demo:64", help="images that the formats are compared on")
    parser.add_argument("--only", default=",".join(FORMATS), help="formats")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--fixed-norm", action="store_true")
    given = parser.parse_args()
    if given.what == "formats":
        formats(given.names, given.data, tuple(given.only.split(",")))
    else:
        run, data = given.names
        files(run, data, given.count, given.fixed_norm)


if __name__ == "__main__":
    main()
