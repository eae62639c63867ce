"""Ablations of the papers at small scale: does each paper's trend hold?

    python benchmarks/ablations.py --set letters=LETTERS --image-size 48 --to DIR [--only jigsaw]
        [--seeds 0,1] [--scale 10] [--page docs/ablations.md]

Every variant is pretrained, probed and stored as a cell of `quality.py`, with the preset ``small``
but for the options named here. All variants of a method take equally many steps: about a minute of
CPU time, two of cpc, or --scale times as many. Probes are fitted to every fourth training image,
which halves the time of a variant. The command can be stopped and repeated; tables are written to
DIR/ablations.md, or into a page. Colorization needs a colored set, such as ``demo=demo``.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import quality
import quality_tables
from suites import Images

STEPS = {
    "jigsaw": 80,
    "context-prediction": 100,
    "context-encoder": 120,
    "colorization": 180,
    "npid": 400,
    "cpc": 70,
}
BEGIN, END = "<!-- ablations -->", "<!-- end of ablations -->"


class Ablation(NamedTuple):
    """Variants of one choice.

    Attributes:
        method: Of all variants.
        question: What is varied.
        claim: What the paper found, in words.
        variants: Options by name of the variant.
    """

    method: str
    question: str
    claim: str
    variants: dict[str, tuple[str, ...]]


ABLATIONS = (
    Ablation(
        "jigsaw",
        "number of permutations",
        "more permutations give a harder task and better features",
        {"10": ("permutations=10",), "100 (preset)": (), "1000": ("permutations=1000",)},
    ),
    Ablation(
        "jigsaw",
        "distance between permutations",
        "permutations far from each other give better features",
        {
            "max_min (preset)": (),
            **{mode: (f"permutation-mode={mode}",) for mode in ("max_mean", "random", "min_mean")},
        },
    ),
    Ablation(
        "jigsaw",
        "guards",
        "without the gap, the standardization and the jitter the task is solved by shortcuts",
        {
            "all (preset)": (),
            "no gap": ("gap=false",),
            "no standardization": ("standardize=false",),
            "no channel jitter, no gray": ("channel-jitter=false", "grayscale=0"),
        },
    ),
    Ablation(
        "context-prediction",
        "gap and jitter",
        "without them lines that continue give the answer away",
        {
            "both (preset)": (),
            "no gap": ("gap=0",),
            "no jitter": ("jitter=0",),
            "neither": ("gap=0", "jitter=0"),
        },
    ),
    Ablation(
        "context-prediction",
        "color guard",
        "dropping and projecting colors do equally well; without, aberration tells the location",
        {
            "drop (preset)": (),
            **{guard: (f"color-guard={guard}",) for guard in ("project", "none")},
        },
    ),
    Ablation(
        "context-encoder",
        "shape of the removed region",
        "random regions and blocks give better features than the center",
        {"region (preset)": (), **{mask: (f"mask={mask}",) for mask in ("blocks", "center")}},
    ),
    Ablation(
        "context-encoder",
        "adversarial loss",
        "it sharpens predictions; features were learned with the reconstruction alone",
        {"none (preset)": (), "weight 0.001": ("adversarial=0.001",)},
    ),
    Ablation(
        "context-encoder",
        "channel-wise fully connected layer",
        "it lets information travel between locations of the map",
        {"with (preset)": (), "without": ("channelwise=false",)},
    ),
    Ablation(
        "colorization",
        "class rebalancing",
        "rebalanced classes give colorful predictions and hardly change the features",
        {"with (preset)": (), "without": ("rebalance=1",)},
    ),
    Ablation(
        "colorization",
        "bins of the ab plane",
        "313 bins of side 10; coarser ones give a simpler task",
        {
            "side 10 (preset)": (),
            **{f"side {side}": (f"bin-step={side}",) for side in (20, 30)},
        },
    ),
    Ablation(
        "npid",
        "number of negatives m of NCE",
        "more negatives approach the full softmax",
        {
            "full softmax (preset)": (),
            **{
                str(m): ("loss=nce", f"negatives={m}", "temperature=0.1")
                for m in (1, 64, 1024, 4096)
            },
        },
    ),
    Ablation(
        "npid",
        "temperature",
        "0.07 is best, 1 learns little",
        {
            **{str(t): (f"temperature={t}",) for t in (0.05, 0.07)},
            "0.1 (preset)": (),
            **{str(t): (f"temperature={t}",) for t in (0.2, 1.0)},
        },
    ),
    Ablation(
        "npid",
        "embedding dimension",
        "accuracy grows up to 128 and saturates at 256",
        {"32": ("dim=32",), "64": ("dim=64",), "128 (preset)": (), "256": ("dim=256",)},
    ),
    Ablation(
        "npid",
        "proximal term",
        "it makes training stabler and converge sooner",
        {
            "bank momentum 0.5, no term (preset)": (),
            "no momentum, no term": ("bank-momentum=0",),
            "no momentum, weight 30": ("bank-momentum=0", "proximal=30"),
        },
    ),
    Ablation(
        "cpc",
        "directions of prediction",
        "four directions do better than one",
        {"1": ("directions=1",), "2 (preset)": (), "4": ("directions=4",)},
    ),
    Ablation(
        "cpc",
        "normalization",
        "batch norm lets the network cheat, layer norm does not",
        {"layer norm (preset)": (), "batch norm": ("norm=batch", "allow-batchnorm=true")},
    ),
    Ablation(
        "cpc",
        "patch augmentation",
        "augmenting each patch for itself is the largest gain of version 2",
        {
            "v1": ("augment=v1",),
            "light (preset)": (),
            "v2": ("augment=v2",),
        },
    ),
    Ablation(
        "cpc",
        "rows ahead",
        "predicting further ahead asks for more than low-level continuity",
        {"1": ("offsets=1",), "2": ("offsets=2",), "all 5 (preset)": ()},
    ),
)


def cells(ablation: Ablation, dataset: str, seed: int) -> Iterator[tuple[str, quality.Cell]]:
    """Name of each variant and the cell its result is stored in."""
    for name, options in ablation.variants.items():
        label = "default" if not options else ",".join(sorted(options))
        yield name, quality.Cell(dataset, ablation.method, seed, label)


def fewer_labels(images: Images, folder: Path) -> Images:
    """The set with every fourth training image labeled, listed in a manifest in a folder."""
    if images.train.startswith("demo:"):
        return images._replace(train=f"demo:{int(images.train.removeprefix('demo:')) // 4}")
    files = sorted(path for path in Path(images.train).rglob("*") if path.is_file())[::4]
    manifest = folder / "labels.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("path", "label"), *((f.resolve(), f.parent.name) for f in files)])
    return images._replace(train=str(manifest))


def tables(folder: Path) -> Iterator[str]:
    """Lines of the tables of all results that are there."""
    paths = sorted((folder / "cells").glob("*.json"))
    measured: list[dict[str, Any]] = [json.loads(path.read_text()) for path in paths]
    for ablation in ABLATIONS:
        for dataset in sorted({cell["dataset"] for cell in measured}):
            own = [cell for cell in measured if cell["dataset"] == dataset]
            yield from table(ablation, dataset, own)


def table(ablation: Ablation, dataset: str, measured: list[dict[str, Any]]) -> Iterator[str]:
    """The lines of one table; none without results of two variants."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, options in ablation.variants.items():
        own = [c for c in measured if c["method"] == ablation.method]
        own = [c for c in own if set(c["options"]) == set(options)]
        if own:
            groups[name] = own
    if len(groups) < 2:
        return
    yield f"### {ablation.method}: {ablation.question} ({dataset})\n"
    yield f"The paper: {ablation.claim}.\n"
    yield "| variant | seeds | pooled linear | kNN, k = 20 |"
    yield "|---|---|---|---|"
    for name, group in groups.items():
        scores = [
            quality_tables.score(group, "pretrained", m, "pooled") for m in ("linear", "knn20")
        ]
        yield f"| {name} | {len(group)} | {scores[0]} | {scores[1]} |"
    yield ""


def main() -> None:
    """Measure what is missing, then write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--only", default="", help="methods, separated by commas")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--scale", type=int, default=1, help="factor of the number of steps")
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--page", type=Path, help="Markdown file between whose marks tables go")
    arguments = parser.parse_args()
    arguments.to.mkdir(parents=True, exist_ok=True)
    arguments.labels = arguments.scratch = ""
    arguments.random_inits, arguments.kind, arguments.minutes = 0, "linear,knn", None
    dataset, root = arguments.set.split("=", 1)
    images = fewer_labels(quality.images_of(root), arguments.to)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    chosen = [a for a in ABLATIONS if not arguments.only or a.method in arguments.only.split(",")]
    for seed in seeds:
        for ablation in chosen:
            for name, cell in cells(ablation, dataset, seed):
                options = [f"{ablation.method}:{o}" for o in ablation.variants[name]]
                arguments.option = options
                steps = arguments.scale * STEPS[ablation.method]
                sizes = quality.Sizes(steps, arguments.image_size)
                quality.measure(cell, images, arguments, sizes)
    text = "\n".join(tables(arguments.to))
    (arguments.to / "ablations.md").write_text(text)
    if arguments.page is not None:
        quality_tables.put_into(arguments.page, text, BEGIN, END)
    print(text)


if __name__ == "__main__":
    main()
