"""Draw the figure of six tasks: python docs/six_tasks.py RUN [RUN ...] --data [METHOD=]FOLDER.

One panel for each run, of the first image out of a few unseen ones that is predicted right; npid
shows training images. Of colorization and context-encoder, which are never quite right, it is the
image with the least error relative to the best constant color, or to interpolation. FOLDER holds
the images; another one for a task is named by ``--data METHOD=FOLDER``. The figure is written to
docs/figures/six-tasks.png.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import torch

from ssltool.data.sources.registry import open_source
from ssltool.plotting.page import Page, below, beside, save_page
from ssltool.plotting.sheet import Column, Sheet
from ssltool.plotting.sheet_layout import sheet_page
from ssltool.runs.evaluation import Evaluation
from ssltool.visualizing.sampling import RIGHT, spread_indices, with_training_images

FIGURE = Path(__file__).parent / "figures" / "six-tasks.png"
SAMPLE, TRIED = 256, 12
WIDTH, GAP, MARGIN = 1464, 40, 18  # px; for a page, of which a column is half


def exact(pattern: str) -> Callable[[str], float]:
    """0 for captions that match, else 1."""
    return lambda caption: float(re.search(pattern, caption) is None)


def surest(pattern: str) -> Callable[[str], float]:
    """Less the larger the percentage, group 2, of a caption that matches."""

    def doubt(caption: str) -> float:
        found = re.search(pattern, caption)
        return 1 - int(found[2]) / 100 if found else 2.0

    return doubt


def relative(level: str) -> Callable[[str], float]:
    """The error of a caption over that of a baseline."""

    def ratio(caption: str) -> float:
        numbers = re.search(rf"error ([\d.]+).*{level} ([\d.]+)", caption)
        return float(numbers[1]) / float(numbers[2]) if numbers else 9.0

    return ratio


# For each task: columns shown, and what is least for the image drawn.
PANELS: dict[str, tuple[tuple[str, ...], Callable[[str], float]]] = {
    "jigsaw": (("shuffled tiles", "prediction", "ground truth"), exact("^9 of 9")),
    "context-prediction": (
        ("image", "prediction", "ground truth"),
        surest(r"location (\d) with probability (\d+)%.* location \1$"),
    ),
    "context-encoder": (("context", "prediction", "ground truth"), relative("interpolation")),
    "colorization": (("gray input", "prediction", "ground truth"), relative("color")),
    "npid": (("query", "nearest 1", "nearest 2"), exact("$")),
    "cpc": (
        ("context and target", "candidates, the most similar first"),
        exact("ranks 1 of"),
    ),
}


TITLES = {
    "jigsaw": "put shuffled tiles in order",
    "context-prediction": "locate a patch around another",
    "context-encoder": "inpaint a region",
    "colorization": "predict colors from lightness",
    "npid": "tell every image from all others",
    "cpc": "recognize a patch some rows ahead",
}


def main() -> None:
    """Draw the panels two by two."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--data", action="append", required=True, metavar="[METHOD=]FOLDER")
    args = parser.parse_args()
    roots = {method: folder for method, _, folder in (d.rpartition("=") for d in args.data)}
    pages = {}
    for folder in args.runs:
        method, page = panel(folder, roots)
        pages[method] = page
    drawn = [pages[name] for name in PANELS if name in pages]
    pairs = [beside(drawn[i : i + 2], GAP) for i in range(0, len(drawn), 2)]
    save_page(below(pairs, GAP).padded(MARGIN), FIGURE)


def panel(folder: Path, roots: dict[str, str]) -> tuple[str, Page]:
    """Name of a run's task, and its panel."""
    name = Evaluation.open(folder, None, 1, torch.device("cpu")).run.config.method
    source = None if name == "npid" else open_source((roots.get(name, roots.get("", "")),))
    opened = Evaluation.open(folder, source, SAMPLE, torch.device("cpu"))
    opened.method.eval()
    chosen = spread_indices(opened.images, TRIED)
    predictions = opened.method.figures.draw_predictions(
        opened.method,
        opened.images[chosen],
        opened.index[chosen],
        torch.Generator().manual_seed(0),
    )
    sheet = predictions.sheet
    if predictions.nearest is not None:
        size = opened.run.config.data.image_size
        sheet = with_training_images(predictions, opened.source, size, opened.index[chosen])
    titles, cost = PANELS[name]
    costs = [cost(caption) + wrong_neighbors(sheet, i) for i, caption in enumerate(sheet.captions)]
    best = costs.index(min(costs))
    print(f"{name}: image {best}: {sheet.captions[best]}")
    columns = {title: row(sheet.columns[title], best) for title in titles}
    caption = re.split("; mean color|; best assignment|, rank", sheet.captions[best])[0]
    width = (WIDTH - 2 * MARGIN - GAP) // 2
    page = sheet_page(Sheet(columns, f"{name}: {TITLES[name]}", [caption]), width, margin=0)
    return name, page._replace(width=width)


def wrong_neighbors(sheet: Sheet, i: int) -> int:
    """How many of the neighbors shown beside an image are of another class than it."""
    near = [column for name, column in sheet.columns.items() if name in ("nearest 1", "nearest 2")]
    return sum(any(mark.key != RIGHT for mark in column.marks[i]) for column in near)


def row(column: Column, i: int) -> Column:
    """A column with one image alone."""
    marks = [column.marks[i]] if column.marks else ()
    return Column([column.images[i]], marks, column.labels[i : i + 1])


if __name__ == "__main__":
    main()
