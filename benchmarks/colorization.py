"""Accuracy and speed of the soft-target encodings of colorization, and speed of RGB to Lab.

    python benchmarks/colorization.py [--json] [--device cuda]

Soft targets: total variation to the exact encoding, agreement on the nearest bin, and time of the
three encodings in one run over the same images. Lab: ssltool, scikit-image and kornia on the same
batch, of those that are installed (pip install scikit-image kornia). Times are CPU-seconds of one
thread, medians of interleaved repeats; on a GPU wall seconds between synchronizations.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssltool.methods.colorization import ab_bins
from ssltool.methods.colorization.ab_bins import SoftTarget
from ssltool.ops.lab import lightness, rgb_to_lab

PIXELS = (64, 28, 28)  # a batch of 64 maps of 28x28 locations: 50,176 colors
STEP, NEIGHBORS, SIGMA = 10, 10, 5.0
BATCH, SIDE = 16, 128  # of the conversion to Lab


def seconds(
    functions: Mapping[str, Callable[[], object]], device: torch.device, repeats: int = 7
) -> dict[str, float]:
    """Median seconds of each function over interleaved repeats."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(repeats + 1):
        for name, function in functions.items():
            _wait(device)
            start = clock()
            function()
            _wait(device)
            if number:  # the first is a warm-up
                taken[name].append(clock() - start)
    return {name: median(times) for name, times in taken.items()}


def targets(device: torch.device) -> list[dict[str, Any]]:
    """One row per encoding: difference to the exact one, milliseconds, nanoseconds per color."""
    rgb = torch.rand(PIXELS[0], 3, *PIXELS[1:], generator=torch.Generator().manual_seed(0)).to(
        device
    )
    ab = rgb_to_lab(rgb)[:, 1:].movedim(1, -1).contiguous()
    centers = ab_bins.bin_centers(STEP).float().to(device)
    built = time.process_time()
    table = ab_bins.Table(
        *(part.to(device) for part in ab_bins.build_table(STEP, NEIGHBORS, SIGMA))
    )
    built = time.process_time() - built
    encodings: dict[str, Callable[[], SoftTarget]] = {
        "exact": partial(ab_bins.encode_exact, ab, centers, NEIGHBORS, SIGMA),
        "dense": partial(ab_bins.encode_dense, ab, centers, SIGMA),
        "table": partial(ab_bins.look_up, ab, table, STEP),
    }
    times = seconds(encodings, device)
    exact = encodings["exact"]()
    rows = []
    for name, encode in encodings.items():
        target = encode()
        variation = (_dense(target, len(centers)) - _dense(exact, len(centers))).abs().sum(
            dim=-1
        ) / 2
        logits = torch.randn(
            PIXELS[0], len(centers), *PIXELS[1:], device=device, requires_grad=True
        )
        loss = seconds({"loss": partial(_loss, logits, target)}, device, repeats=3)["loss"]
        rows.append(
            {
                "encoding": name,
                "variation_mean": float(variation.mean()),
                "variation_max": float(variation.max()),
                "nearest_agrees": float((target.nearest == exact.nearest).float().mean()),
                "ms": 1e3 * times[name],
                "ns_per_color": 1e9 * times[name] / ab[..., 0].numel(),
                "loss_and_gradient_ms": 1e3 * loss,
                "memory_mb": sum(t.numel() * t.element_size() for t in table) / 1e6
                if name == "table"
                else 0.0,
                "build_s": built if name == "table" else 0.0,
            }
        )
    return rows


def lab(device: torch.device) -> list[dict[str, Any]]:
    """One row per converter: milliseconds of a batch, and the largest difference to ssltool."""
    images = torch.rand(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(device)
    bytes_ = (images * 255).byte()
    converters: dict[str, Callable[[], Any]] = {
        "ssltool": partial(rgb_to_lab, images),
        "ssltool, uint8": partial(rgb_to_lab, bytes_),
        "ssltool, L of uint8": partial(lightness, bytes_),
    }
    skimage, kornia = _installed("skimage.color"), _installed("kornia.color")
    if skimage and device.type == "cpu":
        converters["scikit-image"] = partial(
            skimage.rgb2lab, images.movedim(1, -1).contiguous().numpy()
        )
    if kornia:
        converters["kornia"] = partial(kornia.rgb_to_lab, images)
    times = seconds(converters, device)
    ours, rows = rgb_to_lab(images), []
    for name, convert in converters.items():
        row = {"converter": name, "ms": 1e3 * times[name]}
        if name in {"scikit-image", "kornia"}:
            other = convert()
            if isinstance(other, np.ndarray):
                other = torch.from_numpy(other).movedim(-1, 1)
            row["largest_difference"] = float((other.to(ours) - ours).abs().max())
        rows.append(row)
    return rows


def report(encodings: list[dict[str, Any]], converters: list[dict[str, Any]]) -> None:
    count = PIXELS[0] * PIXELS[1] * PIXELS[2]
    print(f"Soft targets of {count:,} colors, step {STEP}, K {NEIGHBORS}, sigma {SIGMA:g}")
    print("  encoding   variation mean / max   nearest bin        ms   loss and gradient, ms")
    for row in encodings:
        print(
            f"  {row['encoding']:9}  {row['variation_mean']:.4f} / {row['variation_max']:.4f}"
            f"        {row['nearest_agrees']:8.3%}  {row['ms']:8.2f}   "
            f"{row['loss_and_gradient_ms']:8.1f}"
        )
    table = encodings[-1]
    print(
        f"  (the table is built once in {table['build_s']:.2f} s and takes "
        f"{table['memory_mb']:.1f} MB)"
    )
    print(f"\nsRGB to Lab, {BATCH} images of {SIDE}x{SIDE}")
    for row in converters:
        difference = row.get("largest_difference")
        note = "" if difference is None else f"   largest difference {difference:.2g}"
        print(f"  {row['converter']:20} {row['ms']:8.2f} ms{note}")
    names = {row["converter"] for row in converters}
    for name in sorted({"scikit-image", "kornia"} - names):
        print(f"  {name:20} not measured: pip install {name}")


def _installed(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def _dense(target: SoftTarget, count: int) -> Tensor:
    shares = torch.zeros(*target.shares.shape[:-1], count, device=target.shares.device)
    return shares.scatter_add(-1, target.bins, target.shares)


def _loss(logits: Tensor, target: SoftTarget) -> None:
    torch.autograd.grad(ab_bins.soft_cross_entropy(logits, target).mean(), logits)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Accuracy and speed of soft targets, and speed of RGB to Lab."
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of tables"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(args.device)
    encodings, converters = targets(device), lab(device)
    if not args.json:
        report(encodings, converters)
        return
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    results = {"targets": encodings, "lab": converters, "device": args.device}
    print(json.dumps({**results, "versions": versions, "machine": platform.machine()}, indent=2))


if __name__ == "__main__":
    main()
