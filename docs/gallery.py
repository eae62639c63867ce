"""Draw the figures of the gallery from runs: python docs/gallery.py RUN [RUN ...] --data FOLDER.

The last run of each task is used. FOLDER has train/ and test/, with a folder for each class;
another one for a task is named by ``--data METHOD=FOLDER``. Figures are written to
docs/figures/gallery, and the page docs/gallery.md is written anew, with a section for each task
that has a run. Run it from a directory from which the data are reached by relative paths, because
titles name them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from ssltool.runs.config import ResolvedConfig, RunConfig
from ssltool.runs.folder import Run
from ssltool.visualizing.attribution import draw_attribution
from ssltool.visualizing.curves import draw_curves
from ssltool.visualizing.features import draw_features
from ssltool.visualizing.neighbors import draw_neighbors
from ssltool.visualizing.pca import draw_pca
from ssltool.visualizing.permutations import compare_permutations
from ssltool.visualizing.predictions import PredictionsFigure, draw_predictions
from ssltool.visualizing.task import draw_task

HERE = Path(__file__).parent
FIGURES = HERE / "figures" / "gallery"
MAX_BYTES = 300_000  # of a figure
MAX_WIDTH = 1004  # px, of a sheet
ROWS = 4
DEMO = "demo-test:512"

TASKS = {
    "jigsaw": "Classify the permutation of shuffled tiles.",
    "context-prediction": "Classify the relative position of two neighboring patches.",
    "context-encoder": "Inpaint a removed region.",
    "colorization": "Predict the color distribution at every location from the lightness.",
    "npid": "Each image is its own class; similar images become nearest neighbors.",
    "cpc": "Identify the patch some rows ahead among all patches of the batch.",
}
PREDICTIONS = {
    "jigsaw": "Shuffled tiles, prediction, ground truth; numbers: the cell a tile belongs to.",
    "context-prediction": "Square: true location; circle: predicted one; darker is more probable.",
    "context-encoder": "Context, prediction, ground truth, error; captions: also of baselines.",
    "colorization": "Gray input, prediction, ground truth; captions: error, also of one color.",
    "npid": "Each image and the training images with the nearest memory vectors.",
    "cpc": "A context, its target, and the candidates ranked by the network.",
}


def main() -> None:
    """Draw everything and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--data", action="append", required=True, metavar="[METHOD=]FOLDER")
    args = parser.parse_args()
    roots = {method: folder for method, _, folder in (d.rpartition("=") for d in args.data)}
    runs = {run.config.method: run for run in map(Run.open, args.runs)}
    FIGURES.mkdir(parents=True, exist_ok=True)
    lines = [
        "# Gallery",
        "",
        "Every figure is drawn by the command above it, from a run of a few CPU-minutes to a few "
        "CPU-hours;",
        "[`docs/gallery.py`](gallery.py) draws them all. The same seed gives the same bytes.",
    ]
    for name in TASKS:
        if name in runs:
            lines += section(runs[name], roots.get(name, roots.get("", "")))
    lines += ["", "## Permutation sets", "", "Sets of 100 permutations by mode.", ""]
    lines += figure(
        "ssltool visualize permutations --compare --permutations 100",
        "permutation-modes",
        "Histograms of the Hamming distances of five permutation sets",
        compare_permutations,
    )
    (HERE / "gallery.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def section(run: Run, root: str) -> list[str]:
    """The figures of one task, as lines of Markdown."""
    name = run.config.method
    demo = run.config.run.data == ("demo",)
    unseen = (DEMO if demo else f"{root}/test",)
    training = () if demo else (f"{root}/train",)
    # npid predicts on the images of its run.
    scored, data_flag = (training, "") if name == "npid" else (unseen, f" --data {unseen[0]}")
    lines = ["", f"## {name}", "", f"{TASKS[name]} [How it works](methods/{name}.md).", ""]
    lines += figure(
        f"ssltool visualize task {name} --data {'demo' if demo else training[0]} --count {ROWS}",
        f"{name}-task",
        f"The task of {name}",
        lambda path: draw_task(task_config(run.config, training), path, count=ROWS),
    )
    drawn: list[PredictionsFigure] = []
    lines += ["", PREDICTIONS[name], ""]
    lines += figure(
        f"ssltool visualize predictions --weights runs/{name}-1{data_flag} --count {ROWS}",
        f"{name}-predictions",
        f"Predictions of a network trained on {name}, and ground truth",
        lambda path: drawn.append(draw_predictions(run.folder, path, data=scored, count=ROWS)),
    )
    lines += ["", f"On {drawn[0].images} images: {', '.join(drawn[0].summary())}.", ""]
    lines += figure(
        f"ssltool visualize curves runs/{name}-1",
        f"{name}-curves",
        f"Training curves of {name}, with chance levels",
        lambda path: draw_curves([run.folder], path),
    )
    lines += [""]
    lines += figure(
        f"ssltool visualize attribution --weights runs/{name}-1 --data {unseen[0]} --count 3",
        f"{name}-attribution",
        f"Attribution maps of each stage of the encoder trained on {name}",
        lambda path: draw_attribution(run.folder, path, data=unseen, count=3),
    )
    if name in {"context-prediction", "npid"}:
        lines += [
            "",
            "A row for each encoder; frames say which neighbors have the query's class.",
            "",
        ]
        lines += figure(
            f"ssltool visualize neighbors --weights runs/{name}-1 --data {unseen[0]} --count 3",
            f"{name}-neighbors",
            "Nearest neighbors by the encoder and by random init",
            lambda path: draw_neighbors(run.folder, path, data=unseen, count=3, nearest=4),
        )
    if name == "npid":
        lines += [""]
        lines += figure(
            f"ssltool visualize features --weights runs/{name}-1 --data {unseen[0]}",
            f"{name}-features",
            "Images at the first two principal components of their features, some as thumbnails",
            lambda path: draw_features(run.folder, path, data=unseen),
        )
        lines += [""]
        lines += figure(
            f"ssltool visualize pca --weights runs/{name}-1 --data {unseen[0]} --size 128",
            f"{name}-pca",
            "Principal components of dense features as colors",
            lambda path: draw_pca(run.folder, path, data=unseen, size=128),
        )
    return lines


def task_config(config: ResolvedConfig, data: tuple[str, ...]) -> RunConfig:
    """The options of a run, on other images unless it was trained on the demo images."""
    run = config.run
    if data and run.data != ("demo",):
        run = run.model_copy(update={"data": data})
    return RunConfig(method=config.method, run=run, task=config.task)


def figure(command: str, name: str, caption: str, draw: Callable[[Path], Any]) -> list[str]:
    """Draw one figure, shrink it, and return its lines of Markdown."""
    path = FIGURES / f"{name}.png"
    draw(path)
    for plot in FIGURES.glob(f"{name}-*.png"):  # plots beside a sheet are on the task's own page
        plot.unlink()
    shrink(path)
    return ["```console", f"$ {command}", "```", "", f"![{caption}](figures/gallery/{name}.png)"]


def shrink(path: Path) -> None:
    """Shrink an image to at most `MAX_WIDTH` pixels and `MAX_BYTES` bytes, in full color."""
    image: Image.Image = Image.open(path).convert("RGB")
    width = min(image.width, MAX_WIDTH)
    while True:
        scaled = image.resize(
            (width, round(image.height * width / image.width)), Image.Resampling.LANCZOS
        )
        scaled.save(path, optimize=True)
        if path.stat().st_size <= MAX_BYTES:
            return
        width = round(0.9 * width)


if __name__ == "__main__":
    main()
