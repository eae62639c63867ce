"""Generate docs/papers.md, presets beside the papers: python docs/papers.py [--check].

What the papers and their released code say is declared here; what the presets do is read from the
code. With --check nothing is written and the exit code is 1 if the page would change, so that no
preset changes unnoticed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ssltool.methods.context_prediction.task import ContextPrediction
from ssltool.methods.options import DataInfo
from ssltool.methods.registry import find_options
from ssltool.ops.per_image_rng import PerImageRNG
from ssltool.plotting.figures import save_figure, save_plot
from ssltool.plotting.lines import panels
from ssltool.plotting.records import Lines
from ssltool.runs.config import ResolvedConfig, RunConfig
from ssltool.runs.folder import build_method
from ssltool.runs.resolve import resolve
from ssltool.training.schedule import learning_rate

DOCS = Path(__file__).parent
IMAGENET = 1_281_167  # training images
STEPS = 2100  # points of a curve


class Row(NamedTuple):
    """A hyperparameter.

    Attributes:
        option: Ours, by name; several are joined by spaces.
        paper: What the paper or its code has.
        source: Where.
        note: Why ours differs, if it does.
    """

    option: str
    paper: str
    source: str
    note: str = ""


class Reference(NamedTuple):
    """What a preset stands for.

    Attributes:
        title: The paper or code.
        rows: Its hyperparameters.
        rates: End of each phase and its learning rate over the first one's; empty for a rate that
            never changes.
        total: In the unit of the phases.
    """

    title: str
    rows: tuple[Row, ...]
    rates: tuple[tuple[float, float], ...] = ()
    total: float = 1.0


SGD = "SGD, momentum 0.9"
REFERENCES = {
    ("jigsaw", "paper"): Reference(
        "Noroozi & Favaro, ECCV 2016 (arXiv v3), and the released Caffe code",
        (
            Row("backbone", "AlexNet's convolutions for each tile, ceil-mode pooling",
                "figure 3; released prototxt"),
            Row("image_size framing", "shorter side to 256, central 255 square", "released code"),
            Row("grid tile_input", "3x3 cells of 85 px, tiles of 64 px", "Preventing shortcuts"),
            Row("permutations permutation_mode", "1000, greedy by mean distance",
                "algorithm 1, table 4"),
            Row("gap", "tiles anywhere in their cells, mean gap 21 px", "Preventing shortcuts"),
            Row("standardize", "mean and deviation of each tile", "Preventing shortcuts"),
            Row("channel_jitter", "each channel by 0, 1 or 2 px", "Preventing shortcuts"),
            Row("grayscale", "30 % gray images", "Preventing shortcuts"),
            Row("flip", "none", "released prototxt"),
            Row("fc6 fc7", "1024 and 4096", "released prototxt",
                "the paper's text has 512 with tiles of 75 px"),
            Row("head_norm", "no batch norm", "released prototxt"),
            Row("optimizer momentum", SGD, "released solver"),
            Row("lr", "0.01", "Implementation details"),
            Row("weight_decay", "0.0005", "released solver"),
            Row("batch_size", "256", "Implementation details"),
            Row("steps", "350,000", "Implementation details"),
            Row("schedule milestones factor", "tenth at 100, 200 and 300 thousand",
                "released solver"),
        ),
        ((100, 1), (200, 0.1), (300, 0.01), (350, 0.001)),
        350,
    ),
    ("jigsaw", "r50"): Reference(
        "VISSL's ResNet-50 (no paper of its own)",
        (
            Row("backbone", "ResNet-50", "config"),
            Row("permutations", "2000", "model zoo"),
            Row("standardize channel_jitter", "neither", "config"),
            Row("grayscale", "66 %", "config"),
            Row("fc6 fc7", "1000, then the classifier", "config",
                "our head keeps its second layer"),
            Row("lr batch_size", "0.1 per 256 images", "config"),
            Row("weight_decay", "0.0001", "config"),
            Row("epochs warmup", "105, 5 of them warm-up", "config"),
            Row("schedule milestones factor", "tenth at epochs 30, 60, 90 and 100", "config"),
        ),
        ((30, 1), (60, 0.1), (90, 0.01), (100, 0.001), (105, 0.0001)),
        105,
    ),
    ("context-prediction", "paper"): Reference(
        "Doersch, Gupta & Efros, ICCV 2015, and the released code",
        (
            Row("backbone", "AlexNet-like, to conv5, batch norm without scale", "figure 3"),
            Row("framing pixels_min pixels_max",
                "whole images of 150,000 to 450,000 pixels, aspect ratio kept", "section 3.2"),
            Row("load_size", "decoded at full size", "released code",
                "decoded to 672 x 672, both sides resized, and resampled from there"),
            Row("patch gap jitter", "96, 48 and up to 7 px", "section 3.1"),
            Row("sampler", "grids of neighboring patches, all ordered pairs", "released code"),
            Row("color_guard", "color dropping (or projection)", "section 3.1"),
            Row("downsample", "a third of the patches", "released code"),
            Row("fc6 fc7", "4096", "figure 3"),
            Row("optimizer momentum", "SGD; high momentum such as 0.999 in the text, 0 in the code",
                "section 3.2; released code", "as the code"),
            Row("lr", "0.00001 on the sum over about 2,320 pairs", "released code",
                "on the mean over the pairs"),
            Row("weight_decay", "0", "released code"),
            Row("batch_size patches", "grids until there are 512 patches", "released code"),
            Row("pairs", "all of about 2,320 pairs", "released code",
                "three per patch, so that every image has as many"),
            Row("steps", "1,000,000 (1,700,000 in another file)", "README of the code"),
            Row("schedule", "constant", "released solver"),
        ),
    ),
    ("context-prediction", "r50"): Reference(
        "google/revisiting-self-supervised, ResNet-50 (Kolesnikov et al. 2019)",
        (
            Row("backbone", "ResNet-50", "config"),
            Row("sampler", "the first patch is the center", "config"),
            Row("image_size patch", "255 px, cells of 85 px, patches of 64 px", "config"),
            Row("color_guard grayscale", "no guard, 66 % gray images", "config"),
            Row("fc6 fc7", "1000 and 4096", "code"),
            Row("lr batch_size", "0.1 per 256 images", "config"),
            Row("weight_decay", "0.0001", "config"),
            Row("epochs warmup", "35, 5 of them warm-up", "config"),
            Row("schedule milestones factor", "tenth at epochs 15 and 25", "config"),
        ),
        ((15, 1), (25, 0.1), (35, 0.01)),
        35,
    ),
    ("context-encoder", "paper"): Reference(
        "Pathak et al., CVPR 2016, the network for features",
        (
            Row("backbone", "AlexNet, to pool5", "sections 3.1 and 5.2"),
            Row("image_size", "227", "section 5.2"),
            Row("load_size crop_side", "not stated", "", "as AlexNet is trained: 227 of 256"),
            Row("mask coverage_min coverage_max", "random regions of up to a quarter",
                "section 3.3; released code 20 to 30 %"),
            Row("channelwise", "channel-wise fully connected layer", "section 3.1"),
            Row("decoder", "five transposed convolutions", "section 3.1"),
            Row("reconstruction adversarial", "L2, no adversarial loss", "sections 3.2 and 5.2"),
            Row("optimizer momentum", "Adam", "section 5"),
            Row("lr batch_size", "not stated", ""),
            Row("steps", "100,000", "section 5.2"),
            Row("schedule", "constant", "section 5"),
        ),
    ),
    ("context-encoder", "inpainting"): Reference(
        "Pathak et al., CVPR 2016, the network for inpainting, and the released code",
        (
            Row("backbone", "five convolutions to 4000 dimensions", "released code"),
            Row("image_size load_size crop_side", "128 px crops of images of 350 px",
                "released code"),
            Row("mask overlap", "central half, 7 px of it visible", "section 5.1"),
            Row("adversarial", "0.001, the rest reconstruction", "section 5.1"),
            Row("optimizer momentum beta2", "Adam, 0.5 and 0.999", "released code"),
            Row("lr discriminator_lr_scale", "0.002, discriminator a tenth", "section 5.1"),
            Row("batch_size", "64", "released code"),
            Row("epochs", "500", "README of the code"),
            Row("schedule", "constant", "released code"),
        ),
    ),
    ("colorization", "paper"): Reference(
        "Zhang, Isola & Efros, ECCV 2016, the network for colorization, and the released code",
        (
            Row("backbone", "eight blocks with dilation", "table 4; released prototxt"),
            Row("image_size load_size crop_side", "176 px crops of images of 256 px",
                "released prototxt"),
            Row("flip", "half", "released prototxt"),
            Row("bin_step", "10: 313 bins", "section 2.1"),
            Row("neighbors sigma", "5 neighbors, sigma 5", "section 2.1",
                "10 neighbors as the code; the author calls 5 a typo"),
            Row("rebalance rebalance_ramp", "lambda 0.5 from the start", "section 2.2"),
            Row("temperature", "0.38", "section 2.3"),
            Row("target_stride", "4", "released prototxt"),
            Row("optimizer momentum beta2", "Adam, 0.9 and 0.99", "section 2.2, footnote 3"),
            Row("lr", "0.00003", "section 2.2, footnote 3"),
            Row("weight_decay", "0.001 (L2)", "section 2.2, footnote 3", "decoupled"),
            Row("batch_size", "40", "released prototxt"),
            Row("steps", "500,000", "released solver"),
            Row("schedule milestones factor", "to 0.00001 at 200,000 and 0.000003 at 375,000",
                "section 2.2, footnote 3"),
        ),
        ((200, 1), (375, 1 / 3), (500, 0.1)),
        500,
    ),
    ("colorization", "features"): Reference(
        "Zhang, Isola & Efros, ECCV 2016, the AlexNet for features, released solvers",
        (
            Row("backbone", "AlexNet with batch norm before each ReLU", "released prototxt"),
            Row("image_size load_size crop_side", "180 px crops of images of 256 px",
                "released prototxt"),
            Row("target_stride", "8", "released prototxt"),
            Row("lr", "0.00003", "released solvers"),
            Row("optimizer momentum beta2", "Adam, 0.9 and 0.999", "released solvers"),
            Row("weight_decay", "0.001 (L2)", "released solvers", "decoupled"),
            Row("batch_size", "80", "released prototxt"),
            Row("steps", "450,000", "released solvers"),
            Row("schedule milestones factor",
                "to 0.00001 at 240,000, 0.000003 at 300,000 and 0.000001 at 400,000",
                "released solvers"),
        ),
        ((240, 1), (300, 1 / 3), (400, 0.1), (450, 1 / 30)),
        450,
    ),
    ("npid", "paper"): Reference(
        "Wu et al., CVPR 2018, and the released code",
        (
            Row("backbone", "ResNet-18 (and others)", "section 4.2"),
            Row("image_size framing crop", "224 px, random resized crops of 20 to 100 %",
                "released code"),
            Row("jitter hue grayscale flip", "0.4, 0.4, 20 % and half", "released code"),
            Row("loss negatives", "NCE with 4096 negatives", "section 4.2"),
            Row("temperature dim", "0.07 and 128", "section 4.1"),
            Row("bank_momentum", "0.5 in the code, replacement in the text", "released code"),
            Row("constant", "Z from the first batch", "section 3.2, equation 8"),
            Row("optimizer momentum", SGD, "section 4.2"),
            Row("lr", "0.03", "section 4.2"),
            Row("weight_decay", "0.0001", "released code"),
            Row("decay_all", "yes: all parameters are given to SGD alike", "released code"),
            Row("batch_size", "256", "section 4.2"),
            Row("epochs", "200", "section 4.2"),
            Row("schedule milestones factor", "tenth at epochs 120 and 160", "released code"),
        ),
        ((120, 1), (160, 0.1), (200, 0.01)),
        200,
    ),
    ("npid", "infonce"): Reference(
        "The authors' later release and MMSelfSup, ResNet-50",
        (
            Row("loss negatives", "InfoNCE with 65,536 negatives", "README of the code"),
            Row("lr batch_size", "0.03 at 256 images", "config"),
            Row("epochs", "200", "config"),
            Row("schedule milestones factor", "tenth at epochs 120 and 160", "config"),
        ),
        ((120, 1), (160, 0.1), (200, 0.01)),
        200,
    ),
    ("cpc", "paper"): Reference(
        "Hénaff et al., ICML 2020 (CPC v2)",
        (
            Row("backbone last_stage", "ResNet-161, its third stack the last", "section 3.1",
                "ResNet-50 to its third stage"),
            Row("norm", "layer norm", "section 3.1"),
            Row("image_size crop", "260 px crops", "appendix"),
            Row("patch stride", "80 and 36 px: 6 x 6 patches", "section 3.1"),
            Row("directions", "4", "section 3.1"),
            Row("augment", "color dropping and two of AutoAugment's operations, more of each patch",
                "section 3.1, appendix"),
            Row("optimizer momentum beta2", "Adam, 0.8 and 0.999", "appendix"),
            Row("lr", "0.0004", "appendix"),
            Row("clip", "0.01", "appendix"),
            Row("ema", "Polyak average of the weights, 0.9999", "appendix"),
            Row("batch_size", "512", "appendix"),
            Row("epochs", "about 200", "appendix"),
            Row("schedule", "constant", "appendix"),
        ),
    ),
    ("cpc", "v1"): Reference(
        "van den Oord et al. 2018 (CPC v1)",
        (
            Row("backbone last_stage", "ResNet-v2-101, its third block the last", "section 3.2",
                "ResNet-101"),
            Row("norm", "no batch norm", "section 3.2"),
            Row("image_size crop", "256 px crops of 300 px images", "section 3.2"),
            Row("patch stride", "64 and 32 px: 7 x 7 patches", "section 3.2"),
            Row("directions", "1, downwards", "section 3.2"),
            Row("augment", "60 px crops of each patch, gray", "section 3.2"),
            Row("lr", "0.0002", "section 3.2"),
            Row("batch_size", "16 per GPU, 32 GPUs", "section 3.2"),
            Row("schedule", "constant", "section 3.2"),
        ),
    ),
}  # fmt: skip


def resolved(method: str, preset: str) -> ResolvedConfig:
    """The options of a preset on ImageNet, with a batch of the paper on one process."""
    config = RunConfig.merged(method, {}, preset)
    size = config.run.image_size
    assert size is not None
    return resolve(config, DataInfo(count=IMAGENET, image_size=size))


def ours(options: dict[str, Any], names: str) -> str:
    """Values of options, for the table."""
    return "; ".join(f"`{name}` {_text(options[name])}" for name in names.split())


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, tuple):
        return ", ".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def page() -> str:
    """The page."""
    lines = [
        "# Presets and papers",
        "",
        "Generated by `python docs/papers.py`: the papers' values are declared there, ours are "
        "read from the presets. Options that a table does not name are described on the page of "
        "their method. ImageNet's training images are assumed where a length is in epochs.",
        "",
        "![Learning rates of presets over those of the papers](figures/papers-schedules.png)",
        "",
        "![Patches of context prediction over the images they are cut from]"
        "(figures/context-prediction-scales.png)",
        "",
    ]
    for (method, preset), reference in REFERENCES.items():
        config = resolved(method, preset)
        task, run = config.task.model_dump(), config.run.model_dump()
        options = {**run, **task, "epochs": run["steps"] * run["batch_size"] / IMAGENET}
        lines += [f"## `{method}`, `--preset {preset}`", "", f"{reference.title}.", ""]
        lines += ["| paper | source | ours | |", "|---|---|---|---|"]
        lines += [
            f"| {row.paper} | {row.source} | {ours(options, row.option)} | {row.note} |"
            for row in reference.rows
        ]
        lines.append("")
    return "\n".join(lines)


def rates(method: str, preset: str) -> list[float]:
    """Our learning rate over the peak at `STEPS` points of the run; warm-up is left out."""
    run = resolved(method, preset).run
    return [
        learning_rate(
            step,
            base=1.0,
            total=STEPS,
            kind=run.schedule,
            milestones=run.milestones,
            factor=run.factor,
        )
        for step in range(STEPS)
    ]


def reference_rates(reference: Reference) -> list[float]:
    """The paper's learning rate over its first at `STEPS` points of the run."""
    phases = reference.rates or ((reference.total, 1.0),)
    return [
        next(rate for end, rate in phases if step / STEPS * reference.total < end)
        for step in range(STEPS)
    ]


def scales(count: int = 20_000) -> torch.Tensor:
    """Side of the ``paper`` preset's patches over the square root of the image's area, for images
    of 4:3; float64 ``[count]``.
    """
    method = build_method(resolved("context-prediction", "paper"))
    assert isinstance(method, ContextPrediction)
    rng = PerImageRNG(torch.arange(count), torch.Generator().manual_seed(0))
    height, width = method._resized(rng, torch.full((count,), 4 / 3))
    return method.sizes.patch / (height * width).double().sqrt()


def draw() -> None:
    """Draw both figures."""
    x = [step / STEPS for step in range(STEPS)]
    plots = []
    for (method, preset), reference in REFERENCES.items():
        curves = {"paper": reference_rates(reference), "preset": rates(method, preset)}
        title = f"{method} {preset}: rate / peak"
        plots.append(Lines.shared_x(x, curves, "share of the run", title))
    figures = DOCS / "figures"
    drawn = panels(plots, "learning rates of presets and papers")
    save_figure(drawn, figures / "papers-schedules.png")
    sampled, edges = scales(), torch.linspace(0.14, 0.25, 45, dtype=torch.float64)
    counts = torch.histogram(sampled, edges).hist / len(sampled) / edges.diff()
    middle = (edges[1:] + edges[:-1]) / 2
    # The number of pixels P is uniform; with s = 96 / sqrt(P) the density of s is 2 96^2 / (s^3 R).
    inside = (middle >= 96 / 450_000**0.5) & (middle <= 96 / 150_000**0.5)
    density = torch.where(inside, 2 * 96**2 / (middle**3 * 300_000), 0.0)
    curves = {"paper (section 3.2)": density.tolist(), "preset": counts.tolist()}
    label = "side of a patch / square root of the image's area"
    plot = Lines.shared_x(middle.tolist(), curves, label, "density")
    title = f"scales of patches, mean {sampled.mean():.3f}"
    save_plot(plot, figures / "context-prediction-scales.png", title)


def main() -> None:
    """Write or check the page; draw the figures."""
    for method, preset in REFERENCES:
        assert preset in find_options(method).presets
    path, text = DOCS / "papers.md", page()
    if "--check" in sys.argv:
        if not path.is_file() or path.read_text() != text:
            sys.exit(f"{path.name} is out of date: read what changed and run python docs/papers.py")
        return
    path.write_text(text)
    draw()


if __name__ == "__main__":
    main()
