"""Draw the gallery from real runs: ``python docs/gallery.py RUN [RUN ...] --data FOLDER``.

Give one run of each method; of several the last is taken. Figures go to docs/figures/gallery, and
docs/gallery.md is written anew, with a section for each method that has a run. Run it where the
data of the runs is found under relative paths, because titles name them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ssltool.runs.config import RunConfig
from ssltool.runs.folder import Run
from ssltool.visualizing.attribution import draw_attribution
from ssltool.visualizing.curves import draw_curves
from ssltool.visualizing.features import draw_features
from ssltool.visualizing.neighbors import draw_neighbors
from ssltool.visualizing.permutations import compare_permutations
from ssltool.visualizing.predictions import PredictionsFigure, draw_predictions
from ssltool.visualizing.results import FigureResult
from ssltool.visualizing.task import draw_task

HERE = Path(__file__).parent
FIGURES = HERE / "figures" / "gallery"
LARGEST = 320_000  # bytes of a figure
WIDEST = 1000  # px
ROWS = 4


class Method(NamedTuple):
    """What the page says of a method."""

    task: str
    predictions: str


METHODS = {
    "jigsaw": Method(
        "Shuffled tiles; the network classifies the permutation.",
        "Shuffled tiles, prediction (green = correct position, vermilion = wrong), ground truth.",
    ),
    "context-prediction": Method(
        "Two patches; the network classifies on which of eight sides of the first the second lies.",
        "The brighter a position, the more probable. Green frame: ground truth; vermilion: wrong.",
    ),
    "context-encoder": Method(
        "A region is removed; the network paints it.",
        "The hole, the prediction, the ground truth, and interpolation from the rim.",
    ),
    "colorization": Method(
        "The network sees lightness and predicts a distribution over colors for each location.",
        "The network's input, the prediction, the ground truth.",
    ),
    "npid": Method(
        "Every image is its own class; images with similar features come out as nearest neighbors.",
        "Each image, and its nearest training images.",
    ),
    "cpc": Method(
        "From patches above, the network picks the patch below among many.",
        "The candidates ranked by the network, the ground truth framed.",
    ),
}


def main() -> None:
    """Draw everything and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--data", required=True, help="labeled images that no run has seen")
    parser.add_argument(
        "--own", help="training images of the npid run, by the path that its title should name"
    )
    arguments = parser.parse_args()
    runs = {run.config.method: run for run in map(Run.open, arguments.runs)}
    FIGURES.mkdir(parents=True, exist_ok=True)
    lines = [
        "# Gallery",
        "",
        "A command draws each figure, from a run of a few CPU-minutes to a few CPU-hours;",
        "[`docs/gallery.py`](gallery.py) draws them all. The same seed draws the same bytes.",
    ]
    for name in METHODS:
        if name in runs:
            lines += section(name, runs[name], arguments.data, arguments.own)
    lines += ["", "## Permutation sets", "", "Sets of 100 permutations, by each mode.", ""]
    lines += shown(
        "ssltool visualize permutations --compare --permutations 100",
        "permutation-modes",
        "Histograms of the Hamming distances of five permutation sets",
        lambda path: compare_permutations(path),
    )
    (HERE / "gallery.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def section(name: str, run: Run, data: str, own_data: str | None) -> list[str]:
    """The figures of one method, as lines of Markdown."""
    demo, own = run.config.run.data == ("demo",), name == "npid"  # npid needs its training images
    data = "demo-test:512" if demo else data
    trained = (own_data,) if own_data and not demo else run.config.run.data
    place, method = f"runs/{name}-1", METHODS[name]
    config = RunConfig.merged(name, {"data": trained}, config=run.folder / "run.json")
    lines = ["", f"## {name}", "", f"{method.task} [How it works](methods/{name}.md).", ""]
    lines += shown(
        f"ssltool visualize task {name} --data {'demo' if demo else 'photos/train'} --count {ROWS}",
        f"{name}-task",
        f"The task of {name} as it is given to the network",
        lambda path: draw_task(config, path, count=ROWS),
    )

    scores: list[str] = []

    def predictions(path: Path) -> PredictionsFigure:
        images = trained if own else (data,)
        result = draw_predictions(run.folder, path, data=images, count=ROWS)
        metrics = [str(score) for score in result.scores if score.chance is not None]
        scores.append(f"On {result.images} images: {', '.join(metrics)}.")
        return result

    lines += ["", method.predictions, ""]
    lines += shown(
        f"ssltool visualize predictions --weights {place}"
        + ("" if own else f" --data {data}")
        + f" --count {ROWS}",
        f"{name}-predictions",
        f"Predictions of a network trained on {name} beside the ground truth",
        predictions,
    )
    lines += ["", *scores, ""]
    lines += shown(
        f"ssltool visualize curves {place}",
        f"{name}-curves",
        f"Training curves of {name} with chance levels dashed",
        lambda path: draw_curves([run.folder], path),
    )
    return lines + of_encoder(name, run, data)


def of_encoder(name: str, run: Run, data: str) -> list[str]:
    """The figures of an encoder, as lines of Markdown."""
    place = f"runs/{name}-1"
    lines = [
        "",
        *shown(
            f"ssltool visualize attribution --weights {place} --data {data} --count 3",
            f"{name}-attribution",
            f"Where each stage of the encoder trained on {name} responds",
            lambda path: draw_attribution(run.folder, path, data=[data], count=3),
        ),
    ]
    if name in {"context-prediction", "npid"}:
        frames = "Frames are green around neighbors of the query's class, vermilion around others."
        lines += [
            "",
            frames,
            "",
            *shown(
                f"ssltool visualize neighbors --weights {place} --data {data} --count 3",
                f"{name}-neighbors",
                "Nearest neighbors by the encoder beside those by random init",
                lambda path: draw_neighbors(run.folder, path, data=[data], count=3, nearest=4),
            ),
        ]
    if name == "npid":
        lines += [
            "",
            *shown(
                f"ssltool visualize features --weights {place} --data {data}",
                f"{name}-features",
                "A map of images by their features, framed in the colors of their classes",
                lambda path: draw_features(run.folder, path, data=[data]),
            ),
        ]
    return lines


def shown(command: str, name: str, alt: str, draw: Callable[[Path], FigureResult]) -> list[str]:
    """Draw one figure, make it small, and return its lines of Markdown."""
    result = draw(FIGURES / f"{name}.png")
    for plot in result.plots:  # these are shown on the page of the method
        plot.unlink()
    shrink(result.path)
    return ["```console", f"$ {command}", "```", "", f"![{alt}](figures/gallery/{name}.png)"]


def shrink(path: Path) -> None:
    """Scale a figure down to at most `WIDEST` px and `LARGEST` bytes."""
    image: Image.Image = Image.open(path).convert("RGB")
    width = min(image.width, WIDEST)
    while True:
        height = round(image.height * width / image.width)
        image.resize((width, height), Image.Resampling.LANCZOS).save(path, optimize=True)
        if path.stat().st_size <= LARGEST:
            return
        width = round(0.9 * width)


if __name__ == "__main__":
    main()
