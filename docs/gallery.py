"""Draw the images of the gallery from real runs: python docs/gallery.py RUN [RUN ...] --data
FOLDER.

One run of each task is asked for; of several the last is taken. Images go to docs/figures/gallery,
and the page docs/gallery.md is written anew, with a section for each task that a run was given for.
Type it where the runs' data
folders are reached by relative paths: titles name them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from ssltool.plotting.units import said
from ssltool.runs import folder as runs
from ssltool.runs.config import ResolvedConfig
from ssltool.visualizing.attribution import draw_attribution
from ssltool.visualizing.curves import draw_curves
from ssltool.visualizing.features import draw_features
from ssltool.visualizing.neighbors import draw_neighbors
from ssltool.visualizing.permutations import compare_permutations
from ssltool.visualizing.predictions import draw_predictions
from ssltool.visualizing.task import draw_task

HERE = Path(__file__).parent
PICTURES = HERE / "figures" / "gallery"
LARGEST = 320_000  # bytes of an image
WIDEST = 1000  # px
ROWS = 4

TASKS = {
    "jigsaw": "Shuffled tiles; the network names the permutation.",
    "context-prediction": "Two patches; the network names on which of eight sides of the first the second lies.",
    "context-encoder": "A region is removed; the network paints it.",
    "colorization": "The network sees lightness and answers a distribution over colors for each place.",
    "npid": "Every image is its own class; what the network takes for alike comes out as nearest neighbors.",
    "cpc": "From patches above, the network picks the patch below among many.",
}
SOLVED = {
    "jigsaw": "Shown, answered (green = right place, vermilion = wrong), true.",
    "context-prediction": "The brighter a place, the likelier to the network. Green frame: truth; vermilion: wrong.",
    "context-encoder": "The hole, what the network paints, the truth, and what interpolation from the rim would paint.",
    "colorization": "What the network sees, what it answers, the true colors.",
    "npid": "Each image, and the images of the run that lie nearest to it.",
    "cpc": "The candidates ranked by the network, the true one framed.",
}


def main() -> None:
    """Draw everything and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--data", required=True, help="labeled images that no run has seen")
    parser.add_argument(
        "--own", help="the training images of the npid run, by the path that its title shall name"
    )
    asked = parser.parse_args()
    by_task = {runs.read_run(folder).config.method: folder for folder in asked.runs}
    found = {name: by_task[name] for name in TASKS if name in by_task}
    PICTURES.mkdir(parents=True, exist_ok=True)
    lines = [
        "# Gallery",
        "",
        "Every image here is drawn by a command, from a run of a few CPU-minutes to a few CPU-hours;",
        "[`docs/gallery.py`](gallery.py) draws them all. The same seed draws the same bytes.",
    ]
    for name, folder in found.items():
        lines += section(name, folder, asked.data, asked.own)
    lines += [
        "",
        "## Sets of permutations",
        "",
        "What the ways to choose 100 permutations amount to.",
        "",
    ]
    lines += shown(
        "ssltool visualize permutations --compare --permutations 100",
        "permutation-modes",
        "Histograms of the Hamming distances of five sets of permutations",
        lambda path: compare_permutations(path),
    )
    (HERE / "gallery.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def section(name: str, folder: Path, data: str, own_data: str | None) -> list[str]:
    """The images of one task and their lines."""
    run = runs.read_run(folder)
    own = name == "npid"  # its answers are images of the run
    if run.config.run.data == ("demo",):  # other images of the world it was trained on
        data = "demo-test:512"
    others = (data,)
    trained = (own_data,) if own_data else ()
    place = f"runs/{name}-1"
    lines = ["", f"## {name}", "", f"{TASKS[name]} [How it works](methods/{name}.md).", ""]
    lines += shown(
        f"ssltool visualize task {name} --data {'demo' if data == 'demo-test:512' else 'photos/train'} --count {ROWS}",
        f"{name}-task",
        f"The task of {name} as the network is given it",
        lambda path: draw_task(with_data(run.config, trained), path, count=ROWS),
    )
    predictions: dict[str, Any] = {}
    lines += ["", SOLVED[name], ""]
    lines += shown(
        f"ssltool visualize predictions --weights {place}"
        + ("" if own else f" --data {data}")
        + f" --count {ROWS}",
        f"{name}-solved",
        f"What a network trained on {name} answers, beside the truth",
        lambda path: predictions.update(
            draw_predictions(folder, path, data=trained if own else others, count=ROWS)
        ),
    )
    told = [
        said(key, value, predictions["chance"])
        for key, value in predictions.items()
        if key in predictions["chance"]
    ]
    lines += ["", f"On {predictions['images']} images: {', '.join(told)}.", ""]
    lines += shown(
        f"ssltool visualize curves {place}",
        f"{name}-curves",
        f"Curves of the run of {name} with chance levels dashed",
        lambda path: draw_curves([folder], path),
    )
    lines += [""]
    lines += shown(
        f"ssltool visualize attribution --weights {place} --data {data} --count 3",
        f"{name}-attribution",
        f"Where each stage of the encoder trained on {name} responds",
        lambda path: draw_attribution(folder, path, data=others, count=3),
    )
    if name in {"context-prediction", "npid"}:
        lines += [
            "",
            "Frames are green around neighbors of the query's class, vermilion around others.",
            "",
        ]
        lines += shown(
            f"ssltool visualize neighbors --weights {place} --data {data} --count 3",
            f"{name}-neighbors",
            "Nearest neighbors by the encoder beside those by random init",
            lambda path: draw_neighbors(folder, path, data=others, count=3, nearest=4),
        )
    if name == "npid":
        lines += [""]
        lines += shown(
            f"ssltool visualize features --weights {place} --data {data}",
            f"{name}-features",
            "A map of images by their features, frames in the colors of their classes",
            lambda path: draw_features(folder, path, data=others),
        )
    return lines


def with_data(config: ResolvedConfig, data: tuple[str, ...]) -> ResolvedConfig:
    """The same options on other images, unless the run drew its own."""
    if not data or config.run.data == ("demo",):
        return config
    return config.model_copy(update={"run": config.run.model_copy(update={"data": data})})


def shown(command: str, name: str, words: str, draw: Callable[[Path], Any]) -> list[str]:
    """Draw one image, make it small, and return its lines."""
    path = PICTURES / f"{name}.png"
    draw(path)
    for chart in PICTURES.glob(
        f"{name}-*.png"
    ):  # charts beside a sheet stand on the task's own page
        chart.unlink()
    small(path)
    return ["```console", f"$ {command}", "```", "", f"![{words}](figures/gallery/{name}.png)"]


def small(path: Path) -> None:
    """Shrink an image until it is at most `WIDEST` wide and `LARGEST` long, in all its colors."""
    image: Image.Image = Image.open(path).convert("RGB")
    width = min(image.width, WIDEST)
    while True:
        scaled = image.resize(
            (width, round(image.height * width / image.width)), Image.Resampling.LANCZOS
        )
        scaled.save(path, optimize=True)
        if path.stat().st_size <= LARGEST:
            return
        width = round(0.9 * width)


if __name__ == "__main__":
    main()
